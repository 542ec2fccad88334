//! Files of a bundle. They tell after a crash of ours what runs; no container outlives a power cut, so nothing
//! here is forced to the disk.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt, fchown};
use std::path::Path;

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::Error;

const MAX_FILE: u64 = 1024 * 1024;
const MAX_MESSAGE: usize = 4096;

/// Makes a folder for root alone; `passable` lets others through to what they are shown inside, as the root
/// of a user namespace needs it.
pub fn make_folder(path: &Path, passable: bool) -> Result<(), Error> {
    let mode = if passable { 0o711 } else { 0o700 };
    let made = DirBuilder::new().mode(mode).create(path);
    made.and_then(|()| fs::set_permissions(path, fs::Permissions::from_mode(mode)))
        .map_err(Error::file("make folder", path))
}

/// Lets others pass through a folder and those above it: the root of a user namespace is nobody here, and has to
/// reach its bundle. Folders below `/run` are ours to open, one elsewhere that is closed is told about.
pub fn open_way(folder: &Path) -> Result<(), Error> {
    for place in folder.ancestors() {
        let Ok(meta) = fs::metadata(place) else { continue };
        let mode = meta.permissions().mode() & 0o7777;
        if mode & 0o001 != 0 {
            continue;
        }
        if place != folder && !place.starts_with("/run") {
            return Err(Error::invalid(
                format!("folder {}", place.display()),
                "with user namespaces others must be able to pass through it (chmod o+x)",
            ));
        }
        let mode = fs::Permissions::from_mode(mode | 0o011);
        fs::set_permissions(place, mode).map_err(Error::file("open the way into", place))?;
    }
    Ok(())
}

/// Writes a document, whole or not at all.
pub fn write(path: &Path, what: &'static str, value: &impl Serialize) -> Result<(), Error> {
    let text = serde_json::to_vec(value).map_err(|source| Error::Encode { what, source })?;
    let beside = path.with_extension("new");
    let mut options = OpenOptions::new();
    let file = options.write(true).create(true).truncate(true).mode(0o600).open(&beside);
    file.and_then(|mut file| file.write_all(&text))
        .and_then(|()| fs::rename(&beside, path))
        .map_err(Error::file("write", path))
}

/// Reads a document; none when it is not there or not ours.
pub fn read<T: DeserializeOwned>(path: &Path) -> Option<T> {
    let text = aos_durable::read_bounded(path, MAX_FILE).ok().flatten()?;
    serde_json::from_slice(&text).ok()
}

/// Removes a folder with all in it; no error when it is not there.
pub fn remove(path: &Path) -> Result<(), Error> {
    match fs::remove_dir_all(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(Error::file("remove", path)(error)),
        _ => Ok(()),
    }
}

/// What the runtime's log file says last.
pub fn last_message(path: &Path) -> String {
    last_line(&tail(path).unwrap_or_default())
}

fn tail(path: &Path) -> io::Result<Vec<u8>> {
    let mut file = File::open(path)?;
    let length = file.metadata()?.len();
    file.seek(SeekFrom::Start(length.saturating_sub(MAX_MESSAGE as u64)))?;
    let mut text = Vec::new();
    file.take(MAX_MESSAGE as u64).read_to_end(&mut text)?;
    Ok(text)
}

/// The last line with anything in it.
pub fn last_line(text: &[u8]) -> String {
    let tail = text.get(text.len().saturating_sub(MAX_MESSAGE)..).unwrap_or_default();
    let text = String::from_utf8_lossy(tail);
    text.lines().rfind(|line| !line.trim().is_empty()).unwrap_or("no message").trim().to_owned()
}

/// Opens the log file to the instance's group: many programs open their standard output by its name. The owner
/// is root, so that the log is none of what the disk quota of the instance's user counts.
pub fn give_log(path: &Path, gid: u32) -> Result<(), Error> {
    let give = || {
        let log = OpenOptions::new().append(true).create(true).mode(0o600).open(path)?;
        fchown(&log, Some(0), Some(gid))?;
        log.set_permissions(fs::Permissions::from_mode(0o660))
    };
    give().map_err(Error::file("give away", path))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_way_is_opened_or_the_closed_folder_named() {
        let folder = tempfile::tempdir().unwrap();
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
        fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755)).unwrap();
        let inner = folder.path().join("runtime");
        make_folder(&inner, false).unwrap();
        open_way(&inner).unwrap();
        assert_eq!(mode(&inner), 0o711, "passable, not readable");
        fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o700)).unwrap();
        let error = open_way(&inner).unwrap_err().to_string();
        assert!(error.contains(&folder.path().display().to_string()), "{error}");
        assert_eq!(mode(folder.path()), 0o700, "it is not ours");
    }

    #[test]
    fn a_log_is_open_to_the_instance_and_not_counted_as_its_data() {
        use std::os::unix::fs::{MetadataExt, chown};

        let folder = tempfile::tempdir().unwrap();
        let log = folder.path().join("log");
        fs::write(&log, "of an earlier start").unwrap();
        chown(&log, Some(5003), Some(5004)).unwrap();
        give_log(&log, 5004).unwrap();
        let meta = fs::metadata(&log).unwrap();
        assert_eq!((meta.uid(), meta.gid(), meta.mode() & 0o777), (0, 5004, 0o660));
        assert_eq!(fs::read_to_string(&log).unwrap(), "of an earlier start");
    }
}
