//! Subvolumes of btrfs and the limits of their quota groups.

use std::ffi::OsStr;
use std::io;
use std::os::fd::BorrowedFd;
use std::os::unix::ffi::OsStrExt;

const SUBVOL_CREATE: libc::c_ulong = 0x5000_940E;
const SNAP_DESTROY: libc::c_ulong = 0x5000_940F;
const TREE_SEARCH: libc::c_ulong = 0xD000_9411;
const INO_LOOKUP: libc::c_ulong = 0xD000_9412;
const QUOTA_CTL: libc::c_ulong = 0xC010_9428;
const QGROUP_CREATE: libc::c_ulong = 0x4010_942A;
const QGROUP_LIMIT: libc::c_ulong = 0x8030_942B;

const QUOTA_ENABLE: u64 = 1;
const LIMIT_REFERENCED: u64 = 1;
/// Inode number of every subvolume's root.
pub const SUBVOLUME_INODE: u64 = 256;
const QUOTA_TREE: u64 = 8;
const QGROUP_INFO: u32 = 242;
const QGROUP_LIMIT_ITEM: u32 = 244;
const SEARCH_HEADER: usize = 32;
const NAME: usize = 4088;

/// The kernel's `btrfs_ioctl_vol_args`.
#[repr(C)]
struct VolumeArgs {
    fd: i64,
    name: [u8; NAME],
}

/// The kernel's `btrfs_ioctl_quota_ctl_args`.
#[repr(C)]
struct QuotaArgs {
    command: u64,
    status: u64,
}

/// The kernel's `btrfs_ioctl_qgroup_create_args`.
#[repr(C)]
struct GroupArgs {
    create: u64,
    id: u64,
}

/// The kernel's `btrfs_ioctl_qgroup_limit_args`.
#[repr(C)]
struct LimitArgs {
    id: u64,
    flags: u64,
    max_referenced: u64,
    max_exclusive: u64,
    reserved_referenced: u64,
    reserved_exclusive: u64,
}

/// The kernel's `btrfs_ioctl_ino_lookup_args`.
#[repr(C)]
struct LookupArgs {
    tree: u64,
    object: u64,
    name: [u8; 4080],
}

/// The kernel's `btrfs_ioctl_search_args`: key, then a buffer.
#[repr(C)]
struct SearchArgs {
    tree: u64,
    min_object: u64,
    max_object: u64,
    min_offset: u64,
    max_offset: u64,
    min_transaction: u64,
    max_transaction: u64,
    min_kind: u32,
    max_kind: u32,
    items: u32,
    unused: u32,
    unused_too: [u64; 4],
    buffer: [u8; 3992],
}

const _: () = assert!(size_of::<VolumeArgs>() == 4096 && size_of::<LimitArgs>() == 48);
const _: () = assert!(size_of::<LookupArgs>() == 4096 && size_of::<SearchArgs>() == 4096);

/// What a quota group counts and allows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Group {
    /// Bytes that its subvolume refers to.
    pub used: u64,
    /// Limit of these, if there is one.
    pub limit: Option<u64>,
}

/// Makes an empty subvolume called `name` in the folder `parent`.
pub fn create_subvolume(parent: BorrowedFd<'_>, name: &OsStr) -> io::Result<()> {
    let mut args = volume(name)?;
    // SAFETY: the structure is the one of this request, which only reads it.
    unsafe { super::ioctl(parent, SUBVOL_CREATE, &mut args) }.map(drop)
}

/// Removes the subvolume `name` of the folder `parent` with all that is in it.
pub fn remove_subvolume(parent: BorrowedFd<'_>, name: &OsStr) -> io::Result<()> {
    let mut args = volume(name)?;
    // SAFETY: as above.
    unsafe { super::ioctl(parent, SNAP_DESTROY, &mut args) }.map(drop)
}

fn volume(name: &OsStr) -> io::Result<VolumeArgs> {
    let mut args = VolumeArgs { fd: 0, name: [0; NAME] };
    let name = name.as_bytes();
    if name.is_empty() || name.len() > 255 || name.contains(&b'/') || name.contains(&0) {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    args.name[..name.len()].copy_from_slice(name);
    Ok(args)
}

/// Number of the subvolume that a file or folder is in.
pub fn subvolume_of(file: BorrowedFd<'_>) -> io::Result<u64> {
    let mut args = LookupArgs { tree: 0, object: SUBVOLUME_INODE, name: [0; 4080] };
    // SAFETY: the structure is the one of this request, which fills plain numbers and bytes in.
    unsafe { super::ioctl(file, INO_LOOKUP, &mut args) }?;
    Ok(args.tree)
}

/// Switches quotas of the whole file system on; quick when they are on already, else what is there is counted in
/// the background.
pub fn enable_quotas(on: BorrowedFd<'_>) -> io::Result<()> {
    let mut args = QuotaArgs { command: QUOTA_ENABLE, status: 0 };
    // SAFETY: the structure is the one of this request.
    unsafe { super::ioctl(on, QUOTA_CTL, &mut args) }.map(drop)
}

/// Limits what a subvolume refers to, bytes; `None` ends the limit.
pub fn limit(on: BorrowedFd<'_>, subvolume: u64, bytes: Option<u64>) -> io::Result<()> {
    let mut args = LimitArgs {
        id: subvolume,
        flags: LIMIT_REFERENCED,
        // All ones is how the kernel is told to forget a limit.
        max_referenced: bytes.unwrap_or(u64::MAX),
        max_exclusive: 0,
        reserved_referenced: 0,
        reserved_exclusive: 0,
    };
    // SAFETY: the structure is the one of this request.
    unsafe { super::ioctl(on, QGROUP_LIMIT, &mut args) }.map(drop)
}

/// Removes the quota group of a subvolume that is gone.
pub fn remove_group(on: BorrowedFd<'_>, subvolume: u64) -> io::Result<()> {
    let mut args = GroupArgs { create: 0, id: subvolume };
    // SAFETY: the structure is the one of this request, which only reads it.
    unsafe { super::ioctl(on, QGROUP_CREATE, &mut args) }.map(drop)
}

/// What the quota group of a subvolume counts and allows. `NotFound` when quotas are off or it has none.
pub fn group(on: BorrowedFd<'_>, subvolume: u64) -> io::Result<Group> {
    let mut group = None;
    let mut limit = None;
    for kind in [QGROUP_INFO, QGROUP_LIMIT_ITEM] {
        let Some(item) = item(on, kind, subvolume)? else { continue };
        // Both begin with a number that is not wanted here.
        if kind == QGROUP_INFO {
            group = number(&item, 8);
        } else {
            let flags = number(&item, 0).unwrap_or(0);
            limit = number(&item, 8).filter(|bytes| flags & LIMIT_REFERENCED != 0 && *bytes != u64::MAX);
        }
    }
    group.map(|used| Group { used, limit }).ok_or_else(|| io::ErrorKind::NotFound.into())
}

/// One item of the quota tree. Keys are (0, kind, group).
fn item(on: BorrowedFd<'_>, kind: u32, group: u64) -> io::Result<Option<Vec<u8>>> {
    let mut args = SearchArgs {
        tree: QUOTA_TREE,
        min_object: 0,
        max_object: 0,
        min_offset: group,
        max_offset: group,
        min_transaction: 0,
        max_transaction: u64::MAX,
        min_kind: kind,
        max_kind: kind,
        items: 1,
        unused: 0,
        unused_too: [0; 4],
        buffer: [0; 3992],
    };
    // SAFETY: the structure is the one of this request, which fills plain numbers and bytes in.
    unsafe { super::ioctl(on, TREE_SEARCH, &mut args) }?;
    if args.items == 0 {
        return Ok(None);
    }
    // Header: transaction, object, offset, kind, length; then the item.
    let length = args.buffer.get(28..SEARCH_HEADER).and_then(|bytes| bytes.try_into().ok());
    let length = length.map_or(0, u32::from_ne_bytes) as usize;
    Ok(args.buffer.get(SEARCH_HEADER..SEARCH_HEADER + length).map(<[u8]>::to_vec))
}

fn number(item: &[u8], at: usize) -> Option<u64> {
    item.get(at..at + 8)?.try_into().ok().map(u64::from_le_bytes)
}
