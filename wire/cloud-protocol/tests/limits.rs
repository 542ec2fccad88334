//! What an upstream Unit would drop is found before it is sent, at the edge of each limit.
#![allow(clippy::unwrap_used, clippy::panic, reason = "tests")]

mod support;

use aos_cloud_protocol::limits::{LimitError, MAX_FINDINGS, check_for_unit, findings_for_unit};
use aos_cloud_protocol::*;
use serde_json::{Value, json};
use support::frames::body;

fn findings(data: &Value) -> Vec<String> {
    findings_for_unit(Some("c"), &body(data)).iter().map(ToString::to_string).collect()
}

fn text(length: usize) -> String {
    "x".repeat(length)
}

/// What upstream's converter takes has no findings.
#[test]
fn examples_for_units_are_within_the_limits() {
    for example in support::examples().into_iter().flatten() {
        if example.direction == Direction::CloudToUnit {
            let envelope = read(&example.text, Direction::CloudToUnit).unwrap();
            let correlation_id = envelope.correlation_id.as_deref();
            assert_eq!(check_for_unit(correlation_id, &envelope.body), Ok(()), "{}", example.name);
        }
    }
}

/// PRO-109: texts one byte over the limit, and lists one entry over it, are found; those at it are not.
#[test]
fn each_limit_has_its_edge() {
    let id = |length| json!({"id": text(length)});
    let node = |length| json!({"codename": text(length)});
    let repeated = |value: Value, count: usize| Value::Array(vec![value; count]);
    let desired = |member: &str, value: Value| json!({"messageType": "desiredStatus", member: value});
    let digest = format!("sha256:{}", "0".repeat(64));
    let item = |item: Value, version: usize| {
        let mut item = item;
        item["type"] = json!("service");
        json!({"item": item, "version": text(version), "owner": {"id": "o"}, "indexDigest": digest})
    };
    let instance = |labels: Value| json!({"item": id(1), "subject": id(1), "labels": labels});
    let subject = |length| json!({"identity": id(length), "type": "group"});
    let certificate = |length, label| {
        let der = Base64Bytes(vec![0; length]);
        json!({"certificate": der, "fingerprint": text(label)})
    };
    let chain = |name, count| json!({"name": text(name), "fingerprints": repeated(json!("f"), count)});
    let config = |nodes: Value| {
        desired("unitConfig", json!({"version": "1.0.0", "formatVersion": "7", "nodes": nodes}))
    };
    let node_config = |rules: usize, labels: usize| {
        let rule = json!({"name": "p", "minThreshold": 1, "maxThreshold": 2, "minTimeout": 1});
        json!({"nodeGroupSubject": node(1), "alertRules": {"partitions": repeated(rule, rules)},
            "labels": repeated(json!("l"), labels), "priority": 0})
    };
    let blob = |member: &str, value: Value| {
        let mut blob = json!({"digest": digest, "urls": ["https://x"], "sha256": "00".repeat(32), "size": 1,
            "decryptInfo": {"blockAlg": "AES256", "blockIv": "AA==", "blockKey": "AA=="},
            "signInfo": {"chainName": "c", "alg": "RSA", "value": "AA==",
                "trustedTimestamp": "2026-01-01T00:00:00Z"}});
        *blob.pointer_mut(member).unwrap() = value;
        json!({"messageType": "blobUrls", "items": [blob]})
    };
    let bytes = |length: usize| json!(Base64Bytes(vec![0; length]));
    let log = |filter: Value| json!({"messageType": "requestLog", "logType": "systemLog", "filter": filter});
    let variables = |count: usize, name: usize, value: usize| {
        let variable = json!({"name": text(name), "value": text(value)});
        json!({"messageType": "overrideEnvVars", "items": [{"variables": repeated(variable, count)}]})
    };
    let state = |length: usize| {
        json!({"messageType": "updateState", "item": id(1), "subject": id(1), "instance": 0,
            "stateChecksum": "00", "state": text(length)})
    };
    let acceptance = |reason: usize| {
        json!({"messageType": "stateAcceptance", "item": id(1), "subject": id(1), "instance": 0,
            "checksum": "00", "result": "rejected", "reason": text(reason)})
    };
    let renewal = |count: usize, serial: usize, secret: usize| {
        let certificate = json!({"type": "online", "node": node(1), "serial": text(serial)});
        json!({"messageType": "renewCertificatesNotification", "certificates": repeated(certificate, count),
            "unitSecrets": {"version": 7, "nodes": [{"node": node(1), "secret": text(secret)}]}})
    };
    let issued = |length: usize| {
        let certificate = json!({"type": "iam", "node": node(1), "certificateChain": text(length)});
        json!({"messageType": "issuedUnitCertificates", "certificates": [certificate]})
    };
    let start = |name: usize, password: usize| json!({"messageType": "startProvisioningRequest", "node": node(name), "password": text(password)});
    let pairs = [
        (
            desired("nodes", repeated(json!({"item": node(64), "state": "paused"}), 16)),
            desired("nodes", repeated(json!({"item": node(1), "state": "paused"}), 17)),
        ),
        (desired("items", repeated(item(id(64), 32), 64)), desired("items", repeated(item(id(1), 1), 65))),
        (desired("items", json!([item(id(1), 32)])), desired("items", json!([item(id(1), 33)]))),
        (desired("items", json!([item(id(64), 1)])), desired("items", json!([item(id(65), 1)]))),
        (
            desired("instances", repeated(instance(json!([])), 256)),
            desired("instances", repeated(instance(json!([])), 257)),
        ),
        (
            desired("instances", json!([instance(repeated(json!(text(64)), 4))])),
            desired("instances", json!([instance(repeated(json!("l"), 5))])),
        ),
        (desired("subjects", repeated(subject(64), 64)), desired("subjects", repeated(subject(1), 65))),
        (
            desired("certificates", repeated(certificate(2048, 64), 32)),
            desired("certificates", repeated(certificate(1, 1), 33)),
        ),
        (
            desired("certificates", json!([certificate(2048, 1)])),
            desired("certificates", json!([certificate(2049, 1)])),
        ),
        (
            desired("certificates", json!([certificate(1, 64)])),
            desired("certificates", json!([certificate(1, 65)])),
        ),
        (
            desired("certificateChains", repeated(chain(64, 4), 8)),
            desired("certificateChains", repeated(chain(1, 1), 9)),
        ),
        (
            desired("certificateChains", json!([chain(1, 4)])),
            desired("certificateChains", json!([chain(1, 5)])),
        ),
        (config(repeated(node_config(0, 0), 16)), config(repeated(node_config(0, 0), 17))),
        (config(json!([node_config(4, 4)])), config(json!([node_config(5, 4)]))),
        (config(json!([node_config(4, 4)])), config(json!([node_config(4, 5)]))),
        (blob("/urls", repeated(json!(text(4096)), 8)), blob("/urls", repeated(json!("u"), 9))),
        (blob("/urls", json!([text(4096)])), blob("/urls", json!([text(4097)]))),
        (blob("/decryptInfo/blockIv", bytes(16)), blob("/decryptInfo/blockIv", bytes(17))),
        (blob("/decryptInfo/blockKey", bytes(64)), blob("/decryptInfo/blockKey", bytes(65))),
        (blob("/decryptInfo/blockAlg", json!(text(64))), blob("/decryptInfo/blockAlg", json!(text(65)))),
        (blob("/signInfo/value", bytes(512)), blob("/signInfo/value", bytes(513))),
        (blob("/signInfo/chainName", json!(text(64))), blob("/signInfo/chainName", json!(text(65)))),
        (log(json!({"nodeIds": repeated(node(64), 16)})), log(json!({"nodeIds": repeated(node(1), 17)}))),
        (
            log(json!({"nodeIds": [node(1)], "item": id(64)})),
            log(json!({"nodeIds": [node(1)], "item": id(65)})),
        ),
        (variables(16, 64, 256), variables(17, 1, 1)),
        (variables(1, 64, 1), variables(1, 65, 1)),
        (variables(1, 1, 256), variables(1, 1, 257)),
        (state(65_536), state(65_537)),
        (acceptance(256), acceptance(257)),
        (renewal(80, 40, 64), renewal(81, 1, 1)),
        (renewal(1, 40, 1), renewal(1, 41, 1)),
        (renewal(1, 1, 64), renewal(1, 1, 65)),
        (issued(16_384), issued(16_385)),
        (start(64, 64), start(65, 1)),
        (start(1, 64), start(1, 65)),
    ];
    for (within, beyond) in &pairs {
        assert_eq!(findings(within), Vec::<String>::new());
        assert_eq!(findings(beyond).len(), 1, "{:?}", findings(beyond));
    }
}

/// D26, D41, D42, D49, D22, D23: what a Unit needs, and words that it does not know.
#[test]
fn missing_and_unknown_things_are_found() {
    let only = |data: Value| {
        let found = findings(&data);
        assert_eq!(found.len(), 1, "{found:?}");
        found[0].clone()
    };
    let renewal = json!({"messageType": "renewCertificatesNotification",
        "certificates": [{"type": "azure-iot", "node": {"codename": "n"}}]});
    assert!(only(renewal).starts_with("certificates[0].type is none of the types"));
    let request = json!({"messageType": "requestLog", "logType": "systemLog", "filter": {}});
    assert!(only(request).starts_with("filter.nodeIds is empty"));
    let request = json!({"messageType": "requestLog", "logType": "systemLog",
        "filter": {"nodeIds": [{"codename": "n"}]}, "uploadOptions": {"type": "wss"}});
    assert_eq!(only(request), "uploadOptions.type is not https");
    let acceptance = json!({"messageType": "stateAcceptance", "item": {"id": "i"}, "subject": {"id": "s"},
        "instance": 0, "checksum": "q6urqw==", "result": "accepted", "reason": ""});
    assert_eq!(only(acceptance), "checksum is not hexadecimal");
    let request = json!({"messageType": "deprovisioningRequest", "node": {"id": "n"}, "password": "p"});
    assert_eq!(only(request), "node has no codename");
    let digest = format!("sha256:{}", "0".repeat(64));
    let item = json!({"item": {"id": "i"}, "version": "1", "owner": {"id": "o"}, "indexDigest": digest});
    assert_eq!(only(json!({"messageType": "desiredStatus", "items": [item]})), "items[0].item has no type");
    let item = json!({"item": {"id": "i", "type": "service"}, "version": "1", "indexDigest": digest});
    assert_eq!(only(json!({"messageType": "desiredStatus", "items": [item]})), "items[0].owner has no id");
    let pem = "-----BEGIN CERTIFICATE-----\n".repeat(5);
    let issued = json!({"type": "iam", "node": {"codename": "n"}, "certificateChain": pem});
    let issued = json!({"messageType": "issuedUnitCertificates", "certificates": [issued]});
    assert_eq!(only(issued), "certificates[0].certificateChain has 5 entries, Units take 4");
}

/// The correlationId of an answer to `requestBlobUrls` must be there, and any must fit.
#[test]
fn correlation_ids_are_checked() {
    let urls = body(&json!({"messageType": "blobUrls", "items": []}));
    assert!(matches!(check_for_unit(None, &urls), Err(LimitError::Unusable { .. })));
    assert_eq!(check_for_unit(Some(&text(37)), &urls), Ok(()));
    assert!(matches!(check_for_unit(Some(&text(38)), &urls), Err(LimitError::TooLong { max: 37, .. })));
    // What Units send to the cloud is not a Unit's to take.
    let request = body(&json!({"messageType": "requestBlobUrls", "digests": []}));
    assert_eq!(check_for_unit(Some(&text(200)), &request), Ok(()));
}

/// A message that is wrong all over is told briefly.
#[test]
fn findings_are_limited() {
    let nodes = vec![json!({"item": {}, "state": "paused"}); 100];
    assert_eq!(findings(&json!({"messageType": "desiredStatus", "nodes": nodes})).len(), MAX_FINDINGS);
}

/// A stored Unit configuration has 4096 bytes: a larger one is taken and then fails.
#[test]
fn unit_configurations_must_be_storable() {
    let labels = vec![text(64); 4];
    let node = json!({"nodeGroupSubject": {"codename": text(64)}, "labels": labels, "priority": 1});
    let config = |count: usize| {
        let config = json!({"version": "1.0.0", "formatVersion": "7", "nodes": vec![node.clone(); count]});
        findings(&json!({"messageType": "desiredStatus", "unitConfig": config}))
    };
    assert!(config(9).is_empty(), "{:?}", config(9));
    assert!(config(12)[0].starts_with("unitConfig has "));
}
