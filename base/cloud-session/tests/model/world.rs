//! Unit, cloud, network and clock of the main model.

mod passing;

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use aos_cloud_protocol::*;
use aos_cloud_session::{Action, Class, Config, DropReason, Event, Now, Session};
use bytes::Bytes;
use jiff::{SignedDuration, Timestamp};

use crate::content::{self, Content};
use crate::network::{Fate, Network};
use crate::store::Store;

pub const UNIT: usize = 0;
pub const CLOUD: usize = 1;

#[derive(Debug, Clone, Copy)]
pub enum Verdict {
    Take,
    Refuse,
    /// The effect is on disk, then the end crashes before it can acknowledge.
    TakeAndCrash,
}

#[derive(Debug, Clone)]
pub enum Step {
    /// An end sends a message; the number chooses its content.
    Send(usize, u8),
    /// An end crashes after the message was kept and before it was handed to the session.
    SendAndCrash(usize, u8),
    /// Milliseconds pass.
    Pass(u32),
    /// The connection ends for the Unit; for the cloud at once, or when what was under way has arrived.
    Cut(bool),
    Connect,
    /// An end crashes and starts again.
    Restart(usize),
    /// One of the end's sessions decides over its oldest undecided message.
    Decide(usize, u8, Verdict),
}

/// A session and what it was given and has not decided over.
pub struct Live {
    session: Session,
    undecided: VecDeque<Envelope>,
    connection: Option<usize>,
}

pub struct World {
    /// One session of the Unit; those of the cloud, the newest last.
    lives: [Vec<Live>; 2],
    pub stores: [Store; 2],
    network: Network,
    start: Instant,
    passed: Duration,
    /// Messages made so far; no two have the same time.
    made: i64,
    open: Option<usize>,
    connections: usize,
    queue: usize,
    in_order: bool,
    /// A session of the cloud took something after a newer one had begun.
    pub late: bool,
}

fn live(end: usize, store: &Store, queue: usize) -> Live {
    let system = "unit-1".parse().unwrap();
    let config = if end == UNIT { Config::unit(system) } else { Config::cloud(system) };
    let remembered = store.effects.iter().map(|(txn, _)| txn.clone());
    let session = Session::new(Config { queue_messages: queue, ..config }, remembered);
    Live { session, undecided: VecDeque::new(), connection: None }
}

impl World {
    pub fn new(fates: Vec<Fate>, in_order: bool, queue: usize) -> Self {
        let stores = [Store::default(), Store::default()];
        Self {
            lives: [vec![live(UNIT, &stores[UNIT], queue)], Vec::new()],
            stores,
            network: Network::new(fates, in_order),
            start: Instant::now(),
            passed: Duration::ZERO,
            made: 0,
            open: None,
            connections: 0,
            queue,
            in_order,
            late: false,
        }
    }

    fn now(&self) -> Now {
        let wall = Timestamp::UNIX_EPOCH + SignedDuration::try_from(self.passed).unwrap();
        let wall = wall + SignedDuration::from_micros(self.made);
        Now { instant: self.start + self.passed, wall }
    }

    fn envelope(&mut self, body: Body) -> Envelope {
        self.made += 1;
        Envelope::new("unit-1".parse().unwrap(), self.now().wall, body)
    }

    pub fn on_unit(&mut self, event: Event<'_>) {
        self.on(UNIT, 0, event);
    }

    fn on(&mut self, end: usize, at: usize, event: Event<'_>) {
        let now = self.now();
        let Some(live) = self.lives[end].get_mut(at) else { return };
        let actions = live.session.on(now, event);
        assert!(live.session.outstanding() <= self.queue + 1, "the queue and a greeting");
        for action in actions {
            self.act(end, at, action);
        }
    }

    fn act(&mut self, end: usize, at: usize, action: Action) {
        // A crash in the middle of the list took the session with it.
        let Some(live) = self.lives[end].get_mut(at) else { return };
        match action {
            Action::Transmit(bytes) => {
                let connection = live.connection.unwrap();
                self.check_ack(end, &bytes);
                let open = self.open == Some(connection);
                self.network.send(self.passed, 1 - end, connection, &bytes, open);
            }
            Action::Deliver(envelope) => {
                let txn = &envelope.header.txn;
                assert!(
                    live.undecided.iter().all(|other| other.header.txn != *txn),
                    "delivered while undecided"
                );
                // Two sessions of a cloud do not know of each other; its store does.
                assert!(
                    end == CLOUD || !self.stores[end].received.contains(txn),
                    "delivered after its effect"
                );
                live.undecided.push_back(*envelope);
            }
            Action::Acknowledged(about) => {
                assert_eq!(self.stores[1 - end].effects_of(&about.txn), 1, "acknowledged without effect");
                let store = &mut self.stores[end];
                store.outbox.retain(|envelope| envelope.header.txn != about.txn);
                store.log.acknowledged.insert(about.txn);
            }
            Action::Parked(about, reason) => {
                assert!(about.class == Class::Durable && reason != DropReason::QueueFull);
                self.stores[end].log.parked.insert(about.txn);
            }
            Action::Dropped(about, reason) => {
                let exhausted = matches!(reason, DropReason::NoAck | DropReason::Nacked);
                assert!(!(about.class == Class::Durable && exhausted), "durable messages are parked");
                let store = &mut self.stores[end];
                store.outbox.retain(|envelope| envelope.header.txn != about.txn);
                store.log.dropped.insert(about.txn, reason);
                let delta = about.kind == MessageType::UnitStatus && about.class == Class::Transient;
                if delta && reason != DropReason::Superseded {
                    self.tell(end, None);
                }
            }
            Action::Reconnect => self.close(end, at),
            Action::Ping => {
                if let Some(connection) = live.connection.filter(|one| self.open == Some(*one)) {
                    self.on(UNIT, 0, Event::PeerAlive);
                    if let Some(peer) = self.cloud_at(connection) {
                        self.on(CLOUD, peer, Event::PeerAlive);
                    }
                }
            }
            Action::Rejected(what) => panic!("{what}"),
        }
    }

    /// An acknowledgement leaves only when the effect is on disk.
    fn check_ack(&self, end: usize, bytes: &Bytes) {
        if bytes.windows(5).any(|part| part == b"\"ack\"") {
            let envelope = read(bytes, Direction::Both).unwrap();
            assert!(
                self.stores[end].received.contains(&envelope.header.txn),
                "acknowledged before its effect"
            );
        }
    }

    fn cloud_at(&self, connection: usize) -> Option<usize> {
        self.lives[CLOUD].iter().position(|live| live.connection == Some(connection))
    }

    fn close(&mut self, end: usize, at: usize) {
        match self.lives[end][at].connection {
            Some(connection) if self.open == Some(connection) => self.cut(false),
            _ => self.disconnect(end, at),
        }
    }

    fn disconnect(&mut self, end: usize, at: usize) {
        if self.lives[end][at].connection.take().is_some() {
            self.on(end, at, Event::Disconnected);
        }
    }

    fn cut(&mut self, late: bool) {
        let Some(connection) = self.open.take() else { return };
        self.network.lose(|frame| frame.connection == connection && !(late && frame.to == CLOUD));
        self.disconnect(UNIT, 0);
        if let Some(at) = self.cloud_at(connection).filter(|_| !late) {
            self.disconnect(CLOUD, at);
        }
    }

    pub fn connect(&mut self) {
        if self.open.is_some() {
            return;
        }
        self.connections += 1;
        self.open = Some(self.connections);
        self.lives[CLOUD]
            .push(Live { connection: self.open, ..live(CLOUD, &self.stores[CLOUD], self.queue) });
        self.lives[UNIT][0].connection = self.open;
        let at = self.lives[CLOUD].len() - 1;
        self.on(CLOUD, at, Event::connected(None));
        // First what is never left out, then what has room.
        self.tell(CLOUD, None);
        for envelope in self.stores[CLOUD].outbox.clone() {
            self.on(CLOUD, at, Event::keep(envelope));
        }
        let body = content::status(UNIT, &self.stores[UNIT].own, None);
        let greeting = self.envelope(body);
        self.stores[UNIT].log.note(&greeting);
        self.on(UNIT, 0, Event::connected(Some(greeting)));
    }

    /// Tells the peer the end's own state, or one key of it.
    fn tell(&mut self, end: usize, key: Option<u8>) {
        let body = content::status(end, &self.stores[end].own, key);
        self.submit(end, body);
    }

    fn submit(&mut self, end: usize, body: Body) {
        let envelope = self.envelope(body);
        self.stores[end].log.note(&envelope);
        let Some(at) = self.current(end) else { return };
        self.on(end, at, Event::send(envelope));
    }

    /// The session that sends: the cloud's newest one.
    fn current(&self, end: usize) -> Option<usize> {
        self.lives[end].len().checked_sub(1)
    }

    pub fn send(&mut self, end: usize, number: u8) {
        if let Some(envelope) = self.write_down(end, number)
            && let Some(at) = self.current(end)
        {
            self.on(end, at, Event::keep(envelope));
        }
    }

    fn write_down(&mut self, end: usize, number: u8) -> Option<Envelope> {
        match content::content(end, number) {
            Content::Kept(body) => {
                let envelope = self.envelope(body);
                self.stores[end].log.note(&envelope);
                self.stores[end].outbox.push(envelope.clone());
                return Some(envelope);
            }
            Content::Volatile(body) => self.submit(end, body),
            Content::Change(key) => {
                *self.stores[end].own.entry(key).or_default() += 1;
                self.tell(end, Some(key));
            }
        }
        None
    }

    fn decide(&mut self, end: usize, at: usize, verdict: Verdict) {
        let Some(live) = self.lives[end].get_mut(at) else { return };
        let Some(envelope) = live.undecided.pop_front() else { return };
        let txn = envelope.header.txn.clone();
        if matches!(verdict, Verdict::Refuse) {
            return self.on(end, at, Event::Refused { txn, retry_after: Duration::from_millis(300) });
        }
        self.late |= end == CLOUD && at + 1 < self.lives[CLOUD].len();
        // Only a cloud sorts by time: its Unit's statuses may come over two connections at once.
        let first = self.stores[end].take(&envelope, end == CLOUD);
        assert!(first || end == CLOUD, "the Unit's session alone tells repetitions");
        match verdict {
            Verdict::TakeAndCrash => self.restart(end),
            _ => self.on(end, at, Event::Accepted(txn)),
        }
    }

    fn restart(&mut self, end: usize) {
        if let Some(connection) = self.open {
            let own = move |frame: &crate::network::Frame| frame.connection == connection && frame.to == end;
            self.network.lose(own);
        }
        self.cut(end == UNIT);
        if end == CLOUD {
            self.network.lose(|frame| frame.to == CLOUD);
            self.lives[CLOUD].clear();
            return;
        }
        self.lives[UNIT] = vec![live(UNIT, &self.stores[UNIT], self.queue)];
        for envelope in self.stores[UNIT].outbox.clone() {
            self.on_unit(Event::keep(envelope));
        }
    }

    pub fn in_order(&self) -> bool {
        self.in_order
    }

    pub fn outstanding(&self, end: usize) -> usize {
        self.current(end).map_or(0, |at| self.lives[end][at].session.outstanding())
    }

    pub fn transmissions(&self) -> usize {
        self.network.transmissions
    }

    pub fn repeated(&self) -> usize {
        self.network.sent.values().filter(|copies| **copies > 1).count()
    }

    pub fn given_up(&self) -> usize {
        let log = |store: &Store| store.log.dropped.len() + store.log.parked.len();
        self.stores.iter().map(log).sum()
    }
}
