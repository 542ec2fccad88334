//! What the helper program `aos-box` does.
//!
//! Entering a namespace needs a process with one thread that has not yet become the program to run, so these
//! steps are a program of their own.

use std::ffi::{OsStr, OsString};
use std::fs::{self, File};
use std::io::{BufRead, Write};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, setns, unshare};

use crate::cgroups::{self, Hierarchy};
use crate::error::{Error, Result, Tried};
use crate::registry;

/// `hold DIR`: adds each line of the input to the registry in DIR and answers `ok`; when the input ends,
/// clears up.
pub fn hold(args: &[OsString]) -> Result<()> {
    let [dir] = args else { return Err(usage("hold DIR")) };
    let dir = Path::new(dir);
    let file = registry::open(dir)?;
    let mut file = nix::fcntl::Flock::lock(file, nix::fcntl::FlockArg::LockExclusive)
        .map_err(|(_, errno)| errno)
        .tried(|| "cannot lock the site's registry".to_owned())?;
    let mut answers = std::io::stdout().lock();
    for line in std::io::stdin().lock().lines() {
        let Ok(line) = line else { break };
        registry::add(&mut file, &line)?;
        if writeln!(answers, "ok").and_then(|()| answers.flush()).is_err() {
            break;
        }
    }
    registry::clear(dir)
}

/// `anchor [--join DIR]...`: enters the cgroups, makes the namespaces of a box, says `ready` and waits until
/// it is killed. On version 2 without `--join` the cgroup it was started in is the box.
pub fn anchor(args: &[OsString]) -> Result<()> {
    let (dirs, rest) = joins(args)?;
    if !rest.is_empty() {
        return Err(usage("anchor [--join DIR]..."));
    }
    for dir in &dirs {
        cgroups::join(dir)?;
    }
    let hierarchies = cgroups::hierarchies()?;
    let flags = CloneFlags::CLONE_NEWNS | CloneFlags::CLONE_NEWNET | CloneFlags::CLONE_NEWCGROUP;
    unshare(flags).tried(|| "cannot make namespaces; this needs root".to_owned())?;
    let none = None::<&str>;
    mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none)
        .tried(|| "cannot make mounts private".to_owned())?;
    if cgroups::is_pure_v2(&hierarchies) {
        mount_v2()?;
    } else {
        mount_v1(&hierarchies)?;
    }
    mount_new("tmpfs", Path::new("/run"), "mode=755")?;
    let up = Command::new("ip").args(["link", "set", "lo", "up"]).status();
    if !up.tried(|| "cannot run ip".to_owned())?.success() {
        return Err(Error::Unexpected("cannot bring up the loopback interface".to_owned()));
    }
    println!("ready");
    loop {
        std::thread::park();
    }
}

/// A fresh file system of cgroup v2, rooted at the box by the new cgroup namespace. Processes sit in a leaf,
/// because a cgroup that holds processes cannot hand controllers on.
fn mount_v2() -> Result<()> {
    let root = Path::new(CGROUP_ROOT);
    // The kernel refuses a file system on top of itself, even where the root differs.
    umount2(root, MntFlags::MNT_DETACH).tried(|| "cannot leave the host's cgroup file system".to_owned())?;
    mount_new("cgroup2", root, "")?;
    let leaf = root.join(LEAF);
    fs::create_dir(&leaf).tried(|| format!("cannot make {}", leaf.display()))?;
    cgroups::join(&leaf)?;
    cgroups::enable_controllers(root);
    Ok(())
}

/// Fresh file systems of the version 1 hierarchies. The version 2 one stays away: an OCI runtime that sees it
/// next to version 1 refuses to run when it holds any controller.
fn mount_v1(hierarchies: &[Hierarchy]) -> Result<()> {
    mount_new("tmpfs", Path::new(CGROUP_ROOT), "mode=755")?;
    for hierarchy in hierarchies.iter().filter(|hierarchy| !hierarchy.is_v2()) {
        if !hierarchy.mount.starts_with(CGROUP_ROOT) {
            continue;
        }
        fs::create_dir_all(&hierarchy.mount)
            .tried(|| format!("cannot make {}", hierarchy.mount.display()))?;
        mount_new("cgroup", &hierarchy.mount, &hierarchy.option)?;
    }
    Ok(())
}

const CGROUP_ROOT: &str = "/sys/fs/cgroup";

/// The cgroup inside a version 2 box that its processes start in.
pub const LEAF: &str = "unit";

fn mount_new(kind: &str, target: &Path, options: &str) -> Result<()> {
    let options = (!options.is_empty()).then_some(options);
    mount(Some(kind), target, Some(kind), MsFlags::empty(), options)
        .tried(|| format!("cannot mount {kind} on {}", target.display()))
}

/// `enter PID [--join DIR]... -- PROGRAM [ARG]...`: becomes PROGRAM inside the box whose anchor is PID.
pub fn enter(args: &[OsString]) -> Result<()> {
    let what = "enter PID [--join DIR]... -- PROGRAM [ARG]...";
    let [pid, args @ ..] = args else { return Err(usage(what)) };
    let (dirs, rest) = joins(args)?;
    let [dashes, program, args @ ..] = rest else { return Err(usage(what)) };
    if dashes != OsStr::new("--") {
        return Err(usage(what));
    }
    for dir in &dirs {
        cgroups::join(dir)?;
    }
    let open = |kind: &str| {
        let path = Path::new("/proc").join(pid).join("ns").join(kind);
        File::open(&path).tried(|| format!("cannot open {}", path.display()))
    };
    let spaces = [
        (open("net")?, CloneFlags::CLONE_NEWNET),
        (open("cgroup")?, CloneFlags::CLONE_NEWCGROUP),
        (open("mnt")?, CloneFlags::CLONE_NEWNS),
    ];
    for (file, kind) in spaces {
        setns(file, kind).tried(|| "cannot enter the box".to_owned())?;
    }
    let error = Command::new(program).args(args).exec();
    Err(error).tried(|| format!("cannot run {}", program.display()))
}

fn joins(mut args: &[OsString]) -> Result<(Vec<PathBuf>, &[OsString])> {
    let mut dirs = Vec::new();
    while let [flag, rest @ ..] = args {
        if flag != OsStr::new("--join") {
            break;
        }
        let [dir, rest @ ..] = rest else { return Err(usage("--join DIR")) };
        dirs.push(PathBuf::from(dir));
        args = rest;
    }
    Ok((dirs, args))
}

fn usage(form: &str) -> Error {
    Error::Unexpected(format!("usage: aos-box {form}"))
}
