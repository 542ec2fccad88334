//! The rules of receiving and acknowledging, and of noticing a dead peer.
#![allow(clippy::unwrap_used, clippy::panic, reason = "tests")]

mod support;

use std::time::Duration;

use aos_cloud_protocol::*;
use aos_cloud_session::*;
use aos_ids::Txn;
use jiff::Timestamp;
use support::*;

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
        assert_eq!(end.session.remembered().collect::<Vec<_>>(), [txn]);
    }
}

/// A restarted session that is given what the old one remembered knows repetitions.
#[test]
fn memory_survives_a_restart() {
    let mut unit = End::unit().connected();
    let envelope = desired();
    unit.receive(&envelope);
    unit.on(Event::Accepted(envelope.header.txn.clone()));
    let remembered: Vec<Txn> = unit.session.remembered().collect();
    unit.session = Session::new(Config::unit(system()), remembered);
    unit.on(Event::connected(None));
    assert_eq!(sent(&unit.receive(&envelope)).len(), 1);
}

/// PRO-22: the last 1024 are recognised, and the one before them is taken for new: delivered again.
#[test]
fn memory_is_bounded() {
    let mut unit = End::unit().connected();
    let all: Vec<Envelope> = (0..=REMEMBERED).map(|_| desired()).collect();
    for envelope in &all {
        assert!(matches!(unit.receive(envelope)[..], [Action::Deliver(_)]));
        assert_eq!(unit.on(Event::Accepted(envelope.header.txn.clone())).len(), 1);
    }
    assert_eq!(unit.session.remembered().count(), 1024);
    for envelope in &all[1..] {
        let ack = Envelope::ack(system(), unit.now().wall, &envelope.header.txn);
        assert_eq!(unit.receive(envelope), transmits(&ack), "recognised, up to the 1024th");
    }
    assert!(matches!(unit.receive(&all[0])[..], [Action::Deliver(_)]), "the 1025th is forgotten");
}

/// What a session costs that a cloud holds ten thousand times, after a status and a desired status went over.
#[test]
fn idle_session_is_small() {
    let mut cloud = End::cloud().connected();
    let fresh = cloud.session.memory_bytes();
    let greeting = status(false);
    cloud.receive(&greeting);
    cloud.on(Event::Accepted(greeting.header.txn));
    let target = desired();
    cloud.on(Event::send(target.clone()));
    assert!(cloud.session.memory_bytes() > fresh + bytes(&target).len(), "what is queued counts");
    cloud.ack(&target.header.txn);
    let idle = cloud.session.memory_bytes();
    println!("fresh {fresh}, idle {idle}");
    assert!(idle <= fresh + 4 * 16 && idle < 640, "{idle} bytes, fresh {fresh}");
    for _ in 0..2000 {
        let sample = alerts();
        cloud.receive(&sample);
        cloud.on(Event::Accepted(sample.header.txn));
    }
    let full = cloud.session.memory_bytes();
    println!("with all transactions {full}");
    assert!(full <= fresh + 1024 * 16 && full < 18 * 1024, "{full} bytes");
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
    // A Unit that has given up waiting must not be told: upstream's loses a worker to it.
    cloud.pass(5.1);
    assert_eq!(cloud.on(refuse(&envelope.header.txn)), [], "too late for a nack");
    cloud.receive(&envelope);
    cloud.pass(3.0);
    cloud.receive(&envelope);
    cloud.pass(3.0);
    assert_eq!(sent(&cloud.on(refuse(&envelope.header.txn))).len(), 1, "counted from the last copy");

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
