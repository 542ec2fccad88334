//! The queue of outgoing messages: order, window, repetitions, overflow.
//!
//! Messages stay in the queue until they are acknowledged or given up. Kinds whose order matters are sent
//! one at a time; kinds whose messages stand alone (samples, alerts, log parts, blob addresses) share the
//! window.
//!
//! A durable message that ran out of tries is parked: most likely the peer cannot read it, and it must not
//! hold up others. From then on it is *doubtful*: it follows all others, one doubtful message at a time, with
//! one try each time, and gives way to a newer message about the same thing.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use aos_cloud_protocol::{Envelope, MessageType};
use aos_ids::Txn;
use bytes::Bytes;

use crate::kinds::{once_per_connection, replaces_earlier, stands_alone, topic};
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
    /// Out of tries; to be ready again at that time, without one on the next connection.
    Parked(Option<Instant>),
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
    /// Has been parked before.
    doubtful: bool,
    topic: Option<u64>,
}

impl Entry {
    /// Counts a lost try; true when none is left. A doubtful message has one.
    fn lose(&mut self, resends: u32) -> bool {
        self.lost += 1;
        self.doubtful || self.lost > resends
    }
}

/// True when the entry may go to make room for a message of `class`.
fn gives_way(entry: &Entry, class: Class) -> bool {
    entry.about.class <= class.min(Class::Alerts)
}

/// What became of a message.
#[derive(Debug)]
pub(crate) enum Fate {
    Resend(Bytes),
    /// Comes once per message.
    Parked(Outgoing, DropReason),
    Dropped(Outgoing, DropReason),
}

#[derive(Debug)]
pub(crate) struct Queue {
    entries: VecDeque<Entry>,
    bytes: usize,
    ack_timeout: Duration,
    resends: u32,
    free_nacks: u32,
    parked: Duration,
    window: usize,
    max_messages: usize,
    max_bytes: usize,
    /// Messages sent, and repetitions of them, over all connections.
    sent: (u64, u64),
}

impl Queue {
    pub(crate) fn new(config: &Config) -> Self {
        Self {
            entries: VecDeque::new(),
            bytes: 0,
            ack_timeout: config.ack_timeout.max(MIN_PAUSE),
            resends: config.resends,
            free_nacks: config.free_nacks,
            parked: config.parked.max(config.ack_timeout).max(MIN_PAUSE),
            window: config.window.max(1),
            max_messages: config.queue_messages.max(1),
            max_bytes: config.queue_bytes,
            sent: (0, 0),
        }
    }

    pub(crate) fn len(&self) -> usize {
        self.entries.len()
    }

    pub(crate) fn sent(&self) -> (u64, u64) {
        self.sent
    }

    /// Heap memory, bytes.
    pub(crate) fn memory_bytes(&self) -> usize {
        let text = |entry: &Entry| {
            entry.about.txn.as_str().len() + entry.about.correlation_id.as_ref().map_or(0, String::capacity)
        };
        self.entries.capacity() * size_of::<Entry>()
            + self.bytes
            + self.entries.iter().map(text).sum::<usize>()
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
        let (kind, all, topic) = (about.kind, replaces_earlier(&envelope.body), topic(&envelope.body));
        let outdated = |entry: &Entry| {
            (all && entry.about.kind == kind) || (entry.doubtful && topic.is_some() && entry.topic == topic)
        };
        // A greeting always finds room: without it the peer's picture stays wrong. There is one at a time.
        if !greeting && !self.could_hold(bytes.len(), class, outdated) {
            return vec![(about, DropReason::QueueFull)];
        }
        let mut dropped = Vec::new();
        self.drop_where(outdated, DropReason::Superseded, &mut dropped);
        if !greeting {
            self.make_room(bytes.len(), class, &mut dropped);
        }
        self.bytes += bytes.len();
        let entry = Entry {
            about,
            bytes,
            state: State::Ready,
            sent: false,
            lost: 0,
            nacks: 0,
            doubtful: false,
            topic,
        };
        if greeting {
            self.entries.push_front(entry);
        } else {
            self.entries.push_back(entry);
        }
        dropped
    }

    /// True when there is room once all has gone that may go. Otherwise nothing should go in vain.
    fn could_hold(&self, length: usize, class: Class, outdated: impl Fn(&Entry) -> bool) -> bool {
        let stays = |entry: &&Entry| !outdated(entry) && !gives_way(entry, class);
        let (count, bytes) = self
            .entries
            .iter()
            .filter(stays)
            .fold((0, 0), |(count, bytes), entry| (count + 1, bytes + entry.bytes.len()));
        count == 0 || (count < self.max_messages && bytes + length <= self.max_bytes)
    }

    fn make_room(&mut self, length: usize, class: Class, dropped: &mut Vec<(Outgoing, DropReason)>) {
        while self.entries.len() >= self.max_messages || self.bytes + length > self.max_bytes {
            // `min_by_key` returns the first, that is the oldest, of the lowest class.
            let lowest = (0..self.entries.len()).min_by_key(|at| self.entries[*at].about.class);
            let victim = lowest.filter(|at| gives_way(&self.entries[*at], class));
            let Some(victim) = victim.and_then(|at| self.remove(at)) else { return };
            dropped.push((victim, DropReason::QueueFull));
        }
    }

    fn remove(&mut self, at: usize) -> Option<Outgoing> {
        let entry = self.entries.remove(at)?;
        self.bytes -= entry.bytes.len();
        if self.entries.is_empty() {
            // An idle session costs nothing here; a cloud holds thousands of them.
            self.entries = VecDeque::new();
        }
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

    /// The next message to transmit now: in queue order, doubtful ones last.
    pub(crate) fn next_ready(&mut self, now: Instant) -> Option<Bytes> {
        let mut in_flight = 0;
        let mut doubtful_in_flight = false;
        for entry in &self.entries {
            if matches!(entry.state, State::InFlight(_)) {
                in_flight += 1;
                doubtful_in_flight |= entry.doubtful;
            }
        }
        if in_flight >= self.window {
            return None;
        }
        let mut held: Vec<MessageType> = Vec::new();
        let mut doubtful = None;
        for (at, entry) in self.entries.iter().enumerate() {
            let kind = entry.about.kind;
            if entry.doubtful {
                if entry.state == State::Ready && !doubtful_in_flight {
                    doubtful = doubtful.or(Some(at));
                }
                continue;
            }
            if entry.state == State::Ready && !held.contains(&kind) {
                return self.launch(at, now);
            }
            if !stands_alone(kind) {
                held.push(kind);
            }
        }
        self.launch(doubtful?, now)
    }

    fn launch(&mut self, at: usize, now: Instant) -> Option<Bytes> {
        let entry = self.entries.get_mut(at)?;
        entry.state = State::InFlight(now + self.ack_timeout);
        let again = std::mem::replace(&mut entry.sent, true);
        *(if again { &mut self.sent.1 } else { &mut self.sent.0 }) += 1;
        Some(entry.bytes.clone())
    }

    /// The connection is gone: what was in flight is sent again on the next one, with the tries it had left,
    /// and what was parked is tried again.
    pub(crate) fn link_lost(&mut self) {
        for entry in &mut self.entries {
            match entry.state {
                State::InFlight(_) | State::Parked(_) => entry.state = State::Ready,
                State::Ready | State::Paused(_) => {}
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

    fn in_flight(&self, txn: &Txn) -> Option<usize> {
        let wanted = |entry: &Entry| matches!(entry.state, State::InFlight(_)) && entry.about.txn == *txn;
        self.entries.iter().position(wanted)
    }

    /// True when the message is sent and waits for its acknowledgement.
    pub(crate) fn is_in_flight(&self, txn: &Txn) -> bool {
        self.in_flight(txn).is_some()
    }

    /// Pauses a message in flight, or ends its tries.
    pub(crate) fn nack(&mut self, txn: &Txn, now: Instant, pause: Duration) -> Option<Fate> {
        let at = self.in_flight(txn)?;
        let entry = &mut self.entries[at];
        entry.nacks += 1;
        entry.state = State::Paused(now + pause.clamp(MIN_PAUSE, MAX_PAUSE));
        if entry.nacks > self.free_nacks && entry.lose(self.resends) {
            return self.exhausted(at, now, DropReason::Nacked);
        }
        None
    }

    /// Handles deadlines that have come.
    pub(crate) fn tick(&mut self, now: Instant) -> Vec<Fate> {
        let mut fates = Vec::new();
        let mut at = 0;
        while let Some(entry) = self.entries.get_mut(at) {
            match entry.state {
                State::Paused(until) | State::Parked(Some(until)) if until <= now => {
                    entry.state = State::Ready;
                }
                State::InFlight(deadline) if deadline <= now => {
                    if entry.lose(self.resends) {
                        let before = self.entries.len();
                        fates.extend(self.exhausted(at, now, DropReason::NoAck));
                        at += usize::from(self.entries.len() == before);
                        continue;
                    }
                    entry.state = State::InFlight(now + self.ack_timeout);
                    if !once_per_connection(entry.about.kind) {
                        fates.push(Fate::Resend(entry.bytes.clone()));
                        self.sent.1 += 1;
                    }
                }
                _ => {}
            }
            at += 1;
        }
        fates
    }

    /// Parks a message without tries, or drops it when it is not worth keeping.
    fn exhausted(&mut self, at: usize, now: Instant, reason: DropReason) -> Option<Fate> {
        let entry = self.entries.get(at)?;
        let newer = |other: &Entry| entry.topic.is_some() && other.topic == entry.topic;
        if entry.about.class < Class::Durable {
            return self.remove(at).map(|about| Fate::Dropped(about, reason));
        }
        if self.entries.iter().skip(at + 1).any(newer) {
            return self.remove(at).map(|about| Fate::Dropped(about, DropReason::Superseded));
        }
        let until = now + self.parked;
        let entry = self.entries.get_mut(at)?;
        entry.state = State::Parked(Some(until).filter(|_| !once_per_connection(entry.about.kind)));
        (entry.lost, entry.nacks) = (0, 0);
        let first = !std::mem::replace(&mut entry.doubtful, true);
        first.then(|| Fate::Parked(entry.about.clone(), reason))
    }

    pub(crate) fn next_deadline(&self) -> Option<Instant> {
        self.entries
            .iter()
            .filter_map(|entry| match entry.state {
                State::Ready => None,
                State::InFlight(at) | State::Paused(at) => Some(at),
                State::Parked(until) => until,
            })
            .min()
    }
}
