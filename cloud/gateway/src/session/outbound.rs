//! What a Unit is sent: its desired status, and what waits for it in the store.

use aos_cloud_broker::Origin;
use aos_cloud_fleet::Step;
use aos_cloud_metrics::Closed;
use aos_cloud_protocol::{Body, DesiredStatus, Envelope, MessageType, limits};
use aos_cloud_session::{DropReason, Event, Outgoing};
use aos_cloud_websocket::close_code;
use aos_ids::Txn;
use jiff::Timestamp;

use super::Running;
use crate::desired;
use crate::error::GatewayError;
use crate::sealing::Sealer;
use crate::socket::End;

impl Running {
    /// Something about the Unit has changed.
    pub(super) async fn signalled(&mut self) -> Result<Option<End>, GatewayError> {
        let signal = *self.signal.borrow_and_update();
        let policy = |why, reason| Ok(Some(End::Ours(why, close_code::POLICY, reason)));
        if !signal.admitted {
            return policy(Closed::Policy, "the Unit was deprovisioned");
        }
        if signal.session != self.origin.session {
            return policy(Closed::Replaced, "a newer session has replaced this one");
        }
        // Anew each time: a change may be that of a certificate.
        self.sealer = if signal.enveloped {
            let (store, unit_id) = (&self.gateway.inner.store, &self.origin.unit_id);
            Some(Box::new(Sealer::open(store, unit_id).await?))
        } else {
            None
        };
        if !self.core.is_connected() {
            return Ok(None);
        }
        if signal.target != self.target {
            self.target = signal.target;
            if let Some(end) = self.renew_desired().await? {
                return Ok(Some(end));
            }
        }
        if signal.outbox > self.outbox { self.read_outbox().await } else { Ok(None) }
    }

    /// Computes the desired status anew and sends it when it is due.
    pub(super) async fn renew_desired(&mut self) -> Result<Option<End>, GatewayError> {
        let current = self.current().await?;
        match self.delivery.on_desired(current.row.revision, current.row.acked_at.is_some()) {
            Step::Wait => Ok(None),
            Step::Send => self.send_desired(current.row.revision, current.status).await,
        }
    }

    /// The Unit has told its full state: does it still know its target?
    pub(super) async fn compare(&mut self) -> Result<Option<End>, GatewayError> {
        let current = self.current().await?;
        let (store, unit_id) = (&self.gateway.inner.store, &self.origin.unit_id);
        let found = desired::compare_stored(store, unit_id, &current.status).await?;
        match self.delivery.on_full_status(current.row.revision, current.row.acked_at.is_some(), found) {
            Step::Wait => Ok(None),
            Step::Send => {
                tracing::info!(unit = self.unit(), "the Unit differs from its target, which is sent again");
                self.send_desired(current.row.revision, current.status).await
            }
        }
    }

    async fn current(&mut self) -> Result<desired::Current, GatewayError> {
        let inner = &self.gateway.inner;
        desired::renew(&inner.store, &self.origin.unit_id, &inner.signing).await
    }

    async fn send_desired(
        &mut self,
        revision: i64,
        status: DesiredStatus,
    ) -> Result<Option<End>, GatewayError> {
        let body = Body::DesiredStatus(status);
        if let Err(error) = limits::check_for_unit(None, &body) {
            // Ours take it; a Unit with upstream's limits drops it, and an operator should know why.
            tracing::warn!(unit = self.unit(), revision, "an upstream Unit cannot take this target: {error}");
            self.gateway.inner.metrics.beyond_limits();
        }
        let envelope = Envelope::new(self.origin.system_id.clone(), Timestamp::now(), body);
        self.sent = Some((envelope.header.txn.clone(), revision));
        tracing::info!(unit = self.unit(), revision, "sending the desired status");
        // Noted before it leaves: the time shown is never later than the Unit's first reaction.
        self.gateway.inner.store.desired_sent(&self.origin.unit_id, revision).await?;
        self.gateway.inner.metrics.sent(MessageType::DesiredStatus);
        self.feed(Event::send(envelope)).await
    }

    /// Hands the messages that wait for the Unit to the core.
    pub(super) async fn read_outbox(&mut self) -> Result<Option<End>, GatewayError> {
        let inner = &self.gateway.inner;
        let Origin { unit_id, system_id, .. } = &self.origin;
        let waiting = inner.flows.waiting(unit_id, system_id, self.outbox).await?;
        let Some(newest) = waiting.last().map(|(seq, _)| *seq) else { return Ok(None) };
        self.outbox = newest;
        // Noted before they leave, as for the desired status.
        inner.store.outbox_sent(unit_id, newest).await?;
        for (_, envelope) in waiting {
            self.gateway.inner.metrics.sent(envelope.body.message_type());
            self.kept.push(envelope.header.txn.clone());
            if let Some(end) = self.feed(Event::keep(envelope)).await? {
                return Ok(Some(end));
            }
        }
        Ok(None)
    }

    /// The Unit has a message of ours.
    pub(super) async fn acknowledged(&mut self, txn: &Txn) -> Result<(), GatewayError> {
        let (store, unit_id) = (&self.gateway.inner.store, &self.origin.unit_id);
        if let Some((_, revision)) = self.sent.take_if(|(sent, _)| sent == txn) {
            store.desired_acked(unit_id, revision).await?;
        } else if self.forget_kept(txn) {
            let (store, unit_id) = (&self.gateway.inner.store, &self.origin.unit_id);
            store.outbox_acked(unit_id, txn).await?;
        }
        Ok(())
    }

    pub(super) async fn parked(&mut self, about: &Outgoing, reason: DropReason) -> Result<(), GatewayError> {
        // On a live link this means that the Unit cannot read the message; more tries do not help.
        tracing::error!(unit = self.unit(), "{} {} waits: {reason}", about.kind, about.txn);
        self.gateway.inner.metrics.given_up();
        if self.kept.contains(&about.txn) {
            let (store, unit_id) = (&self.gateway.inner.store, &self.origin.unit_id);
            store.outbox_parked(unit_id, &about.txn, &reason.to_string()).await?;
        }
        Ok(())
    }

    pub(super) async fn dropped(&mut self, about: &Outgoing, reason: DropReason) -> Result<(), GatewayError> {
        if reason == DropReason::Superseded {
            tracing::debug!(unit = self.unit(), "{} {}: {reason}", about.kind, about.txn);
        } else {
            self.gateway.inner.metrics.given_up();
            tracing::error!(unit = self.unit(), "{} {} is given up: {reason}", about.kind, about.txn);
        }
        // What found no room now is still in the store, and goes out on the next connection.
        if self.forget_kept(&about.txn) && reason != DropReason::QueueFull {
            let (store, unit_id) = (&self.gateway.inner.store, &self.origin.unit_id);
            store.outbox_failed(unit_id, &about.txn, &reason.to_string()).await?;
        }
        Ok(())
    }

    /// True when the message is one of the outbox; the core has it no more.
    fn forget_kept(&mut self, txn: &Txn) -> bool {
        let Some(at) = self.kept.iter().position(|kept| kept == txn) else { return false };
        self.kept.swap_remove(at);
        if self.kept.is_empty() {
            self.kept = Vec::new();
        }
        true
    }
}
