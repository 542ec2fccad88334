//! Writes the entries of a layer's tar stream below one folder, and nowhere else.
//!
//! Every step of a path is opened by itself without following links, so neither a link in the layer nor one
//! slipped in meanwhile can lead out. Devices are refused; set-user bits are dropped (instances run without
//! new privileges); of the extended attributes only `user.*` is kept, because `trusted.overlay.*` from a
//! layer could re-route the overlay. Whiteout markers become overlayfs whiteouts.
//!
//! Limits: 500 000 entries, 1 MiB of extended header for an entry; the stream's length is its reader's limit.

use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsFd, OwnedFd};

use rustix::fs::{
    AtFlags, Dev, FileType, Gid, Mode, OFlags, Timespec, Timestamps, Uid, XattrFlags, chownat, fchmod,
    fchown, fsetxattr, futimens, linkat, makedev, mkdirat, mknodat, openat, statat, symlinkat, unlinkat,
};
use rustix::io::Errno;
use tar::EntryType;

use super::names::{Meaning, Path};

const MAX_ENTRIES: u64 = 500_000;
const MAX_EXTENDED: u64 = 1024 * 1024;
const OPAQUE: &str = "trusted.overlay.opaque";

/// Why a stream was not unpacked.
#[derive(Debug, thiserror::Error)]
pub enum TreeError {
    /// The stream is no tar stream or ends early.
    #[error("the archive is not readable")]
    Read(#[source] io::Error),
    /// An entry is refused.
    #[error("entry '{name}' is refused: {reason}")]
    Refused {
        /// Its name, shortened.
        name: String,
        /// Why.
        reason: &'static str,
    },
    /// An entry could not be written.
    #[error("cannot write entry '{name}'")]
    Write {
        /// Its name, shortened.
        name: String,
        /// Why.
        #[source]
        source: io::Error,
    },
}

enum Trouble {
    Refused(&'static str),
    Write(io::Error),
}

impl From<Errno> for Trouble {
    fn from(error: Errno) -> Self {
        Self::Write(error.into())
    }
}

impl From<io::Error> for Trouble {
    fn from(error: io::Error) -> Self {
        Self::Write(error)
    }
}

impl From<&'static str> for Trouble {
    fn from(reason: &'static str) -> Self {
        Self::Refused(reason)
    }
}

/// What extended headers said about the next entry.
#[derive(Default)]
struct Extended {
    path: Option<Vec<u8>>,
    link: Option<Vec<u8>>,
    uid: Option<u32>,
    gid: Option<u32>,
    attributes: Vec<(Vec<u8>, Vec<u8>)>,
}

/// Owner, mode and time of an entry.
struct Looks {
    uid: u32,
    gid: u32,
    mode: u32,
    modified: i64,
    attributes: Vec<(Vec<u8>, Vec<u8>)>,
}

/// Unpacks the tar stream into the empty folder `root`.
pub fn unpack(stream: impl Read, root: &OwnedFd) -> Result<(), TreeError> {
    let mut archive = tar::Archive::new(stream);
    let mut extended = Extended::default();
    let mut count = 0u64;
    for entry in archive.entries().map_err(TreeError::Read)?.raw(true) {
        let mut entry = entry.map_err(TreeError::Read)?;
        count += 1;
        if count > MAX_ENTRIES {
            return Err(TreeError::Refused { name: String::new(), reason: "there are too many entries" });
        }
        match entry.header().entry_type() {
            EntryType::XHeader => read_pax(&mut entry, &mut extended)?,
            EntryType::GNULongName => extended.path = Some(read_name(&mut entry)?),
            EntryType::GNULongLink => extended.link = Some(read_name(&mut entry)?),
            EntryType::XGlobalHeader => {}
            kind => {
                let extended = std::mem::take(&mut extended);
                let path = extended.path.clone().unwrap_or_else(|| entry.path_bytes().into_owned());
                let name = || shown(&path);
                write_entry(root, &path, kind, extended, &mut entry).map_err(|trouble| match trouble {
                    Trouble::Refused(reason) => TreeError::Refused { name: name(), reason },
                    Trouble::Write(source) => TreeError::Write { name: name(), source },
                })?;
            }
        }
    }
    Ok(())
}

fn shown(path: &[u8]) -> String {
    String::from_utf8_lossy(path).chars().take(100).flat_map(char::escape_debug).collect()
}

fn read_extension<R: Read>(entry: &mut tar::Entry<'_, R>, max: u64) -> Result<Vec<u8>, TreeError> {
    if entry.size() > max {
        return Err(TreeError::Refused { name: String::new(), reason: "an extended header is too long" });
    }
    let mut text = Vec::new();
    entry.take(max).read_to_end(&mut text).map_err(TreeError::Read)?;
    Ok(text)
}

fn read_name<R: Read>(entry: &mut tar::Entry<'_, R>) -> Result<Vec<u8>, TreeError> {
    let mut name = read_extension(entry, 16 * 1024)?;
    while name.last() == Some(&0) {
        name.pop();
    }
    Ok(name)
}

fn read_pax<R: Read>(entry: &mut tar::Entry<'_, R>, extended: &mut Extended) -> Result<(), TreeError> {
    let text = read_extension(entry, MAX_EXTENDED)?;
    let number = |value: &[u8]| std::str::from_utf8(value).ok().and_then(|text| text.parse().ok());
    for record in tar::PaxExtensions::new(&text) {
        let record = record.map_err(TreeError::Read)?;
        let value = record.value_bytes();
        match record.key_bytes() {
            b"path" => extended.path = Some(value.to_vec()),
            b"linkpath" => extended.link = Some(value.to_vec()),
            b"uid" => extended.uid = number(value),
            b"gid" => extended.gid = number(value),
            // The stream would be cut at other places than its header says.
            b"size" => {
                return Err(TreeError::Refused { name: String::new(), reason: "its size is given twice" });
            }
            key if key.starts_with(b"GNU.sparse.") => {
                return Err(TreeError::Refused {
                    name: String::new(),
                    reason: "sparse files are not supported",
                });
            }
            key => {
                if let Some(attribute) = key.strip_prefix(b"SCHILY.xattr.")
                    && attribute.starts_with(b"user.")
                {
                    extended.attributes.push((attribute.to_vec(), value.to_vec()));
                }
            }
        }
    }
    Ok(())
}

fn write_entry<R: Read>(
    root: &OwnedFd,
    path: &[u8],
    kind: EntryType,
    extended: Extended,
    entry: &mut tar::Entry<'_, R>,
) -> Result<(), Trouble> {
    let path = Path::check(path)?;
    let meaning = path.meaning()?;
    let header = entry.header();
    let id = |field: &[u8], value: io::Result<u64>| match value {
        // Some writers leave the field blank when it is 0.
        _ if field.iter().all(|&byte| byte == 0 || byte == b' ') => Ok(0),
        value => value.ok().and_then(|id| u32::try_from(id).ok()).ok_or("its owner is not usable"),
    };
    let old = header.as_old();
    let looks = Looks {
        uid: extended.uid.map_or_else(|| id(&old.uid, header.uid()), Ok)?,
        gid: extended.gid.map_or_else(|| id(&old.gid, header.gid()), Ok)?,
        mode: header.mode().map_err(|_| "its mode is not usable")?,
        modified: header.mtime().ok().and_then(|time| i64::try_from(time).ok()).unwrap_or(0),
        attributes: extended.attributes,
    };
    let name = match meaning {
        Meaning::Skipped => return Ok(()),
        Meaning::Root => {
            return if kind == EntryType::Directory {
                dress(root, &looks)
            } else {
                Err("it names nothing".into())
            };
        }
        Meaning::Opaque => {
            let folder = open_parents(root, path.parents(), true)?;
            return Ok(fsetxattr(&folder, OPAQUE, b"y", XattrFlags::empty())?);
        }
        Meaning::Hides(name) => return hide(&open_parents(root, path.parents(), true)?, name),
        Meaning::Entry(name) => name,
    };
    let folder = open_parents(root, path.parents(), true)?;
    let link = || extended.link.clone().or_else(|| entry.link_name_bytes().map(std::borrow::Cow::into_owned));
    match kind {
        EntryType::Directory => make_folder(&folder, name, &looks),
        EntryType::Regular | EntryType::Continuous => {
            clear(&folder, name)?;
            let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            let mut file = File::from(openat(&folder, name, flags, Mode::from_raw_mode(0o600))?);
            let size = entry.size();
            if io::copy(entry, &mut file)? != size {
                return Err("it is shorter than announced".into());
            }
            dress(&file, &looks)
        }
        EntryType::Symlink => {
            let target = link().ok_or("the link has no target")?;
            path.check_symlink(&target)?;
            clear(&folder, name)?;
            symlinkat(target.as_slice(), &folder, name)?;
            let (uid, gid) = owner(&looks);
            Ok(chownat(&folder, name, uid, gid, AtFlags::SYMLINK_NOFOLLOW)?)
        }
        EntryType::Link => {
            let target = link().ok_or("the link has no target")?;
            let target = Path::check(&target)?;
            let Meaning::Entry(old) = target.meaning()? else {
                return Err("the link's target is no file".into());
            };
            let from = open_parents(root, target.parents(), false)?;
            match statat(&from, old, AtFlags::SYMLINK_NOFOLLOW) {
                Ok(stat) if FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile => {}
                Ok(_) => return Err("the link's target is no file".into()),
                Err(_) => return Err("the link's target is not in the layer".into()),
            }
            if target == path {
                return Err("the link is its own target".into());
            }
            clear(&folder, name)?;
            Ok(linkat(&from, old, &folder, name, AtFlags::empty())?)
        }
        EntryType::Fifo => {
            clear(&folder, name)?;
            mknodat(&folder, name, FileType::Fifo, Mode::from_raw_mode(looks.mode & 0o777), no_device())?;
            let (uid, gid) = owner(&looks);
            Ok(chownat(&folder, name, uid, gid, AtFlags::SYMLINK_NOFOLLOW)?)
        }
        EntryType::Char | EntryType::Block => Err("devices are not allowed in a layer".into()),
        _ => Err("this kind of entry is not supported".into()),
    }
}

fn no_device() -> Dev {
    makedev(0, 0)
}

fn owner(looks: &Looks) -> (Option<Uid>, Option<Gid>) {
    (Some(Uid::from_raw(looks.uid)), Some(Gid::from_raw(looks.gid)))
}

fn folder_flags() -> OFlags {
    OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC
}

/// Opens the folder the parts lead to, one real folder at a time.
fn open_parents(root: &OwnedFd, parts: &[&[u8]], make: bool) -> Result<OwnedFd, Trouble> {
    let mut folder = openat(root, ".", folder_flags(), Mode::empty())?;
    for &part in parts {
        folder = match openat(&folder, part, folder_flags(), Mode::empty()) {
            Ok(next) => next,
            Err(Errno::NOENT) if make => {
                mkdirat(&folder, part, Mode::from_raw_mode(0o755))?;
                openat(&folder, part, folder_flags(), Mode::empty())?
            }
            Err(Errno::NOENT) => return Err("the link's target is not in the layer".into()),
            Err(Errno::LOOP | Errno::NOTDIR) => return Err(blocked(&folder, part)),
            Err(other) => return Err(other.into()),
        };
    }
    Ok(folder)
}

fn blocked(folder: &OwnedFd, part: &[u8]) -> Trouble {
    match statat(folder, part, AtFlags::SYMLINK_NOFOLLOW) {
        Ok(stat) if FileType::from_raw_mode(stat.st_mode) == FileType::Symlink => {
            "the path leads through a link".into()
        }
        _ => "the path leads through a file".into(),
    }
}

fn kind_of(folder: &OwnedFd, name: &[u8]) -> Result<Option<FileType>, Trouble> {
    match statat(folder, name, AtFlags::SYMLINK_NOFOLLOW) {
        Ok(stat) => Ok(Some(FileType::from_raw_mode(stat.st_mode))),
        Err(Errno::NOENT) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// Makes room for a new entry: a later entry of the same name replaces an earlier one.
fn clear(folder: &OwnedFd, name: &[u8]) -> Result<(), Trouble> {
    match kind_of(folder, name)? {
        None => Ok(()),
        Some(FileType::Directory) => match unlinkat(folder, name, AtFlags::REMOVEDIR) {
            Err(Errno::NOTEMPTY | Errno::EXIST) => Err("it replaces a filled folder".into()),
            other => Ok(other?),
        },
        Some(_) => Ok(unlinkat(folder, name, AtFlags::empty())?),
    }
}

fn make_folder(folder: &OwnedFd, name: &[u8], looks: &Looks) -> Result<(), Trouble> {
    let before = kind_of(folder, name)?;
    if before != Some(FileType::Directory) {
        clear(folder, name)?;
        mkdirat(folder, name, Mode::from_raw_mode(0o700))?;
    }
    let made = openat(folder, name, folder_flags(), Mode::empty())?;
    if before == Some(FileType::CharacterDevice) {
        // The only devices here are whiteouts: the name was hidden and comes back as a new folder.
        fsetxattr(&made, OPAQUE, b"y", XattrFlags::empty())?;
    }
    dress(&made, looks)
}

/// Hides a name of lower layers. What this very layer brings under that name stays.
fn hide(folder: &OwnedFd, name: &[u8]) -> Result<(), Trouble> {
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
fn dress(target: &impl AsFd, looks: &Looks) -> Result<(), Trouble> {
    let (uid, gid) = owner(looks);
    fchown(target, uid, gid)?;
    fchmod(target, Mode::from_raw_mode(looks.mode & 0o1777))?;
    for (name, value) in &looks.attributes {
        match fsetxattr(target, name.as_slice(), value, XattrFlags::empty()) {
            // A file system without user attributes still runs the service.
            Ok(()) | Err(Errno::OPNOTSUPP) => {}
            Err(error) => return Err(error.into()),
        }
    }
    let time = Timespec { tv_sec: looks.modified, tv_nsec: 0 };
    Ok(futimens(target, &Timestamps { last_access: time, last_modification: time })?)
}
