//! Quotas by user. The kernel counts all that a user has on a file system, and no process of an instance can make
//! files of another user, so there is no way around it.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use aos_disk_control::user_quota;

use crate::filesystem::{self, FileSystem};
use crate::{QuotaError, Unlimited};

/// Space that one file takes at least; smaller files are not worth more inodes.
const FILE: u64 = 4096;
/// Files beyond those that fill the space: folders, empty files, links.
const MORE_FILES: u64 = 1024;
const NO_SUCH_PROCESS: i32 = 3;

/// Why the file system limits no users; `None` when it does.
pub fn reason_against(on: &OwnedFd, file_system: &FileSystem) -> Option<Unlimited> {
    let enforced = with_node(file_system, |node| user_quota::is_enforced(on.as_fd(), node));
    match enforced {
        Ok(true) => None,
        Ok(false) => Some(Unlimited::NotMounted),
        Err(error) => Some(Unlimited::NoQuotas { errno: error.raw_os_error().unwrap_or(0) }),
    }
}

/// Limits a user, bytes; 0 ends the limit. The number of files is limited along with the space.
pub fn set(on: &OwnedFd, file_system: &FileSystem, uid: u32, bytes: u64) -> Result<(), QuotaError> {
    let files = if bytes == 0 { 0 } else { bytes / FILE + MORE_FILES };
    let result = with_node(file_system, |node| {
        let known = user_quota::get(on.as_fd(), node, uid)?;
        if known.bytes == bytes.next_multiple_of(1024) && known.files == files {
            return Ok(());
        }
        user_quota::set(on.as_fd(), node, uid, bytes, files)
    });
    let path = || file_system.node().unwrap_or_default();
    result.map_err(|error| QuotaError::io("set a user's quota on", &path())(error))
}

/// Space that a user has on the file system of `folder`; `None` when nobody counts.
pub fn used(folder: &Path, file_system: &FileSystem, uid: u32) -> Option<u64> {
    let on = filesystem::open(folder).ok()?;
    with_node(file_system, |node| user_quota::get(on.as_fd(), node, uid)).ok().map(|quota| quota.used)
}

/// Looks the device's node up only for kernels that ask for it.
fn with_node<T>(file_system: &FileSystem, call: impl Fn(Option<&Path>) -> io::Result<T>) -> io::Result<T> {
    match call(None) {
        Err(error)
            if error.kind() == io::ErrorKind::Unsupported
                && error.raw_os_error() != Some(NO_SUCH_PROCESS) =>
        {
            match file_system.node() {
                Some(node) => call(Some(&node)),
                None => Err(error),
            }
        }
        result => result,
    }
}
