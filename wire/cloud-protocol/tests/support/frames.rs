//! Frames of a Unit around a given `data`, and what the reader makes of them.

use aos_cloud_protocol::{Body, Direction, Problem, ReadError, read};
use serde_json::{Value, json};

pub fn frame(data: &Value) -> Vec<u8> {
    let header =
        json!({"version": 7, "systemId": "unit-1", "createdAt": "2026-03-04T08:02:10Z", "txn": "t-1"});
    serde_json::to_vec(&json!({"header": header, "data": data})).unwrap()
}

pub fn body(data: &Value) -> Body {
    read(&frame(data), Direction::Both).unwrap_or_else(|error| panic!("{error}")).body
}

pub fn problem(data: &Value) -> Problem {
    match read(&frame(data), Direction::Both) {
        Err(ReadError::Invalid(invalid)) => {
            assert_eq!(invalid.header.txn.as_str(), "t-1");
            invalid.problem
        }
        other => panic!("{other:?}"),
    }
}
