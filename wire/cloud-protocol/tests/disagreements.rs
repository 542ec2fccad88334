//! Rows of the sheet of disagreements that no other test here holds, and a count of those that some test does.
#![allow(clippy::unwrap_used, clippy::panic, reason = "tests")]

mod support;

use std::collections::BTreeSet;
use std::path::Path;

use aos_cloud_protocol::*;
use serde_json::{Value, json};
use support::frames::{body, frame, problem};

/// D2, D14, D15, D16: a message from the wrong side is invalid, so that it is acknowledged and told; a nack from
/// a Unit and a `stateRequest` from a cloud are taken.
// DIS-34
#[test]
fn directions_are_checked() {
    for kind in MessageType::ALL {
        let (reader, tolerated) = match kind.direction() {
            Direction::UnitToCloud => (Direction::CloudToUnit, *kind == MessageType::StateRequest),
            Direction::CloudToUnit => (Direction::UnitToCloud, *kind == MessageType::Nack),
            Direction::Both => continue,
        };
        let refusal = match read(&frame(&json!({"messageType": kind.as_str()})), reader) {
            Err(ReadError::Invalid(invalid)) => Some(invalid.problem),
            Ok(_) => None,
            Err(other) => panic!("{other}"),
        };
        assert_eq!(refusal == Some(Problem::WrongDirection), !tolerated, "{kind}");
    }
    assert_eq!(MessageType::StateAcceptance.direction(), Direction::CloudToUnit);
    assert_eq!(MessageType::RenewCertificatesNotification.direction(), Direction::CloudToUnit);
}

/// D12: a header without time, or with one that is none, is still a header.
#[test]
fn the_time_of_a_message_is_optional() {
    for created_at in [Value::Null, json!("soon"), json!(7)] {
        let header = json!({"version": 7, "systemId": "u", "createdAt": created_at, "txn": "t"});
        let frame = json!({"header": header, "data": {"messageType": "ack"}});
        let envelope = read(&serde_json::to_vec(&frame).unwrap(), Direction::CloudToUnit).unwrap();
        assert_eq!(envelope.header.created_at, None);
    }
}

/// D37, D36: fractions of DMIPS are rounded; `connected` goes by two names, the documents' one wins.
#[test]
fn samples_of_all_peers_are_read() {
    let sample = |cpu: Value| json!({"timestamp": "2026-03-04T08:02:10Z", "ram": 1, "cpu": cpu});
    let samples: Vec<_> =
        [json!(12_750.5), json!("12750.4"), json!(7), json!(7.0), json!("7")].map(sample).into();
    let states = json!([
        {"timestamp": "2026-03-04T08:02:10Z", "isConnected": true, "state": "provisioned"},
        {"timestamp": "2026-03-04T08:02:10Z", "isConnected": false, "connected": true, "state": "error"},
    ]);
    let node = json!({"node": {"codename": "n"}, "nodeStates": states, "items": samples});
    let Body::MonitoringData(data) = body(&json!({"messageType": "monitoringData", "nodes": [node]})) else {
        panic!()
    };
    let cpu: Vec<_> = data.nodes[0].items.iter().map(|sample| sample.cpu).collect();
    assert_eq!(cpu, [12_751, 12_750, 7, 7, 7]);
    assert!(data.nodes[0].node_states.iter().all(|state| state.connected));
    for bad in [json!(-1), json!("much"), json!(true), json!(1e30)] {
        let node = json!({"node": {}, "items": [sample(bad)]});
        assert!(matches!(
            problem(&json!({"messageType": "monitoringData", "nodes": [node]})),
            Problem::Content(_)
        ));
    }
}

/// D60, D61, D64, D65: members that only some peers have, and limits that only some have.
#[test]
fn members_of_single_peers_are_read() {
    let node = json!({"nodeGroupSubject": {"codename": "t"}, "priority": 1, "version": "9.9.9"});
    let config = json!({"version": "1.0.0", "formatVersion": "7", "nodes": [node]});
    let Body::DesiredStatus(status) = body(&json!({"messageType": "desiredStatus", "unitConfig": config}))
    else {
        panic!()
    };
    let again = serde_json::to_value(status.unit_config.unwrap()).unwrap();
    assert!(again["nodes"][0].get("version").is_none(), "the version of an entry is not repeated");

    let variable = json!({"name": "n".repeat(256), "value": "v".repeat(10_240)});
    let filter = json!({"variables": vec![variable; 100]});
    let Body::OverrideEnvVars(vars) = body(&json!({"messageType": "overrideEnvVars", "items": [filter]}))
    else {
        panic!()
    };
    assert_eq!(vars.items[0].variables.len(), 100, "more than an upstream Unit takes");

    let partition = json!({"name": "p", "types": ["storages"], "path": "/var/x", "totalSize": 1});
    let node = json!({"identity": {"codename": "n"}, "nodeGroupSubject": {}, "maxDmips": 1, "totalRam": 1,
        "osInfo": {"os": "linux"}, "isConnected": true, "state": "provisioned", "partitions": [partition]});
    let subjects = json!([{"codename": "a"}, {"id": "b"}]);
    let status = json!({"messageType": "unitStatus", "nodes": [node], "subjects": subjects});
    let Body::UnitStatus(status) = body(&status) else { panic!() };
    let names: Vec<_> = status.subjects.as_deref().unwrap().iter().map(|s| s.key().unwrap()).collect();
    assert_eq!(names, ["a", "b"]);
    let partition = &status.nodes.as_deref().unwrap()[0].partitions.as_deref().unwrap()[0];
    assert_eq!(partition.path.as_deref(), Some("/var/x"));
}

/// Every row of the sheet is named by a test somewhere in this tree, above the test that holds it.
// DIS-35
#[test]
fn each_row_is_held_by_a_test() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let mut held = BTreeSet::new();
    for part in ["wire", "base", "unit", "cloud", "bin", "sim", "tests"] {
        rows_named(&root.join(part), &mut held);
    }
    let rows = (1..=26).chain(30..=71);
    let missing: Vec<_> = rows.filter(|row| !held.contains(row)).collect();
    assert_eq!(missing, [0_u32; 0], "rows that no test names");
}

/// Numbers of rows in the comments right above tests.
fn rows_named(folder: &Path, held: &mut BTreeSet<u32>) {
    for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
        let path = entry.path();
        if path.is_dir() {
            rows_named(&path, held);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            let text = std::fs::read_to_string(&path).unwrap();
            let mut comment = String::new();
            for line in text.lines().map(str::trim_start) {
                if line.starts_with("//") {
                    comment.push_str(line);
                    comment.push(' ');
                } else if line.starts_with("#[test]") || line.starts_with("#[tokio::test") {
                    held.extend(numbers(&comment));
                    comment.clear();
                } else if !line.starts_with("#[") {
                    comment.clear();
                }
            }
        }
    }
}

fn numbers(comment: &str) -> impl Iterator<Item = u32> {
    let words = comment.split(|c: char| !c.is_ascii_alphanumeric());
    words.filter_map(|word| word.strip_prefix('D')?.parse().ok())
}
