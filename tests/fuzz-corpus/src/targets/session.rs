//! A session driven by arbitrary events.

use std::time::{Duration, Instant};

use aos_cloud_protocol::{
    Alerts, Body, DesiredStatus, Direction, Envelope, MonitoringData, StartProvisioningRequest, UnitStatus,
    read,
};
use aos_cloud_session::{Action, Config, Event, Now, Session};
use aos_ids::Txn;
use jiff::Timestamp;

const QUEUE: usize = 8;
const QUEUE_BYTES: usize = 4096;
const UNDECIDED: usize = 4;
const REMEMBERED: usize = 8;

/// Two bytes make an event; those that carry a frame take what follows up to a line feed.
pub fn target_session(data: &[u8]) {
    let Some((first, data)) = data.split_first() else { return };
    let system = "unit-1".parse().unwrap();
    let config = if first & 1 == 0 { Config::unit(system) } else { Config::cloud(system) };
    let mut driver = Driver {
        session: Session::new(
            Config {
                queue_messages: QUEUE,
                queue_bytes: QUEUE_BYTES,
                undecided: UNDECIDED,
                remembered: REMEMBERED,
                ..config
            },
            [],
        ),
        now: Now { instant: Instant::now(), wall: Timestamp::UNIX_EPOCH },
        known: Vec::new(),
        delivered: Vec::new(),
        transmissions: 0,
    };
    let mut rest = data;
    while let [operation, argument, more @ ..] = rest {
        rest = driver.step(*operation, *argument, more);
    }
}

struct Driver {
    session: Session,
    now: Now,
    /// Transactions that the peer may name.
    known: Vec<Txn>,
    delivered: Vec<Txn>,
    transmissions: usize,
}

impl Driver {
    fn step<'a>(&mut self, operation: u8, argument: u8, more: &'a [u8]) -> &'a [u8] {
        let txn = |list: &[Txn]| list.get(usize::from(argument) % list.len().max(1)).cloned();
        match operation % 12 {
            0 => self.on(Event::connected(None)),
            1 => {
                let greeting = self.envelope(Body::UnitStatus(UnitStatus::default()));
                self.on(Event::connected(Some(greeting)));
            }
            2 => self.on(Event::Disconnected),
            3 => {
                let end = more.iter().position(|byte| *byte == b'\n').unwrap_or(more.len());
                self.on(Event::Frame(&more[..end]));
                return more.get(end + 1..).unwrap_or_default();
            }
            4 => self.on(Event::PeerAlive),
            5 => {
                let body = body(argument);
                let envelope = self.envelope(body);
                self.known.push(envelope.header.txn.clone());
                self.on(if argument < 128 { Event::send(envelope) } else { Event::keep(envelope) });
            }
            6 => {
                if let Some(txn) = txn(&self.known) {
                    self.on(Event::Withdraw(txn));
                }
            }
            7 | 8 => {
                if let Some(txn) = txn(&self.delivered) {
                    let retry_after = Duration::from_millis(u64::from(argument) * 10);
                    let accepted = operation % 12 == 7;
                    self.on(if accepted {
                        Event::Accepted(txn)
                    } else {
                        Event::Refused { txn, retry_after }
                    });
                }
            }
            9 => self.answer(txn(&self.known), None),
            10 => self.answer(txn(&self.known), Some(Duration::from_millis(u64::from(argument)))),
            _ => self.pass(Duration::from_millis(u64::from(argument) * u64::from(argument))),
        }
        more
    }

    /// The peer acknowledges, or refuses for a while.
    fn answer(&mut self, txn: Option<Txn>, pause: Option<Duration>) {
        let Some(txn) = txn else { return };
        let (system, wall) = ("unit-1".parse().unwrap(), self.now.wall);
        let reply = match pause {
            None => Envelope::ack(system, wall, &txn),
            Some(pause) => Envelope::nack(system, wall, &txn, pause),
        };
        let frame = aos_cloud_protocol::write(&reply).unwrap();
        self.on(Event::Frame(&frame));
    }

    fn envelope(&self, body: Body) -> Envelope {
        Envelope::new("unit-1".parse().unwrap(), self.now.wall, body)
    }

    fn on(&mut self, event: Event<'_>) {
        let actions = self.session.on(self.now, event);
        for action in actions {
            match action {
                Action::Transmit(bytes) => {
                    assert!(self.session.is_connected(), "transmits without connection");
                    self.transmissions += 1;
                    read(&bytes, Direction::Both).unwrap();
                }
                Action::Deliver(envelope) => {
                    assert!(self.delivered.len() < UNDECIDED + REMEMBERED + 4096);
                    self.delivered.push(envelope.header.txn);
                }
                Action::Rejected(what) => super::check_complaint(&what),
                _ => {}
            }
        }
        assert!(self.session.outstanding() <= QUEUE + 1, "the queue and a greeting");
        assert!(self.session.remembered().count() <= REMEMBERED);
        assert!(self.session.memory_bytes() < 64 * 1024, "{} bytes", self.session.memory_bytes());
    }

    fn pass(&mut self, time: Duration) {
        let end = self.now.instant + time;
        let before = self.transmissions;
        let mut ticks = 0;
        while let Some(due) = self.session.next_deadline().filter(|due| *due <= end) {
            self.now.instant = self.now.instant.max(due);
            self.on(Event::Tick);
            let after = self.session.next_deadline();
            assert!(after.is_none_or(|after| after > self.now.instant), "a due tick moves the deadline");
            ticks += 1;
            assert!(ticks < 2000, "spins");
        }
        self.now.instant = end;
        assert!(self.transmissions - before <= (QUEUE + 1) * 16, "repeats too often");
    }
}

fn body(number: u8) -> Body {
    let request = || StartProvisioningRequest {
        node: aos_cloud_protocol::AosIdentity::by_codename("n"),
        password: aos_cloud_protocol::Secret::default(),
    };
    match number % 6 {
        0 => Body::MonitoringData(MonitoringData::default()),
        1 => Body::Alerts(Alerts::default()),
        2 => Body::UnitStatus(UnitStatus { is_delta_info: true, ..UnitStatus::default() }),
        3 => Body::DesiredStatus(DesiredStatus::default()),
        4 => Body::StartProvisioningRequest(request()),
        _ => Body::UnitStatus(UnitStatus::default()),
    }
}
