//! State file and storage folder of an instance: below folders of the runtime, owned by the instance's user,
//! made when missing and not touched again once they are.

use std::os::unix::fs::{MetadataExt, lchown};
use std::path::{Component, Path, PathBuf};

use crate::Error;
use crate::instance::InstanceInfo;

/// Where an instance keeps its data on the host.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Data {
    /// Its state file.
    pub state: Option<PathBuf>,
    /// Its storage folder.
    pub storage: Option<PathBuf>,
}

impl Data {
    /// Where the data of an instance is, whether it is there or not.
    pub fn places(state_dir: &Path, storage_dir: &Path, info: &InstanceInfo) -> Result<Self, Error> {
        Ok(Self {
            state: below(state_dir, &info.state_path)?,
            storage: below(storage_dir, &info.storage_path)?,
        })
    }

    /// Makes what is missing and gives it to the instance's user. What is still root's is given too: a crash may
    /// have come between the two.
    pub fn make(self, uid: u32, gid: u32) -> Result<Self, Error> {
        if let Some(path) = &self.state {
            if !path.exists() {
                if let Some(parent) = path.parent() {
                    aos_durable::create_dir(parent, 0o755)?;
                }
                aos_durable::write_atomic(path, b"", 0o600)?;
            }
            give(path, uid, gid)?;
        }
        if let Some(path) = &self.storage {
            if !path.exists() {
                aos_durable::create_dir(path, 0o755)?;
            }
            give(path, uid, gid)?;
        }
        Ok(self)
    }
}

fn give(path: &Path, uid: u32, gid: u32) -> Result<(), Error> {
    let meta = path.symlink_metadata().map_err(Error::file("look at", path))?;
    if (meta.uid(), meta.gid()) != (0, 0) || (uid, gid) == (0, 0) {
        return Ok(());
    }
    lchown(path, Some(uid), Some(gid)).map_err(Error::file("give away", path))
}

/// A path given by a peer, below a folder of ours.
fn below(folder: &Path, path: &str) -> Result<Option<PathBuf>, Error> {
    if path.is_empty() {
        return Ok(None);
    }
    let relative = Path::new(path);
    if relative.components().all(|part| matches!(part, Component::Normal(_))) {
        return Ok(Some(folder.join(relative)));
    }
    Err(Error::invalid(format!("path '{}'", path.escape_debug()), "it does not stay in its folder"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_of_peers_stay_in_their_folder() {
        let folder = Path::new("/var/states");
        assert_eq!(below(folder, "").unwrap(), None);
        assert_eq!(below(folder, "a/b.dat").unwrap(), Some(PathBuf::from("/var/states/a/b.dat")));
        for bad in ["../x", "/etc/passwd", "a/../../x", "."] {
            assert!(below(folder, bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn what_a_crash_left_with_root_is_given_to_the_instance() {
        let folder = tempfile::tempdir().unwrap();
        let (state, storage) = (folder.path().join("states/0/state.dat"), folder.path().join("storages/0"));
        let data = Data { state: Some(state.clone()), storage: Some(storage.clone()) };
        let owners =
            || [&state, &storage].map(|path| path.metadata().map(|meta| (meta.uid(), meta.gid())).unwrap());
        for _ in 0..2 {
            data.clone().make(5001, 5002).unwrap();
            assert_eq!(owners(), [(5001, 5002); 2]);
        }
        std::fs::write(&state, "kept").unwrap();
        for path in [&state, &storage] {
            lchown(path, Some(0), Some(0)).unwrap();
        }
        data.clone().make(5001, 5002).unwrap();
        assert_eq!(owners(), [(5001, 5002); 2]);
        assert_eq!(std::fs::read_to_string(&state).unwrap(), "kept");
        // An owner that somebody chose stays.
        lchown(&state, Some(7), Some(7)).unwrap();
        data.make(5001, 5002).unwrap();
        assert_eq!(owners()[0], (7, 7));
    }
}
