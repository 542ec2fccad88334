//! One entry in a folder that is open: looked at, made, hidden, dressed, removed. No name is followed.

use std::os::fd::{AsFd, BorrowedFd};

use rustix::fs::{
    AtFlags, Dev, FileType, Gid, Mode, OFlags, Timespec, Timestamps, Uid, XattrFlags, fchmod, fchown,
    fsetxattr, futimens, makedev, mkdirat, mknodat, openat, statat, unlinkat,
};
use rustix::io::Errno;

use crate::extended::Looks;
use crate::tree::Trouble;

pub(crate) const OPAQUE: &str = "trusted.overlay.opaque";

pub(crate) fn no_device() -> Dev {
    makedev(0, 0)
}

pub(crate) fn owner(looks: &Looks) -> (Option<Uid>, Option<Gid>) {
    (Some(Uid::from_raw(looks.uid)), Some(Gid::from_raw(looks.gid)))
}

pub(crate) fn folder_flags() -> OFlags {
    OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC
}

pub(crate) fn blocked(folder: BorrowedFd<'_>, part: &[u8]) -> Trouble {
    match statat(folder, part, AtFlags::SYMLINK_NOFOLLOW) {
        Ok(stat) if FileType::from_raw_mode(stat.st_mode) == FileType::Symlink => {
            "the path leads through a link".into()
        }
        _ => "the path leads through a file".into(),
    }
}

fn kind_of(folder: BorrowedFd<'_>, name: &[u8]) -> Result<Option<FileType>, Trouble> {
    match statat(folder, name, AtFlags::SYMLINK_NOFOLLOW) {
        Ok(stat) => Ok(Some(FileType::from_raw_mode(stat.st_mode))),
        Err(Errno::NOENT) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// Removes what has the name; answers what it was.
pub(crate) fn clear(folder: BorrowedFd<'_>, name: &[u8]) -> Result<Option<FileType>, Trouble> {
    let found = kind_of(folder, name)?;
    match found {
        None => {}
        Some(FileType::Directory) => match unlinkat(folder, name, AtFlags::REMOVEDIR) {
            Err(Errno::NOTEMPTY | Errno::EXIST) => return Err("it replaces a filled folder".into()),
            other => other?,
        },
        Some(_) => unlinkat(folder, name, AtFlags::empty())?,
    }
    Ok(found)
}

#[derive(PartialEq)]
pub(crate) enum Made {
    Anew,
    Before,
}

pub(crate) fn make_folder(folder: BorrowedFd<'_>, name: &[u8], looks: &Looks) -> Result<Made, Trouble> {
    let mut result = Made::Before;
    let mut hidden = false;
    match mkdirat(folder, name, Mode::from_raw_mode(0o700)) {
        Ok(()) => {}
        Err(Errno::EXIST) => {
            let before = kind_of(folder, name)?;
            if before != Some(FileType::Directory) {
                clear(folder, name)?;
                mkdirat(folder, name, Mode::from_raw_mode(0o700))?;
                result = Made::Anew;
                // The only devices here are whiteouts: the name was hidden and comes back as a new folder.
                hidden = before == Some(FileType::CharacterDevice);
            }
        }
        Err(error) => return Err(error.into()),
    }
    let made = openat(folder, name, folder_flags(), Mode::empty())?;
    if hidden || looks.opaque {
        fsetxattr(&made, OPAQUE, b"y", XattrFlags::empty())?;
    }
    dress(&made, looks)?;
    Ok(result)
}

/// Hides a name of lower layers. What this very layer brings under that name stays.
pub(crate) fn hide(folder: BorrowedFd<'_>, name: &[u8]) -> Result<(), Trouble> {
    match kind_of(folder, name)? {
        None => Ok(mknodat(folder, name, FileType::CharacterDevice, Mode::empty(), no_device())?),
        Some(FileType::Directory) => {
            let made = openat(folder, name, folder_flags(), Mode::empty())?;
            Ok(fsetxattr(&made, OPAQUE, b"y", XattrFlags::empty())?)
        }
        Some(_) => Ok(()),
    }
}

/// Owner first: changing it clears mode bits.
pub(crate) fn dress(target: &impl AsFd, looks: &Looks) -> Result<(), Trouble> {
    let (uid, gid) = owner(looks);
    fchown(target, uid, gid)?;
    fchmod(target, Mode::from_raw_mode(looks.mode & 0o1777))?;
    for (name, value) in &looks.attributes {
        match fsetxattr(target, name.as_slice(), value, XattrFlags::empty()) {
            // A file system without user attributes still runs the service.
            Ok(()) | Err(Errno::OPNOTSUPP) => {}
            // The place for attributes is bounded; that is not the disk being full.
            Err(Errno::NOSPC | Errno::TOOBIG | Errno::RANGE) => {
                return Err("its attributes do not fit".into());
            }
            Err(error) => return Err(error.into()),
        }
    }
    let time = Timespec { tv_sec: looks.modified, tv_nsec: 0 };
    Ok(futimens(target, &Timestamps { last_access: time, last_modification: time })?)
}
