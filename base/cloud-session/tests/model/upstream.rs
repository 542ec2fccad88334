//! Our end against a peer that behaves as upstream's Unit does.
//!
//! It acknowledges before it works, does not recognise repetitions, and gives up after four tries, which run out
//! offline as well. A nack for a message that it does not wait for costs it a worker.

use std::collections::{BTreeMap, HashSet, VecDeque};
use std::time::{Duration, Instant};

use aos_cloud_protocol::*;
use aos_cloud_session::{Action, Class, Config, DropReason, Event, Now, Session};
use aos_ids::Txn;
use bytes::Bytes;
use jiff::{SignedDuration, Timestamp};
use proptest::prelude::*;

use crate::content::{self, Content};
use crate::network::{Fate, Network};
use crate::store::Store;
use crate::world::UNIT;

const WAIT: Duration = Duration::from_secs(10);
const PEER: usize = 1;
const OURS: usize = 0;

#[derive(Debug, Clone)]
pub enum Step {
    Send(u8),
    PeerSends(u8),
    Pass(u32),
    Cut,
    Connect,
    /// Our end crashes and starts again.
    Restart,
    Decide(bool),
}

pub fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        5 => any::<u8>().prop_map(Step::Send),
        5 => any::<u8>().prop_map(Step::PeerSends),
        6 => prop_oneof![0..300_u32, 0..20_000_u32].prop_map(Step::Pass),
        1 => Just(Step::Cut),
        2 => Just(Step::Connect),
        1 => Just(Step::Restart),
        6 => prop::bool::weighted(0.8).prop_map(Step::Decide),
    ]
}

/// A network like TCP: frames keep their order, arrive soon, or not at all.
pub fn fate() -> impl Strategy<Value = Fate> {
    prop_oneof![7 => (0..200_u32).prop_map(|delay| vec![delay]), 1 => Just(vec![])]
}

#[derive(Default)]
struct Peer {
    /// To be sent, not before that time.
    queue: VecDeque<(Duration, Envelope, u32)>,
    sent: BTreeMap<Txn, (Duration, Envelope, u32)>,
    /// Acknowledged by us.
    settled: HashSet<Txn>,
    store: Store,
    made: Vec<(Txn, MessageType)>,
    lost_workers: usize,
}

pub struct World {
    /// What our end is.
    ours: usize,
    session: Session,
    undecided: VecDeque<Envelope>,
    store: Store,
    peer: Peer,
    network: Network,
    start: Instant,
    passed: Duration,
    made: i64,
    connected: bool,
}

fn session(ours: usize, store: &Store) -> Session {
    let system = "unit-1".parse().unwrap();
    let config = if ours == UNIT { Config::unit(system) } else { Config::cloud(system) };
    Session::new(config, store.effects.iter().map(|(txn, _)| txn.clone()))
}

impl World {
    pub fn new(ours: usize, fates: Vec<Fate>) -> Self {
        let store = Store::default();
        Self {
            ours,
            session: session(ours, &store),
            undecided: VecDeque::new(),
            store,
            peer: Peer::default(),
            network: Network::new(fates, true),
            start: Instant::now(),
            passed: Duration::ZERO,
            made: 0,
            connected: false,
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

    fn on(&mut self, event: Event<'_>) {
        for action in self.session.on(self.now(), event) {
            self.act(action);
        }
    }

    fn act(&mut self, action: Action) {
        match action {
            Action::Transmit(bytes) => self.network.send(self.passed, PEER, 0, &bytes, self.connected),
            Action::Deliver(envelope) => {
                assert_eq!(self.store.effects_of(&envelope.header.txn), 0);
                self.undecided.push_back(*envelope);
            }
            Action::Acknowledged(about) => {
                assert!(self.peer.store.effects_of(&about.txn) >= 1, "acknowledged without effect");
                self.store.outbox.retain(|envelope| envelope.header.txn != about.txn);
                self.store.log.acknowledged.insert(about.txn);
            }
            Action::Parked(about, _) => {
                self.store.log.parked.insert(about.txn);
            }
            Action::Dropped(about, reason) => {
                self.store.outbox.retain(|envelope| envelope.header.txn != about.txn);
                if about.class == Class::Transient && about.kind == MessageType::UnitStatus {
                    self.tell(None);
                }
                self.store.log.dropped.insert(about.txn, reason);
            }
            Action::Reconnect => self.cut(),
            Action::Ping => self.on(Event::PeerAlive),
            Action::Rejected(what) => panic!("{what}"),
        }
    }

    fn cut(&mut self) {
        if std::mem::take(&mut self.connected) {
            self.network.lose(|_| true);
            self.on(Event::Disconnected);
        }
    }

    fn connect(&mut self) {
        if std::mem::replace(&mut self.connected, true) {
            return;
        }
        let body = content::status(self.ours, &self.store.own, None);
        let greeting = self.envelope(body);
        self.store.log.note(&greeting);
        self.on(Event::connected(Some(greeting)));
        if self.ours != UNIT {
            let body = content::status(UNIT, &self.peer.store.own, None);
            self.peer_queues(body);
        }
        self.peer_pumps();
    }

    fn tell(&mut self, key: Option<u8>) {
        let body = content::status(self.ours, &self.store.own, key);
        self.submit(body, false);
    }

    fn submit(&mut self, body: Body, keep: bool) {
        let envelope = self.envelope(body);
        self.store.log.note(&envelope);
        if keep {
            self.store.outbox.push(envelope.clone());
        }
        self.on(if keep { Event::keep(envelope) } else { Event::send(envelope) });
    }

    fn send(&mut self, number: u8) {
        match content::content(self.ours, number) {
            Content::Kept(body) => self.submit(body, true),
            Content::Volatile(body) => self.submit(body, false),
            Content::Change(key) => {
                *self.store.own.entry(key).or_default() += 1;
                self.tell(Some(key));
            }
        }
    }

    fn decide(&mut self, take: bool) {
        let Some(envelope) = self.undecided.pop_front() else { return };
        let txn = envelope.header.txn.clone();
        if take {
            assert!(self.store.take(&envelope, true));
            self.on(Event::Accepted(txn));
        } else {
            self.on(Event::Refused { txn, retry_after: Duration::from_millis(500) });
        }
    }

    fn restart(&mut self) {
        self.cut();
        self.undecided.clear();
        self.session = session(self.ours, &self.store);
        for envelope in self.store.outbox.clone() {
            self.on(Event::keep(envelope));
        }
    }

    fn peer_queues(&mut self, body: Body) {
        let envelope = self.envelope(body);
        self.peer.made.push((envelope.header.txn.clone(), envelope.body.message_type()));
        self.peer.queue.push_back((self.passed, envelope, 0));
    }

    fn peer_sends(&mut self, number: u8) {
        match content::content(1 - self.ours, number) {
            Content::Kept(body) | Content::Volatile(body) => self.peer_queues(body),
            Content::Change(key) => {
                *self.peer.store.own.entry(key).or_default() += 1;
                let body = content::status(1 - self.ours, &self.peer.store.own, Some(key));
                self.peer_queues(body);
            }
        }
        self.peer_pumps();
    }

    /// Sends what is queued.
    fn peer_pumps(&mut self) {
        while self.connected {
            let now = self.passed;
            let Some(at) = self.peer.queue.iter().position(|(due, ..)| *due <= now) else { return };
            let (_, envelope, tries) = self.peer.queue.remove(at).unwrap();
            let bytes = Bytes::from(write(&envelope).unwrap());
            self.network.send(now, OURS, 0, &bytes, true);
            self.peer.sent.insert(envelope.header.txn.clone(), (now + WAIT, envelope, tries + 1));
        }
    }

    /// Time-outs, in the order of transactions, offline as well.
    fn peer_ticks(&mut self) {
        let now = self.passed;
        let due: Vec<Txn> =
            self.peer.sent.iter().filter(|(_, (due, ..))| *due <= now).map(|(txn, _)| txn.clone()).collect();
        for txn in due {
            let (_, envelope, tries) = self.peer.sent.remove(&txn).unwrap();
            if tries < 4 {
                self.peer.queue.push_back((now, envelope, tries));
            }
        }
        self.peer_pumps();
    }

    fn peer_receives(&mut self, bytes: &Bytes) {
        let envelope = read(bytes, Direction::Both).unwrap();
        let txn = &envelope.header.txn;
        match &envelope.body {
            Body::Ack(_) => {
                self.peer.sent.remove(txn);
                self.peer.settled.insert(txn.clone());
            }
            Body::Nack(nack) => match self.peer.sent.remove(txn) {
                Some((_, message, tries)) => {
                    let later = (self.passed + nack.retry_after, message, tries - 1);
                    self.peer.queue.push_back(later);
                }
                None => self.peer.lost_workers += 1,
            },
            _ => {
                let ack = Envelope::ack("unit-1".parse().unwrap(), self.now().wall, txn);
                let bytes = Bytes::from(write(&ack).unwrap());
                self.network.send(self.passed, OURS, 0, &bytes, true);
                self.peer.store.received.remove(txn);
                self.peer.store.take(&envelope, false);
            }
        }
    }

    fn next_due(&self) -> Option<Duration> {
        let ours = self.session.next_deadline().map(|at| at.saturating_duration_since(self.start));
        let queued = self.peer.queue.iter().filter(|_| self.connected).map(|(due, ..)| *due);
        let peers = self.peer.sent.values().map(|(due, ..)| *due).chain(queued);
        ours.into_iter().chain(peers).chain(self.network.next_due()).min()
    }

    fn pass(&mut self, time: Duration, decide: bool) {
        let end = self.passed + time;
        while let Some(next) = self.next_due().filter(|next| *next <= end) {
            self.passed = self.passed.max(next);
            self.on(Event::Tick);
            self.peer_ticks();
            while let Some(frame) = self.network.take_due(self.passed) {
                if frame.to == OURS {
                    self.on(Event::Frame(&frame.bytes));
                } else {
                    self.peer_receives(&frame.bytes);
                }
                while decide && !self.undecided.is_empty() {
                    self.decide(true);
                }
            }
        }
        self.passed = end;
    }

    pub fn run(&mut self, steps: Vec<Step>) {
        for step in steps {
            match step {
                Step::Send(number) => self.send(number),
                Step::PeerSends(number) => self.peer_sends(number),
                Step::Pass(millis) => self.pass(Duration::from_millis(millis.into()), false),
                Step::Cut => self.cut(),
                Step::Connect => self.connect(),
                Step::Restart => self.restart(),
                Step::Decide(take) => self.decide(take),
            }
        }
    }

    pub fn heal(&mut self) {
        self.network.fates.clear();
        while !self.undecided.is_empty() {
            self.decide(true);
        }
        self.cut();
        self.connect();
        self.pass(Duration::from_mins(10), true);
    }

    pub fn check(&self) {
        assert_eq!(self.session.outstanding(), 0, "everything is settled");
        let peer = &self.peer;
        for (txn, kind, class) in &self.store.log.sent {
            let state = matches!(kind, MessageType::UnitStatus | MessageType::DesiredStatus);
            if *class == Class::Durable && !state {
                let effects = peer.store.effects_of(txn);
                let superseded = self.store.log.dropped.get(txn) == Some(&DropReason::Superseded);
                assert!(superseded || effects >= 1, "{kind} takes effect at least once");
                assert!(superseded || self.store.log.acknowledged.contains(txn));
            }
        }
        for (txn, kind) in &peer.made {
            let effects = self.store.effects_of(txn);
            assert!(effects <= 1, "{kind} takes effect twice");
            assert!(effects == 1 || !peer.settled.contains(txn), "{kind} is acknowledged without effect");
        }
        assert_eq!(peer.lost_workers, 0, "a nack came for what the peer did not wait for");
        assert_eq!(peer.store.told(), self.store.own, "the peer knows our state");
        if self.ours != UNIT {
            assert_eq!(self.store.told(), peer.store.own, "we know the peer's state");
        }
    }
}
