//! Which frames are dropped, which are answered, and which are never refused.
#![allow(clippy::unwrap_used, clippy::panic, reason = "tests")]

mod support;

use std::time::Duration;

use aos_cloud_protocol::*;
use serde_json::{Value, json};
use support::frames::{body, frame, problem};

/// PRO-20, PRO-16, PRO-15, D12, D14, D15, D2: which frames are dropped and which are answered.
#[test]
fn bad_frames_are_sorted() {
    let data = json!({"messageType": "ack"});
    let with_header = |header: Value| serde_json::to_vec(&json!({"header": header, "data": data})).unwrap();
    for unreadable in [
        b"".to_vec(),
        b"[]".to_vec(),
        b"{\"header\":".to_vec(),
        b"\xff\xfe".to_vec(),
        b"{} {}".to_vec(),
        serde_json::to_vec(&json!({"data": data})).unwrap(),
        serde_json::to_vec(&json!({"header": {"version": 7, "systemId": "u", "txn": "t"}})).unwrap(),
        serde_json::to_vec(&json!({"header": {"version": 7, "systemId": "u", "txn": "t"}, "data": []}))
            .unwrap(),
        with_header(json!({"systemId": "u", "txn": "t"})),
        with_header(json!({"version": 6, "systemId": "u", "txn": "t"})),
        with_header(json!({"version": 7, "txn": "t"})),
        with_header(json!({"version": 7, "systemId": "u"})),
        with_header(json!({"version": 7, "systemId": "u", "txn": ""})),
        with_header(json!({"version": 7, "systemId": "x".repeat(65), "txn": "t"})),
    ] {
        let read = read(&unreadable, Direction::Both);
        assert!(matches!(read, Err(ReadError::Unreadable(_))), "{read:?}");
    }
    // The time of the header is not needed.
    for time in [json!(null), json!("today"), json!([1])] {
        let read = read(
            &with_header(json!({"version": "7", "systemId": "u", "txn": "t", "createdAt": time})),
            Direction::Both,
        );
        assert_eq!(read.unwrap().header.created_at, None);
    }
    assert_eq!(problem(&json!({"messageType": "launchRocket"})), Problem::UnknownType);
    assert_eq!(problem(&json!({"messageType": "UNITSTATUS"})), Problem::UnknownType);
    assert_eq!(problem(&json!({})), Problem::UnknownType);
    let missing = problem(&json!({"messageType": "requestBlobUrls", "correlationId": "c"}));
    assert!(matches!(missing, Problem::Content(text) if text.contains("digests")));
    let long = json!({"messageType": "unitStatus", "correlationId": "x".repeat(300)});
    assert!(matches!(problem(&long), Problem::Content(_)));

    let turned = |data: Value, reader| read(&frame(&data), reader);
    let acceptance = json!({"messageType": "stateAcceptance", "item": {}, "subject": {}, "instance": 0,
        "checksum": "00", "result": "accepted"});
    let wrong = turned(acceptance, Direction::UnitToCloud);
    assert!(matches!(wrong, Err(ReadError::Invalid(invalid)) if invalid.problem == Problem::WrongDirection));
    let request = json!({"messageType": "stateRequest", "item": {}, "subject": {}, "instance": 0});
    assert!(turned(request, Direction::CloudToUnit).is_ok());
    assert!(turned(json!({"messageType": "nack"}), Direction::UnitToCloud).is_ok());
    assert!(turned(json!({"messageType": "ack"}), Direction::UnitToCloud).is_ok());
    assert!(turned(json!({"messageType": "ack"}), Direction::CloudToUnit).is_ok());
}

/// PRO-25: a nack without, and with senseless, pause. An ack or nack is never invalid: nobody could say so.
#[test]
fn replies_are_never_invalid() {
    for (value, millis) in [(json!(null), 500), (json!("1500"), 1500), (json!(-3), 500), (json!([]), 500)] {
        let Body::Nack(nack) = body(&json!({"messageType": "nack", "retryAfter": value})) else { panic!() };
        assert_eq!(nack.retry_after, Duration::from_millis(millis));
    }
    let envelope =
        read(&frame(&json!({"messageType": "ack", "correlationId": [1]})), Direction::Both).unwrap();
    assert_eq!((envelope.body, envelope.correlation_id), (Body::Ack(Ack {}), None));
}
