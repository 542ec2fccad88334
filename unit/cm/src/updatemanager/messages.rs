//! Messages of the cloud. What is not built yet gets an honest answer where the protocol has one.

use std::time::Instant;

use aos_cloud_protocol::{
    AosIdentity, Body, DesiredStatus, EnvVarStatus, Envelope, InstallUnitCertificatesConfirmation,
    InstalledCertificate, LogStatus, LogType, NodeOutcome, OverrideEnvVars, OverrideEnvVarsStatus, PushLog,
    RequestLog, StartProvisioningResponse,
};
use aos_ids::{ItemKind, NodeId};
use aos_status::{AosCode, ErrorInfo, InstanceState, ItemState};
use aos_unit_api::servicemanager::v5::sm_incoming_messages::SmIncomingMessage;
use aos_unit_api::servicemanager::v5::{InstanceCrashLogRequest, InstanceLogRequest, SystemLogRequest};
use tokio::sync::oneshot;

use super::accept::accept;
use super::coordinator::{Coordinator, CoordinatorError};
use super::desired::{Desired, HaveInstance, differs};
use super::machine::Event;
use crate::smcontroller::Command;

fn not_supported() -> ErrorInfo {
    ErrorInfo::new(AosCode::NotSupported, "not supported by this Unit yet")
}

impl Coordinator {
    /// Handles a message, within the transaction that also notes that it was received.
    pub(super) fn handle(&mut self, envelope: Envelope) -> Result<(), CoordinatorError> {
        let kind = envelope.body.message_type();
        let correlation = envelope.correlation_id;
        match envelope.body {
            Body::DesiredStatus(status) => self.on_desired(status)?,
            Body::RequestLog(request) => self.on_log_request(&request, correlation.as_ref()),
            Body::OverrideEnvVars(wish) => self.on_env_vars(&wish, correlation)?,
            Body::StartProvisioningRequest(request) => {
                let answer = StartProvisioningResponse {
                    node: request.node,
                    error_info: Some(not_supported()),
                    csrs: vec![],
                };
                self.answer(Body::StartProvisioningResponse(answer), correlation)?;
            }
            Body::FinishProvisioningRequest(request) => {
                let answer = NodeOutcome { node: request.node, error_info: Some(not_supported()) };
                self.answer(Body::FinishProvisioningResponse(answer), correlation)?;
            }
            Body::DeprovisioningRequest(request) => {
                let answer = NodeOutcome { node: request.node, error_info: Some(not_supported()) };
                self.answer(Body::DeprovisioningResponse(answer), correlation)?;
            }
            Body::IssuedUnitCertificates(issued) => {
                let refused = |one: aos_cloud_protocol::IssuedCertificate| InstalledCertificate {
                    kind: one.kind,
                    node: one.node,
                    serial: String::new(),
                    error_info: Some(not_supported()),
                };
                let certificates: Vec<_> = issued.certificates.into_iter().map(refused).collect();
                if !certificates.is_empty() {
                    let answer = InstallUnitCertificatesConfirmation { certificates };
                    self.answer(Body::InstallUnitCertificatesConfirmation(answer), correlation)?;
                }
            }
            _ => tracing::warn!("{kind} is not supported by this Unit yet; acknowledged and left"),
        }
        Ok(())
    }

    fn on_desired(&mut self, status: DesiredStatus) -> Result<(), CoordinatorError> {
        let desired = match accept(status) {
            Ok(desired) => desired,
            Err(error) => {
                tracing::error!("{error}; nothing is changed");
                self.report_refused(&error.to_string());
                return Ok(());
            }
        };
        let differs = self.differs(&desired);
        let actions = self.machine.on(Instant::now(), Event::Desired(Box::new(desired), differs));
        self.act(actions)
    }

    /// Tells the cloud that a message of its was acknowledged but not carried out. The protocol has no answer
    /// for that; an alert of this component reaches the operator.
    pub(super) fn report_refused(&mut self, why: &str) {
        self.report(&format!("message of the cloud refused: {why}"));
    }

    fn differs(&self, desired: &Desired) -> bool {
        let mut desired = desired.clone().over(self.machine.desired());
        if desired.unit_config.as_ref().is_some_and(|wish| matches!(self.configs.plan(wish), Ok(None))) {
            desired.unit_config = None;
        }
        desired.nodes.retain(|node| self.nodes.is_paused(&node.id) != Some(node.paused));
        let records = self.parts.book.records().iter();
        let installed: Vec<_> = records
            .filter(|(_, record)| record.state == ItemState::Installed)
            .map(|((id, version), record)| (id.clone(), record.kind, version.clone()))
            .collect();
        let instances: Vec<_> = self
            .launcher
            .statuses()
            .into_iter()
            .map(|status| HaveInstance {
                item: status.ident.item,
                subject: status.ident.subject,
                instance: status.ident.instance,
                kind: status.ident.kind,
                version: status.version,
                active: status.state == InstanceState::Active,
            })
            .collect();
        differs(&desired, &installed, &instances)
    }

    fn on_log_request(&self, request: &RequestLog, correlation: Option<&String>) {
        let filter = &request.filter;
        let listed = filter.node_ids.iter().map(AosIdentity::node_id);
        let nodes: Vec<Result<NodeId, _>> = if filter.node_ids.is_empty() {
            self.nodes.connected().cloned().map(Ok).collect()
        } else {
            listed.collect()
        };
        for node in nodes {
            match node {
                Ok(node) => self.ask_for_log(&node, request, correlation.cloned()),
                Err(error) => tracing::warn!("log request names no node: {error}"),
            }
        }
    }

    fn ask_for_log(&self, node: &NodeId, request: &RequestLog, correlation: Option<String>) {
        let filter = &request.filter;
        let time = |at: jiff::Timestamp| prost_types::Timestamp {
            seconds: at.as_second(),
            nanos: at.subsec_nanosecond(),
        };
        let (from, till) = (filter.from.map(time), filter.till.map(time));
        let correlation_id = correlation.clone().unwrap_or_default();
        let name = |identity: &Option<AosIdentity>| {
            identity.as_ref().and_then(AosIdentity::key).unwrap_or_default().to_owned()
        };
        let instances = Some(aos_unit_api::common::v2::InstanceFilter {
            item_id: name(&filter.item),
            subject_id: name(&filter.subject),
            instance: filter.instance.and_then(|number| i64::try_from(number).ok()).unwrap_or(-1),
        });
        let message = match request.log_type {
            LogType::SystemLog => {
                SmIncomingMessage::SystemLogRequest(SystemLogRequest { correlation_id, from, till })
            }
            LogType::InstanceLog => SmIncomingMessage::InstanceLogRequest(InstanceLogRequest {
                correlation_id,
                filter: instances,
                from,
                till,
            }),
            LogType::CrashLog => SmIncomingMessage::InstanceCrashLogRequest(InstanceCrashLogRequest {
                correlation_id,
                filter: instances,
                from,
                till,
            }),
        };
        let (sender, answer) = oneshot::channel();
        let sent = self.parts.controller.send(Command::Tell(node.clone(), message, sender));
        let (cloud, node) = (self.parts.cloud.clone(), node.clone());
        tokio::spawn(async move {
            let busy = || ErrorInfo::new(AosCode::Failed, "the node cannot be asked now");
            let result = if sent { answer.await.unwrap_or_else(|_| Err(busy())) } else { Err(busy()) };
            if let Err(error) = result {
                let failure = PushLog {
                    node: AosIdentity::by_codename(node.as_str()),
                    part: 1,
                    parts_count: 1,
                    content: Vec::new().into(),
                    status: LogStatus::Failed,
                    error_info: Some(error),
                };
                cloud.send(Body::PushLog(failure), correlation);
            }
        });
    }

    fn on_env_vars(
        &mut self,
        wish: &OverrideEnvVars,
        correlation: Option<String>,
    ) -> Result<(), CoordinatorError> {
        let mut statuses = Vec::new();
        for ((ident, _), record) in self.launcher.records() {
            if record.node.is_none() || ident.kind != ItemKind::Service {
                continue;
            }
            let matching = wish.items.iter().filter(|filter| {
                let named = |identity: &Option<AosIdentity>, name: &str| {
                    identity.as_ref().and_then(AosIdentity::key).is_none_or(|key| key == name)
                };
                named(&filter.item, ident.item.as_str())
                    && named(&filter.subject, ident.subject.as_str())
                    && filter.instance.is_none_or(|number| number == ident.instance)
            });
            statuses.extend(matching.flat_map(|filter| &filter.variables).map(|variable| EnvVarStatus {
                item: AosIdentity::by_id(ident.item.as_str()),
                subject: AosIdentity::by_id(ident.subject.as_str()),
                instance: ident.instance,
                name: variable.name.clone(),
                error_info: Some(not_supported()),
            }));
        }
        self.answer(Body::OverrideEnvVarsStatus(OverrideEnvVarsStatus { statuses }), correlation)
    }
}
