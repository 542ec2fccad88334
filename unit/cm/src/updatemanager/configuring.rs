//! The stage `installing`: states of nodes and the Unit configuration.

use std::time::{Duration, Instant};

use aos_iam_link::IamLink;
use aos_ids::NodeId;
use aos_status::{AosCode, ErrorInfo};
use aos_unit_api::iamanager::v6;
use aos_unit_api::iamanager::v6::iam_nodes_service_client::IamNodesServiceClient;

use super::coordinator::{Coordinator, CoordinatorError};
use super::desired::DesiredNode;
use super::machine::Event;
use crate::unitconfig;

/// Longest time of a call to IAM about a node.
const NODE_CALL_TIME: Duration = Duration::from_secs(10);
/// Result of the stage `installing`.
pub(super) struct Configured {
    cycle: u64,
    config: Option<Result<aos_item_format::UnitConfig, unitconfig::Refused>>,
    node_errors: Vec<(NodeId, aos_status::ErrorInfo)>,
    /// Nodes that the configuration was set on.
    nodes: Vec<(NodeId, String)>,
}

impl Coordinator {
    /// The stage `installing`, beside this task.
    pub(super) fn configure(&mut self, cycle: u64) {
        self.nodes.forget_errors();
        let desired = self.machine.desired().cloned().unwrap_or_default();
        let plan = desired.unit_config.as_ref().map(|wish| self.configs.plan(wish));
        let results = self.configured.0.clone();
        let (controller, iam) = (self.parts.controller.clone(), self.parts.iam.clone());
        let (certificate, file) = (self.certificate.clone(), self.unit_config_file.clone());
        let connected = self.nodes.connected_with_types();
        tokio::spawn(async move {
            let node_errors = set_node_states(&iam, &certificate, desired.nodes).await;
            let config = match plan {
                Some(Ok(Some(config))) => {
                    Some(unitconfig::install(&controller, &connected, &file, config).await)
                }
                Some(Err(refused)) => Some(Err(refused)),
                Some(Ok(None)) | None => None,
            };
            let _ = results.send(Configured { cycle, config, node_errors, nodes: connected }).await;
        });
    }

    pub(super) fn on_configured(&mut self, done: Configured) -> Result<(), CoordinatorError> {
        if let Some(outcome) = done.config {
            self.configs.installed(outcome);
            // Nodes that connected meanwhile.
            for (node, _) in self.nodes.connected_with_types() {
                if !done.nodes.iter().any(|(known, _)| *known == node) {
                    self.bring_up_to_date(&node);
                }
            }
        }
        for (node, error) in done.node_errors {
            tracing::error!("node {node}: {error}");
            self.nodes.remember(&node, error);
        }
        self.reporter.touch(Instant::now());
        let actions = self.machine.on(Instant::now(), Event::StageDone(done.cycle));
        self.act(actions)
    }
}

async fn set_node_states(
    iam: &IamLink,
    certificate: &str,
    nodes: Vec<DesiredNode>,
) -> Vec<(NodeId, ErrorInfo)> {
    let mut errors = Vec::new();
    for node in nodes {
        if let Err(error) = set_node_state(iam, certificate, &node).await {
            errors.push((node.id, error));
        }
    }
    errors
}

async fn set_node_state(iam: &IamLink, certificate: &str, node: &DesiredNode) -> Result<(), ErrorInfo> {
    let failed = |reason: String| ErrorInfo::new(AosCode::Failed, reason);
    let word = if node.paused { "paused" } else { "provisioned" };
    if iam.node_info(node.id.as_str()).await.is_ok_and(|info| info.state == word) {
        return Ok(());
    }
    let channel = iam.protected(certificate).map_err(|error| failed(error.to_string()))?;
    let mut client = IamNodesServiceClient::new(channel);
    let node_id = node.id.to_string();
    let call = async {
        if node.paused {
            client.pause_node(v6::PauseNodeRequest { node_id }).await.map(|answer| answer.into_inner().error)
        } else {
            client
                .resume_node(v6::ResumeNodeRequest { node_id })
                .await
                .map(|answer| answer.into_inner().error)
        }
    };
    let answer = tokio::time::timeout(NODE_CALL_TIME, call).await;
    let answer = answer.map_err(|_| ErrorInfo::new(AosCode::Timeout, "IAM does not answer"))?;
    let error = answer.map_err(|status| failed(status.message().to_owned()))?;
    aos_unit_api::convert::error_from_wire(error).map_or(Ok(()), Err)
}
