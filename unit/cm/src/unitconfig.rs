//! Unit configuration: kept in a file, checked and set on every connected node.
//!
//! A broken file does not block a new configuration. The same configuration once more, as after a restart in
//! the middle of an update, is no error.

use std::path::Path;

use aos_cloud_protocol::UnitConfigStatus;
use aos_ids::NodeId;
use aos_item_format::UnitConfig;
use aos_status::{AosCode, ConfigState, ErrorInfo};
use aos_unit_api::servicemanager::v5::sm_incoming_messages::SmIncomingMessage;
use aos_unit_api::servicemanager::v5::{CheckNodeConfig, GetNodeConfigStatus, SetNodeConfig};
use tokio::sync::oneshot;

use crate::smcontroller::{Command, NodeConfigState, SmController};

/// Longest file, bytes.
const MAX_FILE: u64 = 1024 * 1024;

/// What is installed.
#[derive(Debug, Clone, PartialEq)]
enum Installed {
    Absent,
    Good(UnitConfig),
    Broken(ErrorInfo),
}

/// The configuration of the Unit.
#[derive(Debug, Clone)]
pub struct UnitConfigs {
    installed: Installed,
    /// Version and error of the last attempt, when it failed.
    attempt: Option<(String, ErrorInfo)>,
}

/// Why a new configuration was not taken: its version and the reason.
pub type Refused = (String, ErrorInfo);

impl UnitConfigs {
    /// Reads the file. A missing one is normal; a broken one is reported as failed.
    pub fn load(path: &Path) -> Self {
        let broken = |reason: String| Installed::Broken(ErrorInfo::new(AosCode::Failed, reason));
        let installed = match aos_durable::read_bounded(path, MAX_FILE) {
            Ok(None) => Installed::Absent,
            Ok(Some(text)) => match UnitConfig::read(&text) {
                Ok(config) => Installed::Good(config),
                Err(error) => broken(error.to_string()),
            },
            Err(error) => broken(error.to_string()),
        };
        if let Installed::Broken(error) = &installed {
            tracing::error!("unit configuration {}: {error}", path.display());
        }
        Self { installed, attempt: None }
    }

    /// The configuration in force.
    pub fn current(&self) -> Option<&UnitConfig> {
        match &self.installed {
            Installed::Good(config) => Some(config),
            _ => None,
        }
    }

    /// What the cloud is told: what is installed, and the last attempt when it failed.
    pub fn statuses(&self) -> Vec<UnitConfigStatus> {
        let first = match &self.installed {
            Installed::Absent => {
                UnitConfigStatus { version: None, state: ConfigState::Absent, error_info: None }
            }
            Installed::Good(config) => UnitConfigStatus {
                version: Some(config.version.to_string()),
                state: ConfigState::Installed,
                error_info: None,
            },
            Installed::Broken(error) => UnitConfigStatus {
                version: None,
                state: ConfigState::Failed,
                error_info: Some(error.clone()),
            },
        };
        let failed = self.attempt.iter().map(|(version, error)| UnitConfigStatus {
            version: Some(version.clone()),
            state: ConfigState::Failed,
            error_info: Some(error.clone()),
        });
        std::iter::once(first).chain(failed).collect()
    }

    /// What is to be installed for this wish; `None` when it is installed already.
    pub fn plan(&self, wish: &serde_json::Value) -> Result<Option<UnitConfig>, Refused> {
        let version = wish.get("version").and_then(|version| version.as_str()).unwrap_or_default().to_owned();
        let refuse = |code, reason: String| Err((version.clone(), ErrorInfo::new(code, reason)));
        let new = match UnitConfig::from_value(wish.clone()) {
            Ok(new) => new,
            Err(error) => return refuse(AosCode::InvalidArgument, error.to_string()),
        };
        match self.current() {
            Some(current) if *current == new => Ok(None),
            Some(current) if current.version == new.version => {
                refuse(AosCode::AlreadyExists, "this version is installed with another content".to_owned())
            }
            Some(current) if current.version > new.version => {
                refuse(AosCode::WrongState, "wrong version".to_owned())
            }
            _ => Ok(Some(new)),
        }
    }

    /// Takes the outcome of [`install`].
    pub fn installed(&mut self, outcome: Result<UnitConfig, Refused>) {
        match outcome {
            Ok(config) => {
                tracing::info!("unit configuration {} is installed", config.version);
                self.installed = Installed::Good(config);
                self.attempt = None;
            }
            Err((version, error)) => {
                tracing::error!("unit configuration {version} is refused: {error}");
                self.attempt = Some((version, error));
            }
        }
    }
}

/// Checks the configuration on all nodes, keeps it, and sets it on all nodes.
pub async fn install(
    controller: &SmController,
    nodes: &[(NodeId, String)],
    path: &Path,
    config: UnitConfig,
) -> Result<UnitConfig, Refused> {
    let version = config.version.to_string();
    let refused = |error: ErrorInfo| (version.clone(), error);
    for (node, kind) in nodes {
        let state =
            ask(controller, node, SmIncomingMessage::GetNodeConfigStatus(GetNodeConfigStatus {})).await;
        let state = state.map_err(refused)?;
        if state.version != version || state.error.is_some() {
            let node_config = text(&config, node, kind);
            let check = CheckNodeConfig { node_config, version: version.clone() };
            let answer =
                ask(controller, node, SmIncomingMessage::CheckNodeConfig(check)).await.map_err(refused)?;
            if let Some(error) = answer.error {
                return Err(refused(error));
            }
        }
    }
    aos_durable::write_atomic(path, &config.write(), 0o600)
        .map_err(|error| refused(ErrorInfo::new(AosCode::Failed, error.to_string())))?;
    for (node, kind) in nodes {
        // The configuration is in force now; a node that fails here gets it again when it connects.
        if let Err(error) = set(controller, node, kind, &config).await {
            tracing::error!("node {node} does not take the unit configuration: {error}");
        }
    }
    Ok(config)
}

/// Brings a node that connected to the configuration in force.
pub async fn bring_up_to_date(controller: &SmController, node: &NodeId, kind: &str, config: &UnitConfig) {
    let state = ask(controller, node, SmIncomingMessage::GetNodeConfigStatus(GetNodeConfigStatus {})).await;
    let result = match state {
        Ok(state) if state.version == config.version.to_string() && state.error.is_none() => Ok(()),
        Ok(_) => set(controller, node, kind, config).await,
        Err(error) => Err(error),
    };
    if let Err(error) = result {
        tracing::warn!("node {node} does not take the unit configuration: {error}");
    }
}

async fn set(
    controller: &SmController,
    node: &NodeId,
    kind: &str,
    config: &UnitConfig,
) -> Result<(), ErrorInfo> {
    let set = SetNodeConfig { node_config: text(config, node, kind), version: config.version.to_string() };
    let answer = ask(controller, node, SmIncomingMessage::SetNodeConfig(set)).await?;
    answer.error.map_or(Ok(()), Err)
}

fn text(config: &UnitConfig, node: &NodeId, kind: &str) -> String {
    String::from_utf8_lossy(&config.for_node(node.as_str(), kind).write()).into_owned()
}

async fn ask(
    controller: &SmController,
    node: &NodeId,
    question: SmIncomingMessage,
) -> Result<NodeConfigState, ErrorInfo> {
    let (sender, receiver) = oneshot::channel();
    let gone = || ErrorInfo::new(AosCode::Failed, "the node cannot be asked now");
    if !controller.send(Command::NodeConfig(node.clone(), question, sender)) {
        return Err(gone());
    }
    receiver.await.map_err(|_| gone())?
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wish(version: &str, labels: &[&str]) -> serde_json::Value {
        serde_json::json!({"version": version, "formatVersion": "7", "nodes": [
            {"nodeGroupSubject": {"codename": "t"}, "priority": 1, "labels": labels}]})
    }

    // CM-09
    #[test]
    fn versions_only_grow_and_the_same_is_no_error() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("aos_unit.cfg");
        let mut configs = UnitConfigs::load(&path);
        assert_eq!(configs.statuses()[0].state, ConfigState::Absent);
        let first = configs.plan(&wish("1.5.0", &[])).unwrap().unwrap();
        aos_durable::write_atomic(&path, &first.write(), 0o600).unwrap();
        configs.installed(Ok(first));
        assert_eq!(configs.plan(&wish("1.5.0", &[])).unwrap(), None);
        assert_eq!(configs.plan(&wish("1.5.0", &["x"])).unwrap_err().1.code(), AosCode::AlreadyExists);
        let refused = configs.plan(&wish("1.5.0-rc.1", &[])).unwrap_err();
        assert_eq!(refused.1.code(), AosCode::WrongState);
        configs.installed(Err(refused));
        let statuses = configs.statuses();
        assert_eq!((statuses.len(), statuses[1].version.as_deref()), (2, Some("1.5.0-rc.1")));
        assert!(configs.plan(&wish("1.6.0", &[])).unwrap().is_some());
        assert_eq!(UnitConfigs::load(&path).statuses()[0].version.as_deref(), Some("1.5.0"));
    }

    #[test]
    fn a_broken_file_blocks_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("aos_unit.cfg");
        std::fs::write(&path, "{").unwrap();
        let configs = UnitConfigs::load(&path);
        assert_eq!(configs.statuses()[0].state, ConfigState::Failed);
        assert!(configs.plan(&wish("1.0.0", &[])).unwrap().is_some());
        assert_eq!(
            configs.plan(&serde_json::json!({"version": 5})).unwrap_err().1.code(),
            AosCode::InvalidArgument
        );
    }
}
