//! What peers send, in pieces of any size, and what they must not send.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test that fails panics")]

use aos_cloud_websocket::{Event, Frame, Reader, Role, Violation, close_payload, encode};
use proptest::prelude::*;

const MASK: [u8; 4] = [0x12, 0xfe, 0x00, 0x7a];
const LIMIT: usize = 1 << 20;

/// A frame by hand: first byte, content; masked.
fn raw(first: u8, content: &[u8]) -> Vec<u8> {
    let mut bytes = encode(Frame::Binary(content), Some(MASK));
    bytes[0] = first;
    bytes
}

fn read_all(reader: &mut Reader, pieces: &[&[u8]]) -> Result<Vec<Event>, Violation> {
    let mut events = vec![];
    for piece in pieces {
        let mut input = *piece;
        while let Some(event) = reader.read(&mut input)? {
            events.push(event);
        }
        assert!(input.is_empty());
    }
    Ok(events)
}

fn read_one(bytes: &[u8]) -> Result<Vec<Event>, Violation> {
    read_all(&mut Reader::new(Role::Server, LIMIT), &[bytes])
}

// D10
#[test]
fn fragments_are_put_together_around_control_frames() {
    let stream =
        [raw(0x01, b"{\"a\""), raw(0x89, b"hi"), raw(0x00, b":"), raw(0x8a, b""), raw(0x80, b"1}")].concat();
    let expected = vec![Event::Ping(b"hi".to_vec()), Event::Pong, Event::Message(b"{\"a\":1}".to_vec())];
    assert_eq!(read_one(&stream).unwrap(), expected);
    let single: Vec<&[u8]> = stream.chunks(1).collect();
    assert_eq!(read_all(&mut Reader::new(Role::Server, LIMIT), &single).unwrap(), expected);
}

// D10
#[test]
fn text_and_binary_are_messages_alike() {
    assert_eq!(read_one(&raw(0x81, b"text")).unwrap(), [Event::Message(b"text".to_vec())]);
    assert_eq!(read_one(&raw(0x82, b"\xff")).unwrap(), [Event::Message(b"\xff".to_vec())]);
    assert_eq!(read_one(&raw(0x81, b"\xff")).unwrap_err(), Violation::Text);
    // A character cut in two by fragments is whole again.
    let stream = [raw(0x01, b"\xc3"), raw(0x80, b"\xa4")].concat();
    assert_eq!(read_one(&stream).unwrap(), [Event::Message("\u{e4}".into())]);
}

#[test]
fn rules_are_kept() {
    for (what, bytes, expected) in [
        ("reserved bit", raw(0xc2, b""), Violation::Reserved),
        ("opcode 3", raw(0x83, b""), Violation::Opcode(3)),
        ("opcode 11", raw(0x8b, b""), Violation::Opcode(11)),
        ("no mask", encode(Frame::Binary(b"x"), None), Violation::Mask),
        ("ping in pieces", raw(0x09, b""), Violation::Control),
        ("long ping", raw(0x89, &[0; 126]), Violation::Control),
        ("continuation of nothing", raw(0x80, b"x"), Violation::Fragments),
        ("message inside another", [raw(0x02, b"x"), raw(0x82, b"y")].concat(), Violation::Fragments),
        ("half a close code", raw(0x88, &[3]), Violation::Close),
        ("close code 1005", raw(0x88, &1005_u16.to_be_bytes()), Violation::Close),
        ("close reason", raw(0x88, b"\x03\xe8\xff"), Violation::Close),
        ("length 2^63", [&[0x82, 0xff][..], &[0x80, 0, 0, 0, 0, 0, 0, 0], &MASK].concat(), Violation::Length),
    ] {
        assert_eq!(read_one(&bytes).unwrap_err(), expected, "{what}");
    }
    let masked = encode(Frame::Binary(b"x"), Some(MASK));
    let from_server = read_all(&mut Reader::new(Role::Client, LIMIT), &[&masked]);
    assert_eq!(from_server.unwrap_err(), Violation::Mask);
}

#[test]
fn the_limit_holds_for_frames_and_for_their_sum_and_before_the_bytes_come() {
    let frame = |length: usize| encode(Frame::Binary(&vec![7; length]), Some(MASK));
    assert!(matches!(&read_one(&frame(LIMIT)).unwrap()[..], [Event::Message(bytes)] if bytes.len() == LIMIT));
    let too_long = Violation::TooLong { limit: LIMIT };
    assert_eq!(read_one(&frame(LIMIT + 1)[..14]).unwrap_err(), too_long);
    assert_eq!(too_long.close_code(), 1009);
    let (first, second) = (raw(0x02, &vec![7; LIMIT]), raw(0x80, b"x"));
    assert_eq!(read_one(&[&first[..], &second[..6]].concat()).unwrap_err(), too_long);
    // An announced length costs nothing.
    let mut reader = Reader::new(Role::Server, LIMIT);
    assert!(read_all(&mut reader, &[&frame(LIMIT)[..20]]).unwrap().is_empty());
    assert_eq!(reader.announced(), LIMIT);
    assert!(!reader.is_idle());
}

#[test]
fn a_reader_is_idle_between_messages_only() {
    let mut reader = Reader::new(Role::Server, LIMIT);
    assert!(reader.is_idle());
    assert!(read_all(&mut reader, &[&raw(0x82, b"abc")[..1]]).unwrap().is_empty());
    assert!(!reader.is_idle());
    assert_eq!(read_all(&mut reader, &[&raw(0x82, b"abc")[1..]]).unwrap().len(), 1);
    assert!(reader.is_idle());
    assert!(read_all(&mut reader, &[&raw(0x02, b"abc")]).unwrap().is_empty());
    assert!(!reader.is_idle(), "fragments are missing");
}

#[test]
fn closing_tells_code_and_reason() {
    let long = "ä".repeat(100);
    let payload = close_payload(1008, &long);
    assert_eq!(payload.len(), 124, "no half characters");
    let bytes = encode(Frame::Close(&payload), None);
    let events = read_all(&mut Reader::new(Role::Client, LIMIT), &[&bytes]).unwrap();
    assert_eq!(events, [Event::Close(Some(1008))]);
    assert_eq!(read_one(&raw(0x88, b"")).unwrap(), [Event::Close(None)]);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn what_is_written_is_read_in_pieces_of_any_size(
        messages in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..70_000), 1..3),
        mask in any::<[u8; 4]>(),
        piece in 1_usize..9000,
    ) {
        let stream: Vec<u8> =
            messages.iter().flat_map(|message| encode(Frame::Binary(message), Some(mask))).collect();
        let pieces: Vec<&[u8]> = stream.chunks(piece).collect();
        let events = read_all(&mut Reader::new(Role::Server, LIMIT), &pieces).unwrap();
        let expected: Vec<Event> = messages.into_iter().map(Event::Message).collect();
        prop_assert_eq!(events, expected);
    }

}

proptest! {
    #[test]
    fn any_bytes_end_in_events_or_a_violation(
        bytes in proptest::collection::vec(any::<u8>(), 0..400),
        piece in 1_usize..50,
    ) {
        let mut reader = Reader::new(Role::Server, 1024);
        for chunk in bytes.chunks(piece) {
            let mut input = chunk;
            loop {
                let before = input.len();
                match reader.read(&mut input) {
                    Ok(Some(_)) => prop_assert!(input.len() < before || before == 0),
                    Ok(None) => break,
                    Err(_) => return Ok(()),
                }
            }
        }
    }

    #[test]
    fn pieces_never_change_the_outcome(
        mut bytes in proptest::collection::vec(any::<u8>(), 0..400),
        piece in 1_usize..50,
    ) {
        // Mostly plausible headers, so that it gets past them.
        for at in (0..bytes.len()).step_by(37) {
            bytes[at] = [0x82, 0x02, 0x80, 0x89][usize::from(bytes[at] % 4)];
            if let Some(second) = bytes.get_mut(at + 1) {
                *second = 0x80 | (*second % 32);
            }
        }
        let read = |pieces: &[&[u8]]| {
            let mut reader = Reader::new(Role::Server, 1024);
            let mut events = vec![];
            for piece in pieces {
                let mut input = *piece;
                loop {
                    match reader.read(&mut input) {
                        Ok(Some(event)) => events.push(event),
                        Ok(None) => break,
                        Err(violation) => return (events, Some(violation)),
                    }
                }
            }
            (events, None)
        };
        let pieces: Vec<&[u8]> = bytes.chunks(piece).collect();
        prop_assert_eq!(read(&pieces), read(&[&bytes]));
    }
}
