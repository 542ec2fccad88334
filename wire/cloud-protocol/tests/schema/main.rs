//! Our JSON Schema: generated here from the types, kept in `docs/schema`, and held against every message.
//!
//! `AOS_WRITE_SCHEMA=1 cargo test -p aos-cloud-protocol --test schema` writes the file anew.
#![allow(clippy::unwrap_used, clippy::panic, reason = "tests")]

mod compare;
mod describe;
#[path = "../support/mod.rs"]
mod support;
mod trace;

use std::path::PathBuf;

use aos_cloud_protocol::{CertificateType, read, write};
use compare::Known;
use serde_json::Value;

/// Examples in forms of single peers, which are read and never written so.
const FOREIGN: [&str; 5] = [
    "cloud-to-unit-renewCertificatesNotification-singleObject.json",
    "unit-to-cloud-alerts-upstreamCpp.json",
    "unit-to-cloud-monitoringData-upstreamCpp.json",
    "unit-to-cloud-overrideEnvVarsStatus-upstreamCpp.json",
    "unit-to-cloud-pushLog-upstreamCpp.json",
];

fn kept_file() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../docs/schema/cloud-protocol-v7.json")
}

fn ours() -> jsonschema::Validator {
    let schema: Value = serde_json::from_slice(&std::fs::read(kept_file()).unwrap()).unwrap();
    jsonschema::options().should_validate_formats(true).build(&schema).unwrap()
}

/// The kept file says what the types say.
#[test]
fn the_kept_schema_is_current() {
    let text = serde_json::to_string_pretty(&describe::schema()).unwrap() + "\n";
    if std::env::var_os("AOS_WRITE_SCHEMA").is_some() {
        std::fs::create_dir_all(kept_file().parent().unwrap()).unwrap();
        std::fs::write(kept_file(), &text).unwrap();
    }
    let kept = std::fs::read_to_string(kept_file()).unwrap_or_default();
    assert!(kept == text, "docs/schema/cloud-protocol-v7.json is stale; write it with AOS_WRITE_SCHEMA=1");
}

/// Whatever our writer makes is valid under our schema and under the published one.
#[test]
fn what_we_write_is_valid() {
    let (ours, published) = (ours(), support::schema());
    for frame in support::mutate::samples(600) {
        let text = String::from_utf8_lossy(&frame);
        assert_eq!(support::schema_errors(&ours, &frame), Vec::<String>::new(), "{text}");
        if let Some(published) = &published
            // The array of owner secrets, which every Unit needs, is the one form that the published schema
            // does not know (D45).
            && !text.contains("\"renewCertificatesNotification\"")
        {
            assert_eq!(support::schema_errors(published, &frame), Vec::<String>::new(), "{text}");
        }
    }
}

/// The examples are valid but for forms of single peers, and valid when we write what we read from them.
#[test]
fn examples_are_valid() {
    let ours = ours();
    for example in support::examples().into_iter().flatten() {
        let errors = support::schema_errors(&ours, &example.text);
        assert_eq!(
            errors.is_empty(),
            !FOREIGN.contains(&example.name.as_str()),
            "{}: {errors:?}",
            example.name
        );
        let again = write(&read(&example.text, example.direction).unwrap()).unwrap();
        assert_eq!(support::schema_errors(&ours, &again), Vec::<String>::new(), "{}", example.name);
    }
}

/// Every member and every word of the published schema is a member and a word of ours.
#[test]
fn nothing_published_is_missing() {
    let Some(path) = support::facts("schema/aos-unit-messages-v7.schema.json") else { return };
    let published: Value = serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
    let ours = describe::schema();
    let content = |kind: &str| {
        let cases = ours["properties"]["data"]["allOf"].as_array().unwrap();
        let case = cases.iter().find(|case| case["if"]["properties"]["messageType"]["const"] == kind);
        Known::of(&ours, &case.unwrap()["then"])
    };
    let mapping = published["properties"]["data"]["discriminator"]["mapping"].as_object().unwrap();
    assert_eq!(mapping.len(), 26);
    let mut missing = Vec::new();
    for (kind, place) in mapping {
        let definition = published.pointer(place.as_str().unwrap().trim_start_matches('#')).unwrap();
        let (theirs, ours) = (Known::of(&published, definition), content(kind));
        // Owner secrets are a list with us, as Units need it (D45).
        let as_ours = |place: &str| place.replacen(".unitSecrets.nodes.", ".unitSecrets.nodes[].", 1);
        let common = [".messageType", ".correlationId"];
        for member in theirs.members.iter().filter(|member| !common.contains(&member.as_str())) {
            if !ours.members.contains(&as_ours(member)) {
                missing.push(format!("{kind}{member}"));
            }
        }
        for (place, words) in theirs.words.iter().filter(|(place, _)| !common.contains(&place.as_str())) {
            let known = ours.words.get(&as_ours(place)).cloned().unwrap_or_default();
            let absent = words.difference(&known).filter(|word| !is_open_word(place, word));
            missing.extend(absent.map(|word| format!("{kind}{place}: {word}")));
        }
    }
    assert_eq!(missing, Vec::<String>::new());
}

/// Words that are texts with us, because peers have more of them than were published: types of certificates,
/// and algorithms, which `aos-blob-crypto` takes apart.
fn is_open_word(place: &str, word: &str) -> bool {
    let certificate = CertificateType::from(word.to_owned());
    let algorithm = place.ends_with(".blockAlg") || place.ends_with(".signInfo.alg");
    algorithm || (place.ends_with("[].type") && !matches!(certificate, CertificateType::Other(_)))
}

/// A schema that takes everything would pass the tests above.
#[test]
fn the_schema_refuses() {
    let ours = ours();
    let frame = |data: &str| {
        let header =
            "{\"version\":7,\"systemId\":\"u\",\"createdAt\":\"2026-03-04T08:02:10Z\",\"txn\":\"t\"}";
        format!("{{\"header\":{header},\"data\":{data}}}")
    };
    let errors = |text: &str| support::schema_errors(&ours, text.as_bytes());
    assert!(errors(&frame("{\"messageType\":\"ack\"}")).is_empty());
    for bad in [
        "{}",
        "{\"header\":{},\"data\":{\"messageType\":\"ack\"}}",
        &frame("{\"messageType\":\"acknowledge\"}"),
        &frame("{\"messageType\":\"nack\",\"retryAfter\":-1}"),
        &frame("{\"messageType\":\"unitStatus\"}"),
        &frame("{\"messageType\":\"unitStatus\",\"isDeltaInfo\":true,\"items\":null}"),
        &frame("{\"messageType\":\"stateRequest\",\"item\":{},\"subject\":{},\"default\":false}"),
        &frame("{\"messageType\":\"alerts\",\"items\":[{\"tag\":\"newAlert\"}]}"),
        &frame("{\"messageType\":\"requestBlobUrls\",\"digests\":[\"sha256:0\"]}"),
        &frame(&format!("{{\"messageType\":\"ack\",\"correlationId\":\"{}\"}}", "c".repeat(38))),
    ] {
        assert!(!errors(bad).is_empty(), "{bad}");
    }
}
