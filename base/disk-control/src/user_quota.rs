//! Limits of what one user's files may take on a file system.
//!
//! `quotactl_fd` is used where the kernel has it (5.14). Older ones want the block device, which the caller names.

use std::ffi::{CString, c_int};
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

const Q_GETQUOTA: c_int = 0x0080_0007;
const Q_SETQUOTA: c_int = 0x0080_0008;
const Q_XGETQSTAT: c_int = 0x5805;
const USER: c_int = 0;
const ENFORCED: u16 = 2;
const QIF_BLIMITS: u32 = 1;
const QIF_ILIMITS: u32 = 4;
/// Unit of the kernel's block limits.
const BLOCK: u64 = 1024;

/// The kernel's `if_dqblk`.
#[repr(C)]
#[derive(Default)]
struct DiskQuota {
    block_hard: u64,
    block_soft: u64,
    space: u64,
    inode_hard: u64,
    inode_soft: u64,
    inodes: u64,
    block_time: u64,
    inode_time: u64,
    valid: u32,
}

/// The kernel's `fs_quota_stat`.
#[repr(C)]
#[derive(Default)]
struct QuotaStat {
    version: i8,
    flags: u16,
    pad: i8,
    files: [[u64; 3]; 2],
    in_core: u32,
    times: [i32; 3],
    warnings: [u16; 2],
}

const _: () = assert!(size_of::<DiskQuota>() == 72 && size_of::<QuotaStat>() == 80);

/// Quota of a user on a file system.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct UserQuota {
    /// Limit of the space, bytes; 0 for none.
    pub bytes: u64,
    /// Limit of the number of files; 0 for none.
    pub files: u64,
    /// Space used, bytes.
    pub used: u64,
}

/// Whether the file system refuses what is beyond a user's limit; it may also only count.
pub fn is_enforced(on: BorrowedFd<'_>, device: Option<&Path>) -> io::Result<bool> {
    let mut stat = QuotaStat { version: 1, ..QuotaStat::default() };
    // SAFETY: the structure is the one that the command fills in.
    unsafe { call(on, device, Q_XGETQSTAT, 0, &mut stat) }?;
    Ok(stat.flags & ENFORCED != 0)
}

/// Reads the quota of `uid` on the file system that `on` (any file on it) belongs to; `device` is its block
/// device, if known, for old kernels.
pub fn get(on: BorrowedFd<'_>, device: Option<&Path>, uid: u32) -> io::Result<UserQuota> {
    let mut quota = DiskQuota::default();
    // SAFETY: the structure is the one that the command fills in.
    unsafe { call(on, device, Q_GETQUOTA, uid, &mut quota) }?;
    Ok(UserQuota {
        bytes: quota.block_hard.saturating_mul(BLOCK),
        files: quota.inode_hard,
        used: quota.space,
    })
}

/// Sets hard limits for `uid`; the space is rounded up to whole KiB. What is used already stays.
pub fn set(on: BorrowedFd<'_>, device: Option<&Path>, uid: u32, bytes: u64, files: u64) -> io::Result<()> {
    let mut quota = DiskQuota {
        block_hard: bytes.div_ceil(BLOCK),
        inode_hard: files,
        valid: QIF_BLIMITS | QIF_ILIMITS,
        ..DiskQuota::default()
    };
    // SAFETY: the structure is the one that the command reads.
    unsafe { call(on, device, Q_SETQUOTA, uid, &mut quota) }
}

/// # Safety
/// `T` is exactly the structure that the kernel expects with `command`, and refers to no other memory.
unsafe fn call<T>(
    on: BorrowedFd<'_>,
    device: Option<&Path>,
    command: c_int,
    uid: u32,
    argument: &mut T,
) -> io::Result<()> {
    let command = (command << 8) | USER;
    let argument = std::ptr::from_mut(argument);
    // SAFETY: the descriptor is open and the structure lives through the call; it is the right one by the contract
    // of this function.
    let result =
        super::check(unsafe { libc::syscall(libc::SYS_quotactl_fd, on.as_raw_fd(), command, uid, argument) });
    match (result, device) {
        (Err(error), Some(device)) if error.raw_os_error() == Some(libc::ENOSYS) => {
            let device = CString::new(device.as_os_str().as_bytes())?;
            let uid = uid.cast_signed();
            // SAFETY: as above; the name is a string with an end.
            let result = unsafe { libc::quotactl(command, device.as_ptr(), uid, argument.cast()) };
            super::check(result.into()).map(drop)
        }
        (result, _) => result.map(drop),
    }
}
