//! Disk quotas of instances: how much a storage folder and a state file may take.
//!
//! What keeps a limit depends on the file system, and is found out at each call, because a folder may be moved to
//! another one between two starts:
//!
//! - **user quota** (ext4, xfs and others mounted with it): the instance's user may not have more on the file system.
//!   Nobody else uses this user, so the folder is limited by it, and both folders on one file system by their sum.
//! - **btrfs**: the folder is a subvolume and its quota group has a limit.
//! - **sized image**: the folder is the mount point of a file system of its own in a file of the right size. For
//!   storages only: a state file is shared with the Communication Manager, which would see another one.
//!
//! Everything is found again from the kernel and the disk: nothing is remembered, so a crash at any point leaves
//! nothing that the next call does not take up. Calls block for a few kernel calls; a new or resized image for as
//! long as `mkfs.ext4` or `resize2fs` takes.

mod filesystem;
mod image;
mod subvolume;
mod tools;
mod user;

use std::collections::BTreeMap;
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use filesystem::FileSystem;

pub use image::{detach, reconcile};
pub use subvolume::prepare as prepare_folder;

/// What cannot be done.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum QuotaError {
    /// A step failed.
    #[error("cannot {action} {}", path.display())]
    Io {
        /// What was tried.
        action: &'static str,
        /// With what.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A program of the e2fsprogs or coreutils failed.
    #[error("{program} failed for {}: {message}", path.display())]
    Tool {
        /// The program.
        program: &'static str,
        /// What it worked on.
        path: PathBuf,
        /// What it said.
        message: String,
    },
    /// Nothing can keep the limit, and running without is not allowed.
    #[error("the limit of {} cannot be kept", path.display())]
    Unavailable {
        /// Folder or file.
        path: PathBuf,
        /// Why.
        #[source]
        reason: Unlimited,
    },
}

/// Why nothing keeps the limit of a folder.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, thiserror::Error)]
#[non_exhaustive]
pub enum Unlimited {
    /// By the configuration.
    #[error("disk quotas are switched off")]
    Off,
    /// Its storage is in an image, which another program mounts.
    #[error("it has an image")]
    Elsewhere,
    /// The file system has quotas and does not keep them.
    #[error("the file system is mounted without usrquota")]
    NotMounted,
    /// The file system has no quotas by user.
    #[error("the file system has no user quotas (error {errno})")]
    NoQuotas {
        /// The kernel's error number; 0 when it named none.
        errno: i32,
    },
    /// The file system has no quotas, and images cannot be mounted.
    #[error("the file system keeps no user quotas, and there are no loop devices")]
    NoLoop,
    /// The file system has no quotas, and images cannot be made.
    #[error("the file system keeps no user quotas, and mkfs.ext4 is not installed")]
    NoMkfs,
}

impl QuotaError {
    /// The kernel's error number behind it; 0 when there is none.
    pub fn errno(&self) -> i32 {
        match self {
            Self::Io { source, .. } => source.raw_os_error().unwrap_or(0),
            Self::Tool { .. } | Self::Unavailable { .. } => 0,
        }
    }

    /// True when the disk has no room for what was promised.
    pub fn is_no_space(&self) -> bool {
        matches!(self, Self::Io { source, .. } if source.kind() == io::ErrorKind::StorageFull)
    }

    fn io(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_owned();
        move |source| Self::Io { action, path, source }
    }
}

/// What keeps a limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Mechanism {
    /// Limit of the instance's user on the file system.
    UserQuota,
    /// Limit of a btrfs subvolume.
    Subvolume,
    /// File system of its own in a file.
    Image,
}

/// What to do where the file system itself has no quotas.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Policy {
    /// Limit nothing anywhere.
    Off,
    /// Run without the limit.
    #[default]
    Auto,
    /// As `Auto`, and leave images alone: for a program that is not the one that mounts them.
    InPlace,
    /// Put storages into sized images; run without the limit where that is not possible.
    Images,
    /// As `Images`, but refuse what cannot be limited.
    Required,
}

/// What an instance may have on disk.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Limits {
    /// Owner of its files; no other instance has it.
    pub uid: u32,
    /// Group of its files.
    pub gid: u32,
    /// Storage folder and its limit, bytes.
    pub storage: Option<(PathBuf, u64)>,
    /// State file, alone in its folder, and its limit, bytes.
    pub state: Option<(PathBuf, u64)>,
}

/// What keeps the limits of an instance, or why nothing does.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Applied {
    /// Of the storage.
    pub storage: Option<Result<Mechanism, Unlimited>>,
    /// Of the state.
    pub state: Option<Result<Mechanism, Unlimited>>,
}

/// What an instance takes on disk, bytes; `None` where nobody counts.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Usage {
    /// Its storage folder.
    pub storage: Option<u64>,
    /// Its state file.
    pub state: Option<u64>,
}

/// Makes the folders as far as they are missing and has the limits kept. The same limits again change nothing;
/// other ones replace those before, lower ones than what is used only forbid more. A sized image changes its size
/// only while nothing uses it.
pub fn apply(limits: &Limits, policy: Policy) -> Result<Applied, QuotaError> {
    let mut applied = Applied::default();
    let mut users: BTreeMap<u64, (OwnedFd, FileSystem, u64)> = BTreeMap::new();
    let state = limits.state.as_ref().and_then(|(file, bytes)| Some((file.parent()?, *bytes)));
    let storage = limits.storage.as_ref().map(|(folder, bytes)| (folder.as_path(), *bytes));
    let places = [(storage, true, &mut applied.storage), (state, false, &mut applied.state)];
    for (place, images, result) in places {
        let Some((folder, bytes)) = place else { continue };
        let decided = match choose(folder, images, policy)? {
            Ok((Mechanism::UserQuota, file_system)) => {
                make_folder(folder)?;
                let on = filesystem::open(folder)?;
                users.entry(file_system.device).or_insert((on, file_system, 0)).2 += bytes;
                Ok(Mechanism::UserQuota)
            }
            Ok((Mechanism::Subvolume, _)) => {
                subvolume::limit(folder, bytes)?;
                Ok(Mechanism::Subvolume)
            }
            Ok((Mechanism::Image, _)) => {
                image::mount(folder, bytes, limits.uid, limits.gid)?;
                Ok(Mechanism::Image)
            }
            Err(reason) if policy == Policy::Required => {
                return Err(QuotaError::Unavailable { path: folder.to_owned(), reason });
            }
            Err(reason) => {
                make_folder(folder)?;
                Err(reason)
            }
        };
        *result = Some(decided);
        if images {
            own(folder, limits)?;
        }
    }
    for (on, file_system, bytes) in users.into_values() {
        user::set(&on, &file_system, limits.uid, bytes)?;
    }
    Ok(applied)
}

/// What an instance takes on disk. Asks the kernel's counters and walks through no folder.
pub fn usage(uid: u32, storage: Option<&Path>, state: Option<&Path>) -> Usage {
    let state = state.and_then(filesystem::size_of);
    let storage = storage.and_then(|folder| {
        let file_system = FileSystem::of(folder).ok()?;
        if file_system.is_btrfs() {
            return subvolume::used(folder);
        }
        if image::is_mounted(folder, &file_system) {
            return filesystem::used(folder);
        }
        let used = user::used(folder, &file_system, uid)?;
        // What the user has beside the storage on the same file system.
        let other = state.filter(|(device, _)| *device == file_system.device).map_or(0, |(_, bytes)| bytes);
        Some(used.saturating_sub(other))
    });
    Usage { storage, state: state.map(|(_, bytes)| bytes) }
}

/// Ends the limits of an instance that nobody wants on this node any more; its data stays, a sized image unmounted.
pub fn remove(limits: &Limits) -> Result<(), QuotaError> {
    let storage = limits.storage.as_ref().map(|(folder, _)| folder.as_path());
    if let Some(folder) = storage {
        detach(folder)?;
    }
    let state = limits.state.as_ref().and_then(|(file, _)| file.parent());
    for folder in [storage, state].into_iter().flatten().filter(|folder| folder.exists()) {
        let file_system = FileSystem::of(folder)?;
        let on = filesystem::open(folder)?;
        if user::reason_against(&on, &file_system).is_none() {
            user::set(&on, &file_system, limits.uid, 0)?;
        }
    }
    Ok(())
}

/// What is to keep the limit of a folder, or why nothing can.
fn choose(
    folder: &Path,
    images: bool,
    policy: Policy,
) -> Result<Result<(Mechanism, FileSystem), Unlimited>, QuotaError> {
    // The folder itself may be the mount point of its image.
    let existing = folder.ancestors().skip(1).find(|path| path.exists()).unwrap_or(Path::new("/"));
    let outer = FileSystem::of(existing)?;
    if images && image::has_one(folder) {
        return Ok(match policy {
            Policy::InPlace => Err(Unlimited::Elsewhere),
            _ => Ok((Mechanism::Image, outer)),
        });
    }
    if policy == Policy::Off {
        return Ok(Err(Unlimited::Off));
    }
    if outer.is_btrfs() {
        return Ok(Ok((Mechanism::Subvolume, outer)));
    }
    let on = filesystem::open(existing)?;
    let Some(reason) = user::reason_against(&on, &outer) else {
        return Ok(Ok((Mechanism::UserQuota, outer)));
    };
    if !images || matches!(policy, Policy::Auto | Policy::InPlace) {
        return Ok(Err(reason));
    }
    Ok(match image::reason_against() {
        None => Ok((Mechanism::Image, outer)),
        Some(reason) => Err(reason),
    })
}

fn make_folder(folder: &Path) -> Result<(), QuotaError> {
    std::fs::create_dir_all(folder).map_err(QuotaError::io("make the folder", folder))
}

fn own(folder: &Path, limits: &Limits) -> Result<(), QuotaError> {
    use std::os::unix::fs::{MetadataExt, chown};
    let meta = std::fs::metadata(folder).map_err(QuotaError::io("look at", folder))?;
    if (meta.uid(), meta.gid()) == (limits.uid, limits.gid) {
        return Ok(());
    }
    chown(folder, Some(limits.uid), Some(limits.gid)).map_err(QuotaError::io("give away", folder))
}
