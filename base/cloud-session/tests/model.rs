//! Two sessions over a network that loses, delays, repeats and reorders frames and cuts connections, with
//! ends that crash and restart from what they kept.
//!
//! Each end is the smallest honest shell: what it sends is in an outbox until acknowledged or given up, the
//! effect of a message and its transaction are kept together. Whatever happens: no effect twice, no
//! acknowledgement without effect, order within a kind, and once the network heals everything is settled.
#![allow(clippy::unwrap_used, clippy::panic, reason = "tests")]

use std::collections::{HashMap, HashSet, VecDeque};
use std::time::{Duration, Instant};

use aos_cloud_protocol::*;
use aos_cloud_session::{Action, Config, DropReason, Event, Now, Session};
use aos_ids::{SystemId, Txn};
use bytes::Bytes;
use jiff::{SignedDuration, Timestamp};
use proptest::prelude::*;

const UNIT: usize = 0;
const CLOUD: usize = 1;

#[derive(Debug, Clone)]
enum Step {
    /// An end sends a message; the number chooses its kind.
    Send(usize, u8),
    /// Milliseconds pass.
    Pass(u32),
    Cut,
    Connect,
    /// An end crashes and starts again.
    Restart(usize),
    /// An end decides over its oldest undecided message: takes or refuses it.
    Decide(usize, bool),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => (0..2_usize, any::<u8>()).prop_map(|(end, kind)| Step::Send(end, kind)),
        6 => prop_oneof![0..300_u32, 0..20_000_u32].prop_map(Step::Pass),
        1 => Just(Step::Cut),
        2 => Just(Step::Connect),
        1 => (0..2_usize).prop_map(Step::Restart),
        6 => (0..2_usize, prop::bool::weighted(0.9)).prop_map(|(end, take)| Step::Decide(end, take)),
    ]
}

/// What the network does to a frame: copies (0 is lost) and the delay of each in milliseconds.
type Fate = Vec<u32>;

fn fate() -> impl Strategy<Value = Fate> {
    prop_oneof![
        6 => (0..200_u32).prop_map(|delay| vec![delay]),
        2 => Just(vec![]),
        1 => (0..15_000_u32).prop_map(|delay| vec![delay]),
        1 => prop::collection::vec(0..12_000_u32, 2..4),
    ]
}

struct End {
    session: Session,
    /// Sent and neither acknowledged nor given up, in order; survives a crash.
    outbox: Vec<Envelope>,
    /// Messages that took effect, in order; survive a crash.
    effects: Vec<(Txn, MessageType)>,
    undecided: VecDeque<Txn>,
    /// Kinds of what was delivered.
    kinds: HashMap<Txn, MessageType>,
    sent: Vec<(Txn, MessageType)>,
    acknowledged: HashSet<Txn>,
    dropped: HashMap<Txn, DropReason>,
}

struct World {
    ends: [End; 2],
    start: Instant,
    passed: Duration,
    connected: bool,
    fates: Vec<Fate>,
    frames: usize,
    /// Due time, number, receiver, bytes.
    wire: Vec<(Duration, usize, usize, Bytes)>,
    transmissions: HashMap<Bytes, usize>,
}

fn config(end: usize) -> Config {
    let system: SystemId = "unit-1".parse().unwrap();
    if end == UNIT { Config::unit(system) } else { Config::cloud(system) }
}

impl World {
    fn new(fates: Vec<Fate>) -> Self {
        let end = |end| End {
            session: Session::new(config(end), []),
            outbox: Vec::new(),
            effects: Vec::new(),
            undecided: VecDeque::new(),
            kinds: HashMap::new(),
            sent: Vec::new(),
            acknowledged: HashSet::new(),
            dropped: HashMap::new(),
        };
        Self {
            ends: [end(UNIT), end(CLOUD)],
            start: Instant::now(),
            passed: Duration::ZERO,
            connected: false,
            fates,
            frames: 0,
            wire: Vec::new(),
            transmissions: HashMap::new(),
        }
    }

    fn now(&self) -> Now {
        let wall = Timestamp::UNIX_EPOCH + SignedDuration::try_from(self.passed).unwrap();
        Now { instant: self.start + self.passed, wall }
    }

    fn on(&mut self, end: usize, event: Event<'_>) {
        let actions = self.ends[end].session.on(self.now(), event);
        for action in actions {
            self.act(end, action);
        }
    }

    fn act(&mut self, end: usize, action: Action) {
        let me = &mut self.ends[end];
        match action {
            Action::Transmit(bytes) => {
                assert!(self.connected, "transmits only while connected");
                *self.transmissions.entry(bytes.clone()).or_default() += 1;
                let fate = if self.fates.is_empty() {
                    vec![10]
                } else {
                    self.fates[self.frames % self.fates.len()].clone()
                };
                for delay in fate {
                    self.frames += 1;
                    let due = self.passed + Duration::from_millis(delay.into());
                    self.wire.push((due, self.frames, 1 - end, bytes.clone()));
                }
                self.frames += 1;
            }
            Action::Deliver(envelope) => {
                let txn = envelope.header.txn.clone();
                assert!(!me.undecided.contains(&txn), "delivered again while undecided");
                assert!(me.effects.iter().all(|(done, _)| *done != txn), "delivered again after its effect");
                me.kinds.insert(txn.clone(), envelope.body.message_type());
                me.undecided.push_back(txn);
            }
            Action::Acknowledged(about) => {
                me.outbox.retain(|envelope| envelope.header.txn != about.txn);
                me.acknowledged.insert(about.txn.clone());
                let effects = &self.ends[1 - end].effects;
                assert!(effects.iter().any(|(txn, _)| *txn == about.txn), "acknowledged without effect");
            }
            Action::Dropped(about, reason) => {
                me.outbox.retain(|envelope| envelope.header.txn != about.txn);
                me.dropped.insert(about.txn, reason);
            }
            Action::Reconnect => self.cut(),
            Action::Ping => {
                if self.connected {
                    self.on(end, Event::PeerAlive);
                    self.on(1 - end, Event::PeerAlive);
                }
            }
            Action::Rejected(what) => panic!("{what}"),
        }
    }

    fn cut(&mut self) {
        if std::mem::take(&mut self.connected) {
            self.wire.clear();
            self.on(UNIT, Event::Disconnected);
            self.on(CLOUD, Event::Disconnected);
        }
    }

    fn connect(&mut self) {
        if !std::mem::replace(&mut self.connected, true) {
            self.on(CLOUD, Event::connected(None));
            self.on(UNIT, Event::connected(None));
        }
    }

    fn send(&mut self, end: usize, kind: u8) {
        let now = self.now().wall;
        let envelope = Envelope::new("unit-1".parse().unwrap(), now, content(end, kind));
        let me = &mut self.ends[end];
        me.outbox.push(envelope.clone());
        me.sent.push((envelope.header.txn.clone(), envelope.body.message_type()));
        self.on(end, Event::send(envelope));
    }

    fn decide(&mut self, end: usize, take: bool) {
        let me = &mut self.ends[end];
        let Some(txn) = me.undecided.pop_front() else { return };
        if take {
            let kind = me.kinds[&txn];
            me.effects.push((txn.clone(), kind));
            self.on(end, Event::Accepted(txn));
        } else {
            self.on(end, Event::Refused { txn, retry_after: Duration::from_millis(300) });
        }
    }

    fn restart(&mut self, end: usize) {
        self.cut();
        let me = &mut self.ends[end];
        me.undecided.clear();
        let remembered = me.effects.iter().map(|(txn, _)| txn.clone());
        me.session = Session::new(config(end), remembered);
        for envelope in me.outbox.clone() {
            self.on(end, Event::send(envelope));
        }
    }

    fn pass(&mut self, time: Duration, decide: bool) {
        let end_time = self.passed + time;
        let mut ticks = 0;
        loop {
            let frame = self.wire.iter().map(|(due, number, _, _)| (*due, *number)).min();
            let deadline = |end: usize| {
                self.ends[end].session.next_deadline().map(|at| at.saturating_duration_since(self.start))
            };
            let tick = [UNIT, CLOUD].into_iter().filter_map(|end| deadline(end).map(|at| (at, end))).min();
            let next = frame.map(|(due, _)| due).into_iter().chain(tick.map(|(at, _)| at)).min();
            let Some(next) = next.filter(|next| *next <= end_time) else { break };
            // Nothing happens before its time.
            if next > self.passed + Duration::from_nanos(1) {
                self.passed = next.saturating_sub(Duration::from_nanos(1));
                for end in [UNIT, CLOUD] {
                    assert_eq!(self.ends[end].session.on(self.now(), Event::Tick), []);
                }
            }
            self.passed = self.passed.max(next);
            match (frame, tick) {
                (Some((due, number)), _) if due <= next => {
                    let at = self.wire.iter().position(|(_, other, _, _)| *other == number).unwrap();
                    let (_, _, end, bytes) = self.wire.swap_remove(at);
                    self.on(end, Event::Frame(&bytes));
                    if decide {
                        self.decide(end, true);
                    }
                }
                (_, Some((_, end))) => {
                    self.on(end, Event::Tick);
                    let after = self.ends[end].session.next_deadline();
                    assert!(
                        after.is_none_or(|after| after > self.now().instant),
                        "a due tick moves the deadline"
                    );
                    ticks += 1;
                    assert!(ticks < 10_000, "spins");
                }
                _ => break,
            }
        }
        self.passed = end_time;
    }

    fn run(&mut self, steps: Vec<Step>) {
        for step in steps {
            match step {
                Step::Send(end, kind) => self.send(end, kind),
                Step::Pass(millis) => self.pass(Duration::from_millis(millis.into()), false),
                Step::Cut => self.cut(),
                Step::Connect => self.connect(),
                Step::Restart(end) => self.restart(end),
                Step::Decide(end, take) => self.decide(end, take),
            }
        }
    }

    /// The network becomes perfect and both ends take everything.
    fn heal(&mut self) {
        self.fates.clear();
        self.cut();
        for end in [UNIT, CLOUD] {
            while !self.ends[end].undecided.is_empty() {
                self.decide(end, true);
            }
        }
        for _ in 0..40 {
            self.connect();
            self.pass(Duration::from_mins(1), true);
        }
    }

    fn check(&self) {
        for (end, me) in self.ends.iter().enumerate() {
            let peer = &self.ends[1 - end];
            assert_eq!(me.session.outstanding(), 0, "everything is settled");
            let mut counts: HashMap<&Txn, usize> = HashMap::new();
            for (txn, _) in &peer.effects {
                *counts.entry(txn).or_default() += 1;
            }
            for (txn, kind) in &me.sent {
                let effects = counts.get(txn).copied().unwrap_or_default();
                match me.dropped.get(txn) {
                    None => {
                        assert!(me.acknowledged.contains(txn));
                        assert_eq!(effects, 1, "{kind} takes effect exactly once");
                    }
                    Some(_) => assert!(effects <= 1, "{kind} takes effect at most once"),
                }
            }
            for kind in [MessageType::NewState, MessageType::UpdateState, MessageType::StateRequest] {
                let settled = |list: &[(Txn, MessageType)]| -> Vec<Txn> {
                    let of_kind =
                        list.iter().filter(|(txn, of)| *of == kind && !me.dropped.contains_key(txn));
                    of_kind.map(|(txn, _)| txn.clone()).collect()
                };
                assert_eq!(settled(&me.sent), settled(&peer.effects), "{kind} keeps its order");
            }
        }
    }
}

fn content(end: usize, kind: u8) -> Body {
    let state = InstanceStateData {
        item: None,
        subject: None,
        instance: 0,
        state_checksum: StateChecksum::from_bytes(&[kind; 28]),
        state: String::new(),
    };
    let node = AosIdentity::by_codename("n");
    match (end, kind % 6) {
        (UNIT, 0 | 1) => Body::NewState(state),
        (UNIT, 2) => Body::Alerts(Alerts::default()),
        (UNIT, 3) => Body::MonitoringData(MonitoringData::default()),
        (UNIT, 4) => Body::UnitStatus(UnitStatus { is_delta_info: kind < 128, ..UnitStatus::default() }),
        (UNIT, _) => {
            let identity = AosIdentity::by_id("x");
            Body::StateRequest(StateRequest {
                item: identity.clone(),
                subject: identity,
                instance: 0,
                default: false,
            })
        }
        (_, 0..=2) => Body::UpdateState(state),
        (_, 3) => Body::DesiredStatus(DesiredStatus::default()),
        (_, 4) => Body::BlobUrls(BlobUrls::default()),
        _ => Body::StartProvisioningRequest(StartProvisioningRequest { node, password: Secret::default() }),
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    /// PRO-19, PRO-22, PRO-26: exactly once, in order, settled, without spinning.
    #[test]
    fn effect_exactly_once(
        steps in prop::collection::vec(step(), 1..120),
        fates in prop::collection::vec(fate(), 1..40),
    ) {
        let mut world = World::new(fates);
        world.run(steps);
        world.heal();
        world.check();
    }

    /// On a perfect network every message is sent exactly once and nothing is given up.
    #[test]
    fn perfect_network_needs_no_repetition(kinds in prop::collection::vec((0..2_usize, any::<u8>()), 1..60)) {
        let mut world = World::new(Vec::new());
        world.connect();
        for (end, kind) in kinds {
            world.send(end, kind);
            world.pass(Duration::from_millis(40), true);
        }
        world.pass(Duration::from_secs(5), true);
        world.check();
        prop_assert!(world.transmissions.values().all(|count| *count == 1));
        let dropped = world.ends.iter().map(|end| end.dropped.len()).sum::<usize>();
        prop_assert_eq!(dropped, 0);
    }

    /// A peer that answers nothing costs a bounded number of frames.
    #[test]
    fn silent_peer_costs_four_frames_a_message(count in 1..40_usize) {
        let mut world = World::new(vec![vec![]]);
        world.connect();
        for _ in 0..count {
            world.send(UNIT, 2);
        }
        world.pass(Duration::from_hours(1), false);
        prop_assert!(world.transmissions.values().all(|copies| *copies == 4));
        prop_assert_eq!(world.transmissions.len(), count);
        prop_assert_eq!(world.ends[UNIT].dropped.len(), count);
    }
}
