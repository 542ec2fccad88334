//! Input made to hurt: nothing panics, nothing takes memory without bound, and a frame that names a
//! transaction is answered or dropped, never both.
#![allow(clippy::unwrap_used, clippy::panic, reason = "tests")]

mod support;

use aos_cloud_protocol::*;
use proptest::prelude::*;
use serde_json::json;
use support::mutate::{Numbers, corpus, mutated_bytes, mutated_value, values};

/// Whatever is read can be written and read again.
fn check(frame: &[u8]) {
    for direction in [Direction::Both, Direction::UnitToCloud, Direction::CloudToUnit] {
        match read(frame, direction) {
            Ok(envelope) => {
                let again = write(&envelope).unwrap();
                if let Err(ReadError::Unreadable(error)) = read(&again, direction) {
                    panic!("{error}: {}", String::from_utf8_lossy(&again));
                }
            }
            Err(error) => {
                let text = error.to_string();
                assert!(text.len() < 2000, "{} bytes of complaint", text.len());
            }
        }
    }
}

#[test]
fn mutated_bytes_never_panic() {
    let corpus = corpus();
    let mut numbers = Numbers(7);
    for _ in 0..20_000 {
        check(&mutated_bytes(&corpus, &mut numbers));
    }
}

#[test]
fn mutated_values_never_panic() {
    let corpus = values(&corpus());
    let mut numbers = Numbers(11);
    for _ in 0..20_000 {
        let value = mutated_value(&corpus, &mut numbers);
        let frame = serde_json::to_vec(&value).unwrap();
        check(&frame);
        // The header is intact, so the message can always be answered.
        if value["data"].is_object() {
            assert!(!matches!(read(&frame, Direction::Both), Err(ReadError::Unreadable(_))));
        }
    }
}

fn unreadable(frame: &[u8]) -> bool {
    matches!(read(frame, Direction::Both), Err(ReadError::Unreadable(_)))
}

#[test]
fn floods_are_refused() {
    for (open, close) in [("[", "]"), ("{\"a\":", "}")] {
        let deep = format!("{}0{}", open.repeat(100_000), close.repeat(100_000));
        assert!(unreadable(deep.as_bytes()));
        let within = format!("{{\"header\":{}0{}}}", open.repeat(60), close.repeat(60));
        assert!(unreadable(within.as_bytes()));
    }
    // Two megabytes of text that would be more than a hundred as values.
    let wide = format!("{{\"header\":{{}},\"data\":[{}0]}}", "0,".repeat(1_000_000));
    assert!(unreadable(wide.as_bytes()));
    assert!(matches!(
        read(&vec![b' '; MAX_FRAME + 1], Direction::Both),
        Err(ReadError::Unreadable(Unreadable::TooLong(_)))
    ));
    assert!(unreadable(b"{\"header\":1e999}"));
    assert!(unreadable(format!("{{\"header\":{}}}", "9".repeat(100_000)).as_bytes()));
}

#[test]
fn long_lists_are_refused_but_answered() {
    let header = json!({"version": 7, "systemId": "u", "txn": "t"});
    let items = vec![json!({"item": {}, "subject": {}}); 5000];
    let data = json!({"messageType": "desiredStatus", "instances": items});
    let frame = serde_json::to_vec(&json!({"header": header, "data": data})).unwrap();
    let Err(ReadError::Invalid(invalid)) = read(&frame, Direction::CloudToUnit) else { panic!() };
    assert!(invalid.to_string().contains("5000"), "{invalid}");
    // A fleet's largest message passes: far more than any Unit has.
    let items = vec![json!({"item": {}, "subject": {}}); 4096];
    let data = json!({"messageType": "desiredStatus", "instances": items});
    let frame = serde_json::to_vec(&json!({"header": header, "data": data})).unwrap();
    assert!(read(&frame, Direction::CloudToUnit).is_ok());
}

/// A monitoring message of the size that the limits allow passes.
#[test]
fn the_largest_legal_message_passes() {
    let time = jiff::Timestamp::UNIX_EPOCH;
    let partitions = vec![PartitionUsage { name: "storages".into(), used_size: 1 }; 4];
    let sample = Sample { timestamp: time, ram: 1, cpu: 1, download: Some(1), upload: Some(1), partitions };
    let node = NodeMonitoring {
        node: AosIdentity::by_codename("n"),
        node_states: vec![
            NodeStateSample { timestamp: time, connected: true, state: NodeState::Provisioned };
            16
        ],
        items: vec![sample.clone(); 16],
    };
    let instance = InstanceMonitoring {
        item: AosIdentity::by_id("i"),
        subject: AosIdentity::by_id("s"),
        instance: 0,
        node: AosIdentity::by_codename("n"),
        item_states: vec![InstanceStateSample { timestamp: time, state: InstanceState::Active }; 16],
        items: vec![sample; 16],
    };
    let data = MonitoringData { nodes: vec![node; 16], instances: vec![instance; 256] };
    let envelope = Envelope::new("u".parse().unwrap(), time, Body::MonitoringData(data));
    let frame = write(&envelope).unwrap();
    assert_eq!(read(&frame, Direction::UnitToCloud), Ok(envelope));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(500))]

    #[test]
    fn any_bytes(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        check(&bytes);
    }

    #[test]
    fn any_text_as_time(text in "[-0-9TZ:+. ]{0,35}") {
        let _ = time::from_text(&text);
    }

    #[test]
    fn any_content(kind in prop::sample::select(MessageType::ALL.to_vec()), name in "\\PC{0,10}", value in "\\PC{0,40}") {
        let header = json!({"version": 7, "systemId": "u", "txn": "t"});
        let data = json!({"messageType": kind.as_str(), name: value});
        check(&serde_json::to_vec(&json!({"header": header, "data": data})).unwrap());
    }
}
