//! What the reader takes although nobody should send it, and what it refuses in which way. Row numbers are
//! those of the sheet of disagreements.
#![allow(clippy::unwrap_used, clippy::panic, reason = "tests")]

mod support;

use std::time::Duration;

use aos_cloud_protocol::*;
use serde_json::{Value, json};
use support::frames::{body, frame, problem};

fn desired(data: &Value) -> DesiredStatus {
    let mut data = data.clone();
    data["messageType"] = json!("desiredStatus");
    match body(&data) {
        Body::DesiredStatus(status) => status,
        other => panic!("{other:?}"),
    }
}

/// PRO-38, D56, D18: absent and null leave a part alone, empty clears it.
#[test]
fn absent_differs_from_empty() {
    for member in
        ["nodes", "items", "instances", "subjects", "certificates", "certificateChains", "unitConfig"]
    {
        assert_eq!(desired(&json!({ member: null })), DesiredStatus::default());
    }
    assert_eq!(desired(&json!({})), DesiredStatus::default());
    let status = desired(&json!({"items": [], "instances": [], "nodes": [], "subjects": []}));
    assert_eq!(status.items, Some(Vec::new()));
    assert_eq!(status.instances, Some(Vec::new()));
    assert_eq!(status.nodes, Some(Vec::new()));
    assert_eq!(status.subjects, Some(Vec::new()));
    // A hole in a list is no empty list: that would remove things.
    assert!(matches!(
        problem(&json!({"messageType": "desiredStatus", "items": [null]})),
        Problem::Content(_)
    ));
}

/// PRO-42, PRO-43, D57, D23, D59: defaults and bounds of instances, items and subjects.
#[test]
fn instances_have_defaults_and_bounds() {
    let instance = |extra: Value| {
        let mut instance = json!({"item": {"id": "i"}, "subject": {"id": "s"}});
        instance.as_object_mut().unwrap().extend(extra.as_object().unwrap().clone());
        json!({"messageType": "desiredStatus", "instances": [instance]})
    };
    let read = |extra| desired(&instance(extra)).instances.unwrap().remove(0);
    let plain = read(json!({"labels": null}));
    assert_eq!((plain.priority, plain.num_instances, plain.labels), (0, 1, Vec::new()));
    assert_eq!(read(json!({"numInstances": 0})).num_instances, 0);
    assert_eq!(read(json!({"priority": 999_999, "numInstances": "2"})).priority, 999_999);
    for bad in [json!({"priority": 1_000_000}), json!({"priority": -1}), json!({"numInstances": 1e9})] {
        let Problem::Content(text) = problem(&instance(bad)) else { panic!() };
        assert!(text.starts_with("instances[0]."), "{text}");
    }
    let item =
        json!({"item": {"id": "i"}, "version": "1.0.0", "indexDigest": format!("sha256:{}", "0".repeat(64))});
    let item = desired(&json!({"items": [item]})).items.unwrap().remove(0);
    assert_eq!((item.item.kind, item.owner.key()), (None, None));
    let subject = desired(&json!({"subjects": [{"identity": {"id": "s"}, "type": "Group"}]}));
    assert!(!subject.subjects.unwrap()[0].is_reported_from_unit);
}

/// PRO-39, D68, D22: nodes under either name and either member.
#[test]
fn nodes_go_by_several_names() {
    let nodes = json!([
        {"item": {"codename": "a"}, "state": "paused"},
        {"node": {"id": "b"}, "state": "provisioned"},
        {"item": {"codename": "c"}, "node": {"codename": "x"}, "state": "paused"},
    ]);
    let nodes = desired(&json!({ "nodes": nodes })).nodes.unwrap();
    let names: Vec<_> = nodes.iter().map(|node| node.item.node_id().unwrap().to_string()).collect();
    assert_eq!(names, ["a", "b", "c"]);
}

/// PRO-35, D20, D21, D24: words of identity types, and who goes by what.
#[test]
fn identities_are_read_generously() {
    let identity = |value: Value| -> AosIdentity {
        let mut status = json!({"messageType": "unitStatus"});
        status["subjects"] = json!([value]);
        match body(&status) {
            Body::UnitStatus(status) => status.subjects.unwrap().remove(0),
            other => panic!("{other:?}"),
        }
    };
    for (word, kind) in [
        ("service", Some(IdentityType::Service)),
        ("AosService", Some(IdentityType::Service)),
        ("aosComponent", Some(IdentityType::Component)),
        ("SP", Some(IdentityType::Sp)),
        ("node-subject", Some(IdentityType::NodeSubject)),
        ("spaceship", None),
    ] {
        assert_eq!(identity(json!({"id": "x", "type": word})).kind, kind, "{word}");
    }
    let preinstalled = identity(json!({"codename": "rootfs", "id": "", "title": null, "color": "red"}));
    assert!(preinstalled.is_preinstalled());
    assert_eq!(preinstalled.item_id().unwrap().as_str(), "rootfs");
    assert_eq!(identity(json!({"id": "not a uuid"})).key(), Some("not a uuid"));
    assert!(identity(json!({})).subject_id().is_err());
}

/// PRO-36, D25: both forms of error information.
#[test]
fn errors_are_read_in_both_forms() {
    let error = |info: Value| match body(&json!({
        "messageType": "deprovisioningResponse", "node": {"codename": "n"}, "errorInfo": info
    })) {
        Body::DeprovisioningResponse(outcome) => outcome.error_info,
        other => panic!("{other:?}"),
    };
    assert_eq!(error(json!({"code": 5, "message": "gone"})).unwrap().aos_code, 5);
    assert_eq!(error(json!({"aosCode": "9", "code": 5, "exitCode": 1})).unwrap().aos_code, 9);
    assert_eq!(error(json!({"aosCode": 0, "exitCode": 0, "message": ""})), None);
    assert_eq!(error(Value::Null), None);
}

/// D58: thresholds and their timeouts.
#[test]
fn timeouts_are_numbers_or_texts() {
    let timeout = |value: Value| {
        let rule = json!({"minThreshold": "10", "maxThreshold": 20, "minTimeout": value});
        let node = json!({"nodeGroupSubject": {"codename": "t"}, "alertRules": {"cpu": rule}, "priority": 1});
        let config = json!({"version": "1.0.0", "formatVersion": 7, "nodes": [node]});
        desired(&json!({ "unitConfig": config })).unit_config.unwrap().nodes[0]
            .alert_rules
            .clone()
            .unwrap()
            .cpu
    };
    for (value, millis) in [
        (json!(10), 10_000),
        (json!(0.5), 500),
        (json!("PT10S"), 10_000),
        (json!("P1DT2H"), 93_600_000),
        (json!("1h20m"), 4_800_000),
        (json!("500ms"), 500),
        (Value::Null, 0),
    ] {
        assert_eq!(timeout(value.clone()).unwrap().min_timeout, Duration::from_millis(millis), "{value}");
    }
}

/// D31, D34 and the rule that one bad alert spoils no batch.
#[test]
fn alerts_are_read_one_by_one() {
    let time = "2026-03-04T08:02:10Z";
    let device = |key: &str| {
        let mut alert = json!({"timestamp": time, "tag": "resourceAllocateAlert", "item": {"id": "i"},
            "subject": {"id": "s"}, "instance": 0, "node": {"codename": "n"}, "message": "m"});
        alert[key] = json!("can0");
        alert
    };
    let items = json!([
        device("deviceId"),
        {"timestamp": time, "tag": "coreAlert", "node": {"codename": "n"}, "coreComponent": "cm", "message": "m"},
        {"timestamp": time, "tag": "newFancyAlert"},
        device("resource"),
        {"timestamp": "yesterday", "tag": "systemAlert", "node": {}, "message": "m"},
        device("device"),
        7,
        {"TAG": "systemAlert", "Timestamp": time, "NODE": {"codename": "n"}, "message": "x".repeat(32768)},
    ]);
    let Body::Alerts(alerts) = body(&json!({"messageType": "alerts", "items": items})) else { panic!() };
    assert_eq!((alerts.items.len(), alerts.refused.len()), (5, 3), "{:?}", alerts.refused);
    let devices = alerts.items.iter();
    let devices = devices.filter(|a| matches!(a, Alert::DeviceAllocateAlert(d) if d.device_id == "can0"));
    assert_eq!(devices.count(), 3);
    assert!(matches!(&alerts.items[1], Alert::CoreAlert(alert) if alert.core_component == "CM"));
}

/// D38, D39, D40: log parts of all peers.
#[test]
fn log_parts_are_read() {
    for (word, status) in [
        ("ok", LogStatus::Ok),
        ("failed", LogStatus::Failed),
        ("error", LogStatus::Failed),
        ("empty", LogStatus::Empty),
        ("absent", LogStatus::Absent),
    ] {
        let data = json!({"messageType": "pushLog", "node": {"codename": "n"}, "status": word,
            "content": "SGVs\r\nbG8g\r\nd29y bGQ"});
        let Body::PushLog(log) = body(&data) else { panic!() };
        assert_eq!((log.status, log.content.0.as_slice()), (status, b"Hello world".as_slice()));
        assert_eq!((log.part, log.parts_count), (0, 0));
    }
}

/// PRO-89, D41, D42, D62: options that other peers choke on.
#[test]
fn requests_for_logs_and_variables() {
    for kind in ["wss", "https"] {
        let data = json!({"messageType": "requestLog", "logType": "crashLog", "filter": {"from": null},
            "uploadOptions": {"type": kind, "url": null}});
        let Body::RequestLog(request) = body(&data) else { panic!() };
        assert_eq!(request.filter, LogFilter::default());
        assert!(request.upload_options.is_some());
    }
    for ttl in [json!(""), json!(0), Value::Null, json!("0")] {
        let variables = json!([{"name": "A", "value": "", "ttl": ttl}]);
        let data = json!({"messageType": "overrideEnvVars", "items": [{"variables": variables}]});
        let Body::OverrideEnvVars(vars) = body(&data) else { panic!() };
        assert_eq!(vars.items[0].variables[0].ttl, None);
    }
    // PRO-109: lengths of names and values.
    let with = |name: usize, value: usize| {
        let variables = json!([{"name": "n".repeat(name), "value": "v".repeat(value)}]);
        read(
            &frame(&json!({"messageType": "overrideEnvVars", "items": [{"variables": variables}]})),
            Direction::CloudToUnit,
        )
    };
    assert!(with(1, 0).is_ok() && with(256, 10_240).is_ok());
    assert!(with(0, 0).is_err() && with(257, 0).is_err() && with(1, 10_241).is_err());
}

/// PRO-94, D44, D45: the four shapes of the owner secrets. PRO-95, D26: all types of certificates.
#[test]
fn secrets_come_in_four_shapes() {
    let secrets = |value: Value| {
        let certificates: Vec<_> = ["online", "azure-iot", "host-device", "warp-core"]
            .map(|kind| json!({"type": kind, "node": {"codename": "n"}}))
            .into();
        let data = json!({"messageType": "renewCertificatesNotification", "certificates": certificates,
            "unitSecrets": value});
        match body(&data) {
            Body::RenewCertificatesNotification(renewal) => {
                assert_eq!(renewal.certificates.len(), 4);
                assert_eq!(renewal.certificates[3].kind, CertificateType::Other("warp-core".into()));
                let nodes = renewal.unit_secrets.nodes.into_iter();
                nodes
                    .map(|n| (n.node.key().unwrap().to_owned(), n.secret.expose().to_owned()))
                    .collect::<Vec<_>>()
            }
            other => panic!("{other:?}"),
        }
    };
    let node = json!({"node": {"codename": "n"}, "secret": "p"});
    let one = [("n".to_owned(), "p".to_owned())];
    assert_eq!(secrets(json!({"version": "2.0.0", "nodes": [node]})), one);
    assert_eq!(secrets(json!({"version": 7, "nodes": node})), one);
    assert_eq!(secrets(json!({"version": 1, "nodes": {"n": "p"}})), one);
    // A node may be called like a member.
    assert_eq!(secrets(json!({"nodes": {"Node": "p"}})), [("Node".to_owned(), "p".to_owned())]);
    assert!(secrets(json!({"version": 7, "nodes": null})).is_empty());
    assert!(secrets(Value::Null).is_empty());
}

/// PRO-105, D47, D51, D54, D55: blobs.
#[test]
fn blobs_are_read() {
    let digest = format!("sha256:{}", "ab".repeat(32));
    let blob = |hash: &str| json!({"digest": digest, "urls": ["https://x/y"], "sha256": hash, "size": "12"});
    let answer = |blob: Value| body(&json!({"messageType": "blobUrls", "items": [blob]}));
    for hash in ["AB".repeat(32), "q6urq6urq6urq6urq6urq6urq6urq6urq6urq6urq6s=".into()] {
        let Body::BlobUrls(urls) = answer(blob(&hash)) else { panic!() };
        assert_eq!(urls.items[0].sha256, ServedHash([0xab; 32]));
        assert_eq!((urls.items[0].size, &urls.items[0].decrypt_info), (12, &None));
    }
    let mut signed = blob(&"00".repeat(32));
    signed["signInfo"] = json!({"chainName": "c", "alg": "RSA/SHA256", "value": "AA==", "trustedTimestamp": "",
        "ocspValues": ["x".repeat(5000)]});
    signed["decryptInfo"] = json!({"blockIv": "AA==", "blockKey": "AA=="});
    let Body::BlobUrls(urls) = answer(signed) else { panic!() };
    assert_eq!(urls.items[0].sign_info.as_ref().unwrap().trusted_timestamp, None);
    assert_eq!(urls.items[0].decrypt_info.as_ref().unwrap().block_alg, AES256_CBC);
    let mut nowhere = blob(&"00".repeat(32));
    nowhere["urls"] = json!([]);
    assert!(matches!(problem(&json!({"messageType": "blobUrls", "items": [nowhere]})), Problem::Content(_)));
}

/// PRO-68, D48, D49, D50: checksums of states.
#[test]
fn checksums_compare_by_their_bytes() {
    let hex = StateChecksum::from_bytes(&[0xab; 28]);
    let upper = StateChecksum::new("AB".repeat(28)).unwrap();
    let base64 = StateChecksum::new("q6urq6urq6urq6urq6urq6urq6urq6urq6urqw==").unwrap();
    assert!(hex.same_as(&upper) && hex.same_as(&base64));
    assert_eq!(base64.bytes().unwrap().len(), 28);
    assert!(!hex.same_as(&StateChecksum::new("zz").unwrap()));
    assert!(StateChecksum::new("").is_err());
    let status = json!({"messageType": "unitStatus", "instances": [{"item": {}, "subject": {}, "version": "1",
        "instances": [{"node": {}, "runtime": {}, "instance": 0, "stateChecksum": "", "state": "Active"}]}]});
    let Body::UnitStatus(status) = body(&status) else { panic!() };
    assert_eq!(status.instances.unwrap()[0].instances[0].state_checksum, None);
}

/// D19: times with offsets, without any, with long fractions.
#[test]
fn times_are_read_with_offsets() {
    let utc = |text: &str| time::from_text(text).map(time::to_text);
    for text in [
        "2026-03-04T08:02:10Z",
        "2026-03-04t08:02:10z",
        "2026-03-04 08:02:10",
        "2026-03-04T10:02:10+02:00",
        "2026-03-04T10:02:10+0200",
        "2026-03-04T03:32:10.000-04:30",
        " 2026-03-04T08:02:10.0000000000000001Z ",
    ] {
        assert_eq!(utc(text).as_deref(), Some("2026-03-04T08:02:10.000000Z"), "{text}");
    }
    assert_eq!(utc("2016-12-31T23:59:60Z").as_deref(), Some("2016-12-31T23:59:59.000000Z"));
    for text in [
        "",
        "now",
        "2026-03-04",
        "2026-13-04T08:02:10Z",
        "2026-03-04T08:02:10+99:00",
        "2026-03-04T08:02:10.Z",
        "2026-03-04T08:02:10Zulu",
        "2026-03-04T08:02:1\u{660}Z",
    ] {
        assert_eq!(utc(text), None, "{text}");
    }
}

/// D67, D69, D70, D71: what may be left out.
#[test]
fn optional_members_may_be_absent() {
    let response = body(&json!({"messageType": "startProvisioningResponse", "node": {"codename": "n"}}));
    assert!(matches!(response, Body::StartProvisioningResponse(response) if response.csrs.is_empty()));
    let state =
        body(&json!({"messageType": "newState", "instance": "0", "stateChecksum": "00", "state": ""}));
    assert!(matches!(state, Body::NewState(state) if state.item.is_none() && state.subject.is_none()));
    let node = json!({"identity": {"codename": "n"}, "nodeGroupSubject": {}, "maxDmips": 1.0, "totalRam": true,
        "osInfo": {"os": "linux"}, "isConnected": "true", "state": "PAUSED", "attrs": {"MainNode": "", "x": null}});
    let Body::UnitStatus(status) = body(&json!({"messageType": "unitStatus", "nodes": [node]})) else {
        panic!()
    };
    let node = status.nodes.unwrap().remove(0);
    assert_eq!((node.max_dmips, node.total_ram, node.is_connected), (1, 1, true));
    assert_eq!(node.state, NodeState::Paused);
    assert_eq!(node.attrs.unwrap().into_keys().collect::<Vec<_>>(), ["MainNode"]);
}
