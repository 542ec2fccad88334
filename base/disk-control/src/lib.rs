//! Kernel interfaces of disk quotas, as safe functions: user quotas, btrfs subvolumes with their quota groups,
//! loop devices.
//!
//! Every function is one or a few system calls; which of them a file system can do is told by its error:
//! `ENOTTY`, `EOPNOTSUPP`, `ESRCH` or `ENOSYS` mean "not here". Nothing is kept between calls. All need root.

pub mod btrfs;
pub mod loops;
pub mod user_quota;

use std::ffi::{c_long, c_ulong};
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

/// An ioctl whose argument is a structure of the kernel that it reads, writes or both.
///
/// # Safety
/// `T` is exactly the structure that the kernel expects with `request`, valid in every bit pattern it may write,
/// and refers to no other memory.
unsafe fn ioctl<T>(fd: BorrowedFd<'_>, request: c_ulong, argument: &mut T) -> io::Result<i32> {
    // SAFETY: the descriptor is open, and the argument is a live, exclusive reference of the right type by the
    // contract of this function.
    let result = unsafe { libc::ioctl(fd.as_raw_fd(), request, std::ptr::from_mut(argument)) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

fn check(result: c_long) -> io::Result<c_long> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}
