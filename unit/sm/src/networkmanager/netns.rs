//! Network namespaces kept by bind mounts, as `ip netns` does it.
//!
//! Only a thread that steps into a new namespace can make one, and it stays there; so [`Folder::make`] belongs
//! on a thread that does nothing else afterwards.

use std::fs::{self, File};
use std::io;
use std::path::PathBuf;

use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, unshare};

use super::links::Links;
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

    /// All that are kept, alive or not.
    pub fn list(&self) -> Vec<String> {
        let entries = fs::read_dir(&self.0).into_iter().flatten().flatten();
        entries.filter_map(|entry| entry.file_name().into_string().ok()).collect()
    }

    /// True when the file is a living namespace and not the bare file left by a power cut.
    pub fn is_alive(&self, id: &str) -> bool {
        const NSFS_MAGIC: i64 = 0x6e73_6673;
        nix::sys::statfs::statfs(&self.path(id)).is_ok_and(|fs| fs.filesystem_type().0 == NSFS_MAGIC)
    }

    /// Steps into a new namespace, keeps it, and opens the way to its links.
    pub fn make(&self, id: &str) -> io::Result<(File, Links)> {
        let path = self.path(id);
        File::create(&path)?;
        unshare(CloneFlags::CLONE_NEWNET)?;
        mount(Some("/proc/thread-self/ns/net"), &path, None::<&str>, MsFlags::MS_BIND, None::<&str>)?;
        Ok((File::open(&path)?, Links::open()?))
    }

    /// Removes a namespace; no error when it is not there.
    pub fn remove(&self, id: &str) -> io::Result<()> {
        let path = self.path(id);
        // Mounted more than once only after a crash in between.
        while umount2(&path, MntFlags::MNT_DETACH).is_ok() {}
        match fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }
}
