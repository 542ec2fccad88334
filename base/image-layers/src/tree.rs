//! Writes the entries of a layer's tar stream below one folder, and nowhere else.
//!
//! Every step of a path is opened by itself without following links, so neither a link in the layer nor one
//! slipped in meanwhile can lead out. Devices are refused; set-user bits are dropped (instances run without
//! new privileges); of the extended attributes only `user.*` is kept, because `trusted.overlay.*` from a
//! layer could re-route the overlay. Whiteout markers become overlayfs whiteouts.
//!
//! Limits: 250 000 entries, 1 MiB of extended header for an entry, 64 KiB of attributes for a file, 128 levels,
//! and the disk space the caller allows, in which every entry counts at least one block.

use std::cell::Cell;
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{
    AtFlags, FileType, Mode, OFlags, XattrFlags, chownat, fsetxattr, linkat, mkdirat, mknodat, openat,
    statat, symlinkat,
};
use rustix::io::Errno;
use tar::EntryType;

use crate::entries::{self, Made, OPAQUE, blocked, dress, folder_flags, hide, make_folder, no_device, owner};
use crate::extended::{Extended, Looks, looks_of, read_name, read_pax};
use crate::names::{Meaning, Path};

const MAX_ENTRIES: u64 = 250_000;
/// What an entry takes at least on the usual file systems, bytes.
const BLOCK: u64 = 4096;
/// What a tar stream consists of, bytes.
const BLOCK_OF_TAR: u64 = 512;
/// Read and written at once, bytes.
const CHUNK: usize = 128 * 1024;

/// What unpacking may use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Disk space, bytes.
    pub disk: u64,
    /// Entries of the archive.
    pub entries: u64,
    /// The stream comes from a squashfs image, in which whiteouts are spelt as overlayfs has them.
    pub overlay_marks: bool,
}

impl Limits {
    /// The usual limits with this much disk space, bytes.
    pub fn of_disk(disk: u64) -> Self {
        Self { disk, entries: MAX_ENTRIES, overlay_marks: false }
    }
}

/// What was unpacked.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Contents {
    /// Entries of the archive.
    pub entries: u64,
    /// Disk space charged, bytes.
    pub disk: u64,
}

/// Why a stream was not unpacked.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TreeError {
    /// The stream is no tar stream or ends early.
    #[error("the archive is not readable: {0}")]
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
    #[error("cannot write entry '{name}': {source}")]
    Write {
        /// Its name, shortened.
        name: String,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The disk space allowed is used up.
    #[error("it needs more than {0} bytes on disk")]
    Space(u64),
}

pub(crate) enum Trouble {
    Refused(&'static str),
    Write(io::Error),
    Read(io::Error),
    Space,
}

impl From<Errno> for Trouble {
    fn from(error: Errno) -> Self {
        Self::Write(error.into())
    }
}

impl From<&'static str> for Trouble {
    fn from(reason: &'static str) -> Self {
        Self::Refused(reason)
    }
}

pub(crate) fn refused(reason: &'static str) -> TreeError {
    TreeError::Refused { name: String::new(), reason }
}

/// Unpacks the tar stream into the empty folder `root`.
pub fn unpack(stream: impl Read, root: &OwnedFd, limits: Limits) -> Result<Contents, TreeError> {
    let position = Cell::new(0);
    let mut archive = tar::Archive::new(Positioned { stream, position: &position });
    let mut extended = Extended::default();
    let mut writer =
        Writer { root, parents: Vec::new(), buffer: vec![0; CHUNK], limits, contents: Contents::default() };
    // Where the content of the last entry ends.
    let mut complete = 0;
    for entry in archive.entries().map_err(TreeError::Read)?.raw(true) {
        let mut entry = match entry {
            Ok(entry) => entry,
            // Some tools do not fill the last block up.
            Err(_) if is_in_filling(complete, position.get()) => break,
            Err(error) => return Err(TreeError::Read(error)),
        };
        complete = entry.raw_file_position().saturating_add(entry.size());
        writer.contents.entries += 1;
        if writer.contents.entries > limits.entries {
            return Err(refused("there are too many entries"));
        }
        match entry.header().entry_type() {
            EntryType::XHeader => read_pax(&mut entry, &mut extended, limits.overlay_marks)?,
            EntryType::GNULongName => extended.path = Some(read_name(&mut entry)?),
            EntryType::GNULongLink => extended.link = Some(read_name(&mut entry)?),
            EntryType::XGlobalHeader => {}
            kind => {
                let extended = std::mem::take(&mut extended);
                let path = extended.path.clone().unwrap_or_else(|| entry.path_bytes().into_owned());
                writer.entry(&path, kind, extended, &mut entry).map_err(|trouble| match trouble {
                    Trouble::Refused(reason) => TreeError::Refused { name: shown(&path), reason },
                    Trouble::Write(source) => TreeError::Write { name: shown(&path), source },
                    Trouble::Read(source) => TreeError::Read(source),
                    Trouble::Space => TreeError::Space(limits.disk),
                })?;
            }
        }
    }
    Ok(writer.contents)
}

/// True when a stream that ends at `position` lacks nothing but the rest of the block in which a content ends.
fn is_in_filling(content_end: u64, position: u64) -> bool {
    let filling = (BLOCK_OF_TAR - content_end % BLOCK_OF_TAR) % BLOCK_OF_TAR;
    position.checked_sub(content_end).is_some_and(|beyond| beyond < filling)
}

/// Counts the bytes read.
struct Positioned<'a, R> {
    stream: R,
    position: &'a Cell<u64>,
}

impl<R: Read> Read for Positioned<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.stream.read(buffer)?;
        self.position.set(self.position.get() + count as u64);
        Ok(count)
    }
}

fn shown(path: &[u8]) -> String {
    String::from_utf8_lossy(path).chars().take(100).flat_map(char::escape_debug).collect()
}

struct Writer<'a> {
    root: &'a OwnedFd,
    /// The folders that lead to the entry before, opened.
    parents: Vec<(Vec<u8>, OwnedFd)>,
    buffer: Vec<u8>,
    limits: Limits,
    contents: Contents,
}

impl Writer<'_> {
    fn charge(&mut self, bytes: u64) -> Result<(), Trouble> {
        // One block for the entry itself, and whole blocks for its content.
        let blocks = bytes.div_ceil(BLOCK).saturating_add(1);
        let disk = self.contents.disk.saturating_add(blocks.saturating_mul(BLOCK));
        if disk > self.limits.disk {
            return Err(Trouble::Space);
        }
        self.contents.disk = disk;
        Ok(())
    }

    fn entry<R: Read>(
        &mut self,
        path: &[u8],
        kind: EntryType,
        extended: Extended,
        entry: &mut tar::Entry<'_, R>,
    ) -> Result<(), Trouble> {
        let path = Path::check(path)?;
        let meaning = path.meaning()?;
        let link =
            || extended.link.clone().or_else(|| entry.link_name_bytes().map(std::borrow::Cow::into_owned));
        let link = if matches!(kind, EntryType::Symlink | EntryType::Link) { link() } else { None };
        let header = entry.header();
        let whiteout = self.limits.overlay_marks
            && kind == EntryType::Char
            && matches!((header.device_major(), header.device_minor()), (Ok(Some(0)), Ok(Some(0))));
        let looks = looks_of(header, extended)?;
        let name = match meaning {
            Meaning::Skipped => return Ok(()),
            Meaning::Root => {
                return if kind == EntryType::Directory {
                    dress(self.root, &looks)
                } else {
                    Err("it names nothing".into())
                };
            }
            Meaning::Opaque => {
                let folder = self.open_parents(path.parents(), true)?;
                return Ok(fsetxattr(folder, OPAQUE, b"y", XattrFlags::empty())?);
            }
            Meaning::Hides(name) => {
                self.charge(0)?;
                return hide(self.open_parents(path.parents(), true)?, name);
            }
            Meaning::Entry(name) => name,
        };
        self.charge(if kind.is_file() || kind == EntryType::Continuous { entry.size() } else { 0 })?;
        match kind {
            EntryType::Directory => {
                let made = make_folder(self.open_parents(path.parents(), true)?, name, &looks)?;
                if made == Made::Anew {
                    self.parents.clear();
                }
                Ok(())
            }
            EntryType::Regular | EntryType::Continuous => self.file(&path, name, &looks, entry),
            EntryType::Symlink => {
                let target = link.ok_or("the link has no target")?;
                path.check_symlink(&target)?;
                self.clear(&path, name)?;
                let folder = self.open_parents(path.parents(), true)?;
                symlinkat(target.as_slice(), folder, name)?;
                let (uid, gid) = owner(&looks);
                Ok(chownat(folder, name, uid, gid, AtFlags::SYMLINK_NOFOLLOW)?)
            }
            EntryType::Link => self.hard_link(&path, name, &link.ok_or("the link has no target")?),
            EntryType::Fifo => {
                self.clear(&path, name)?;
                let folder = self.open_parents(path.parents(), true)?;
                let mode = Mode::from_raw_mode(looks.mode & 0o777);
                mknodat(folder, name, FileType::Fifo, mode, no_device())?;
                let (uid, gid) = owner(&looks);
                Ok(chownat(folder, name, uid, gid, AtFlags::SYMLINK_NOFOLLOW)?)
            }
            EntryType::Char if whiteout => hide(self.open_parents(path.parents(), true)?, name),
            EntryType::Char | EntryType::Block => Err("devices are not allowed in a layer".into()),
            EntryType::GNUSparse => Err("sparse files are not supported".into()),
            _ => Err("this kind of entry is not supported".into()),
        }
    }

    fn file<R: Read>(
        &mut self,
        path: &Path<'_>,
        name: &[u8],
        looks: &Looks,
        entry: &mut tar::Entry<'_, R>,
    ) -> Result<(), Trouble> {
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let mode = Mode::from_raw_mode(0o600);
        let made = openat(self.open_parents(path.parents(), true)?, name, flags, mode);
        let made = match made {
            Err(Errno::EXIST) => {
                self.clear(path, name)?;
                openat(self.open_parents(path.parents(), true)?, name, flags, mode)?
            }
            other => other?,
        };
        let mut file = File::from(made);
        let mut left = entry.size();
        while left > 0 {
            let count = match entry.read(&mut self.buffer) {
                Ok(0) => return Err("it is shorter than announced".into()),
                Ok(count) => count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(Trouble::Read(error)),
            };
            file.write_all(self.buffer.get(..count).unwrap_or_default()).map_err(Trouble::Write)?;
            left = left.saturating_sub(count as u64);
        }
        dress(&file, looks)
    }

    fn hard_link(&mut self, path: &Path<'_>, name: &[u8], target: &[u8]) -> Result<(), Trouble> {
        let target = Path::check(target)?;
        let Meaning::Entry(old) = target.meaning()? else {
            return Err("the link's target is no file".into());
        };
        let from = self.open_parents(target.parents(), false)?;
        match statat(from, old, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) if FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile => {}
            Ok(_) => return Err("the link's target is no file".into()),
            Err(_) => return Err("the link's target is not in the layer".into()),
        }
        let from = from.try_clone_to_owned().map_err(Trouble::Write)?;
        if target == *path {
            return Err("the link is its own target".into());
        }
        self.clear(path, name)?;
        let folder = self.open_parents(path.parents(), true)?;
        Ok(linkat(&from, old, folder, name, AtFlags::empty())?)
    }

    /// Opens the folder the parts lead to, one real folder at a time; what is open from the entry before is
    /// used again.
    fn open_parents(&mut self, parts: &[&[u8]], make: bool) -> Result<BorrowedFd<'_>, Trouble> {
        let common = self.parents.iter().zip(parts).take_while(|((name, _), part)| name == *part).count();
        self.parents.truncate(common);
        for &part in parts.iter().skip(common) {
            let folder = self.parents.last().map_or(self.root.as_fd(), |(_, folder)| folder.as_fd());
            let next = match openat(folder, part, folder_flags(), Mode::empty()) {
                Ok(next) => next,
                Err(Errno::NOENT) if make => {
                    mkdirat(folder, part, Mode::from_raw_mode(0o755))?;
                    openat(folder, part, folder_flags(), Mode::empty())?
                }
                Err(Errno::NOENT) => return Err("the link's target is not in the layer".into()),
                Err(Errno::LOOP | Errno::NOTDIR) => return Err(blocked(folder, part)),
                Err(other) => return Err(other.into()),
            };
            self.parents.push((part.to_vec(), next));
        }
        Ok(self.parents.last().map_or(self.root.as_fd(), |(_, folder)| folder.as_fd()))
    }

    /// Makes room for a new entry: a later entry of the same name replaces an earlier one.
    fn clear(&mut self, path: &Path<'_>, name: &[u8]) -> Result<(), Trouble> {
        let folder = self.open_parents(path.parents(), true)?;
        if entries::clear(folder, name)? == Some(FileType::Directory) {
            self.parents.clear();
        }
        Ok(())
    }
}
