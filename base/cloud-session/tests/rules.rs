//! The rules of acknowledging and repeating, one by one, on a clock of our own.
#![allow(clippy::unwrap_used, clippy::panic, reason = "tests")]

use std::time::{Duration, Instant};

use aos_cloud_protocol::*;
use aos_cloud_session::{Action, Class, Config, DropReason, Event, Now, Rejection, Session};
use aos_ids::{SystemId, Txn};
use bytes::Bytes;
use jiff::Timestamp;

/// A session and a clock.
struct End {
    session: Session,
    start: Instant,
    passed: Duration,
}

impl End {
    fn new(config: Config) -> Self {
        Self { session: Session::new(config, []), start: Instant::now(), passed: Duration::ZERO }
    }

    fn unit() -> Self {
        Self::new(Config::unit(system()))
    }

    fn cloud() -> Self {
        Self::new(Config::cloud(system()))
    }

    fn connected(mut self) -> Self {
        assert_eq!(self.on(Event::connected(None)), []);
        self
    }

    fn now(&self) -> Now {
        let wall = Timestamp::UNIX_EPOCH + jiff::SignedDuration::try_from(self.passed).unwrap();
        Now { instant: self.start + self.passed, wall }
    }

    fn on(&mut self, event: Event<'_>) -> Vec<Action> {
        let now = self.now();
        self.session.on(now, event)
    }

    fn receive(&mut self, envelope: &Envelope) -> Vec<Action> {
        let frame = write(envelope).unwrap();
        self.on(Event::Frame(&frame))
    }

    fn ack(&mut self, txn: &Txn) -> Vec<Action> {
        self.receive(&Envelope::ack(system(), Timestamp::UNIX_EPOCH, txn))
    }

    fn nack(&mut self, txn: &Txn, millis: u64) -> Vec<Action> {
        self.receive(&Envelope::nack(system(), Timestamp::UNIX_EPOCH, txn, Duration::from_millis(millis)))
    }

    /// Lets time pass; ticks only when due and checks that a tick before is idle. The peer stays alive.
    fn pass(&mut self, seconds: f64) -> Vec<(f64, Action)> {
        let end = self.passed + Duration::from_secs_f64(seconds);
        let mut seen = Vec::new();
        while let Some(due) = self.session.next_deadline().map(|at| at - self.start).filter(|due| *due <= end)
        {
            assert!(due > self.passed || due == Duration::ZERO, "deadline does not move on");
            self.passed = due - Duration::from_nanos(1);
            assert_eq!(self.on(Event::Tick), [], "a tick before the deadline does nothing");
            self.passed = due;
            let actions = self.on(Event::Tick);
            seen.extend(actions.into_iter().map(|action| (self.passed.as_secs_f64(), action)));
        }
        self.passed = end;
        seen
    }

    /// As [`End::pass`], without pings, and with a sign of life every 20 s.
    fn pass_alive(&mut self, mut seconds: f64) -> Vec<(f64, Action)> {
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

fn system() -> SystemId {
    "unit-1".parse().unwrap()
}

fn message(body: Body) -> Envelope {
    Envelope::new(system(), Timestamp::UNIX_EPOCH, body)
}

fn state_request() -> Envelope {
    message(Body::StateRequest(StateRequest {
        item: AosIdentity::by_id("i"),
        subject: AosIdentity::by_id("s"),
        instance: 0,
        default: false,
    }))
}

fn alerts() -> Envelope {
    message(Body::Alerts(Alerts::default()))
}

fn monitoring() -> Envelope {
    message(Body::MonitoringData(MonitoringData::default()))
}

fn status(is_delta_info: bool) -> Envelope {
    message(Body::UnitStatus(UnitStatus { is_delta_info, ..UnitStatus::default() }))
}

fn desired() -> Envelope {
    message(Body::DesiredStatus(DesiredStatus::default()))
}

fn bytes(envelope: &Envelope) -> Bytes {
    write(envelope).unwrap().into()
}

fn transmits(envelope: &Envelope) -> Vec<Action> {
    vec![Action::Transmit(bytes(envelope))]
}

fn dropped(actions: &[Action]) -> Vec<(&Txn, DropReason)> {
    let dropped = actions.iter().filter_map(|action| match action {
        Action::Dropped(about, reason) => Some((&about.txn, *reason)),
        _ => None,
    });
    dropped.collect()
}

fn sent(actions: &[Action]) -> Vec<Envelope> {
    let sent = actions.iter().filter_map(|action| match action {
        Action::Transmit(bytes) => Some(read(bytes, Direction::Both).unwrap()),
        _ => None,
    });
    sent.collect()
}

/// PRO-26, PRO-27, DIS-03, D3: sent at 0, W, 2W, 3W, byte for byte the same; given up at 4W; the link stays.
#[test]
fn unacknowledged_message_is_repeated_three_times() {
    let mut unit = End::unit().connected();
    let request = state_request();
    assert_eq!(unit.on(Event::send(request.clone())), transmits(&request));
    let seen = unit.pass_alive(60.0);
    let times: Vec<_> = seen.iter().map(|(time, _)| *time).collect();
    assert_eq!(times, [10.0, 20.0, 30.0, 40.0]);
    for (_, action) in &seen[..3] {
        assert_eq!(action, &Action::Transmit(bytes(&request)));
    }
    assert!(
        matches!(&seen[3].1, Action::Dropped(about, DropReason::NoAck) if about.txn == request.header.txn)
    );
    assert_eq!(unit.session.outstanding(), 0);
    assert!(unit.session.is_connected());
}

/// PRO-27: the timeout is configurable.
#[test]
fn ack_timeout_is_configurable() {
    let mut unit =
        End::new(Config { ack_timeout: Duration::from_secs(2), ..Config::unit(system()) }).connected();
    unit.on(Event::send(state_request()));
    let times: Vec<_> = unit.pass_alive(20.0).into_iter().map(|(time, _)| time).collect();
    assert_eq!(times, [2.0, 4.0, 6.0, 8.0]);
}

/// PRO-21, PRO-23, DIS-01, D1: an ack is matched by the header, else by correlationId; unknown ones are ignored.
#[test]
fn acks_are_matched_in_both_forms() {
    for by_header in [true, false] {
        let mut unit = End::unit().connected();
        let request = state_request();
        unit.on(Event::send(request.clone()));
        let mut ack = message(Body::Ack(Ack {}));
        assert_eq!(unit.receive(&ack), [], "unknown");
        if by_header {
            ack.header.txn = request.header.txn.clone();
        } else {
            ack.correlation_id = Some(request.header.txn.to_string());
        }
        let actions = unit.receive(&ack);
        assert!(matches!(&actions[..], [Action::Acknowledged(about)] if about.txn == request.header.txn));
        assert_eq!(unit.receive(&ack), [], "second ack");
        assert_eq!(unit.pass_alive(60.0), []);
    }
}

/// PRO-22, PRO-119, DIS-04: every kind is acknowledged by its receiver, once accepted, in both directions.
#[test]
fn received_message_is_acknowledged_when_accepted() {
    for (mut end, envelope) in
        [(End::unit().connected(), desired()), (End::cloud().connected(), status(false))]
    {
        let txn = envelope.header.txn.clone();
        assert_eq!(end.receive(&envelope), [Action::Deliver(Box::new(envelope.clone()))]);
        assert_eq!(end.receive(&envelope), [], "repetition of an undecided message");
        let ack = Envelope::ack(system(), end.now().wall, &txn);
        assert_eq!(end.on(Event::Accepted(txn.clone())), transmits(&ack));
        assert_eq!(end.on(Event::Accepted(txn.clone())), [], "accepted twice");
        assert_eq!(end.receive(&envelope), transmits(&ack), "repetition of an accepted message");
        assert_eq!(end.session.remembered().collect::<Vec<_>>(), [&txn]);
    }
}

/// A restarted session that is given what the old one remembered knows repetitions.
#[test]
fn memory_survives_a_restart() {
    let mut unit = End::unit().connected();
    let envelope = desired();
    unit.receive(&envelope);
    unit.on(Event::Accepted(envelope.header.txn.clone()));
    let remembered: Vec<Txn> = unit.session.remembered().cloned().collect();
    unit.session = Session::new(Config::unit(system()), remembered);
    unit.on(Event::connected(None));
    assert_eq!(sent(&unit.receive(&envelope)).len(), 1);
}

/// Only the last 1024 are remembered.
#[test]
fn memory_is_bounded() {
    let mut unit = End::unit().connected();
    let first = desired();
    unit.receive(&first);
    unit.on(Event::Accepted(first.header.txn.clone()));
    for _ in 0..1024 {
        let next = desired();
        unit.receive(&next);
        unit.on(Event::Accepted(next.header.txn));
    }
    assert_eq!(unit.session.remembered().count(), 1024);
    assert!(matches!(unit.receive(&first)[..], [Action::Deliver(_)]));
}

/// PRO-24, PRO-25: a nacked message is sent again after the pause, and the pause does not cost a try.
#[test]
fn nack_repeats_after_its_pause() {
    let mut unit = End::unit().connected();
    let request = state_request();
    let txn = request.header.txn.clone();
    unit.on(Event::send(request.clone()));
    assert_eq!(unit.nack(&txn, 1500), []);
    assert_eq!(unit.nack(&txn, 1500), [], "one nack per copy counts");
    assert_eq!(unit.pass(2.0), [(1.5, Action::Transmit(bytes(&request)))]);
    let seen = unit.pass_alive(60.0);
    assert_eq!(seen.iter().map(|(time, _)| *time).collect::<Vec<_>>(), [11.5, 21.5, 31.5, 41.5]);
}

/// Endless nacks end: after ten each one counts as a try. Impatient nacks do not make us spin.
#[test]
fn nacks_are_not_endless() {
    let mut unit = End::unit().connected();
    let request = state_request();
    let mut actions = unit.on(Event::send(request.clone()));
    let mut copies = 0;
    while dropped(&actions).is_empty() {
        copies += sent(&actions).len();
        assert!(copies <= 14);
        assert_eq!(unit.session.outstanding(), 1);
        actions = unit.nack(&request.header.txn, 0);
        if dropped(&actions).is_empty() {
            assert_eq!(unit.pass(0.099), []);
            actions = unit.pass(0.001).into_iter().map(|(_, action)| action).collect();
        }
    }
    assert_eq!(copies, 14, "ten free ones, then the four tries");
    assert_eq!(dropped(&actions), [(&request.header.txn, DropReason::Nacked)]);
}

/// DIS-05, D2: a cloud tolerates a nack and sends one only for what is passing; a Unit never sends one.
#[test]
fn only_a_cloud_nacks() {
    let refuse = |txn: &Txn| Event::Refused { txn: txn.clone(), retry_after: Duration::from_secs(2) };
    let mut cloud = End::cloud().connected();
    let envelope = state_request();
    cloud.receive(&envelope);
    let replies = sent(&cloud.on(refuse(&envelope.header.txn)));
    let pause = Body::Nack(Nack { retry_after: Duration::from_secs(2) });
    assert_eq!((&replies[0].body, &replies[0].header.txn), (&pause, &envelope.header.txn));
    assert_eq!(cloud.on(refuse(&envelope.header.txn)), [], "at most one nack per copy");
    assert!(matches!(cloud.receive(&envelope)[..], [Action::Deliver(_)]), "its repetition is new");

    let mut unit = End::unit().connected();
    let envelope = desired();
    unit.receive(&envelope);
    assert_eq!(unit.on(refuse(&envelope.header.txn)), []);
    assert!(matches!(unit.receive(&envelope)[..], [Action::Deliver(_)]));

    let own = desired();
    cloud.on(Event::send(own.clone()));
    cloud.nack(&own.header.txn, 1000);
    assert_eq!(cloud.pass(1.0).len(), 1);
}

/// Tries are not counted while offline, and nothing at all happens then.
#[test]
fn offline_time_costs_no_try() {
    let mut unit = End::unit().connected();
    let request = state_request();
    unit.on(Event::send(request.clone()));
    unit.pass_alive(25.0);
    for _ in 0..20 {
        unit.on(Event::Disconnected);
        assert_eq!(unit.session.next_deadline(), None);
        unit.passed += Duration::from_hours(1);
        assert_eq!(unit.on(Event::Tick), []);
        assert_eq!(unit.on(Event::connected(None)), transmits(&request));
    }
    let left: Vec<_> = unit.pass_alive(60.0).into_iter().map(|(_, action)| action).collect();
    assert_eq!(left.len(), 2, "one try and the end were left");
    assert_eq!(dropped(&left).len(), 1);
}

/// PRO-30, PRO-32: the greeting is the first frame of a connection and replaces what it covers.
#[test]
fn greeting_goes_first() {
    let mut unit = End::unit();
    let (old, delta, request) = (status(false), status(true), state_request());
    for envelope in [&old, &delta, &request] {
        assert_eq!(unit.on(Event::send(envelope.clone())), []);
    }
    let greeting = status(false);
    let actions = unit.on(Event::connected(Some(greeting.clone())));
    let superseded = [(&old.header.txn, DropReason::Superseded), (&delta.header.txn, DropReason::Superseded)];
    assert_eq!(dropped(&actions), superseded);
    assert_eq!(sent(&actions), [greeting, request]);
}

/// A greeting finds room in a full queue.
#[test]
fn greeting_is_never_refused() {
    let mut unit = End::new(Config { queue_messages: 2, ..Config::unit(system()) });
    unit.on(Event::send(state_request()));
    unit.on(Event::send(state_request()));
    let greeting = status(false);
    let actions = unit.on(Event::connected(Some(greeting.clone())));
    assert_eq!(dropped(&actions), []);
    assert_eq!(sent(&actions)[0], greeting);
}

/// Messages of a kind whose order matters are in flight one at a time, others share the window.
#[test]
fn order_within_a_kind() {
    let mut unit = End::unit().connected();
    let requests = [state_request(), state_request(), state_request()];
    assert_eq!(unit.on(Event::send(requests[0].clone())), transmits(&requests[0]));
    assert_eq!(unit.on(Event::send(requests[1].clone())), []);
    assert_eq!(unit.on(Event::send(requests[2].clone())), []);
    let alert = alerts();
    assert_eq!(unit.on(Event::send(alert.clone())), transmits(&alert));
    assert_eq!(sent(&unit.ack(&requests[0].header.txn)), [requests[1].clone()]);
    unit.nack(&requests[1].header.txn, 1000);
    assert_eq!(unit.pass(1.0), [(1.0, Action::Transmit(bytes(&requests[1])))], "a paused one holds the rest");
    assert_eq!(sent(&unit.ack(&requests[1].header.txn)), [requests[2].clone()]);
}

/// At most 32 are in flight.
#[test]
fn window_is_bounded() {
    let mut unit = End::unit().connected();
    let many: Vec<_> = (0..50).map(|_| alerts()).collect();
    let sent_now: usize = many.iter().map(|alert| sent(&unit.on(Event::send(alert.clone()))).len()).sum();
    assert_eq!(sent_now, 32);
    assert_eq!(sent(&unit.ack(&many[3].header.txn)), [many[32].clone()]);
}

/// The queue is bounded: monitoring gives way first, then alerts, durable messages only by being refused.
#[test]
fn overflow_takes_the_cheapest_first() {
    let mut unit = End::new(Config { queue_messages: 3, ..Config::unit(system()) });
    let (sample, alert, request) = (monitoring(), alerts(), state_request());
    for envelope in [&alert, &sample, &request] {
        assert_eq!(unit.on(Event::send(envelope.clone())), []);
    }
    let newer = monitoring();
    assert_eq!(dropped(&unit.on(Event::send(newer.clone()))), [(&sample.header.txn, DropReason::QueueFull)]);
    let second = state_request();
    assert_eq!(dropped(&unit.on(Event::send(second.clone()))), [(&newer.header.txn, DropReason::QueueFull)]);
    let late = monitoring();
    assert_eq!(dropped(&unit.on(Event::send(late.clone()))), [(&late.header.txn, DropReason::QueueFull)]);
    let third = state_request();
    assert_eq!(dropped(&unit.on(Event::send(third))), [(&alert.header.txn, DropReason::QueueFull)]);
    let fourth = state_request();
    assert_eq!(dropped(&unit.on(Event::send(fourth.clone()))), [(&fourth.header.txn, DropReason::QueueFull)]);
    assert_eq!(unit.session.outstanding(), 3);
}

/// The bytes of the queue are bounded too.
#[test]
fn queue_is_bounded_in_bytes() {
    let mut unit = End::new(Config { queue_bytes: 1, ..Config::unit(system()) });
    assert_eq!(unit.on(Event::send(alerts())), [], "a single message always has room");
    let request = state_request();
    assert_eq!(dropped(&unit.on(Event::send(request))).len(), 1);
    assert_eq!(dropped(&unit.on(Event::send(alerts())))[0].1, DropReason::QueueFull);
    assert_eq!(unit.session.outstanding(), 1);
}

/// A new desired status replaces the one before, also one in flight.
#[test]
fn newer_desired_status_replaces_the_older() {
    let mut cloud = End::cloud().connected();
    let (first, second) = (desired(), desired());
    cloud.on(Event::send(first.clone()));
    let actions = cloud.on(Event::send(second.clone()));
    assert_eq!(dropped(&actions), [(&first.header.txn, DropReason::Superseded)]);
    assert_eq!(sent(&actions), [second]);
    assert_eq!(cloud.ack(&first.header.txn), [], "its ack comes too late to matter");
    // Handing over the content of an outbox once more changes nothing.
    let third = desired();
    cloud.on(Event::send(third.clone()));
    assert_eq!(cloud.on(Event::send(third)), []);
}

/// Requests that make keys are not repeated on the same connection.
#[test]
fn provisioning_is_not_repeated_on_a_connection() {
    let mut cloud = End::cloud().connected();
    let node = AosIdentity::by_codename("n");
    let request = message(Body::StartProvisioningRequest(StartProvisioningRequest {
        node,
        password: Secret::default(),
    }));
    assert_eq!(sent(&cloud.on(Event::send(request.clone()))).len(), 1);
    assert_eq!(cloud.pass_alive(35.0), []);
    cloud.on(Event::Disconnected);
    assert_eq!(cloud.on(Event::connected(None)), transmits(&request));
    assert!(matches!(cloud.pass_alive(20.0)[..], [(_, Action::Dropped(_, DropReason::NoAck))]));
}

/// PRO-31: pings every 30 s; a peer of which nothing is heard for 90 s is dead, once.
#[test]
fn dead_peer_is_noticed() {
    let mut unit = End::unit().connected();
    let seen = unit.pass(300.0);
    let expected = [(30.0, Action::Ping), (60.0, Action::Ping), (90.0, Action::Reconnect)];
    assert_eq!(seen, expected);
    assert_eq!(unit.session.next_deadline(), None);
    assert_eq!(unit.on(Event::send(state_request())), [], "nothing is sent to a dead peer");
    unit.on(Event::Disconnected);
    assert_eq!(sent(&unit.on(Event::connected(None))).len(), 1);

    let mut unit = End::unit().connected();
    for _ in 0..30 {
        let seen = unit.pass(80.0);
        assert!(seen.iter().all(|(_, action)| *action == Action::Ping), "{seen:?}");
        unit.on(Event::PeerAlive);
    }
}

/// Invalid messages are acknowledged and reported once, unreadable ones dropped, foreign ones told apart
/// (PRO-16, PRO-17, PRO-20, DIS-06, DIS-07).
#[test]
fn bad_frames_are_sorted() {
    let mut unit = End::unit().connected();
    assert!(matches!(unit.on(Event::Frame(b"{"))[..], [Action::Rejected(Rejection::Unreadable(_))]));
    let header = r#"{"version":7,"systemId":"unit-1","txn":"t"}"#;
    let invalid = format!(r#"{{"header":{header},"data":{{"messageType":"launchRocket"}}}}"#);
    let actions = unit.on(Event::Frame(invalid.as_bytes()));
    assert_eq!(sent(&actions)[0].body, Body::Ack(Ack {}));
    assert!(
        matches!(&actions[1], Action::Rejected(Rejection::Invalid(invalid)) if invalid.header.txn.as_str() == "t")
    );
    assert_eq!(unit.on(Event::Frame(invalid.as_bytes())).len(), 1, "a repetition is acknowledged only");

    let mut wrong_way = status(false);
    assert!(matches!(
        unit.receive(&wrong_way)[..],
        [Action::Transmit(_), Action::Rejected(Rejection::Invalid(_))]
    ));
    wrong_way.header.system_id = "unit-2".parse().unwrap();
    let other = unit.receive(&wrong_way);
    assert!(
        matches!(&other[..], [Action::Rejected(Rejection::ForeignSystemId { found })] if found.as_str() == "unit-2")
    );
    assert!(matches!(unit.receive(&state_request())[..], [Action::Deliver(_)]), "D15");
    let mut foreign_ack =
        Envelope::ack("unit-2".parse().unwrap(), Timestamp::UNIX_EPOCH, &"x".parse().unwrap());
    foreign_ack.correlation_id = None;
    assert!(matches!(unit.receive(&foreign_ack)[..], [Action::Rejected(_)]));
}

/// Too many messages being processed: more are turned away, by a cloud with a nack.
#[test]
fn undecided_messages_are_bounded() {
    for (mut end, replies) in [(End::unit().connected(), 0), (End::cloud().connected(), 1)] {
        let request = || if replies == 0 { desired() } else { alerts() };
        for _ in 0..256 {
            assert!(matches!(end.receive(&request())[..], [Action::Deliver(_)]));
        }
        let actions = end.receive(&request());
        assert_eq!(sent(&actions).len(), replies);
        assert!(matches!(actions.last(), Some(Action::Rejected(Rejection::Overload { .. }))));
    }
}

/// Replies cannot be queued, frames outside a connection mean nothing.
#[test]
fn misuse_is_harmless() {
    let mut unit = End::unit();
    let ack = Envelope::ack(system(), Timestamp::UNIX_EPOCH, &"x".parse().unwrap());
    let send = Event::Send { envelope: Box::new(ack), class: Class::Durable };
    assert_eq!(dropped(&unit.on(send))[0].1, DropReason::Unwritable);
    assert_eq!(unit.receive(&desired()), []);
    assert_eq!(unit.on(Event::Accepted("x".parse().unwrap())), []);
    assert_eq!(unit.on(Event::Disconnected), []);
}
