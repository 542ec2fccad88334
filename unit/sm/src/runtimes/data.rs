//! State file and storage folder of an instance: below folders of the runtime, owned by the instance's user,
//! made when missing and never touched again.

use std::os::unix::fs::chown;
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

    /// Makes what is missing and gives it to the instance's user.
    pub fn make(self, info: &InstanceInfo) -> Result<Self, Error> {
        if let Some(path) = self.state.as_ref().filter(|path| !path.exists()) {
            if let Some(parent) = path.parent() {
                aos_durable::create_dir(parent, 0o755)?;
            }
            aos_durable::write_atomic(path, b"", 0o600)?;
            chown(path, Some(info.uid), Some(info.gid)).map_err(Error::file("give away", path))?;
        }
        if let Some(path) = self.storage.as_ref().filter(|path| !path.exists()) {
            aos_durable::create_dir(path, 0o755)?;
            chown(path, Some(info.uid), Some(info.gid)).map_err(Error::file("give away", path))?;
        }
        Ok(self)
    }
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
}
