//! Whatever message we make, writing and reading it again gives the same message, and the published schema
//! accepts it.
#![allow(clippy::unwrap_used, clippy::panic, reason = "tests")]

mod support;

use std::sync::LazyLock;

use aos_cloud_protocol::*;
use proptest::prelude::*;
use serde_json::{Value, json};
use support::{has_null, messages, schema, schema_errors};

static SCHEMA: LazyLock<Option<jsonschema::Validator>> = LazyLock::new(schema);

proptest! {
    #![proptest_config(ProptestConfig::with_cases(600))]

    /// PRO-15, PRO-18, PRO-34, PRO-36, PRO-71, PRO-80: round trip and schema validity of all kinds.
    // REL-14
    #[test]
    fn messages_survive_and_are_valid(message in messages::envelope()) {
        let frame = write(&message).unwrap();
        let again = read(&frame, Direction::Both);
        prop_assert_eq!(again.as_ref(), Ok(&message));
        let value: Value = serde_json::from_slice(&frame).unwrap();
        prop_assert!(!has_null(&value));
        prop_assert_eq!(value.as_object().unwrap().len(), 2);
        if let Some(schema) = &*SCHEMA {
            let mut errors = schema_errors(schema, &frame);
            if message.body.message_type() == MessageType::RenewCertificatesNotification {
                errors.retain(|error| !error.contains("/data"));
            }
            prop_assert_eq!(errors, Vec::<String>::new());
        }
    }

    /// The reader does not care about the letter case of names.
    #[test]
    fn letter_case_of_names_does_not_matter(message in messages::envelope(), upper: bool) {
        let frame = write(&message).unwrap();
        let value = recase(serde_json::from_slice(&frame).unwrap(), upper);
        let frame = serde_json::to_vec(&value).unwrap();
        let again = read(&frame, Direction::Both);
        prop_assert_eq!(again.as_ref(), Ok(&message));
    }

    /// Every time is written with six digits and Z (PRO-18), and read back to the microsecond.
    #[test]
    fn times_have_one_form(micros in -1_000_000_000_000_000..4_000_000_000_000_000_i64) {
        let time = jiff::Timestamp::from_microsecond(micros).unwrap();
        let text = time::to_text(time);
        prop_assert_eq!(text.len(), 27);
        prop_assert!(text.ends_with('Z'));
        prop_assert_eq!(time::from_text(&text), Some(time));
    }
}

/// Names of free maps are values, so they keep their case.
fn recase(value: Value, upper: bool) -> Value {
    match value {
        Value::Object(members) => members
            .into_iter()
            .map(|(key, value)| {
                let value = if key == "attrs" { value } else { recase(value, upper) };
                (if upper { key.to_uppercase() } else { key.to_lowercase() }, value)
            })
            .collect(),
        Value::Array(entries) => entries.into_iter().map(|entry| recase(entry, upper)).collect(),
        other => other,
    }
}

fn written(body: Body) -> Value {
    let time = "2026-03-04T08:02:10.5Z".parse().unwrap();
    let envelope = Envelope::new("unit-1".parse().unwrap(), time, body);
    serde_json::from_slice(&write(&envelope).unwrap()).unwrap()
}

fn time() -> jiff::Timestamp {
    "2026-03-04T08:02:10.123456789Z".parse().unwrap()
}

/// PRO-01, PRO-16, PRO-17, PRO-19: what the header says.
#[test]
fn header_is_complete() {
    let value = written(Body::Ack(Ack {}));
    let header = &value["header"];
    assert_eq!(header["version"], 7);
    assert_eq!(header["systemId"], "unit-1");
    assert_eq!(header["createdAt"], "2026-03-04T08:02:10.500000Z");
    assert_eq!(header["txn"].as_str().unwrap().len(), 36);
    assert_ne!(header["txn"], written(Body::Ack(Ack {}))["header"]["txn"]);
}

/// PRO-23, PRO-24, PRO-25, DIS-01: both references are written, and the pause in milliseconds.
#[test]
fn replies_name_the_message_twice() {
    let txn: aos_ids::Txn = "one".parse().unwrap();
    let system: aos_ids::SystemId = "unit-1".parse().unwrap();
    let pause = std::time::Duration::from_millis(1500);
    let ack: Value =
        serde_json::from_slice(&write(&Envelope::ack(system.clone(), time(), &txn)).unwrap()).unwrap();
    let nack: Value =
        serde_json::from_slice(&write(&Envelope::nack(system, time(), &txn, pause)).unwrap()).unwrap();
    assert_eq!(ack["data"], json!({"messageType": "ack", "correlationId": "one"}));
    assert_eq!(nack["data"], json!({"messageType": "nack", "correlationId": "one", "retryAfter": 1500}));
    assert_eq!((&ack["header"]["txn"], &nack["header"]["txn"]), (&json!("one"), &json!("one")));
    assert_eq!(ack["header"]["createdAt"], "2026-03-04T08:02:10.123456Z");
}

/// D32, D33, D36: names that peers disagree on are written twice.
// DIS-31
#[test]
fn disputed_names_are_written_twice() {
    let state = NodeStateSample { timestamp: time(), connected: true, state: NodeState::Provisioned };
    let node =
        NodeMonitoring { node: AosIdentity::by_codename("n"), node_states: vec![state], items: Vec::new() };
    let value = written(Body::MonitoringData(MonitoringData { nodes: vec![node], instances: Vec::new() }));
    let state = &value["data"]["nodes"][0]["nodeStates"][0];
    assert_eq!((&state["connected"], &state["isConnected"]), (&json!(true), &json!(true)));

    let status = EnvVarStatus {
        item: AosIdentity::by_id("i"),
        subject: AosIdentity::by_id("s"),
        instance: 0,
        name: "A".into(),
        error_info: None,
    };
    let value = written(Body::OverrideEnvVarsStatus(OverrideEnvVarsStatus { statuses: vec![status] }));
    assert_eq!(value["data"]["statuses"][0]["subjectId"], value["data"]["statuses"][0]["subject"]);
}

/// D35, D34: alert texts have 1 to 256 bytes, components are upper-case; D30: the documents' tag.
#[test]
fn alerts_are_within_limits() {
    let long = SystemAlert { timestamp: time(), node: AosIdentity::default(), message: "ü".repeat(200) };
    let empty = CoreAlert {
        timestamp: time(),
        node: AosIdentity::default(),
        core_component: "sm".into(),
        message: String::new(),
    };
    let device = DeviceAllocateAlert {
        timestamp: time(),
        item: AosIdentity::default(),
        subject: AosIdentity::default(),
        instance: 1,
        node: AosIdentity::default(),
        device_id: "can0".into(),
        message: "busy".into(),
    };
    let items = vec![Alert::SystemAlert(long), Alert::CoreAlert(empty), Alert::DeviceAllocateAlert(device)];
    let value = written(Body::Alerts(Alerts { items, refused: vec!["never written".into()] }));
    let items = &value["data"]["items"];
    assert_eq!(items[0]["message"].as_str().unwrap().len(), 256);
    assert!(!items[1]["message"].as_str().unwrap().is_empty());
    assert_eq!(items[1]["coreComponent"], "SM");
    assert_eq!((&items[2]["tag"], &items[2]["deviceId"]), (&json!("deviceAllocateAlert"), &json!("can0")));
    assert!(value["data"].get("refused").is_none());
}

/// D57, D58, D66, D25, D20: numbers, names and errors in the form that every peer takes.
#[test]
fn numbers_and_words_are_strict() {
    let instance = |num_instances| DesiredInstance {
        item: AosIdentity::by_id("i").with_type(IdentityType::Fleet),
        subject: AosIdentity::by_id("s"),
        priority: 2_000_000,
        num_instances,
        labels: Vec::new(),
    };
    let rule = |millis| AlertRulePercents {
        min_threshold: 1.0,
        max_threshold: 2.0,
        min_timeout: std::time::Duration::from_millis(millis),
    };
    let alert_rules = AlertRules { cpu: Some(rule(100)), ram: Some(rule(1500)), ..AlertRules::default() };
    let nodes =
        vec![NodeConfig { alert_rules: Some(alert_rules), priority: u32::MAX, ..NodeConfig::default() }];
    let value = written(Body::DesiredStatus(DesiredStatus {
        instances: Some(vec![instance(0), instance(3)]),
        unit_config: Some(UnitConfig { nodes, ..UnitConfig::default() }),
        ..DesiredStatus::default()
    }));
    let instances = value["data"]["instances"].as_array().unwrap();
    assert_eq!(instances.len(), 1, "an instance wanted zero times is left out");
    assert_eq!(instances[0]["numInstances"], 3);
    assert_eq!(instances[0]["priority"], 999_999);
    assert!(instances[0]["item"].get("type").is_none());
    let node = &value["data"]["unitConfig"]["nodes"][0];
    assert_eq!(node["alertRules"]["cpu"]["minTimeout"], 1);
    assert_eq!(node["alertRules"]["ram"]["minTimeout"], 2);
    assert_eq!(node["priority"], u32::MAX - 1);

    let none = NodeOutcome {
        node: AosIdentity::node(&"n".parse().unwrap()),
        error_info: Some(ErrorInfo { aos_code: 0, exit_code: 0, message: "fine".into() }),
    };
    let value = written(Body::FinishProvisioningResponse(none));
    assert_eq!(value["data"]["node"], json!({"codename": "n", "type": "node"}));
    assert!(value["data"].get("errorInfo").is_none(), "code 0 is no error");
}

/// A full status says so (PRO-54), and a frame that nobody has to take is not made.
#[test]
fn full_status_and_long_frames() {
    assert_eq!(written(Body::UnitStatus(UnitStatus::default()))["data"]["isDeltaInfo"], false);
    let log = PushLog {
        node: AosIdentity::default(),
        part: 1,
        parts_count: 1,
        content: vec![0; MAX_FRAME].into(),
        status: LogStatus::Ok,
        error_info: None,
    };
    let envelope = Envelope::new("unit-1".parse().unwrap(), time(), Body::PushLog(log));
    assert!(matches!(write(&envelope), Err(WriteError::TooLong { .. })));
}

/// PRO-112: secrets never show in `Debug`.
#[test]
fn debug_shows_no_secret() {
    let request =
        StartProvisioningRequest { node: AosIdentity::default(), password: Secret::new("hidden-1") };
    let decrypt = DecryptInfo {
        block_alg: AES256_CBC.into(),
        block_iv: b"hidden-2".to_vec().into(),
        block_key: b"hidden-3".to_vec().into(),
    };
    let shown = format!("{:?} {decrypt:?}", Body::StartProvisioningRequest(request));
    assert!(!shown.contains("hidden") && !shown.contains("104, 105"), "{shown}");
}
