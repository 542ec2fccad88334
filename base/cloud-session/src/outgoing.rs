//! The queue of outgoing messages: order, window, repetitions, overflow.
//!
//! Messages stay in the queue until they are acknowledged or given up. Kinds whose order matters are sent
//! one at a time; kinds whose messages stand alone (samples, alerts, log parts, blob addresses) share the
//! window.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use aos_cloud_protocol::{Body, Envelope, MessageType};
use aos_ids::Txn;
use bytes::Bytes;

use crate::{Class, Config, DropReason, Outgoing};

/// Bounds of the pause that a nack may ask for. The lower one keeps two impatient peers from spinning.
const MIN_PAUSE: Duration = Duration::from_millis(100);
const MAX_PAUSE: Duration = Duration::from_mins(10);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// To be sent as soon as the window allows.
    Ready,
    /// Sent; to be repeated at the deadline.
    InFlight(Instant),
    /// Nacked; to be ready again at that time.
    Paused(Instant),
}

#[derive(Debug)]
struct Entry {
    about: Outgoing,
    bytes: Bytes,
    state: State,
    /// Sent at least once: only then can it be acknowledged.
    sent: bool,
    /// Deadlines that passed without an acknowledgement.
    lost: u32,
    nacks: u32,
}

/// What the passing of time led to.
pub(crate) enum Passed {
    Resend(Bytes),
    Dropped(Outgoing, DropReason),
}

/// What a nack led to.
pub(crate) enum Nacked {
    NotInFlight,
    Paused,
    GivenUp(Outgoing),
}

#[derive(Debug)]
pub(crate) struct Queue {
    entries: VecDeque<Entry>,
    bytes: usize,
    ack_timeout: Duration,
    resends: u32,
    free_nacks: u32,
    window: usize,
    max_messages: usize,
    max_bytes: usize,
}

impl Queue {
    pub(crate) fn new(config: &Config) -> Self {
        Self {
            entries: VecDeque::new(),
            bytes: 0,
            ack_timeout: config.ack_timeout.max(MIN_PAUSE),
            resends: config.resends,
            free_nacks: config.free_nacks,
            window: config.window.max(1),
            max_messages: config.queue_messages.max(1),
            max_bytes: config.queue_bytes,
        }
    }

    pub(crate) fn len(&self) -> usize {
        self.entries.len()
    }

    /// Adds a message, at the front when it is a greeting. Returns what was given up for it, possibly the
    /// message itself.
    pub(crate) fn push(
        &mut self,
        envelope: &Envelope,
        class: Class,
        greeting: bool,
    ) -> Vec<(Outgoing, DropReason)> {
        let about = Outgoing {
            txn: envelope.header.txn.clone(),
            kind: envelope.body.message_type(),
            class,
            correlation_id: envelope.correlation_id.clone(),
        };
        if self.entries.iter().any(|entry| entry.about.txn == about.txn) {
            return Vec::new();
        }
        let bytes = match aos_cloud_protocol::write(envelope) {
            Ok(bytes) if about.kind.is_acknowledged() => Bytes::from(bytes),
            _ => return vec![(about, DropReason::Unwritable)],
        };
        let mut dropped = Vec::new();
        if replaces_earlier(&envelope.body) {
            let kind = about.kind;
            self.drop_where(|entry| entry.about.kind == kind, DropReason::Superseded, &mut dropped);
        }
        // A greeting always finds room: without it the peer's picture stays wrong. There is one at a time.
        if !greeting && !self.make_room(bytes.len(), class, &mut dropped) {
            dropped.push((about, DropReason::QueueFull));
            return dropped;
        }
        self.bytes += bytes.len();
        let entry = Entry { about, bytes, state: State::Ready, sent: false, lost: 0, nacks: 0 };
        if greeting {
            self.entries.push_front(entry);
        } else {
            self.entries.push_back(entry);
        }
        dropped
    }

    fn make_room(&mut self, length: usize, class: Class, dropped: &mut Vec<(Outgoing, DropReason)>) -> bool {
        while !self.entries.is_empty()
            && (self.entries.len() >= self.max_messages || self.bytes + length > self.max_bytes)
        {
            // `min_by_key` returns the first, that is the oldest, of the lowest class.
            let victim = (0..self.entries.len())
                .min_by_key(|at| self.entries[*at].about.class)
                .filter(|at| self.entries[*at].about.class < Class::Durable)
                .filter(|at| self.entries[*at].about.class <= class);
            let Some(victim) = victim.and_then(|at| self.remove(at)) else { return false };
            dropped.push((victim, DropReason::QueueFull));
        }
        true
    }

    fn remove(&mut self, at: usize) -> Option<Outgoing> {
        let entry = self.entries.remove(at)?;
        self.bytes -= entry.bytes.len();
        Some(entry.about)
    }

    fn drop_where(
        &mut self,
        condition: impl Fn(&Entry) -> bool,
        reason: DropReason,
        dropped: &mut Vec<(Outgoing, DropReason)>,
    ) {
        while let Some(at) = self.entries.iter().position(&condition) {
            dropped.extend(self.remove(at).map(|about| (about, reason)));
        }
    }

    /// The next message to transmit now, in queue order.
    pub(crate) fn next_ready(&mut self, now: Instant) -> Option<Bytes> {
        let in_flight = self.entries.iter().filter(|entry| matches!(entry.state, State::InFlight(_))).count();
        if in_flight >= self.window {
            return None;
        }
        let mut held: Vec<MessageType> = Vec::new();
        for entry in &mut self.entries {
            let kind = entry.about.kind;
            if entry.state == State::Ready && !held.contains(&kind) {
                entry.state = State::InFlight(now + self.ack_timeout);
                entry.sent = true;
                return Some(entry.bytes.clone());
            }
            if !stands_alone(kind) {
                held.push(kind);
            }
        }
        None
    }

    /// The connection is gone: what was in flight is sent again on the next one, with the tries it had left.
    pub(crate) fn link_lost(&mut self) {
        for entry in &mut self.entries {
            if matches!(entry.state, State::InFlight(_)) {
                entry.state = State::Ready;
            }
        }
    }

    pub(crate) fn withdraw(&mut self, txn: &Txn) {
        if let Some(at) = self.entries.iter().position(|entry| entry.about.txn == *txn) {
            self.remove(at);
        }
    }

    pub(crate) fn acknowledge(&mut self, txn: &Txn) -> Option<Outgoing> {
        let at = self.entries.iter().position(|entry| entry.sent && entry.about.txn == *txn)?;
        self.remove(at)
    }

    /// Pauses or gives up a message in flight.
    pub(crate) fn nack(&mut self, txn: &Txn, now: Instant, pause: Duration) -> Nacked {
        let in_flight = |entry: &Entry| matches!(entry.state, State::InFlight(_)) && entry.about.txn == *txn;
        let Some(at) = self.entries.iter().position(in_flight) else { return Nacked::NotInFlight };
        let entry = &mut self.entries[at];
        entry.nacks += 1;
        if entry.nacks > self.free_nacks {
            entry.lost += 1;
            if entry.lost > self.resends {
                return self.remove(at).map_or(Nacked::NotInFlight, Nacked::GivenUp);
            }
        }
        entry.state = State::Paused(now + pause.clamp(MIN_PAUSE, MAX_PAUSE));
        Nacked::Paused
    }

    /// Handles deadlines that have come.
    pub(crate) fn tick(&mut self, now: Instant) -> Vec<Passed> {
        let mut passed = Vec::new();
        let mut at = 0;
        while let Some(entry) = self.entries.get_mut(at) {
            match entry.state {
                State::Paused(until) if until <= now => entry.state = State::Ready,
                State::InFlight(deadline) if deadline <= now => {
                    entry.lost += 1;
                    if entry.lost > self.resends {
                        passed.extend(self.remove(at).map(|about| Passed::Dropped(about, DropReason::NoAck)));
                        continue;
                    }
                    entry.state = State::InFlight(now + self.ack_timeout);
                    if !once_per_connection(entry.about.kind) {
                        passed.push(Passed::Resend(entry.bytes.clone()));
                    }
                }
                _ => {}
            }
            at += 1;
        }
        passed
    }

    pub(crate) fn next_deadline(&self) -> Option<Instant> {
        self.entries
            .iter()
            .filter_map(|entry| match entry.state {
                State::Ready => None,
                State::InFlight(at) | State::Paused(at) => Some(at),
            })
            .min()
    }
}

/// True when the message makes every earlier one of its kind pointless.
fn replaces_earlier(body: &Body) -> bool {
    match body {
        Body::UnitStatus(status) => !status.is_delta_info,
        Body::DesiredStatus(_) | Body::OverrideEnvVars(_) => true,
        _ => false,
    }
}

/// True when the order among messages of this kind does not matter.
const fn stands_alone(kind: MessageType) -> bool {
    matches!(
        kind,
        MessageType::MonitoringData
            | MessageType::Alerts
            | MessageType::PushLog
            | MessageType::RequestBlobUrls
            | MessageType::BlobUrls
    )
}

/// Upstream Units do not recognise repetitions; these would make keys once more.
const fn once_per_connection(kind: MessageType) -> bool {
    matches!(
        kind,
        MessageType::StartProvisioningRequest
            | MessageType::FinishProvisioningRequest
            | MessageType::DeprovisioningRequest
    )
}
