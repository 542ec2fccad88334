//! Messages of the cloud: which flow each belongs to, and the wish itself.

use std::time::Instant;

use aos_cloud_protocol::{Body, DesiredStatus, Envelope};
use aos_status::{InstanceState, ItemState};

use super::accept::accept;
use super::coordinator::{Coordinator, CoordinatorError};
use super::desired::{Desired, HaveInstance, differs};
use super::machine::Event;
use crate::iamclient::Work;

impl Coordinator {
    /// Handles a message, within the transaction that also notes that it was received.
    pub(super) fn handle(&mut self, envelope: Envelope) -> Result<(), CoordinatorError> {
        let kind = envelope.body.message_type();
        let (txn, correlation) = (envelope.header.txn, envelope.correlation_id);
        match envelope.body {
            Body::DesiredStatus(status) => self.on_desired(status),
            Body::RequestLog(request) => self.on_log_request(&txn, request, correlation),
            Body::OverrideEnvVars(wish) => self.on_env_vars(&wish, correlation),
            Body::UpdateState(update) => self.on_update_state(&update),
            Body::StateAcceptance(word) => self.on_state_acceptance(&word),
            Body::StateRequest(question) => self.on_state_request(&question),
            Body::StartProvisioningRequest(request) => {
                self.accept_task(&txn, correlation, Work::Start(request))
            }
            Body::FinishProvisioningRequest(request) => {
                self.accept_task(&txn, correlation, Work::Finish(request))
            }
            Body::DeprovisioningRequest(request) => self.accept_task(&txn, correlation, Work::Leave(request)),
            Body::RenewCertificatesNotification(wish) => {
                self.accept_task(&txn, correlation, Work::Renew(wish))
            }
            Body::IssuedUnitCertificates(issued) => {
                self.accept_task(&txn, correlation, Work::Install(issued))
            }
            _ => {
                tracing::warn!("{kind} is no message for a Unit; acknowledged and left");
                Ok(())
            }
        }
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
}
