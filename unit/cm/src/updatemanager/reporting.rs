//! What the coordinator tells the cloud of its own accord: the status, changes of state, trouble.

use std::time::Instant;

use aos_cloud_protocol::Body;

use super::coordinator::Coordinator;
use super::status::Snapshot;

impl Coordinator {
    /// Sends a message that is only worth something now; it may be lost.
    pub(super) fn send(&self, body: Body, correlation_id: Option<String>) {
        let kind = body.message_type();
        if !self.parts.cloud.send(body, correlation_id) {
            tracing::warn!("{kind} cannot be queued and is dropped");
        }
    }

    /// Notes changes of state for the next monitoring message.
    pub(super) fn note_states(&mut self) {
        let now = Instant::now();
        let nodes = self
            .nodes
            .statuses(now)
            .into_iter()
            .filter_map(|node| Some((node.identity.node_id().ok()?, node.state, node.is_connected)));
        self.samples.nodes(nodes, now);
        let instances = self.launcher.statuses().into_iter();
        self.samples.instances(
            instances.filter_map(|status| Some(((status.ident, status.node?), status.state))),
            now,
        );
    }

    /// The Unit as it is.
    pub(super) fn snapshot(&self) -> Snapshot {
        Snapshot::new(
            self.configs.statuses(),
            self.nodes.statuses(Instant::now()),
            &self.parts.book,
            &self.launcher.statuses(),
            self.subjects.iter().map(ToString::to_string),
        )
        .with_states(|item, subject, number| self.states.checksum_of(item, subject, number))
    }

    /// Tells everything. Without a link it is the first message of the next one.
    pub(super) fn send_full_status(&mut self) {
        if *self.parts.cloud.connected().borrow() {
            let snapshot = self.snapshot();
            let full = self.reporter.full(snapshot);
            self.send(Body::UnitStatus(full), None);
        }
    }

    /// Tells the operator by an alert of this component; the log has it anyway.
    pub(super) fn report(&mut self, what: &str) {
        let Some(node) = self.parts.main_node.borrow().clone() else { return };
        self.alerts.push_core(&node, what, Instant::now());
    }
}
