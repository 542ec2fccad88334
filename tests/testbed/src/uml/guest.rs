//! The first process of the machine: prepares it, runs the program, tells how it ended, switches off.

use std::ffi::OsString;
use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Command, Stdio};

use nix::mount::{MsFlags, mount};
use nix::sys::reboot::{RebootMode, reboot};

use super::{OUTPUT, PLAN, Plan, STATUS};
use crate::cgroups;
use crate::error::{Error, Result, Tried};

/// Modules of the kernel, as Debian's package has them.
const MODULES: &str = "/usr/lib/uml/modules";
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// `uml-guest DIR`, as the first process; switches the machine off at the end.
pub fn main(args: &[OsString]) -> Result<()> {
    if std::process::id() != 1 {
        return Err(Error::Unexpected("only a machine's first process does this".to_owned()));
    }
    let result = args.first().map_or_else(
        || Err(Error::Unexpected("the kernel handed on no folder".to_owned())),
        |folder| live(Path::new(folder)),
    );
    if let Err(error) = &result {
        eprintln!("guest: {}", crate::chain(error));
    }
    nix::unistd::sync();
    reboot(RebootMode::RB_POWER_OFF).tried(|| "cannot switch off".to_owned())?;
    Ok(())
}

fn live(folder: &Path) -> Result<()> {
    let path = folder.join(PLAN);
    let text = fs::read(&path).tried(|| format!("cannot read {}", path.display()))?;
    let plan: Plan = serde_json::from_slice(&text)
        .map_err(|source| Error::Json { what: path.display().to_string(), source })?;
    prepare(&plan)?;
    let output = plan.folder.join(OUTPUT);
    let open = || OpenOptions::new().create(true).append(true).open(&output);
    let file = |file: std::io::Result<File>| file.tried(|| format!("cannot open {}", output.display()));
    let (out, errors) = (file(open())?, file(open())?);
    let (program, rest) =
        plan.argv.split_first().ok_or_else(|| Error::Unexpected("no program is named".to_owned()))?;
    let status = Command::new(program)
        .args(rest)
        .env_clear()
        .envs([("PATH", PATH), ("HOME", "/tmp")])
        .envs(plan.env)
        .current_dir("/")
        .stdin(Stdio::null())
        .stdout(out)
        .stderr(errors)
        .status()
        .tried(|| format!("cannot run {program}"))?;
    let number = status.code().unwrap_or_else(|| 128 + status.signal().unwrap_or(0));
    let path = plan.folder.join(STATUS);
    fs::write(&path, number.to_string()).tried(|| format!("cannot write {}", path.display()))
}

fn prepare(plan: &Plan) -> Result<()> {
    mount_at("proc", "/proc", "")?;
    mount_at("sysfs", "/sys", "")?;
    // The kernel may have mounted it already.
    if !Path::new("/dev/null").exists() {
        mount_at("devtmpfs", "/dev", "")?;
    }
    for (kind, target, options) in
        [("devpts", "/dev/pts", ""), ("tmpfs", "/dev/shm", "mode=1777"), ("mqueue", "/dev/mqueue", "")]
    {
        fs::create_dir_all(target).tried(|| format!("cannot make {target}"))?;
        mount_at(kind, target, options)?;
    }
    for (link, target) in [("fd", "/proc/self/fd"), ("stdin", "fd/0"), ("stdout", "fd/1"), ("stderr", "fd/2")]
    {
        let _ = std::os::unix::fs::symlink(target, Path::new("/dev").join(link));
    }
    for (target, options) in [("/run", "mode=755"), ("/tmp", "mode=1777"), ("/var/tmp", "mode=1777")] {
        mount_at("tmpfs", target, options)?;
    }
    for folder in &plan.shared {
        if ["/run", "/tmp", "/var/tmp"].iter().any(|hidden| folder.starts_with(hidden)) {
            share(folder, MsFlags::MS_RDONLY)?;
        }
    }
    share(&plan.folder, MsFlags::empty())?;
    mount_at("cgroup2", "/sys/fs/cgroup", "")?;
    cgroups::enable_controllers(Path::new("/sys/fs/cgroup"));
    let helper = Path::new("/run/modprobe");
    modules_by(helper)?;
    for module in &plan.modules {
        let status = Command::new(helper).arg(module).status().tried(|| "cannot run modprobe".to_owned())?;
        if !status.success() {
            return Err(Error::Unexpected(format!("cannot load the kernel module {module}")));
        }
    }
    let status = Command::new("ip").env("PATH", PATH).args(["link", "set", "lo", "up"]).status();
    if status.tried(|| "cannot run ip".to_owned())?.success() {
        return Ok(());
    }
    Err(Error::Unexpected("cannot bring up the loopback interface".to_owned()))
}

/// A folder of the machine outside, at the same place.
fn share(folder: &Path, flags: MsFlags) -> Result<()> {
    let what = || format!("cannot share {}", folder.display());
    fs::create_dir_all(folder).tried(what)?;
    mount(Some("none"), folder, Some("hostfs"), flags, Some(folder)).tried(what)
}

/// Has the kernel load its modules by a program of ours: they are not where `modprobe` looks for them.
fn modules_by(helper: &Path) -> Result<()> {
    let what = || "cannot prepare the loading of kernel modules".to_owned();
    let base = Path::new("/run/kernel/lib");
    fs::create_dir_all(base).tried(what)?;
    std::os::unix::fs::symlink(MODULES, base.join("modules")).tried(what)?;
    fs::write(helper, "#!/bin/sh\nexec /sbin/modprobe -d /run/kernel \"$@\"\n").tried(what)?;
    fs::set_permissions(helper, fs::Permissions::from_mode(0o755)).tried(what)?;
    fs::write("/proc/sys/kernel/modprobe", helper.as_os_str().as_encoded_bytes()).tried(what)
}

fn mount_at(kind: &str, target: &str, options: &str) -> Result<()> {
    let options = (!options.is_empty()).then_some(options);
    mount(Some(kind), target, Some(kind), MsFlags::empty(), options)
        .tried(|| format!("cannot mount {kind} on {target}"))
}
