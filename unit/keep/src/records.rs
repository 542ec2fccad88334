//! What the keeper remembers across its own death: one small file per watched process in `watched/` and
//! one per unacknowledged exit in `exits/`, written whole or not at all before anybody is told. No process they tell
//! about outlives a power cut, so they are not forced to the disk.

use std::collections::BTreeMap;
use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::Error;
use crate::protocol::{Exit, MAX_WATCHED, Watched, is_valid_id};

const MAX_RECORD: u64 = 16 * 1024;

/// The two record folders.
pub struct Records {
    watched: PathBuf,
    exits: PathBuf,
}

impl Records {
    /// Opens or makes the folders below `dir`.
    pub fn open(dir: &Path) -> Result<Self, Error> {
        let records = Self { watched: dir.join("watched"), exits: dir.join("exits") };
        for folder in [&records.watched, &records.exits] {
            fs::create_dir_all(folder).map_err(|source| Error::Folder { path: folder.clone(), source })?;
        }
        Ok(records)
    }

    /// Watch records of an earlier keeper; unreadable ones are reported and left out.
    pub fn load_watched(&self) -> BTreeMap<String, Watched> {
        load(&self.watched)
    }

    /// Exits nobody acknowledged.
    pub fn load_exits(&self) -> BTreeMap<String, Exit> {
        load(&self.exits)
    }

    /// Stores a watch record.
    pub fn save_watched(&self, watched: &Watched) -> Result<(), Error> {
        save(&self.watched, &watched.id, watched)
    }

    /// Stores an exit and drops the watch record of the same name, in this order: between the two a
    /// restarted keeper finds the process gone and the better record already there.
    pub fn save_exit(&self, exit: &Exit) -> Result<(), Error> {
        save(&self.exits, &exit.id, exit)?;
        self.remove_watched(&exit.id)
    }

    /// Forgets a watch record.
    pub fn remove_watched(&self, id: &str) -> Result<(), Error> {
        remove(&self.watched, id)
    }

    /// Forgets an exit.
    pub fn remove_exit(&self, id: &str) -> Result<(), Error> {
        remove(&self.exits, id)
    }
}

fn save(folder: &Path, id: &str, record: &impl Serialize) -> Result<(), Error> {
    let path = folder.join(id);
    let text = serde_json::to_vec(record).map_err(|source| Error::Encode { source })?;
    // A name that no record can have.
    let beside = folder.join(format!(".{id}"));
    let mut options = OpenOptions::new();
    let file = options.write(true).create(true).truncate(true).mode(0o600).open(&beside);
    file.and_then(|mut file| file.write_all(&text))
        .and_then(|()| fs::rename(&beside, &path))
        .map_err(|source| Error::Record { path, source })
}

fn remove(folder: &Path, id: &str) -> Result<(), Error> {
    let path = folder.join(id);
    match fs::remove_file(&path) {
        Ok(()) => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(source) => Err(Error::Record { path, source }),
    }
}

fn load<T: DeserializeOwned>(folder: &Path) -> BTreeMap<String, T> {
    let mut found = BTreeMap::new();
    let Ok(entries) = fs::read_dir(folder) else { return found };
    for entry in entries.flatten().take(2 * MAX_WATCHED) {
        let Ok(name) = entry.file_name().into_string() else { continue };
        if !is_valid_id(&name) || entry.metadata().is_ok_and(|meta| meta.len() > MAX_RECORD) {
            continue;
        }
        match fs::read(entry.path()).map(|text| serde_json::from_slice(&text)) {
            Ok(Ok(record)) => {
                found.insert(name, record);
            }
            _ => crate::note(&format!("record {} is not readable, ignored", entry.path().display())),
        }
    }
    found
}
