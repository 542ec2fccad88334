//! Whole-file replacement and directory syncing.
//!
//! The new content is written to `.<name>.tmp` beside the target. Writers of the same target exclude one
//! another by a lock on that file; one that a killed writer left is taken over, so that none pile up.

use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, OFlags, flock};

use crate::DurableError;

fn failed(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> DurableError {
    let path = path.to_owned();
    move |source| DurableError::File { action, path, source }
}

/// Directory of `path`; a bare file name lies in the working directory.
fn parent(path: &Path) -> &Path {
    match path.parent() {
        Some(dir) if !dir.as_os_str().is_empty() => dir,
        _ => Path::new("."),
    }
}

fn temporary_beside(path: &Path) -> PathBuf {
    let mut name = std::ffi::OsString::from(".");
    name.push(path.file_name().unwrap_or_default());
    name.push(".tmp");
    parent(path).join(name)
}

/// Opens and locks the temporary file. Its former owner may have renamed it away while we waited for the
/// lock; then the name is free again.
fn lock_temporary(temporary: &Path, mode: u32) -> io::Result<File> {
    loop {
        let file = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(false)
            .mode(mode)
            .custom_flags(OFlags::NOFOLLOW.bits().cast_signed())
            .open(temporary)?;
        flock(&file, FlockOperation::LockExclusive)?;
        let locked = file.metadata()?;
        match std::fs::symlink_metadata(temporary) {
            Ok(named) if (named.dev(), named.ino()) == (locked.dev(), locked.ino()) => return Ok(file),
            Ok(_) => {}
            Err(e) if e.kind() == io::ErrorKind::NotFound => {}
            Err(e) => return Err(e),
        }
    }
}

/// Replaces the content of `path` by `bytes` so that it survives a power cut as soon as this returns.
///
/// `mode` is the file's exact permission bits (the umask is not applied). The directory must exist.
pub fn write_atomic(path: &Path, bytes: &[u8], mode: u32) -> Result<(), DurableError> {
    let temporary = temporary_beside(path);
    let mut file = lock_temporary(&temporary, mode).map_err(failed("write", path))?;
    let mut write = || -> io::Result<()> {
        file.set_len(0)?;
        file.set_permissions(std::fs::Permissions::from_mode(mode))?;
        file.write_all(bytes)?;
        file.sync_all()?;
        std::fs::rename(&temporary, path)
    };
    if let Err(e) = write() {
        let _ = std::fs::remove_file(&temporary);
        return Err(failed("write", path)(e));
    }
    fsync_dir(parent(path))
}

/// Appends `bytes` to `path` (made with `mode` when missing) and syncs the file.
///
/// After a power cut during the call a part of `bytes` may be there: the format must tolerate that.
pub fn append_synced(path: &Path, bytes: &[u8], mode: u32) -> Result<(), DurableError> {
    let existed = path.exists();
    OpenOptions::new()
        .append(true)
        .create(true)
        .mode(mode)
        .open(path)
        .and_then(|mut file| {
            file.write_all(bytes)?;
            file.sync_data()
        })
        .map_err(failed("append to", path))?;
    if existed { Ok(()) } else { fsync_dir(parent(path)) }
}

/// The content of `path`, `None` when there is no such file, an error when it exceeds `max` bytes.
pub fn read_bounded(path: &Path, max: u64) -> Result<Option<Vec<u8>>, DurableError> {
    let file = match File::open(path) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
        other => other.map_err(failed("open", path))?,
    };
    let size = file.metadata().map_err(failed("read", path))?.len();
    let mut content = Vec::new();
    if size <= max {
        file.take(max.saturating_add(1)).read_to_end(&mut content).map_err(failed("read", path))?;
    }
    let found = size.max(content.len() as u64);
    if found > max {
        return Err(DurableError::TooLarge { path: path.to_owned(), size: found, max });
    }
    Ok(Some(content))
}

/// Removes a file for good; a missing file is no error.
pub fn remove_durably(path: &Path) -> Result<(), DurableError> {
    match std::fs::remove_file(path) {
        Ok(()) => fsync_dir(parent(path)),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(e) => Err(failed("remove", path)(e)),
    }
}

/// Renames a file or directory within one file system and syncs the directories concerned.
///
/// The content of `from` must have been synced before by the caller.
pub fn rename_durably(from: &Path, to: &Path) -> Result<(), DurableError> {
    std::fs::rename(from, to).map_err(failed("rename", from))?;
    fsync_dir(parent(to))?;
    if parent(from) == parent(to) { Ok(()) } else { fsync_dir(parent(from)) }
}

/// Makes a directory and its missing parents with exactly `mode`; an existing one keeps its mode.
pub fn create_dir(path: &Path, mode: u32) -> Result<(), DurableError> {
    if path.is_dir() {
        return Ok(());
    }
    if let Some(above) = path.parent().filter(|above| !above.as_os_str().is_empty()) {
        create_dir(above, mode)?;
    }
    match DirBuilder::new().mode(mode).create(path) {
        Ok(()) => std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode))
            .map_err(failed("set the mode of", path))?,
        // Another process may have made it in between.
        Err(e) if e.kind() == io::ErrorKind::AlreadyExists && path.is_dir() => {}
        Err(e) => return Err(failed("create directory", path)(e)),
    }
    fsync_dir(parent(path))
}

/// Syncs a directory, so that names made, renamed or removed in it survive a power cut.
pub fn fsync_dir(path: &Path) -> Result<(), DurableError> {
    File::open(path).and_then(|dir| dir.sync_all()).map_err(failed("sync directory", path))
}
