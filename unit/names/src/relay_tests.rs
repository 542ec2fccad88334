use std::net::Ipv4Addr;

use proptest::prelude::*;

use super::*;
use crate::packet::{Query, kind, read, tests::question};

const SERVERS: [IpAddr; 4] = [
    IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1)),
    IpAddr::V4(Ipv4Addr::new(192, 0, 2, 2)),
    IpAddr::V4(Ipv4Addr::new(192, 0, 2, 3)),
    IpAddr::V4(Ipv4Addr::new(192, 0, 2, 4)),
];

fn asker(zone: u64, port: u16) -> Asker {
    Asker::Datagram { zone, from: SocketAddrV4::new(Ipv4Addr::new(10, 0, 0, 2), port) }
}

fn answered(query: &Query<'_>, id: u16, code: Code) -> Vec<u8> {
    packet::renumbered(&packet::answer(query, code, &Content::None), id)
}

fn asked(action: Option<Action>) -> (u64, IpAddr) {
    match action {
        Some(Action::Ask { flight, server, .. }) => (flight, server),
        other => panic!("nobody is asked: {other:?}"),
    }
}

fn told(action: Option<Action>) -> Vec<u8> {
    match action {
        Some(Action::Tell { packet, .. }) => packet,
        other => panic!("nothing is told: {other:?}"),
    }
}

#[test]
fn the_answer_goes_back_under_the_askers_number() {
    let (mut relay, now) = (Relay::default(), Instant::now());
    let packet = question(7, "a.example", kind::A);
    let query = read(&packet).unwrap();
    let action = relay.begin(asker(0, 1), &query, &packet, &SERVERS, 99, now);
    let Some(Action::Ask { flight, packet: sent, stream: false, .. }) = &action else { panic!("{action:?}") };
    assert_eq!(read(sent).unwrap().id, 99, "our number, not the asker's");
    assert_eq!(read(sent).unwrap().question, query.question);
    assert_eq!(relay.begin(asker(0, 1), &query, &packet, &SERVERS, 98, now), None, "asked again meanwhile");
    // Guesses of somebody who is not the server.
    assert_eq!(relay.heard(*flight, &answered(&query, 98, Code::NoError), now), None);
    let other = question(99, "b.example", kind::A);
    assert_eq!(relay.heard(*flight, &answered(&read(&other).unwrap(), 99, Code::NoError), now), None);
    let answer = told(relay.heard(*flight, &answered(&query, 99, Code::NoError), now));
    assert_eq!(answer, answered(&query, 7, Code::NoError));
    assert_eq!(relay.heard(*flight, &answered(&query, 99, Code::NoError), now), None, "it is over");
    assert_eq!(relay.next_deadline(), None);
}

#[test]
fn servers_are_asked_in_turn_and_the_asker_hears_in_the_end() {
    let (mut relay, mut now) = (Relay::default(), Instant::now());
    let packet = question(7, "a.example", kind::A);
    let query = read(&packet).unwrap();
    let (flight, first) = asked(relay.begin(asker(0, 1), &query, &packet, &SERVERS, 99, now));
    assert_eq!(first, SERVERS[0]);
    assert!(relay.overdue(now).is_empty());
    now = relay.next_deadline().unwrap();
    assert_eq!(relay.overdue(now), [flight]);
    assert_eq!(asked(relay.failed(flight, now)), (flight, SERVERS[1]));
    let refused = answered(&query, 99, Code::Refused);
    assert_eq!(asked(relay.heard(flight, &refused, now)), (flight, SERVERS[2]));
    assert_eq!(told(relay.heard(flight, &refused, now)), answered(&query, 7, Code::Refused));
    // One server is tried twice, then it is over.
    let (flight, _) = asked(relay.begin(asker(0, 1), &query, &packet, &SERVERS[..1], 99, now));
    assert_eq!(asked(relay.failed(flight, now)), (flight, SERVERS[0]));
    assert_eq!(told(relay.failed(flight, now)), answered(&query, 7, Code::ServFail));
    // No server at all.
    let none = relay.begin(asker(0, 1), &query, &packet, &[], 99, now);
    assert_eq!(told(none), answered(&query, 7, Code::ServFail));
}

#[test]
fn an_answer_too_long_for_the_asker_is_cut_over_udp_only() {
    let (mut relay, now) = (Relay::default(), Instant::now());
    let packet = question(7, "a.example", kind::A);
    let query = read(&packet).unwrap();
    let mut long = answered(&query, 99, Code::NoError);
    long.resize(2000, 0);
    let (flight, _) = asked(relay.begin(asker(0, 1), &query, &packet, &SERVERS, 99, now));
    let short = told(relay.heard(flight, &long, now));
    assert_eq!((short.len(), short[2] & 2), (packet.len(), 2));
    let stream = Asker::Stream { zone: 0, stream: 3 };
    let (flight, _) = asked(relay.begin(stream, &query, &packet, &SERVERS, 99, now));
    assert_eq!(told(relay.heard(flight, &long, now)).len(), 2000);
}

#[test]
fn one_network_cannot_use_up_the_places_of_another() {
    let (mut relay, now) = (Relay::default(), Instant::now());
    let packet = question(7, "a.example", kind::A);
    let query = read(&packet).unwrap();
    let mut begin = |zone, port| relay.begin(asker(zone, port), &query, &packet, &SERVERS, 1, now);
    for port in 0..u16::try_from(MAX_OF_ZONE).unwrap() {
        asked(begin(0, port));
    }
    assert_eq!(told(begin(0, 1000)), answered(&query, 7, Code::ServFail));
    asked(begin(1, 1000));
    for zone in 2..5 {
        for port in 0..u16::try_from(MAX_OF_ZONE).unwrap() {
            let _ = begin(zone, port);
        }
    }
    assert_eq!(told(begin(9, 0)), answered(&query, 7, Code::ServFail), "full");
    assert_eq!(relay.forget(|asker| asker.zone() == 0).len(), MAX_OF_ZONE);
    asked(relay.begin(asker(9, 0), &query, &packet, &SERVERS, 1, now));
}

proptest! {
    /// Whatever servers say or do not say, each asker hears exactly once, in bounded time.
    #[test]
    fn every_question_gets_one_answer(
        events in proptest::collection::vec((0u8..5, 0u64..12, any::<u16>()), 1..200),
    ) {
        let (mut relay, mut now) = (Relay::default(), Instant::now());
        let packet = question(7, "a.example", kind::A);
        let query = read(&packet).unwrap();
        let (mut open, mut begun, mut heard) = (0usize, 0usize, 0usize);
        let mut count = |action: Option<Action>, new: bool| {
            if new && action.is_some() { open += 1; begun += 1; }
            if let Some(Action::Tell { .. }) = action { open -= 1; heard += 1; }
        };
        for (event, flight, number) in events {
            match event {
                0 => count(
                    relay.begin(asker(u64::from(number % 7), number), &query, &packet, &SERVERS, number, now),
                    true,
                ),
                1 => count(relay.heard(flight, &answered(&query, number, Code::NoError), now), false),
                2 => count(relay.heard(flight, &answered(&query, number, Code::ServFail), now), false),
                3 => count(relay.failed(flight, now), false),
                _ => {
                    now += Duration::from_millis(u64::from(number % 2000));
                    for flight in relay.overdue(now) {
                        count(relay.failed(flight, now), false);
                    }
                }
            }
        }
        for _ in 0..=MAX_TRIES {
            now += TRY_TIME;
            for flight in relay.overdue(now) {
                count(relay.failed(flight, now), false);
            }
        }
        prop_assert_eq!(open, 0);
        prop_assert_eq!(begun, heard);
        prop_assert_eq!(relay.next_deadline(), None);
    }
}
