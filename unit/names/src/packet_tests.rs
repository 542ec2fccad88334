use std::net::Ipv4Addr;

use proptest::prelude::*;

use super::*;

/// A plain question with recursion desired.
pub(crate) fn question(id: u16, name: &str, kind: u16) -> Vec<u8> {
    let mut packet = header(id, RD, [1, 0, 0, 0]);
    packet.extend(if name.is_empty() { vec![0] } else { write_name(name).unwrap() });
    packet.extend_from_slice(&kind.to_be_bytes());
    packet.extend_from_slice(&IN.to_be_bytes());
    packet
}

fn with_size(mut packet: Vec<u8>, size: u16, options: &[u8]) -> Vec<u8> {
    packet[11] = 1;
    packet.push(0);
    for word in [OPT, size, 0, 0, u16::try_from(options.len()).unwrap()] {
        packet.extend_from_slice(&word.to_be_bytes());
    }
    packet.extend_from_slice(options);
    packet
}

#[test]
fn a_question_is_read_and_answered() {
    let packet = question(0xbeef, "Web.Example", kind::A);
    let query = read(&packet).unwrap();
    assert_eq!((query.id, query.name.as_deref(), query.kind), (0xbeef, Some("web.example"), kind::A));
    assert_eq!(query.room(), 512);
    let told = answer(&query, Code::NoError, &Content::Address(Ipv4Addr::new(10, 0, 0, 2)));
    let expected = b"\xbe\xef\x85\x80\0\x01\0\x01\0\0\0\0\x03Web\x07Example\0\0\x01\0\x01\
        \xc0\x0c\0\x01\0\x01\0\0\0\0\0\x04\x0a\0\0\x02";
    assert_eq!(told, expected);
    assert_eq!(judge(&told, 0xbeef, query.question), Heard::Answer);
    assert_eq!(judge(&told, 0xbeee, query.question), Heard::Foreign);
    assert_eq!(judge(&packet, 0xbeef, query.question), Heard::Foreign, "a question is no answer");
    let other = question(0xbeef, "web.other", kind::A);
    assert_eq!(judge(&told, 0xbeef, read(&other).unwrap().question), Heard::Foreign);
    let failed = answer(&query, Code::ServFail, &Content::None);
    assert_eq!(judge(&failed, 0xbeef, query.question), Heard::Failure);
    assert_eq!(judge(b"\xbe\xef\x80\x05\0\0\0\0\0\0\0\0", 0xbeef, query.question), Heard::Failure);
    assert_eq!(judge(b"\xbe\xef\x80\x00\0\0\0\0\0\0\0\0", 0xbeef, query.question), Heard::Foreign);
    let short = cut(&told, query.question);
    assert_eq!(short[2] & 2, 2);
    assert_eq!(short.len(), packet.len());
}

#[test]
fn buffer_sizes_are_read_and_answered() {
    let packet = with_size(question(1, "a.b", 28), 4096, b"\0\x0a\0\x02xx");
    let query = read(&packet).unwrap();
    assert_eq!(query.room(), 4096);
    assert_eq!(read(&with_size(question(1, "a.b", 28), 100, b"")).unwrap().room(), 512);
    let told = answer(&query, Code::NxDomain, &Content::None);
    assert_eq!(told[10..12], [0, 1]);
    assert_eq!(told[told.len() - 11..], *b"\0\0\x29\x04\xd0\0\0\0\0\0\0");
}

#[test]
fn what_is_no_question_is_refused() {
    let told = |packet: &[u8]| read(packet).map(|_| ()).unwrap_err();
    let good = question(1, "a.b", kind::A);
    assert_eq!(told(b""), Refusal::Silent);
    assert_eq!(told(&good[..11]), Refusal::Silent);
    let changed = |at: usize, byte: u8| {
        let mut packet = good.clone();
        packet[at] = byte;
        packet
    };
    let malformed = Refusal::Told(Code::FormErr);
    assert_eq!(told(&changed(2, 0x80)), Refusal::Silent, "an answer");
    assert_eq!(told(&changed(2, 0x28)), Refusal::Told(Code::NotImp), "an update");
    assert_eq!(told(&changed(5, 0)), malformed, "no question");
    assert_eq!(told(&changed(5, 2)), malformed, "two questions");
    assert_eq!(told(&changed(7, 1)), malformed, "an answer inside");
    assert_eq!(told(&changed(11, 1)), malformed, "a record that is missing");
    assert_eq!(told(&changed(12, 0xc0)), malformed, "a pointer");
    assert_eq!(told(&changed(12, 64)), malformed, "a long label");
    for end in 12..good.len() {
        assert_eq!(told(&good[..end]), malformed, "cut at {end}");
    }
    let longer = [good.as_slice(), b"x"].concat();
    assert_eq!(told(&longer), malformed, "bytes after it");
    assert_eq!(told(&with_size(good.clone(), 512, &[0; MAX_QUERY])), malformed, "too long");
    assert_eq!(told(&question(1, "a.b", 252)), Refusal::Told(Code::Refused), "a transfer");
    assert_eq!(told(&changed(good.len() - 1, 3)), Refusal::Told(Code::Refused), "another class");
    assert_eq!(refuse(&good, malformed).unwrap(), b"\0\x01\x81\x01\0\0\0\0\0\0\0\0");
    assert_eq!(refuse(&good, Refusal::Silent), None);
}

#[test]
fn names_are_bounded_as_the_protocol_says() {
    let label = "a".repeat(63);
    let longest = [label.as_str(), &label, &label, &"a".repeat(61)].join(".");
    assert_eq!(read(&question(1, &longest, kind::A)).unwrap().name.unwrap().len(), 253);
    let mut packet = header(1, RD, [1, 0, 0, 0]);
    for length in [63u8, 63, 63, 62] {
        packet.push(length);
        packet.extend(std::iter::repeat_n(b'a', usize::from(length)));
    }
    packet.extend_from_slice(&[0, 0, 1, 0, 1]);
    assert_eq!(read(&packet).map(|_| ()), Err(Refusal::Told(Code::FormErr)));
    // A dot inside a label must not look like two labels.
    let mut odd = header(1, RD, [1, 0, 0, 0]);
    odd.extend_from_slice(b"\x03a.b\0\0\x01\0\x01");
    assert_eq!(read(&odd).unwrap().name, None);
}

proptest! {
    #[test]
    fn any_bytes_are_taken(packet in proptest::collection::vec(any::<u8>(), 0..1200), id: u16) {
        match read(&packet) {
            Ok(query) => {
                let told = answer(&query, Code::NoError, &Content::None);
                prop_assert_eq!(judge(&told, query.id, query.question), Heard::Answer);
            }
            Err(refusal) => { let _ = refuse(&packet, refusal); }
        }
        let _ = judge(&packet, id, b"\x01a\0\0\x01\0\x01");
        let _ = cut(&packet, b"\x01a\0\0\x01\0\x01");
    }

    #[test]
    fn questions_with_a_changed_byte_are_taken(at in 0usize..64, byte: u8) {
        let mut packet = with_size(question(9, "0.subject.item.network", kind::A), 1232, b"");
        if let Some(place) = packet.get_mut(at) {
            *place = byte;
        }
        if let Ok(query) = read(&packet) {
            prop_assert!(query.name.is_none_or(|name| name.len() <= 253));
        }
    }
}
