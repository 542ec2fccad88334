//! A site: the folder and the processes of one test bed, and their end.
//!
//! Everything a site has on the host is written to its registry and watched by the helper `aos-box hold`.
//! The helper clears up when the site is dropped, and also when its owner is killed, because then its input
//! ends. Should the helper be killed too, the next site of the same name does it.

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU32, Ordering};

use crate::binaries;
use crate::error::{Error, Result, Tried};
use crate::registry::{self, ProcessId};

/// Folders tried for the sites, first the ones on disk. Overlayfs cannot stack on overlayfs, so a folder in a
/// container's own root is passed over.
const BASES: [&str; 3] = ["/var/tmp", "/tmp", "/dev/shm"];
const FOLDER: &str = "aos-testbed";

/// A running site.
#[derive(Debug)]
pub struct Site {
    dir: PathBuf,
    name: String,
    next: AtomicU32,
    holder: Mutex<Option<Holder>>,
}

#[derive(Debug)]
struct Holder {
    child: Child,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
}

impl Site {
    /// Makes a site called `name` (letters, digits, `-`) after clearing up what dead ones of that name left.
    pub fn new(name: &str) -> Result<Self> {
        let helper = binaries::find("aos-box")?;
        let base = base_folder()?;
        fs::create_dir_all(&base).tried(|| format!("cannot make {}", base.display()))?;
        sweep(&base, name)?;
        let pid = std::process::id();
        let (dir, name) = unused_folder(&base, name, pid)?;
        let owner = ProcessId::of(pid.cast_signed())
            .ok_or_else(|| Error::Unexpected("cannot read /proc/self/stat".to_owned()))?;
        registry::add(&mut registry::open(&dir)?, &format!("owner {} {}", owner.pid, owner.start))?;

        let mut child = Command::new(helper)
            .arg("hold")
            .arg(&dir)
            .process_group(0)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .tried(|| "cannot start aos-box".to_owned())?;
        let (Some(input), Some(output)) = (child.stdin.take(), child.stdout.take()) else {
            return Err(Error::Unexpected("aos-box has no pipes".to_owned()));
        };
        let holder = Holder { child, input, output: BufReader::new(output) };
        Ok(Self { dir, name, next: AtomicU32::new(0), holder: Mutex::new(Some(holder)) })
    }

    /// The site's folder; removed with the site.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// The site's name with the number of its process.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// A name for a cgroup or namespace that no other site has.
    pub fn unique_name(&self) -> String {
        format!("aosbox-{}-{}", self.name, self.next.fetch_add(1, Ordering::Relaxed))
    }

    /// Has `child` killed when the site ends.
    pub fn register_process(&self, child: &Child) -> Result<()> {
        match ProcessId::of(child.id().cast_signed()) {
            Some(process) => self.register(&format!("pid {} {}", process.pid, process.start)),
            None => Ok(()),
        }
    }

    /// Has everything in `cgroups` killed, and them removed, when the site ends.
    pub fn register_cgroups(&self, cgroups: &[PathBuf]) -> Result<()> {
        cgroups.iter().try_for_each(|dir| self.register(&format!("cgroup {}", dir.display())))
    }

    fn register(&self, line: &str) -> Result<()> {
        let mut guard = self.holder.lock().map_err(|_| Error::Unexpected("site is broken".to_owned()))?;
        let Some(holder) = guard.as_mut() else {
            return Err(Error::Unexpected("the site has ended".to_owned()));
        };
        let what = || "the helper aos-box has ended".to_owned();
        writeln!(holder.input, "{line}").tried(what)?;
        let mut answer = String::new();
        holder.output.read_line(&mut answer).tried(what)?;
        if answer.trim() == "ok" { Ok(()) } else { Err(Error::Unexpected(what())) }
    }

    /// Ends everything the site has and waits until it is gone.
    pub fn end(&self) -> Result<()> {
        let Ok(mut guard) = self.holder.lock() else { return Ok(()) };
        let Some(holder) = guard.take() else { return Ok(()) };
        let Holder { mut child, input, output } = holder;
        drop(input);
        let status = child.wait().tried(|| "cannot wait for aos-box".to_owned())?;
        drop(output);
        if let Some(base) = self.dir.parent() {
            // Only succeeds when no other site is there.
            let _ = fs::remove_dir(base);
        }
        if status.success() {
            Ok(())
        } else {
            Err(Error::Unexpected(format!("aos-box could not clear up everything of {}", self.name)))
        }
    }
}

impl Drop for Site {
    fn drop(&mut self) {
        if let Err(error) = self.end() {
            eprintln!("test bed: {error}");
        }
    }
}

fn unused_folder(base: &Path, name: &str, pid: u32) -> Result<(PathBuf, String)> {
    static NUMBER: AtomicU32 = AtomicU32::new(0);
    loop {
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let name = if number == 0 { format!("{name}-{pid}") } else { format!("{name}-{pid}.{number}") };
        let dir = base.join(&name);
        match fs::create_dir(&dir) {
            Ok(()) => return Ok((dir, name)),
            Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists && number < 1000 => {}
            // The last of other sites took the folder of all sites with it.
            Err(error) if error.kind() == std::io::ErrorKind::NotFound && number < 1000 => {
                fs::create_dir_all(base).tried(|| format!("cannot make {}", base.display()))?;
            }
            Err(error) => return Err(error).tried(|| format!("cannot make {}", dir.display())),
        }
    }
}

/// Clears up after sites called `name` whose owner is dead and whose helper did not do it.
fn sweep(base: &Path, name: &str) -> Result<()> {
    let entries = fs::read_dir(base).tried(|| format!("cannot read {}", base.display()))?;
    for entry in entries.flatten() {
        let file_name = entry.file_name();
        let Some(rest) = file_name.to_str().and_then(|text| text.strip_prefix(name)?.strip_prefix('-'))
        else {
            continue;
        };
        if !rest.chars().all(|c| c.is_ascii_digit() || c == '.') {
            continue;
        }
        let dir = entry.path();
        // Without an owner it may be one that is still being made; its process is in the name.
        let maker = rest.split('.').next().and_then(|pid| pid.parse().ok()).and_then(ProcessId::of);
        let owner_lives = registry::read(&dir).owner.map_or(maker.is_some(), ProcessId::exists);
        if owner_lives {
            continue;
        }
        // The helper of a killed owner holds the lock while it clears up: wait for it, then do what is left.
        let Ok(file) = registry::open(&dir) else { continue };
        let _lock = nix::fcntl::Flock::lock(file, nix::fcntl::FlockArg::LockExclusive);
        registry::clear(&dir)?;
    }
    Ok(())
}

fn base_folder() -> Result<PathBuf> {
    let chosen = BASES.iter().find(|base| {
        Path::new(base).is_dir()
            && nix::sys::statfs::statfs(Path::new(base))
                .is_ok_and(|facts| facts.filesystem_type() != nix::sys::statfs::OVERLAYFS_SUPER_MAGIC)
    });
    chosen.map(|base| Path::new(base).join(FOLDER)).ok_or_else(|| {
        Error::Unexpected(format!("none of {BASES:?} is on a file system that overlayfs can use"))
    })
}
