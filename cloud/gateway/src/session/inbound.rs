//! What a Unit sends: to the handlers and back.

use std::pin::Pin;
use std::time::{Duration, Instant};

use aos_cloud_broker::{DispatchError, OVERLOAD_PAUSE, Outcome, Queued, Waiting};
use aos_cloud_metrics::{Closed, Refused};
use aos_cloud_protocol::{Body, Direction, Envelope};
use aos_cloud_session::{Action, Event, Rejection};
use aos_cloud_websocket::close_code;
use aos_ids::Txn;
use futures_util::stream::FuturesUnordered;
use jiff::Timestamp;
use serde_json::json;
use tokio::sync::OwnedSemaphorePermit;

use super::{Running, now};
use crate::error::GatewayError;
use crate::rate::Verdict;
use crate::socket::End;

/// How long a message waits for room at its handler before the Unit is asked to send it again.
const ROOM_TIME: Duration = Duration::from_secs(10);
/// Operators are told of something refused at most this often for one session.
const TELL_EVERY: Duration = Duration::from_secs(1);

pub(super) type Pending = FuturesUnordered<Pin<Box<dyn Future<Output = Handled> + Send>>>;

/// What became of a message at its handler.
pub(super) enum Handled {
    /// Its queue had room at last, or not in time.
    Room(Message, Result<tokio::sync::oneshot::Receiver<Outcome>, DispatchError>),
    /// It was handled, or given up by its handler.
    Done(Message, Option<Outcome>),
}

/// A message that a handler has.
pub(super) struct Message {
    txn: Txn,
    bytes: usize,
    since: Instant,
    full_status: bool,
    /// It tells that certificates were installed.
    installed: bool,
    /// Its part of the memory for large messages.
    _share: Option<OwnedSemaphorePermit>,
}

/// The frame that is being looked at.
pub(super) struct Frame {
    bytes: usize,
    since: Instant,
    share: Option<OwnedSemaphorePermit>,
    /// Turn its message away, with this pause.
    later: Option<Duration>,
}

impl Frame {
    pub(super) fn new(now: Instant) -> Self {
        Self { bytes: 0, since: now, share: None, later: None }
    }
}

impl Running {
    pub(super) async fn message(
        &mut self,
        frame: Vec<u8>,
        share: Option<OwnedSemaphorePermit>,
    ) -> Result<Option<End>, GatewayError> {
        let since = Instant::now();
        let inner = &self.gateway.inner;
        inner.metrics.bytes_in(frame.len());
        inner.taps.see(&self.origin.unit_id, Direction::UnitToCloud, &frame);
        let later = match self.rate.on_frame(&inner.settings.rate, since, frame.len()) {
            Verdict::Take => None,
            Verdict::Later(pause) => Some(pause),
            Verdict::Cut => return Ok(Some(self.cut())),
        };
        self.frame = Frame { bytes: frame.len(), since, share, later };
        let actions = self.core.on(now(), Event::Frame(&frame));
        drop(frame);
        if let [Action::Transmit(_)] = actions.as_slice() {
            // Only an acknowledgement: the message was accepted before.
            self.gateway.inner.metrics.duplicate();
        }
        let done = self.perform(actions).await;
        self.frame.share = None;
        done
    }

    /// Hands a message to its handler; returns what the core wants when there is none for it now.
    pub(super) fn deliver(&mut self, envelope: Envelope) -> Vec<Action> {
        let kind = envelope.body.message_type();
        let txn = envelope.header.txn.clone();
        let inner = &self.gateway.inner;
        inner.metrics.received(kind);
        if let Some(retry_after) = self.frame.later {
            inner.metrics.refused(Refused::Rate);
            return self.refuse(txn, retry_after);
        }
        let message = Message {
            txn: txn.clone(),
            // Close enough for a bound: the memory of a message follows the length of its frame.
            bytes: self.frame.bytes,
            since: self.frame.since,
            full_status: matches!(&envelope.body, Body::UnitStatus(status) if !status.is_delta_info),
            installed: matches!(&envelope.body, Body::InstallUnitCertificatesConfirmation(_)),
            _share: self.frame.share.take(),
        };
        match inner.broker.enqueue(self.origin.clone(), envelope) {
            Ok(queued) => {
                self.pending_bytes += message.bytes;
                inner.metrics.handling(1, i64::try_from(message.bytes).unwrap_or(0));
                match queued {
                    Queued::Placed(outcome) => self.pending.push(Box::pin(async move {
                        let outcome = outcome.await.ok();
                        Handled::Done(message, outcome)
                    })),
                    Queued::Full(waiting) => {
                        self.stalled += 1;
                        self.pending.push(Box::pin(room(message, waiting)));
                    }
                }
                vec![]
            }
            Err(error @ DispatchError::NoRoute(_)) => {
                tracing::warn!(unit = self.unit(), "{error}");
                self.core.on(now(), Event::Accepted(txn))
            }
            Err(error) => {
                tracing::warn!(unit = self.unit(), "{error}");
                inner.metrics.refused(Refused::Overload);
                self.refuse(txn, OVERLOAD_PAUSE)
            }
        }
    }

    fn refuse(&mut self, txn: Txn, retry_after: Duration) -> Vec<Action> {
        self.gateway.inner.metrics.nacked();
        self.core.on(now(), Event::Refused { txn, retry_after })
    }

    /// A message has room at its handler, or its handler is done with it.
    pub(super) async fn handled(&mut self, handled: Handled) -> Result<Option<End>, GatewayError> {
        let (message, outcome) = match handled {
            Handled::Room(message, room) => {
                self.stalled -= 1;
                match room {
                    Ok(outcome) => {
                        self.pending.push(Box::pin(async move {
                            let outcome = outcome.await.ok();
                            Handled::Done(message, outcome)
                        }));
                        return Ok(None);
                    }
                    Err(error) => {
                        tracing::warn!(unit = self.unit(), "{error}");
                        (message, None)
                    }
                }
            }
            Handled::Done(message, outcome) => (message, outcome),
        };
        let metrics = self.gateway.inner.metrics.clone();
        self.pending_bytes = self.pending_bytes.saturating_sub(message.bytes);
        metrics.handling(-1, -i64::try_from(message.bytes).unwrap_or(0));
        let answers = match outcome {
            Some(Outcome::Done(answers)) => answers,
            Some(Outcome::Later(retry_after)) => {
                let actions = self.refuse(message.txn, retry_after);
                return self.perform(actions).await;
            }
            None => {
                metrics.refused(Refused::Overload);
                let actions = self.refuse(message.txn, OVERLOAD_PAUSE);
                return self.perform(actions).await;
            }
        };
        if let Some(end) = self.feed(Event::Accepted(message.txn)).await? {
            return Ok(Some(end));
        }
        metrics.acked(message.since.elapsed());
        for answer in answers {
            metrics.sent(answer.body.message_type());
            let mut envelope = Envelope::new(self.origin.system_id.clone(), Timestamp::now(), answer.body);
            envelope.correlation_id = answer.correlation_id;
            if let Some(end) = self.feed(Event::send(envelope)).await? {
                return Ok(Some(end));
            }
        }
        if message.installed {
            // A Unit may have come with its new certificate before it could tell of it.
            self.gateway.inner.store.certificate_used(&self.origin.unit_id, &self.serial).await?;
        }
        if message.full_status && self.delivery.waits_for_full_status() {
            return self.compare().await;
        }
        Ok(None)
    }

    /// A frame that changed nothing: counted, logged, and where it is a message of the Unit that will never
    /// be understood, kept for operators.
    pub(super) async fn rejected(&mut self, rejection: &Rejection) -> Result<Result<(), End>, GatewayError> {
        tracing::warn!(unit = self.unit(), "{rejection}");
        let why = match rejection {
            Rejection::Unreadable(_) => Refused::Unreadable,
            Rejection::Invalid(_) => Refused::Invalid,
            Rejection::ForeignSystemId { .. } => Refused::Foreign,
            Rejection::Overload { .. } => {
                self.gateway.inner.metrics.nacked();
                Refused::Overload
            }
        };
        self.gateway.inner.metrics.refused(why);
        match rejection {
            Rejection::ForeignSystemId { .. } => {
                let reason = "a message names another Unit";
                return Ok(Err(End::Ours(Closed::Policy, close_code::POLICY, reason)));
            }
            Rejection::Unreadable(_) | Rejection::Invalid(_) => self.tell_operators(rejection).await?,
            Rejection::Overload { .. } => {}
        }
        Ok(Ok(()))
    }

    async fn tell_operators(&mut self, rejection: &Rejection) -> Result<(), GatewayError> {
        let now = Instant::now();
        if self.told.is_some_and(|told| now.saturating_duration_since(told) < TELL_EVERY) {
            return Ok(());
        }
        self.told = Some(now);
        let mut event =
            json!({"tag": "refusedMessage", "bytes": self.frame.bytes, "reason": rejection.to_string()});
        if let Rejection::Invalid(invalid) = rejection {
            event["messageType"] = json!(invalid.message_type);
            event["txn"] = json!(invalid.header.txn.as_str());
        }
        let (store, unit_id) = (&self.gateway.inner.store, &self.origin.unit_id);
        Ok(store.add_event(unit_id, "invalid", event.to_string()).await?)
    }
}

/// Waits for room, not for ever.
async fn room(message: Message, waiting: Waiting) -> Handled {
    let kind = waiting.kind();
    let room = match tokio::time::timeout(ROOM_TIME, waiting.placed()).await {
        Ok(room) => room,
        Err(_) => Err(DispatchError::Full(kind)),
    };
    Handled::Room(message, room)
}
