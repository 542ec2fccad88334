//! Storages and states of instances: folders that outlive versions and restarts.
//!
//! A storage is `<storageDir>/<item>/<subject>/<number>/`, a state the file `state.dat` in the folder of the
//! same name below `stateDir`. Service Managers are told the paths below the two roots. Where the file system has
//! quotas the limits are set here, as they are by the Service Manager of the node: the same limit of the same user or
//! folder twice is one limit, and folders that other nodes mount over a network are limited here only. States are exchanged with the cloud: rules in `exchange`, files in `states`.

pub mod exchange;
pub mod states;
mod store;
mod watch;

use std::fs::OpenOptions;
use std::io;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use aos_disk_quota::{Limits, Policy};
use aos_ids::InstanceIdent;

use crate::launcher::records::Record;

/// Name of the state file.
const STATE_FILE: &str = "state.dat";
/// Below each root: folders of instances that are gone. No identifier becomes this name.
const ASIDE: &str = ".removed";

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
        let limits = Limits {
            uid: record.uid,
            gid: record.gid,
            storage: (record.extras.storage > 0)
                .then(|| (self.storages.join(&paths.storage), record.extras.storage)),
            state: (record.extras.state > 0).then(|| (self.states.join(&paths.state), record.extras.state)),
        };
        // Before anything is in the folders: on some file systems only folders of a special kind can be limited.
        aos_disk_quota::apply(&limits, Policy::InPlace).map_err(io::Error::other)?;
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

    /// Removes the data of an instance that will not come back. Large storages take their time, so they are
    /// only put aside here.
    pub fn remove(&self, ident: &InstanceIdent) {
        for root in [&self.storages, &self.states] {
            let path = root.join(folder(ident));
            let aside = root.join(ASIDE).join(uuid::Uuid::new_v4().to_string());
            let put_aside = std::fs::create_dir_all(root.join(ASIDE)).and_then(|()| rename(&path, &aside));
            if let Err(error) = put_aside {
                tracing::warn!("data of instance {ident} cannot be removed: {error}");
            }
            // Those of the item and the subject, unless other instances have them too.
            for above in path.ancestors().skip(1).take(2) {
                let _ = std::fs::remove_dir(above);
            }
        }
        self.clear_away();
    }

    /// Removes what was put aside, also by an earlier run, in a thread that nobody waits for.
    pub fn clear_away(&self) {
        let asides = [&self.storages, &self.states].map(|root| root.join(ASIDE));
        if !asides.iter().any(|aside| aside.exists()) {
            return;
        }
        let clear = move || {
            for aside in asides {
                match std::fs::remove_dir_all(&aside) {
                    Err(error) if error.kind() != io::ErrorKind::NotFound => {
                        tracing::warn!("{} cannot be removed yet: {error}", aside.display());
                    }
                    _ => {}
                }
            }
        };
        if let Err(error) = std::thread::Builder::new().name("clear away".to_owned()).spawn(clear) {
            tracing::warn!("data of removed instances stays until the next start: {error}");
        }
    }
}

/// Renames a folder; one that is not there is as good as renamed.
fn rename(from: &Path, to: &Path) -> io::Result<()> {
    match std::fs::rename(from, to) {
        // The image of a storage is still mounted: nobody needs it any more.
        Err(error) if error.kind() == io::ErrorKind::ResourceBusy => {
            aos_disk_quota::detach(from).map_err(io::Error::other)?;
            std::fs::rename(from, to)
        }
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
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

    // What is removed is gone at once for whoever comes next, other instances keep theirs, and what an earlier
    // run left is cleared away.
    #[test]
    fn data_is_put_aside_and_cleared_away() {
        let dir = tempfile::tempdir().unwrap();
        let (storages, states) = (dir.path().join("storages"), dir.path().join("states"));
        let data = StorageState::new(&storages, &states);
        let ident =
            |item: &str, number| InstanceIdent::service(item.parse().unwrap(), "s".parse().unwrap(), number);
        for path in ["a/s/0", "a/s/1", "b/s/0", ".removed/left"] {
            std::fs::create_dir_all(storages.join(path).join("deep")).unwrap();
        }
        data.remove(&ident("a", 0));
        data.remove(&ident("b", 0));
        data.remove(&ident("c", 0));
        assert!(!storages.join("a/s/0").exists() && !storages.join("b").exists());
        assert!(storages.join("a/s/1/deep").exists());
        let until = std::time::Instant::now() + std::time::Duration::from_secs(20);
        while storages.join(ASIDE).exists() || states.join(ASIDE).exists() {
            assert!(std::time::Instant::now() < until, "it is still there");
            // Two threads may get into each other's way; the next start ends it.
            data.clear_away();
            std::thread::yield_now();
        }
    }

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
