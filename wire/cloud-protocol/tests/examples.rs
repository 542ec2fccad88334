//! The example messages: each is read, and what we write of it is what the schema publishes.
#![allow(clippy::unwrap_used, clippy::panic, reason = "tests")]

mod support;

use std::collections::BTreeSet;

use aos_cloud_protocol::*;
use support::{examples, has_null, schema, schema_errors};

/// Files whose message violates the published schema on purpose; see the sheet, section 7.
const VIOLATE: &[&str] = &[
    "cloud-to-unit-renewCertificatesNotification.json",
    "unit-to-cloud-alerts-upstreamCpp.json",
    "unit-to-cloud-monitoringData-upstreamCpp.json",
    "unit-to-cloud-overrideEnvVarsStatus-upstreamCpp.json",
    "unit-to-cloud-pushLog-upstreamCpp.json",
];

/// PRO-33, DIS-02, D17: 26 kinds, 14 up, 13 down, `ack` in both.
#[test]
fn catalogue_is_complete() {
    assert_eq!(MessageType::ALL.len(), 26);
    let taken = |reader| {
        MessageType::ALL
            .iter()
            .filter(move |kind| kind.direction() == reader || kind.direction() == Direction::Both)
    };
    assert_eq!(taken(Direction::UnitToCloud).count(), 14);
    assert_eq!(taken(Direction::CloudToUnit).count(), 13);
    for kind in MessageType::ALL {
        assert_eq!(MessageType::parse(kind.as_str()), Some(*kind));
        assert_eq!(MessageType::parse(&kind.as_str().to_ascii_uppercase()), None, "letter case counts");
        assert_eq!(kind.is_acknowledged(), !matches!(kind, MessageType::Ack | MessageType::Nack));
    }
}

/// PRO-33: every kind has an example and every example is read, also what other peers refuse.
#[test]
fn every_example_is_read() {
    let Some(examples) = examples() else { return };
    let mut seen = BTreeSet::new();
    for example in examples {
        let envelope = read(&example.text, example.direction)
            .unwrap_or_else(|error| panic!("{}: {error}", example.name));
        if let Body::Alerts(alerts) = &envelope.body {
            assert_eq!(alerts.refused, Vec::<String>::new(), "{}", example.name);
        }
        assert_eq!(envelope.header.system_id.as_str(), "veh-7f3a91c2", "{}", example.name);
        assert!(envelope.header.created_at.is_some(), "{}", example.name);
        seen.insert(envelope.body.message_type());
    }
    assert_eq!(seen.len(), 26);
}

/// What we write of any example is valid, holds no null, and means the same.
// REL-14
#[test]
fn every_example_is_written_strictly() {
    let (Some(examples), Some(schema)) = (examples(), schema()) else { return };
    for example in examples {
        let envelope = read(&example.text, example.direction).unwrap();
        let frame = write(&envelope).unwrap();
        assert_eq!(read(&frame, example.direction).as_ref(), Ok(&envelope), "{}", example.name);
        let value: serde_json::Value = serde_json::from_slice(&frame).unwrap();
        assert!(!has_null(&value), "{}", example.name);
        let before = schema_errors(&schema, &example.text);
        let after = schema_errors(&schema, &frame);
        assert_eq!(
            before.is_empty(),
            !VIOLATE.contains(&example.name.as_str()),
            "{}: {before:?}",
            example.name
        );
        // The array of secrets is the one deviation that we keep: no Unit reads the other form (D45).
        let kept = envelope.body.message_type() == MessageType::RenewCertificatesNotification;
        assert_eq!(after.is_empty(), !kept, "{}: {after:?}", example.name);
    }
}

/// A strict example is written back member for member.
#[test]
fn examples_of_our_own_form_survive_unchanged() {
    let Some(examples) = examples() else { return };
    let mut compared = 0;
    for example in examples {
        if example.name.contains("upstreamCpp") || example.name.contains("singleObject") {
            continue;
        }
        let envelope = read(&example.text, example.direction).unwrap();
        let written: serde_json::Value = serde_json::from_slice(&write(&envelope).unwrap()).unwrap();
        let original: serde_json::Value = serde_json::from_slice(&example.text).unwrap();
        assert_eq!(canonical(written), canonical(original), "{}", example.name);
        compared += 1;
    }
    assert!(compared > 25);
}

/// Times in one form, `75` and `75.0` alike, empty optional lists left out.
fn canonical(value: serde_json::Value) -> serde_json::Value {
    use serde_json::Value;
    match value {
        Value::String(text) => match time::from_text(&text) {
            Some(time) => Value::String(time::to_text(time)),
            None => Value::String(text),
        },
        Value::Number(number) => serde_json::json!(number.as_f64()),
        Value::Array(entries) => Value::Array(entries.into_iter().map(canonical).collect()),
        Value::Object(members) => {
            let optional = |key: &str, value: &Value| {
                matches!(key, "partitions" | "labels") && value.as_array().is_some_and(Vec::is_empty)
            };
            let kept = members.into_iter().filter(|(key, value)| !optional(key, value));
            Value::Object(kept.map(|(key, value)| (key, canonical(value))).collect())
        }
        other => other,
    }
}

/// The shapes of the released upstream Unit mean what they say (D30, D32, D33, D36, D37, D38, D1).
#[test]
fn upstream_shapes_are_understood() {
    let Some(examples) = examples() else { return };
    let body = |name: &str| {
        let example = examples.iter().find(|example| example.name == name).unwrap();
        read(&example.text, example.direction).unwrap().body
    };
    let Body::Alerts(alerts) = body("unit-to-cloud-alerts-upstreamCpp.json") else { panic!() };
    assert!(
        matches!(&alerts.items[0], Alert::DeviceAllocateAlert(alert) if alert.device_id == "camera-front")
    );
    assert!(matches!(&alerts.items[1], Alert::UpdateItemInstanceAlert(alert) if alert.subject.id.is_some()));
    let Body::MonitoringData(data) = body("unit-to-cloud-monitoringData-upstreamCpp.json") else { panic!() };
    assert!(data.nodes[0].node_states[0].connected);
    assert_eq!(data.nodes[0].items[0].cpu, 12751);
    let Body::PushLog(log) = body("unit-to-cloud-pushLog-upstreamCpp.json") else { panic!() };
    assert_eq!((log.status, log.part, log.parts_count), (LogStatus::Failed, 0, 0));
    let Body::OverrideEnvVarsStatus(status) = body("unit-to-cloud-overrideEnvVarsStatus-upstreamCpp.json")
    else {
        panic!()
    };
    assert!(status.statuses[0].subject.id.is_some());
    let single = body("cloud-to-unit-renewCertificatesNotification-singleObject.json");
    let Body::RenewCertificatesNotification(single) = single else { panic!() };
    assert_eq!(single.unit_secrets.nodes.len(), 1);
    assert_eq!(single.unit_secrets.nodes[0].secret.expose(), "s3cure-owner-pin");
}
