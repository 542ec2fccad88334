//! The file that says whether the node is provisioned. Scripts and unit files look at it, so its
//! form is fixed: the bare state word, and no file for `unprovisioned`.

use std::io::ErrorKind;
use std::path::PathBuf;

use aos_status::{AosCode, ErrorInfo, NodeState};

use crate::{Error, killpoint};

const MAX_SIZE: u64 = 4096;
const MODE: u32 = 0o644;

#[derive(Debug)]
pub(super) struct StateFile {
    path: PathBuf,
}

impl StateFile {
    pub(super) fn new(path: PathBuf) -> Self {
        Self { path }
    }

    /// The state; content that is no state gives `error` and the reason.
    pub(super) fn read(&self) -> Result<(NodeState, Option<ErrorInfo>), Error> {
        let text = match std::fs::File::open(&self.path) {
            Ok(file) => {
                use std::io::Read;
                let mut bytes = Vec::new();
                file.take(MAX_SIZE).read_to_end(&mut bytes).map_err(|source| self.failed(source))?;
                String::from_utf8_lossy(&bytes).into_owned()
            }
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok((NodeState::Unprovisioned, None)),
            Err(source) => return Err(self.failed(source)),
        };
        let word = text.lines().next().unwrap_or_default().trim();
        match word.parse::<NodeState>() {
            Ok(state) => Ok((state, None)),
            Err(error) => {
                let message = format!("{} holds no state: {error}", self.path.display());
                tracing::error!("{message}");
                Ok((NodeState::Error, Some(ErrorInfo::new(AosCode::Failed, message))))
            }
        }
    }

    /// Makes `state` durable.
    pub(super) fn write(&self, state: NodeState) -> Result<(), Error> {
        let durable =
            |doing, source| Error::Durable { doing, path: self.path.clone(), source: Box::new(source) };
        killpoint::step("write the node state");
        let written = if state == NodeState::Unprovisioned {
            aos_durable::remove_durably(&self.path)
                .map_err(|source| durable("remove the node state file", source))
        } else {
            aos_durable::write_atomic(&self.path, state.as_str().as_bytes(), MODE)
                .map_err(|source| durable("write the node state to", source))
        };
        killpoint::step("write the node state");
        written
    }

    fn failed(&self, source: std::io::Error) -> Error {
        Error::File { doing: "read the node state from", path: self.path.clone(), source }
    }
}
