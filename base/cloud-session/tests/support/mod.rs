//! One end of a link on a clock of our own, and messages to send.
#![allow(dead_code, reason = "each test file uses a part")]
#![allow(clippy::unwrap_used, reason = "tests")]

use std::time::{Duration, Instant};

use aos_cloud_protocol::*;
use aos_cloud_session::{Action, Config, DropReason, Event, Now, Session};
use aos_ids::{SystemId, Txn};
use bytes::Bytes;
use jiff::Timestamp;

/// A session and a clock.
pub struct End {
    pub session: Session,
    pub start: Instant,
    pub passed: Duration,
}

impl End {
    pub fn new(config: Config) -> Self {
        Self { session: Session::new(config, []), start: Instant::now(), passed: Duration::ZERO }
    }

    pub fn unit() -> Self {
        Self::new(Config::unit(system()))
    }

    pub fn cloud() -> Self {
        Self::new(Config::cloud(system()))
    }

    pub fn connected(mut self) -> Self {
        assert_eq!(self.on(Event::connected(None)), []);
        self
    }

    pub fn now(&self) -> Now {
        let wall = Timestamp::UNIX_EPOCH + jiff::SignedDuration::try_from(self.passed).unwrap();
        Now { instant: self.start + self.passed, wall }
    }

    pub fn on(&mut self, event: Event<'_>) -> Vec<Action> {
        let now = self.now();
        self.session.on(now, event)
    }

    pub fn receive(&mut self, envelope: &Envelope) -> Vec<Action> {
        let frame = write(envelope).unwrap();
        self.on(Event::Frame(&frame))
    }

    pub fn ack(&mut self, txn: &Txn) -> Vec<Action> {
        self.receive(&Envelope::ack(system(), Timestamp::UNIX_EPOCH, txn))
    }

    pub fn nack(&mut self, txn: &Txn, millis: u64) -> Vec<Action> {
        self.receive(&Envelope::nack(system(), Timestamp::UNIX_EPOCH, txn, Duration::from_millis(millis)))
    }

    /// Lets time pass; ticks only when due and checks that a tick before is idle. The peer stays alive.
    pub fn pass(&mut self, seconds: f64) -> Vec<(f64, Action)> {
        let end = self.passed + Duration::from_secs_f64(seconds);
        let mut seen = Vec::new();
        while let Some(due) = self.session.next_deadline().map(|at| at - self.start).filter(|due| *due <= end)
        {
            assert!(due > self.passed || due == Duration::ZERO, "deadline does not move on");
            self.passed = due.saturating_sub(Duration::from_nanos(1));
            assert_eq!(self.on(Event::Tick), [], "a tick before the deadline does nothing");
            self.passed = due;
            let actions = self.on(Event::Tick);
            seen.extend(actions.into_iter().map(|action| (self.passed.as_secs_f64(), action)));
        }
        self.passed = end;
        seen
    }

    /// As [`End::pass`], without pings, and with a sign of life every 20 s.
    pub fn pass_alive(&mut self, mut seconds: f64) -> Vec<(f64, Action)> {
        let mut seen = Vec::new();
        while seconds > 0.0 {
            seen.extend(self.pass(seconds.min(20.0)));
            seconds -= 20.0;
            assert_eq!(self.on(Event::PeerAlive), []);
        }
        seen.retain(|(_, action)| *action != Action::Ping);
        seen
    }
}

pub fn system() -> SystemId {
    "unit-1".parse().unwrap()
}

pub fn message(body: Body) -> Envelope {
    Envelope::new(system(), Timestamp::UNIX_EPOCH, body)
}

pub fn state_request() -> Envelope {
    message(Body::StateRequest(StateRequest {
        item: AosIdentity::by_id("i"),
        subject: AosIdentity::by_id("s"),
        instance: 0,
        default: false,
    }))
}

pub fn new_state(instance: u64) -> Envelope {
    message(Body::NewState(InstanceStateData {
        item: Some(AosIdentity::by_id("i")),
        subject: Some(AosIdentity::by_id("s")),
        instance,
        state_checksum: StateChecksum::from_bytes(&[0; 28]),
        state: String::new(),
    }))
}

pub fn alerts() -> Envelope {
    message(Body::Alerts(Alerts::default()))
}

pub fn monitoring() -> Envelope {
    message(Body::MonitoringData(MonitoringData::default()))
}

pub fn status(is_delta_info: bool) -> Envelope {
    message(Body::UnitStatus(UnitStatus { is_delta_info, ..UnitStatus::default() }))
}

pub fn desired() -> Envelope {
    message(Body::DesiredStatus(DesiredStatus::default()))
}

pub fn bytes(envelope: &Envelope) -> Bytes {
    write(envelope).unwrap().into()
}

pub fn transmits(envelope: &Envelope) -> Vec<Action> {
    vec![Action::Transmit(bytes(envelope))]
}

pub fn dropped(actions: &[Action]) -> Vec<(&Txn, DropReason)> {
    let dropped = actions.iter().filter_map(|action| match action {
        Action::Dropped(about, reason) => Some((&about.txn, *reason)),
        _ => None,
    });
    dropped.collect()
}

pub fn parked(actions: &[Action]) -> Vec<(&Txn, DropReason)> {
    let parked = actions.iter().filter_map(|action| match action {
        Action::Parked(about, reason) => Some((&about.txn, *reason)),
        _ => None,
    });
    parked.collect()
}

pub fn sent(actions: &[Action]) -> Vec<Envelope> {
    let sent = actions.iter().filter_map(|action| match action {
        Action::Transmit(bytes) => Some(read(bytes, Direction::Both).unwrap()),
        _ => None,
    });
    sent.collect()
}
