//! Network namespaces kept by bind mounts, as `ip netns` does it.
//!
//! A thread can change its own network namespace without touching the others; so whatever has to happen
//! inside one happens on a short-lived thread that enters it and ends there.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, setns, unshare};

use crate::Error;

/// Where network namespaces are kept.
#[derive(Debug, Clone)]
pub struct Folder(PathBuf);

impl Folder {
    /// Uses (and makes) `path`.
    pub fn open(path: PathBuf) -> Result<Self, Error> {
        aos_durable::create_dir(&path, 0o755)?;
        Ok(Self(path))
    }

    /// Path of the namespace of an instance.
    pub fn path(&self, id: &str) -> PathBuf {
        self.0.join(id)
    }

    /// True when the file is a living namespace and not the bare file left by a power cut.
    pub fn is_alive(&self, id: &str) -> bool {
        const NSFS_MAGIC: i64 = 0x6e73_6673;
        nix::sys::statfs::statfs(&self.path(id)).is_ok_and(|fs| fs.filesystem_type().0 == NSFS_MAGIC)
    }

    /// Makes a new namespace; blocking for a moment.
    pub fn make(&self, id: &str) -> Result<(), Error> {
        let path = self.path(id);
        File::create(&path).map_err(Error::file("make", &path))?;
        let target = path.clone();
        let made = on_thread(move || {
            unshare(CloneFlags::CLONE_NEWNET)?;
            mount(Some("/proc/thread-self/ns/net"), &target, None::<&str>, MsFlags::MS_BIND, None::<&str>)?;
            Ok(())
        });
        made.map_err(Error::system(format!("make network namespace {}", path.display())))
    }

    /// Removes a namespace; no error when it is not there.
    pub fn remove(&self, id: &str) -> Result<(), Error> {
        let path = self.path(id);
        // Mounted more than once only after a crash in between.
        while umount2(&path, MntFlags::MNT_DETACH).is_ok() {}
        match fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(Error::file("remove", path)(error)),
            _ => Ok(()),
        }
    }
}

/// Runs `work` inside the namespace at `path` on a thread with a runtime of its own.
pub async fn inside<T: Send + 'static, F: Future<Output = Result<T, Error>>>(
    path: &Path,
    work: impl FnOnce() -> F + Send + 'static,
) -> Result<T, Error> {
    let place = path.to_owned();
    let (answer, result) = tokio::sync::oneshot::channel();
    let failed = || Error::system::<io::Error>(format!("enter network namespace {}", place.display()));
    let entering = failed();
    let starting = failed();
    let file = File::open(path).map_err(failed())?;
    std::thread::Builder::new()
        .name("netns".to_owned())
        .spawn(move || {
            let run = || {
                setns(&file, CloneFlags::CLONE_NEWNET).map_err(io::Error::from)?;
                tokio::runtime::Builder::new_current_thread().enable_all().build()
            };
            let _ = answer.send(match run() {
                Ok(runtime) => runtime.block_on(work()),
                Err(error) => Err(entering(error)),
            });
        })
        .map_err(starting)?;
    result.await.map_err(|_| Error::Ended("the network namespace thread"))?
}

fn on_thread(work: impl FnOnce() -> io::Result<()> + Send + 'static) -> io::Result<()> {
    let thread = std::thread::Builder::new().name("netns".to_owned()).spawn(work)?;
    thread.join().map_err(|_| io::Error::other("the thread ended early"))?
}
