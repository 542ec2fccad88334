//! `aosctl protocol` as people run it: the real program, without a login.
#![allow(clippy::unwrap_used, clippy::panic, reason = "tests")]

use std::io::Write as _;
use std::path::PathBuf;
use std::process::{Command, Output, Stdio};

use serde_json::{Value, json};

const DIGEST: &str = "sha256:0b8340d96c816d945b9b983c6b0d6a1fe3aba2529978df9a117137ba6634564d";

/// Runs the program without any credentials in reach.
fn aosctl(arguments: &[&str]) -> Output {
    let home = tempfile::tempdir().unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_aosctl"));
    command.env("AOSCTL_HOME", home.path()).arg("protocol").args(arguments).output().unwrap()
}

fn stdout(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).unwrap()
}

fn status(output: &Output) -> i32 {
    output.status.code().unwrap()
}

/// A file with these lines.
struct File {
    _dir: tempfile::TempDir,
    path: PathBuf,
}

fn file(text: &str) -> File {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("messages");
    std::fs::write(&path, text).unwrap();
    File { _dir: dir, path }
}

impl File {
    fn path(&self) -> &str {
        self.path.to_str().unwrap()
    }
}

fn message(txn: &str, at: &str, data: &Value) -> String {
    json!({"header": {"version": 7, "systemId": "unit-1", "createdAt": at, "txn": txn}, "data": data})
        .to_string()
}

fn check(text: &str, more: &[&str]) -> (i32, Value) {
    let file = file(text);
    let output = aosctl(&[&["check", file.path(), "--output", "json"], more].concat());
    let shown = serde_json::from_str(&stdout(&output)).unwrap_or_else(|e| panic!("{e}: {output:?}"));
    (status(&output), shown)
}

const TIME: &str = "2026-03-04T08:02:10.000000Z";

/// The folder of example messages; `None`, with a note, when this machine has none.
fn examples() -> Option<PathBuf> {
    let root = std::env::var_os("AOS_SHARED")
        .map_or_else(|| PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../../shared"), PathBuf::from);
    let folder = root.join("spec/examples/v7");
    if folder.is_dir() {
        return Some(folder);
    }
    println!("skipped: {} is not on this machine", folder.display());
    None
}

/// What each example is good for; those in the form of one peer deviate.
#[test]
fn examples_are_judged() {
    let Some(folder) = examples() else { return };
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_str().unwrap().to_owned();
        if !name.contains("-to-") {
            continue;
        }
        let expected = match name.as_str() {
            "cloud-to-unit-renewCertificatesNotification-singleObject.json"
            | "unit-to-cloud-alerts-upstreamCpp.json"
            | "unit-to-cloud-monitoringData-upstreamCpp.json"
            | "unit-to-cloud-overrideEnvVarsStatus-upstreamCpp.json"
            | "unit-to-cloud-pushLog-upstreamCpp.json" => 1,
            _ => 0,
        };
        let output = aosctl(&["check", path.to_str().unwrap()]);
        assert_eq!(status(&output), expected, "{name}: {}", stdout(&output));
    }
}

#[test]
fn a_good_message_is_accepted() {
    let (code, shown) =
        check(&message("t-1", TIME, &json!({"messageType": "ack", "correlationId": "t-1"})), &[]);
    let judged = &shown["messages"][0];
    assert_eq!((code, &judged["verdict"], &judged["messageType"]), (0, &json!("accepted"), &json!("ack")));
    assert_eq!((&judged["txn"], &judged["systemId"]), (&json!("t-1"), &json!("unit-1")));
}

/// D18, D45, D57, D62: deviations are told with their place; secrets are not.
#[test]
fn deviations_are_told_with_their_place() {
    let secrets = json!({"version": "2.0.0", "nodes": {"node-1": "topsecret"}});
    let data =
        json!({"messageType": "renewCertificatesNotification", "UnitSecrets": secrets, "colour": null});
    let (code, shown) = check(&message("t", TIME, &data), &[]);
    assert_eq!(code, 1, "{shown}");
    let findings = shown["messages"][0]["findings"].to_string();
    assert!(
        findings.contains("$.data.UnitSecrets") && findings.contains("is read as 'unitSecrets'"),
        "{findings}"
    );
    assert!(findings.contains("$.data.colour"), "{findings}");
    assert!(!findings.contains("topsecret"), "{findings}");

    let data = json!({"messageType": "desiredStatus", "instances":
        [{"item": {"id": "i"}, "subject": {"id": "s"}, "priority": "7"}]});
    let (code, shown) = check(&message("t", TIME, &data), &[]);
    assert_eq!((code, &shown["messages"][0]["verdict"]), (1, &json!("not for upstream Units")));
    let findings = shown["messages"][0]["findings"].to_string();
    for part in ["$.data.instances[0].priority", "'7' is read as 7", "numInstances", "read as 0"] {
        assert!(findings.contains(part), "{part}: {findings}");
    }
    let variables = json!([{"name": "A", "value": "", "ttl": ""}]);
    let data = json!({"messageType": "overrideEnvVars", "items": [{"variables": variables}]});
    let (_, shown) = check(&message("t", TIME, &data), &[]);
    assert!(shown["messages"][0]["findings"].to_string().contains("$.data.items[0].variables[0].ttl"));
}

#[test]
fn limits_of_units_are_told() {
    let data = json!({"messageType": "desiredStatus", "nodes":
        vec![json!({"item": {"codename": "n", "type": "node"}, "state": "paused"}); 17]});
    let (code, shown) = check(&message("t", TIME, &data), &[]);
    let judged = &shown["messages"][0];
    assert_eq!((code, &judged["findings"][0]["path"]), (1, &json!("$.data.nodes")));
    assert_eq!(judged["findings"][0]["text"], "has 17 entries, Units take 16");
    assert!(judged["peers"].as_str().unwrap().contains("drops it"), "{judged}");
}

#[test]
fn what_cannot_be_used_is_told_with_its_place() {
    let data = json!({"messageType": "pushLog", "node": {"codename": "n"}, "status": "fine"});
    let (code, shown) = check(&message("t", TIME, &data), &[]);
    assert_eq!((code, &shown["messages"][0]["verdict"]), (2, &json!("invalid")));
    assert_eq!(shown["messages"][0]["findings"][0]["path"], "$.data.status");
    let (code, shown) = check("{\"header\": {},\n \"data\": }", &[]);
    assert_eq!((code, &shown["messages"][0]["verdict"]), (2, &json!("unreadable")));
    assert!(shown["messages"][0]["findings"][0]["text"].as_str().unwrap().contains("line 2"), "{shown}");
    let wrong = message("t", TIME, &json!({"messageType": "nack"}));
    let (code, shown) = check(&wrong.replace("nack", "desiredStatus"), &["--from", "unit"]);
    assert_eq!((code, &shown["messages"][0]["findings"][0]["text"]), (2, &json!("wrong direction")));
    let missing = aosctl(&["check", "/no/such/file"]);
    assert_eq!(status(&missing), 2);
    assert!(String::from_utf8_lossy(&missing.stderr).contains("cannot open /no/such/file"), "{missing:?}");
}

/// Standard input, and a message log with several lines.
#[test]
fn several_frames_are_judged_one_by_one() {
    let ack = message("t-1", TIME, &json!({"messageType": "ack"}));
    let mut child = Command::new(env!("CARGO_BIN_EXE_aosctl"))
        .args(["protocol", "check", "-"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let lines = format!("TX: {ack}\nRX: {ack}\nRX: 0broken\nTX: {{}}\n");
    child.stdin.take().unwrap().write_all(lines.as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    let text = stdout(&output);
    assert_eq!(status(&output), 2, "{text}");
    for line in ["1: ack t-1: accepted", "2: ack t-1: accepted", "3: frame: sealed", "4: frame: unreadable"] {
        assert!(text.contains(line), "{line}: {text}");
    }
}

#[test]
fn the_schema_is_printed() {
    let output = aosctl(&["schema"]);
    let kept = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../docs/schema/cloud-protocol-v7.json");
    assert_eq!((status(&output), stdout(&output).trim()), (0, std::fs::read_to_string(kept).unwrap().trim()));
}

/// A session of a few seconds as a Unit's log has it: an answer in time, a repetition, an invalid message, one
/// never acknowledged, and an acknowledgement of nothing.
fn log() -> String {
    let at = |second: u32| format!("2026-03-04T08:00:{second:02}.000000Z");
    let ask = message("t-1", &at(0), &json!({"messageType": "requestBlobUrls", "digests": [DIGEST]}));
    let state = json!({"messageType": "stateRequest", "item": {"id": "i"}, "subject": {"id": "s"}, "instance": 0,
        "default": false});
    let ack =
        |txn: &str, second| message(txn, &at(second), &json!({"messageType": "ack", "correlationId": txn}));
    let urls = message("c-1", &at(2), &json!({"messageType": "blobUrls", "items": []}));
    let invalid = message("c-2", &at(3), &json!({"messageType": "blobUrls", "items": 7}));
    let open = message("t-2", &at(4), &state);
    [
        format!("TX: {ask}"),
        format!("RX: {}", ack("t-1", 1)),
        format!("RX: {urls}"),
        format!("TX: {}", ack("c-1", 2)),
        format!("RX: {urls}"),
        format!("TX: {}", ack("c-1", 3)),
        format!("RX: {invalid}"),
        format!("TX: {open}"),
        format!("RX: {}", ack("nobody", 5)),
    ]
    .join("\n")
}

/// A message log becomes a recording, and both give the same timeline.
#[test]
fn a_log_becomes_a_recording_and_a_timeline() {
    let log = file(&log());
    let recording = aosctl(&["record", "--from-log", log.path()]);
    assert_eq!(status(&recording), 0, "{recording:?}");
    let text = stdout(&recording);
    let lines: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!((lines.len(), &lines[0]["from"], &lines[1]["from"]), (9, &json!("unit"), &json!("cloud")));
    assert_eq!(
        (&lines[0]["at"], &lines[4]["at"]),
        (&json!("2026-03-04T08:00:00.000000Z"), &json!("2026-03-04T08:00:02.000000Z"))
    );
    assert_eq!(lines[0]["frame"]["header"]["txn"], "t-1");
    let recording = file(&text);

    let output = aosctl(&["replay", recording.path(), "--output", "json"]);
    let shown: Value = serde_json::from_str(&stdout(&output)).unwrap();
    assert_eq!(
        shown["summary"],
        json!({
            "messages": 4, "answers": 3, "repeats": 1, "nacks": 0, "withoutEffect": 2, "neverAcknowledged": 2,
            "medianLatencyMs": 1000, "longestLatencyMs": 1000,
        }),
        "{shown}"
    );
    let messages = shown["messages"].as_array().unwrap();
    let of = |txn: &str, kind: &str| {
        messages
            .iter()
            .find(|m| m["txn"] == txn && m["messageType"] == kind)
            .unwrap_or_else(|| panic!("{shown}"))
    };
    assert_eq!(
        (&of("t-1", "requestBlobUrls")["latencyMs"], &of("t-1", "requestBlobUrls")["effect"]),
        (&json!(1000), &json!("delivered"))
    );
    assert_eq!(of("c-1", "blobUrls")["repeatsAtMs"], json!([2000]));
    let invalid = of("c-2", "blobUrls");
    assert!(invalid["reason"].as_str().unwrap().contains("items"), "{invalid}");
    assert_eq!(of("t-2", "stateRequest")["acknowledged"], false);
    assert_eq!(of("nobody", "ack")["effect"], "none");

    // The times of a log are those of its messages, so it gives the same.
    for source in [&recording, &log] {
        let output = aosctl(&["replay", source.path()]);
        let text = stdout(&output);
        assert_eq!(status(&output), 0, "{text}");
        for part in [
            "never acknowledged",
            "repeated 1 times",
            "acknowledged after 1000 ms",
            "no effect: invalid message",
        ] {
            assert!(text.contains(part), "{part}: {text}");
        }
    }
}

/// Recordings of the cloud have blanks in place of secrets and are read nevertheless.
#[test]
fn blanked_recordings_are_read() {
    let blob = json!({"digest": DIGEST, "urls": ["https://x/y?***"], "sha256": "00".repeat(32), "size": 1,
        "decryptInfo": {"blockAlg": "AES256/CBC/pkcs7", "blockIv": "AAAAAAAAAAAAAAAAAAAAAA==", "blockKey": "***"}});
    let data = json!({"messageType": "blobUrls", "correlationId": "c", "items": [blob]});
    let frame: Value = serde_json::from_str(&message("t", TIME, &data)).unwrap();
    let line = json!({"at": TIME, "from": "cloud", "frame": frame}).to_string();
    let (code, shown) = check(&line, &[]);
    assert_eq!(code, 0, "{shown}");
}

/// What is asked of a live replay is checked before anything is sent.
#[test]
fn a_live_replay_needs_an_identity() {
    let log = file(&log());
    let refused = aosctl(&["replay", log.path(), "--to-cloud", "wss://localhost:1/"]);
    assert_eq!(status(&refused), 2);
    assert!(String::from_utf8_lossy(&refused.stderr).contains("--identity"), "{refused:?}");
}
