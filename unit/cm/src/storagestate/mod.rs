//! Storages and states of instances: folders that outlive versions and restarts.
//!
//! A storage is `<storageDir>/<item>/<subject>/<number>/`, a state the file `state.dat` in the folder of the
//! same name below `stateDir`. Service Managers are told the paths below the two roots. Limits are not
//! enforced yet. States are exchanged with the cloud: rules in `exchange`, files in `states`.

pub mod exchange;
pub mod states;
mod store;
mod watch;

use std::fs::OpenOptions;
use std::io;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use aos_ids::InstanceIdent;

use crate::launcher::records::Record;

/// Name of the state file.
const STATE_FILE: &str = "state.dat";

/// Where the data of instances is.
#[derive(Debug, Clone)]
pub struct StorageState {
    storages: PathBuf,
    states: PathBuf,
}

/// Paths below the two roots; empty when the instance has none.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Paths {
    /// Folder of the storage.
    pub storage: String,
    /// File of the state.
    pub state: String,
}

impl StorageState {
    /// Uses these roots; they are made when they are needed.
    pub fn new(storages: &Path, states: &Path) -> Self {
        Self { storages: storages.to_owned(), states: states.to_owned() }
    }

    /// Paths of an instance.
    pub fn paths(ident: &InstanceIdent, record: &Record) -> Paths {
        let folder = folder(ident);
        Paths {
            storage: if record.extras.storage > 0 { folder.clone() } else { String::new() },
            state: if record.extras.state > 0 { format!("{folder}/{STATE_FILE}") } else { String::new() },
        }
    }

    /// Makes what the instance needs and gives it to the instance's user.
    pub fn prepare(&self, ident: &InstanceIdent, record: &Record) -> io::Result<()> {
        let owner = |path: &Path| std::os::unix::fs::chown(path, Some(record.uid), Some(record.gid));
        let paths = Self::paths(ident, record);
        if !paths.storage.is_empty() {
            let storage = self.storages.join(&paths.storage);
            std::fs::create_dir_all(&storage)?;
            std::fs::set_permissions(&storage, std::fs::Permissions::from_mode(0o700))?;
            owner(&storage)?;
        }
        if !paths.state.is_empty() {
            let state = self.states.join(&paths.state);
            if let Some(dir) = state.parent() {
                std::fs::create_dir_all(dir)?;
            }
            OpenOptions::new().create(true).append(true).mode(0o600).open(&state)?;
            owner(&state)?;
        }
        Ok(())
    }

    /// Removes the data of an instance that will not come back.
    pub fn remove(&self, ident: &InstanceIdent) {
        for root in [&self.storages, &self.states] {
            let path = root.join(folder(ident));
            match std::fs::remove_dir_all(&path) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => {
                    tracing::warn!("data of instance {ident} cannot be removed: {error}");
                }
                _ => {}
            }
        }
    }
}

fn folder(ident: &InstanceIdent) -> String {
    format!("{}/{}/{}", component(ident.item.as_str()), component(ident.subject.as_str()), ident.instance)
}

/// An identifier as one path component: the cloud's are UUIDs, anything that could lead elsewhere is encoded.
fn component(id: &str) -> String {
    let plain = id.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.'));
    if plain && !id.starts_with('.') { id.to_owned() } else { format!("x{}", hex::encode(id)) }
}

#[cfg(test)]
mod tests {
    use super::*;

    // CM-18, CM-57: paths and escapes.
    #[test]
    fn no_identifier_leads_out_of_the_roots() {
        let ident = |item: &str| InstanceIdent::service(item.parse().unwrap(), "s".parse().unwrap(), 3);
        assert_eq!(folder(&ident("3f0c6a52-8d1e")), "3f0c6a52-8d1e/s/3");
        for bad in ["..", "../x", ".", "a/b"] {
            let folder = folder(&ident(bad));
            assert!(folder.starts_with('x') && folder.matches('/').count() == 2, "{folder}");
        }
    }
}
