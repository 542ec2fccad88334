//! Quotas of btrfs: the folder is a subvolume, whose quota group is limited.
//!
//! A folder that is none yet becomes one, with what is in it: a subvolume is made beside it, filled, and put into
//! its place at once.

use std::ffi::OsString;
use std::fs::{self, Permissions};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::path::{Path, PathBuf};

use aos_disk_control::btrfs;
use rustix::fs::{CWD, RenameFlags, renameat_with};

use crate::filesystem::{self, FileSystem};
use crate::{QuotaError, tools};

const MODE: u32 = 0o700;

/// Makes a folder (of root, only for its owner) in the way that limits can be set later: on btrfs a subvolume. A
/// folder that is there stays, with all that is in it.
pub fn prepare(folder: &Path) -> Result<(), QuotaError> {
    let parent = folder.parent().unwrap_or(Path::new("/"));
    fs::create_dir_all(parent).map_err(QuotaError::io("make the folder", parent))?;
    if FileSystem::of(parent)?.is_btrfs() {
        return make(folder);
    }
    match fs::create_dir(folder) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
            Err(QuotaError::io("make the folder", folder)(error))
        }
        Err(_) => Ok(()),
        Ok(()) => set_mode(folder),
    }
}

/// Has the limit of a folder on btrfs kept; it is made when it is missing.
pub fn limit(folder: &Path, bytes: u64) -> Result<(), QuotaError> {
    prepare(folder)?;
    let on = filesystem::open(folder)?;
    let failed = |action| QuotaError::io(action, folder);
    let subvolume = btrfs::subvolume_of(on.as_fd()).map_err(failed("find the subvolume of"))?;
    match btrfs::group(on.as_fd(), subvolume) {
        Ok(group) if group.limit == Some(bytes) => return Ok(()),
        Ok(_) => {}
        Err(_) => btrfs::enable_quotas(on.as_fd()).map_err(failed("switch quotas on for"))?,
    }
    btrfs::limit(on.as_fd(), subvolume, Some(bytes)).map_err(failed("set the quota of"))
}

/// Space that a subvolume takes; `None` when nobody counts.
pub fn used(folder: &Path) -> Option<u64> {
    let on = filesystem::open(folder).ok()?;
    let subvolume = btrfs::subvolume_of(on.as_fd()).ok()?;
    btrfs::group(on.as_fd(), subvolume).ok().map(|group| group.used)
}

fn make(folder: &Path) -> Result<(), QuotaError> {
    let (Some(parent), Some(name)) = (folder.parent(), folder.file_name()) else {
        return Err(QuotaError::io("use as folder", folder)(io::ErrorKind::InvalidInput.into()));
    };
    let create = |name: &OsString| -> Result<(), QuotaError> {
        let on = filesystem::open(parent)?;
        btrfs::create_subvolume(on.as_fd(), name).map_err(QuotaError::io("make the subvolume", folder))
    };
    let beside = parent.join(with_ending(name.to_owned()));
    // Left by a crash; which of the two is whole is known by the exchange being one step.
    discard(&beside)?;
    let meta = match fs::symlink_metadata(folder) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            create(&name.to_owned())?;
            return set_mode(folder);
        }
        other => other.map_err(QuotaError::io("look at", folder))?,
    };
    if meta.ino() == btrfs::SUBVOLUME_INODE {
        return Ok(());
    }
    if !meta.is_dir() {
        return Err(QuotaError::io("use as folder", folder)(io::ErrorKind::NotADirectory.into()));
    }
    create(&with_ending(name.to_owned()))?;
    tools::copy(folder, &beside)?;
    chown(&beside, Some(meta.uid()), Some(meta.gid())).map_err(QuotaError::io("give away", &beside))?;
    fs::set_permissions(&beside, Permissions::from_mode(meta.mode() & 0o7777))
        .map_err(QuotaError::io("set the mode of", &beside))?;
    let synced = filesystem::open(&beside).and_then(|on: OwnedFd| {
        rustix::fs::syncfs(&on).map_err(|e| QuotaError::io("sync", &beside)(e.into()))
    });
    synced?;
    renameat_with(CWD, &beside, CWD, folder, RenameFlags::EXCHANGE)
        .map_err(|error| QuotaError::io("put a subvolume in the place of", folder)(error.into()))?;
    discard(&beside)
}

fn with_ending(mut name: OsString) -> OsString {
    name.push(".aos-new");
    name
}

/// Removes a folder or subvolume that is not needed.
fn discard(path: &PathBuf) -> Result<(), QuotaError> {
    match fs::remove_dir_all(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(QuotaError::io("remove", path)(error)),
        _ => Ok(()),
    }
}

fn set_mode(folder: &Path) -> Result<(), QuotaError> {
    fs::set_permissions(folder, Permissions::from_mode(MODE))
        .map_err(QuotaError::io("set the mode of", folder))
}
