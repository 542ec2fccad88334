//! The tables on disk, one file for each network, written whole before anybody is told.

use std::fmt::Write as _;
use std::fs;
use std::io;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};

use aos_durable::DurableError;

use crate::zone::{MAX_NAMES, MAX_ZONES, Zone};

const MAX_FILE: u64 = 1024 * 1024;

/// Why names are not taken.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The folder cannot be used.
    #[error("cannot use folder {}", path.display())]
    Folder {
        /// The folder.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A table cannot be stored or removed.
    #[error("cannot keep the names of network '{}'", network.escape_debug())]
    Keep {
        /// The network.
        network: String,
        /// Why.
        #[source]
        source: Box<DurableError>,
    },
    /// A table cannot be written as JSON.
    #[error("cannot encode names")]
    Encode(#[source] serde_json::Error),
    /// A table breaks a limit.
    #[error("names of network '{}' are refused: {reason}", network.escape_debug())]
    Refused {
        /// The network.
        network: String,
        /// Why.
        reason: &'static str,
    },
    /// Nobody can ask at the address.
    #[error("cannot listen at {address}")]
    Listen {
        /// The address.
        address: Ipv4Addr,
        /// Why.
        #[source]
        source: nix::Error,
    },
    /// A system call of the set-up failed.
    #[error("cannot {action}")]
    System {
        /// What was tried.
        action: &'static str,
        /// Why.
        #[source]
        source: io::Error,
    },
}

/// The folder of the tables.
pub struct Store {
    folder: PathBuf,
}

impl Store {
    /// Opens or makes the folder.
    pub fn open(folder: &Path) -> Result<Self, Error> {
        let failed = |source| Error::Folder { path: folder.to_owned(), source };
        fs::create_dir_all(folder).map_err(failed)?;
        Ok(Self { folder: folder.to_owned() })
    }

    /// The tables of an earlier run. One that cannot be read is left out and reported by `note`.
    pub fn load(&self, note: impl Fn(&str)) -> Vec<Zone> {
        let Ok(entries) = fs::read_dir(&self.folder) else { return Vec::new() };
        let files = entries.flatten().filter(|entry| entry.path().extension().is_some_and(|e| e == "json"));
        let mut zones = Vec::new();
        for entry in files.take(MAX_ZONES) {
            let read = aos_durable::read_bounded(&entry.path(), MAX_FILE).ok().flatten();
            match read.and_then(|text| serde_json::from_slice::<Zone>(&text).ok()).map(check) {
                Some(Ok(zone)) => zones.push(zone),
                _ => note(&format!("names in {} are not readable, ignored", entry.path().display())),
            }
        }
        zones
    }

    /// Stores a table.
    pub fn save(&self, zone: &Zone) -> Result<(), Error> {
        let text = serde_json::to_vec(zone).map_err(Error::Encode)?;
        aos_durable::write_atomic(&self.path(&zone.network), &text, 0o600)
            .map_err(|source| Error::Keep { network: zone.network.clone(), source: Box::new(source) })
    }

    /// Forgets a table.
    pub fn remove(&self, network: &str) -> Result<(), Error> {
        aos_durable::remove_durably(&self.path(network))
            .map_err(|source| Error::Keep { network: network.to_owned(), source: Box::new(source) })
    }

    /// A network's identifier may have any characters, a file's name may not.
    fn path(&self, network: &str) -> PathBuf {
        let name = network.bytes().fold(String::new(), |mut name, byte| {
            let _ = write!(name, "{byte:02x}");
            name
        });
        self.folder.join(format!("{name}.json"))
    }
}

/// A table within the limits, its names in lower case.
pub fn check(mut zone: Zone) -> Result<Zone, Error> {
    let refused = |reason| Err(Error::Refused { network: zone.network.clone(), reason });
    if zone.network.is_empty() || zone.network.len() > 100 {
        return refused("the network's name has no usable length");
    }
    if zone.prefix > 32 || zone.listen.is_unspecified() || zone.listen.is_multicast() {
        return refused("the address is not usable");
    }
    if zone.names.len() > MAX_NAMES || zone.upstream.len() > 8 {
        return refused("too many names or servers");
    }
    zone.names = std::mem::take(&mut zone.names)
        .into_iter()
        .map(|(name, address)| (name.to_ascii_lowercase(), address))
        .collect();
    Ok(zone)
}
