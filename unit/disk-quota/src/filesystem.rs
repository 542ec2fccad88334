//! What is known about the file system that a folder is on.

use std::fs::File;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use crate::QuotaError;

const BTRFS: i64 = 0x9123_683E;
const MOUNTS: &str = "/proc/thread-self/mountinfo";
/// Unit of the block counts of files.
const BLOCK: u64 = 512;

/// A file system.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FileSystem {
    /// Its number; every file on it has it (on btrfs: every file of the same subvolume).
    pub device: u64,
    kind: i64,
}

/// A mount.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mount {
    /// Number of the file system.
    pub device: u64,
    /// Mount point.
    pub point: PathBuf,
    /// What is mounted; for disks the device's node.
    pub source: PathBuf,
}

impl FileSystem {
    /// The file system of an existing folder.
    pub fn of(folder: &Path) -> Result<Self, QuotaError> {
        let meta = std::fs::metadata(folder).map_err(QuotaError::io("look at", folder))?;
        let facts =
            rustix::fs::statfs(folder).map_err(|error| QuotaError::io("look at", folder)(error.into()))?;
        Ok(Self { device: meta.dev(), kind: facts.f_type })
    }

    /// True for btrfs.
    pub fn is_btrfs(&self) -> bool {
        self.kind == BTRFS
    }

    /// The node of its block device, as it was mounted, if it is one.
    pub fn node(&self) -> Option<PathBuf> {
        let found = mounts().into_iter().find(|mount| mount.device == self.device)?.source;
        let kind = std::fs::metadata(&found).ok()?.file_type();
        kind.is_block_device().then_some(found)
    }
}

/// All mounts that this process sees; none if they cannot be read.
pub fn mounts() -> Vec<Mount> {
    parse(&std::fs::read_to_string(MOUNTS).unwrap_or_default())
}

fn parse(text: &str) -> Vec<Mount> {
    let one = |line: &str| {
        let (before, after) = line.split_once(" - ")?;
        let mut before = before.split(' ').skip(2);
        let (major, minor) = before.next()?.split_once(':')?;
        let device = rustix::fs::makedev(major.parse().ok()?, minor.parse().ok()?);
        let point = unescape(before.nth(1)?);
        Some(Mount { device, point, source: unescape(after.split(' ').nth(1)?) })
    };
    text.lines().filter_map(one).collect()
}

/// Blanks and the like are written as a backslash and three octal digits.
fn unescape(text: &str) -> PathBuf {
    use std::os::unix::ffi::OsStringExt;
    let mut bytes = Vec::new();
    let mut rest = text.as_bytes();
    while let Some((&first, after)) = rest.split_first() {
        let number = (first == b'\\').then(|| after.get(..3)).flatten();
        let number = number.and_then(|digits| u8::from_str_radix(std::str::from_utf8(digits).ok()?, 8).ok());
        bytes.push(number.unwrap_or(first));
        rest = if number.is_some() { after.get(3..).unwrap_or_default() } else { after };
    }
    PathBuf::from(std::ffi::OsString::from_vec(bytes))
}

/// A folder, open for asking the kernel about its file system.
pub fn open(folder: &Path) -> Result<OwnedFd, QuotaError> {
    File::open(folder).map(OwnedFd::from).map_err(QuotaError::io("open", folder))
}

/// File system and space of one file.
pub fn size_of(file: &Path) -> Option<(u64, u64)> {
    let meta = std::fs::symlink_metadata(file).ok()?;
    Some((meta.dev(), meta.blocks().saturating_mul(BLOCK)))
}

/// Space used on a whole file system.
pub fn used(folder: &Path) -> Option<u64> {
    let facts = rustix::fs::statvfs(folder).ok()?;
    Some(facts.f_blocks.saturating_sub(facts.f_bfree).saturating_mul(facts.f_frsize))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mounts_are_read_with_odd_names() {
        let text = "36 35 98:1 / /mnt/a\\040b rw,noatime master:1 shared:2 - ext4 /dev/loop3 rw,errors=continue\n\
            37 35 0:20 / / rw - overlay overlay rw\nnonsense\n";
        let found = parse(text);
        assert_eq!(found.len(), 2);
        assert_eq!(found[0].point, Path::new("/mnt/a b"));
        assert_eq!(
            (found[0].device, found[0].source.as_path()),
            (rustix::fs::makedev(98, 1), Path::new("/dev/loop3"))
        );
        assert_eq!(unescape("a\\"), Path::new("a\\"));
    }
}
