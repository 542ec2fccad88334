//! The rules of sending, repeating and giving up, one by one.
#![allow(clippy::unwrap_used, clippy::panic, reason = "tests")]

mod support;

use std::time::Duration;

use aos_cloud_protocol::*;
use aos_cloud_session::*;
use support::*;

/// PRO-26, PRO-27, DIS-03, D3: sent at 0, W, 2W, 3W, byte for byte the same; parked at 4W; the link stays.
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
        matches!(&seen[3].1, Action::Parked(about, DropReason::NoAck) if about.txn == request.header.txn)
    );
    assert_eq!(unit.session.outstanding(), 1);
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

/// PRO-25: endless nacks end: after ten each one counts as a try. Impatient nacks do not make us spin.
#[test]
fn nacks_are_not_endless() {
    let mut unit = End::unit().connected();
    let request = state_request();
    let mut actions = unit.on(Event::send(request.clone()));
    let mut copies = 0;
    while parked(&actions).is_empty() {
        copies += sent(&actions).len();
        assert!(copies <= 14);
        assert_eq!(unit.session.outstanding(), 1);
        actions = unit.nack(&request.header.txn, 0);
        if parked(&actions).is_empty() {
            assert_eq!(unit.pass(0.099), []);
            actions = unit.pass(0.001).into_iter().map(|(_, action)| action).collect();
        }
    }
    assert_eq!(copies, 14, "ten free ones, then the four tries");
    assert_eq!(parked(&actions), [(&request.header.txn, DropReason::Nacked)]);
    assert_eq!(unit.pass_alive(590.0), [], "then a long pause");
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
    assert_eq!(parked(&left).len(), 1);
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

/// The queue is bounded: monitoring gives way first, then alerts, the oldest first; what is left is never
/// dropped, a new message that finds no room is refused and said so. Parked ones count as durable.
#[test]
fn overflow_takes_the_cheapest_first() {
    let mut unit = End::new(Config { queue_messages: 3, ..Config::unit(system()) });
    let (sample, alert, request) = (monitoring(), alerts(), state_request());
    for envelope in [&alert, &sample, &request] {
        assert_eq!(unit.on(Event::send(envelope.clone())), []);
    }
    let newer = monitoring();
    assert_eq!(dropped(&unit.on(Event::send(newer.clone()))), [(&sample.header.txn, DropReason::QueueFull)]);
    let delta = status(true);
    assert_eq!(dropped(&unit.on(Event::send(delta.clone()))), [(&newer.header.txn, DropReason::QueueFull)]);
    let late = monitoring();
    assert_eq!(dropped(&unit.on(Event::send(late.clone()))), [(&late.header.txn, DropReason::QueueFull)]);
    let third = state_request();
    assert_eq!(dropped(&unit.on(Event::send(third))), [(&alert.header.txn, DropReason::QueueFull)]);
    let fourth = state_request();
    assert_eq!(dropped(&unit.on(Event::send(fourth.clone()))), [(&fourth.header.txn, DropReason::QueueFull)]);
    assert_eq!(unit.session.outstanding(), 3, "two requests and a delta of the status");

    let mut unit = End::new(Config { queue_messages: 1, ..Config::unit(system()) }).connected();
    unit.on(Event::send(new_state(1)));
    assert_eq!(unit.pass_alive(60.0).len(), 4, "three repetitions, then parked");
    for envelope in [alerts(), new_state(2), status(true)] {
        let refused = unit.on(Event::send(envelope.clone()));
        assert_eq!(dropped(&refused), [(&envelope.header.txn, DropReason::QueueFull)]);
    }
}

/// The bytes of the queue are bounded too, in the same order: as many of the cheapest go as are in the way.
#[test]
fn queue_is_bounded_in_bytes() {
    let mut unit = End::new(Config { queue_bytes: 1, ..Config::unit(system()) });
    assert_eq!(unit.on(Event::send(alerts())), [], "a single message always has room");
    let request = state_request();
    assert_eq!(dropped(&unit.on(Event::send(request))).len(), 1);
    assert_eq!(dropped(&unit.on(Event::send(alerts())))[0].1, DropReason::QueueFull);
    assert_eq!(unit.session.outstanding(), 1);

    let samples = [monitoring(), monitoring(), monitoring()];
    let alert = alerts();
    let room = 3 * bytes(&samples[0]).len() + bytes(&alert).len();
    let mut unit = End::new(Config { queue_bytes: room, ..Config::unit(system()) });
    for envelope in [&samples[0], &alert, &samples[1], &samples[2]] {
        assert_eq!(unit.on(Event::send(envelope.clone())), []);
    }
    let mut state = new_state(1);
    let Body::NewState(content) = &mut state.body else { unreachable!() };
    content.state = "s".repeat(room - bytes(&alert).len() - bytes(&new_state(1)).len());
    let actions = unit.on(Event::send(state.clone()));
    let gone: Vec<_> = dropped(&actions).into_iter().map(|(txn, _)| txn).collect();
    let (samples, alert) = (samples.each_ref().map(|sample| &sample.header.txn), &alert.header.txn);
    assert_eq!(gone, [samples[0], samples[1], samples[2]]);
    let mut huge = new_state(2);
    let Body::NewState(content) = &mut huge.body else { unreachable!() };
    content.state = "s".repeat(room);
    let refused = unit.on(Event::send(huge.clone()));
    assert_eq!(dropped(&refused), [(&huge.header.txn, DropReason::QueueFull)], "nothing goes in vain");
    assert_eq!(dropped(&unit.on(Event::Withdraw(alert.clone()))), []);
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
    assert!(matches!(cloud.pass_alive(20.0)[..], [(_, Action::Parked(_, DropReason::NoAck))]));
    assert_eq!(cloud.pass_alive(7200.0), [], "parked until the next connection");
    cloud.on(Event::Disconnected);
    assert_eq!(cloud.on(Event::connected(None)), transmits(&request));
    assert_eq!(cloud.pass_alive(7200.0), [], "and told once");
    assert!(matches!(cloud.ack(&request.header.txn)[..], [Action::Acknowledged(_)]), "a late ack counts");
}

/// PRO-26: a durable message out of tries waits for the next connection, or ten minutes for one more try; it is
/// told once. An acknowledgement that comes late still settles it.
#[test]
fn parked_message_is_tried_again() {
    let mut unit = End::unit().connected();
    let request = state_request();
    unit.on(Event::send(request.clone()));
    let seen = unit.pass_alive(40.0);
    assert_eq!(seen.len(), 4);
    assert!(matches!(seen[3].1, Action::Parked(_, DropReason::NoAck)));
    let copies: Vec<f64> = unit.pass_alive(3600.0).into_iter().map(|(time, _)| time).collect();
    assert_eq!(copies, [640.0, 1250.0, 1860.0, 2470.0, 3080.0], "one try, its 10 s, then 600 s");
    for _ in 0..3 {
        unit.on(Event::Disconnected);
        assert_eq!(unit.session.next_deadline(), None);
        assert_eq!(unit.on(Event::connected(None)), transmits(&request));
        assert_eq!(unit.pass_alive(300.0), [], "parked again without a word");
    }
    assert!(matches!(unit.ack(&request.header.txn)[..], [Action::Acknowledged(_)]));
    assert_eq!(unit.session.outstanding(), 0);
}

/// A message that the peer cannot read does not hold up others of its kind, follows them on the next
/// connection, and gives way to a newer one about the same thing. What is not durable is dropped.
#[test]
fn parked_message_holds_up_nothing() {
    let mut unit = End::unit().connected();
    let poison = [new_state(1), new_state(2), new_state(3)];
    for envelope in &poison {
        unit.on(Event::send(envelope.clone()));
    }
    let gone: usize = unit
        .pass_alive(120.0)
        .iter()
        .filter(|(_, action)| !parked(std::slice::from_ref(action)).is_empty())
        .count();
    assert_eq!(gone, 3, "one after the other, 40 s each");
    let good = new_state(4);
    assert_eq!(unit.on(Event::send(good.clone())), transmits(&good));
    unit.on(Event::Disconnected);
    assert_eq!(
        sent(&unit.on(Event::connected(None))),
        [good.clone(), poison[0].clone()],
        "doubtful ones last, one at a time"
    );
    unit.ack(&good.header.txn);
    assert_eq!(unit.pass_alive(10.0), [(10.0 + 120.0, Action::Transmit(bytes(&poison[1])))]);
    let newer = new_state(2);
    let actions = unit.on(Event::send(newer.clone()));
    assert_eq!(dropped(&actions), [(&poison[1].header.txn, DropReason::Superseded)]);
    assert_eq!(sent(&actions), [newer, poison[2].clone()]);

    let mut unit = End::unit().connected();
    let delta = status(true);
    unit.on(Event::send(delta.clone()));
    let seen: Vec<Action> = unit.pass_alive(60.0).into_iter().map(|(_, action)| action).collect();
    assert_eq!(dropped(&seen), [(&delta.header.txn, DropReason::NoAck)]);
    let mut unit = End::unit().connected();
    unit.on(Event::keep(delta.clone()));
    let seen: Vec<Action> = unit.pass_alive(60.0).into_iter().map(|(_, action)| action).collect();
    assert_eq!(parked(&seen), [(&delta.header.txn, DropReason::NoAck)], "the outbox decides");
}

/// A newer state that waits behind a message out of tries takes its place at once.
#[test]
fn message_with_a_successor_is_not_parked() {
    let mut unit = End::unit().connected();
    let (old, new) = (new_state(1), new_state(1));
    unit.on(Event::send(old.clone()));
    unit.on(Event::send(new.clone()));
    let seen: Vec<Action> = unit.pass_alive(40.0).into_iter().map(|(_, action)| action).collect();
    assert_eq!(dropped(&seen), [(&old.header.txn, DropReason::Superseded)]);
    assert_eq!(sent(&seen).last(), Some(&new));
}

/// A message that nobody waits for any more is withdrawn without a word.
#[test]
fn withdrawn_message_is_forgotten() {
    let mut unit = End::unit().connected();
    let (first, second) = (state_request(), state_request());
    unit.on(Event::send(first.clone()));
    unit.on(Event::send(second.clone()));
    assert_eq!(unit.on(Event::Withdraw(first.header.txn)), transmits(&second));
    assert_eq!(unit.on(Event::Withdraw(second.header.txn)), []);
    assert_eq!(unit.pass_alive(60.0), []);
    assert_eq!(unit.session.outstanding(), 0);
}
