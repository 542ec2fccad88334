//! The state machine.

use std::time::{Duration, Instant};

use aos_cloud_protocol::{Body, Direction, Envelope, ReadError, write};
use aos_ids::Txn;
use bytes::Bytes;

use crate::incoming::{Incoming, Known};
use crate::outgoing::{Fate, Queue};
use crate::{Action, Class, Config, Event, Now, Rejection};

/// Pause that a cloud asks for when too many messages are being processed.
const OVERLOAD_PAUSE: Duration = Duration::from_secs(1);

#[derive(Debug, Clone, Copy)]
struct Link {
    last_received: Instant,
    next_ping: Instant,
    /// The shell was told to close; nothing more is sent.
    closing: bool,
}

/// One end of the link. Lives across connections.
#[derive(Debug)]
pub struct Session {
    config: Config,
    queue: Queue,
    incoming: Incoming,
    link: Option<Link>,
}

impl Session {
    /// A session that is not connected. `remembered` are transactions accepted earlier, oldest first.
    pub fn new(mut config: Config, remembered: impl IntoIterator<Item = Txn>) -> Self {
        // An interval of nothing would make every tick due at once, for ever.
        config.ping_interval = config.ping_interval.max(Duration::from_millis(100));
        let queue = Queue::new(&config);
        let incoming = Incoming::new(config.remembered, remembered);
        Self { config, queue, incoming, link: None }
    }

    /// Transactions accepted so far, oldest first, at most [`Config::remembered`].
    pub fn remembered(&self) -> impl Iterator<Item = Txn> {
        self.incoming.accepted()
    }

    /// Messages of ours that are neither acknowledged nor given up.
    pub fn outstanding(&self) -> usize {
        self.queue.len()
    }

    /// Messages of ours sent so far, and how often one of them was sent again. Without acknowledgements.
    pub fn sent(&self) -> (u64, u64) {
        self.queue.sent()
    }

    /// Memory of the session, bytes: itself and what it keeps on the heap, as counted from capacities. An
    /// idle one that accepted a message and had one of its own acknowledged takes less than 1 KiB; every
    /// remembered transaction that is a UUID adds 16 bytes, so that a session never idles above 18 KiB.
    pub fn memory_bytes(&self) -> usize {
        size_of::<Self>()
            + self.config.system_id.as_str().len()
            + self.queue.memory_bytes()
            + self.incoming.memory_bytes()
    }

    /// True between `Connected` and `Disconnected`.
    pub fn is_connected(&self) -> bool {
        self.link.is_some()
    }

    /// When the next [`Event::Tick`] is due. `None` while disconnected: nothing happens then.
    pub fn next_deadline(&self) -> Option<Instant> {
        let link = self.link.filter(|link| !link.closing)?;
        let dead = link.last_received + self.config.dead_after;
        let earliest = link.next_ping.min(dead);
        Some(self.queue.next_deadline().map_or(earliest, |deadline| deadline.min(earliest)))
    }

    /// Takes an event and returns what to do, in order.
    pub fn on(&mut self, now: Now, event: Event<'_>) -> Vec<Action> {
        let mut actions = Vec::new();
        match event {
            Event::Connected { greeting } => self.connected(now, greeting.as_deref(), &mut actions),
            Event::Disconnected => self.disconnected(),
            Event::Frame(frame) => self.frame(now, frame, &mut actions),
            Event::PeerAlive => self.alive(now),
            Event::Send { envelope, class } => self.push(&envelope, class, false, &mut actions),
            Event::Withdraw(txn) => self.queue.withdraw(&txn),
            Event::Accepted(txn) => self.accepted(now, &txn, &mut actions),
            Event::Refused { txn, retry_after } => {
                // An upstream Unit that gets a nack for a message that it has sent anew or given up loses one of
                // its workers to it. After half of the timeout silence is the better answer.
                let last = self.incoming.decide(&txn);
                if last.is_some_and(|last| now.instant <= last + self.config.ack_timeout / 2) {
                    self.send_nack(now, &txn, retry_after, &mut actions);
                }
            }
            Event::Tick => self.tick(now, &mut actions),
        }
        self.pump(now, &mut actions);
        actions
    }

    fn connected(&mut self, now: Now, greeting: Option<&Envelope>, actions: &mut Vec<Action>) {
        self.disconnected();
        let next_ping = now.instant + self.config.ping_interval;
        self.link = Some(Link { last_received: now.instant, next_ping, closing: false });
        if let Some(greeting) = greeting {
            self.push(greeting, Class::Durable, true, actions);
        }
    }

    fn disconnected(&mut self) {
        self.link = None;
        self.queue.link_lost();
    }

    fn alive(&mut self, now: Now) {
        if let Some(link) = &mut self.link {
            link.last_received = now.instant;
        }
    }

    fn push(&mut self, envelope: &Envelope, class: Class, greeting: bool, actions: &mut Vec<Action>) {
        let dropped = self.queue.push(envelope, class, greeting);
        actions.extend(dropped.into_iter().map(|(about, reason)| Action::Dropped(about, reason)));
    }

    fn frame(&mut self, now: Now, frame: &[u8], actions: &mut Vec<Action>) {
        if self.link.is_none() {
            return;
        }
        self.alive(now);
        match (self.config.read)(frame, self.config.reads) {
            Err(ReadError::Unreadable(reason)) => {
                actions.push(Action::Rejected(Rejection::Unreadable(reason)));
            }
            Err(ReadError::Invalid(invalid)) => {
                if invalid.header.system_id != self.config.system_id {
                    actions.push(foreign(invalid.header.system_id));
                    return;
                }
                let txn = invalid.header.txn.clone();
                self.send_ack(now, &txn, actions);
                if self.incoming.known(&txn) == Known::New {
                    self.incoming.remember(&txn);
                    actions.push(Action::Rejected(Rejection::Invalid(invalid)));
                }
            }
            Ok(envelope) if envelope.header.system_id != self.config.system_id => {
                actions.push(foreign(envelope.header.system_id));
            }
            Ok(envelope) => self.message(now, envelope, actions),
        }
    }

    fn message(&mut self, now: Now, envelope: Envelope, actions: &mut Vec<Action>) {
        // Peers name the transaction in the header; those that follow the documents name it in
        // correlationId and have one of their own in the header.
        let named = |envelope: &Envelope| {
            let second = envelope.correlation_id.as_deref().and_then(|text| Txn::new(text).ok());
            std::iter::once(envelope.header.txn.clone()).chain(second).collect::<Vec<_>>()
        };
        match &envelope.body {
            Body::Ack(_) => {
                let acknowledged = named(&envelope).iter().find_map(|txn| self.queue.acknowledge(txn));
                actions.extend(acknowledged.map(Action::Acknowledged));
            }
            Body::Nack(nack) => {
                for txn in named(&envelope) {
                    if self.queue.is_in_flight(&txn) {
                        let fate = self.queue.nack(&txn, now.instant, nack.retry_after);
                        actions.extend(fate.map(Action::from));
                        break;
                    }
                }
            }
            _ => {
                let txn = &envelope.header.txn;
                match self.incoming.known(txn) {
                    Known::Accepted => self.send_ack(now, txn, actions),
                    Known::Undecided => self.incoming.copy(txn, now.instant),
                    Known::New if self.incoming.undecided() >= self.config.undecided => {
                        self.send_nack(now, txn, OVERLOAD_PAUSE, actions);
                        actions.push(Action::Rejected(Rejection::Overload { txn: txn.clone() }));
                    }
                    Known::New => {
                        self.incoming.copy(txn, now.instant);
                        actions.push(Action::Deliver(Box::new(envelope)));
                    }
                }
            }
        }
    }

    fn accepted(&mut self, now: Now, txn: &Txn, actions: &mut Vec<Action>) {
        if self.incoming.decide(txn).is_some() {
            self.send_ack(now, txn, actions);
            self.incoming.remember(txn);
        }
    }

    fn send_ack(&self, now: Now, txn: &Txn, actions: &mut Vec<Action>) {
        self.send_reply(&Envelope::ack(self.config.system_id.clone(), now.wall, txn), actions);
    }

    /// Only a cloud nacks. A Unit stays silent and gets the message again after the peer's own timeout.
    fn send_nack(&self, now: Now, txn: &Txn, retry_after: Duration, actions: &mut Vec<Action>) {
        if self.config.reads != Direction::CloudToUnit {
            let nack = Envelope::nack(self.config.system_id.clone(), now.wall, txn, retry_after);
            self.send_reply(&nack, actions);
        }
    }

    /// Replies are sent once and not kept: the peer repeats its message when one is lost.
    fn send_reply(&self, reply: &Envelope, actions: &mut Vec<Action>) {
        if self.can_send()
            && let Ok(bytes) = write(reply)
        {
            actions.push(Action::Transmit(Bytes::from(bytes)));
        }
    }

    fn can_send(&self) -> bool {
        self.link.is_some_and(|link| !link.closing)
    }

    fn tick(&mut self, now: Now, actions: &mut Vec<Action>) {
        let Some(link) = self.link.as_mut().filter(|link| !link.closing) else { return };
        if now.instant >= link.last_received + self.config.dead_after {
            link.closing = true;
            actions.push(Action::Reconnect);
            return;
        }
        if now.instant >= link.next_ping {
            link.next_ping = now.instant + self.config.ping_interval;
            actions.push(Action::Ping);
        }
        actions.extend(self.queue.tick(now.instant).into_iter().map(Action::from));
    }

    fn pump(&mut self, now: Now, actions: &mut Vec<Action>) {
        if self.can_send() {
            while let Some(bytes) = self.queue.next_ready(now.instant) {
                actions.push(Action::Transmit(bytes));
            }
        }
    }
}

impl From<Fate> for Action {
    fn from(fate: Fate) -> Self {
        match fate {
            Fate::Resend(bytes) => Self::Transmit(bytes),
            Fate::Parked(about, reason) => Self::Parked(about, reason),
            Fate::Dropped(about, reason) => Self::Dropped(about, reason),
        }
    }
}

fn foreign(found: aos_ids::SystemId) -> Action {
    Action::Rejected(Rejection::ForeignSystemId { found })
}
