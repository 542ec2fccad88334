//! The configuration of this node as CM sends it: checked, stored as a file, answered for.
//!
//! Its version only goes up. A stored file that cannot be read counts as failed until the next good one.

use std::path::PathBuf;

use aos_ids::Version;
use aos_item_format::{AlertRules, NodeConfig};
use aos_status::{AosCode, ConfigState, ErrorInfo};
use aos_unit_api::convert::error_to_wire;
use aos_unit_api::servicemanager::v5 as wire;
use wire::sm_outgoing_messages::SmOutgoingMessage as Wire;

/// Longest accepted text, bytes.
const MAX_TEXT: u64 = 64 * 1024;

/// The stored node configuration.
#[derive(Debug, Clone)]
pub struct NodeConfigFile {
    path: PathBuf,
}

impl NodeConfigFile {
    /// The file at `path`, which need not exist.
    pub fn new(path: PathBuf) -> Self {
        Self { path }
    }

    fn read(&self) -> Result<Option<NodeConfig>, ErrorInfo> {
        let failed = |reason: String| ErrorInfo::new(AosCode::Failed, reason);
        let text =
            aos_durable::read_bounded(&self.path, MAX_TEXT).map_err(|error| failed(error.to_string()))?;
        text.map(|text| NodeConfig::read(&text).map_err(|error| failed(error.to_string()))).transpose()
    }

    /// Alert rules of the stored configuration; none without a readable one.
    pub fn alert_rules(&self) -> AlertRules {
        self.read().ok().flatten().map(|config| config.alert_rules).unwrap_or_default()
    }

    /// Answer to a request for the status.
    pub fn status(&self) -> Wire {
        let (state, version, error) = match self.read() {
            Ok(None) => (ConfigState::Absent, String::new(), None),
            Ok(Some(config)) => (ConfigState::Installed, version_text(&config), None),
            Err(error) => (ConfigState::Failed, String::new(), Some(error)),
        };
        answer(state, version, error)
    }

    /// Answer to a check: nothing changes.
    pub fn check(&self, text: &str, version: &str) -> Wire {
        let (state, result) = self.judge(text, version);
        answer(state, version.to_owned(), result.err())
    }

    /// Answer to an update: stored when good.
    pub fn set(&self, text: &str, version: &str) -> Wire {
        let (state, result) = self.judge(text, version);
        let stored = result.and_then(|config| {
            aos_durable::write_atomic(&self.path, &config.write(), 0o600)
                .map_err(|error| ErrorInfo::new(AosCode::Failed, error.to_string()))
        });
        let state = if stored.is_ok() { ConfigState::Installed } else { state };
        answer(state, version.to_owned(), stored.err())
    }

    fn judge(&self, text: &str, version: &str) -> (ConfigState, Result<NodeConfig, ErrorInfo>) {
        let present = self.read();
        let state = match &present {
            Ok(None) => ConfigState::Absent,
            Ok(Some(_)) => ConfigState::Installed,
            Err(_) => ConfigState::Failed,
        };
        (state, judge(text, version, present.ok().flatten().and_then(|config| config.version).as_ref()))
    }
}

fn judge(text: &str, version: &str, present: Option<&Version>) -> Result<NodeConfig, ErrorInfo> {
    let wrong = |reason: String| ErrorInfo::new(AosCode::InvalidArgument, reason);
    if text.len() as u64 > MAX_TEXT {
        return Err(wrong(format!("the node configuration is longer than {MAX_TEXT} bytes")));
    }
    let mut config = NodeConfig::read(text.as_bytes()).map_err(|error| wrong(error.to_string()))?;
    let asked: Version =
        version.parse().map_err(|_| wrong("the version is no semantic version".to_owned()))?;
    match present {
        Some(present) if asked == *present => {
            Err(ErrorInfo::new(AosCode::AlreadyExists, "this version is installed already"))
        }
        Some(present) if asked < *present => {
            Err(ErrorInfo::new(AosCode::WrongState, "wrong version: it is older"))
        }
        _ => {
            config.version = Some(asked);
            Ok(config)
        }
    }
}

fn version_text(config: &NodeConfig) -> String {
    config.version.as_ref().map(ToString::to_string).unwrap_or_default()
}

fn answer(state: ConfigState, version: String, error: Option<ErrorInfo>) -> Wire {
    Wire::NodeConfigStatus(wire::NodeConfigStatus {
        state: state.to_string(),
        version,
        error: error_to_wire(error),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parts(wire: Wire) -> (String, String, i32) {
        match wire {
            Wire::NodeConfigStatus(status) => {
                (status.state, status.version, status.error.map_or(0, |error| error.aos_code))
            }
            other => panic!("unexpected {other:?}"),
        }
    }

    // SM-34, SM-35, SM-36
    #[test]
    fn versions_only_go_up_and_a_broken_file_heals() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("node.cfg");
        let file = NodeConfigFile::new(path.clone());
        let text = r#"{"nodeGroupSubject":{"codename":"main"},"priority":1}"#;
        let says = |state: &str, version: &str, code: AosCode| (state.into(), version.into(), code.number());
        assert_eq!(parts(file.status()), says("absent", "", AosCode::None));
        assert_eq!(parts(file.check(text, "1.0.0")), says("absent", "1.0.0", AosCode::None));
        assert_eq!(parts(file.status()), says("absent", "", AosCode::None));
        assert_eq!(parts(file.set(text, "1.0.0")), says("installed", "1.0.0", AosCode::None));
        assert_eq!(parts(file.status()), says("installed", "1.0.0", AosCode::None));
        assert_eq!(parts(file.check(text, "1.0.0")), says("installed", "1.0.0", AosCode::AlreadyExists));
        assert_eq!(parts(file.set(text, "0.9.0")), says("installed", "0.9.0", AosCode::WrongState));
        assert_eq!(parts(file.check("{", "2.0.0")), says("installed", "2.0.0", AosCode::InvalidArgument));
        std::fs::write(&path, "{").unwrap();
        assert_eq!(parts(file.status()), says("failed", "", AosCode::Failed));
        assert_eq!(parts(file.set(text, "1.0.0")), says("installed", "1.0.0", AosCode::None));
    }
}
