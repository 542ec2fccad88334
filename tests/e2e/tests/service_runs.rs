//! A service that the cloud asks for runs on a Unit: the whole path, with update and removal.
#![allow(clippy::unwrap_used, missing_docs, reason = "tests")]

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use aos_testbed::stage::{instances, since_desired_sent};
use aos_testbed::{HttpService, Site, Stage, http, service, wait_for_or_last};
use serde_json::Value;

const LIMIT: Duration = Duration::from_secs(30);

fn page(stage: &Stage) -> Result<String, String> {
    let link = stage.unit.link_to_service(service::PORT, LIMIT).map_err(|error| error.to_string())?;
    let answer = http::get(link.address(), "/", Duration::from_secs(2)).map_err(|error| error.to_string())?;
    if answer.status == 200 { Ok(answer.text().trim().to_owned()) } else { Err(answer.status.to_string()) }
}

fn expect_page(stage: &Stage, text: &str) {
    wait_for_or_last("the page", LIMIT, || match page(stage) {
        Ok(found) if found == text => Ok(()),
        other => Err(format!("{other:?}")),
    })
    .unwrap();
}

// REL-14, PRO-119, PRO-120, SM-16, ARC-03, ARC-06, ARC-11, ARC-12, ARC-13
#[test]
fn a_service_is_installed_started_updated_and_removed() {
    let site = Arc::new(Site::new("e2e-runs").unwrap());
    let mut stage = Stage::provisioned(site, "e2e-unit", &mut |step: &str| eprintln!("{step}")).unwrap();
    let messages = stage.unit.log_messages().unwrap();
    stage.unit.start_all().unwrap();
    stage.wait_online(LIMIT).unwrap();
    let dir = stage.site.dir().to_path_buf();

    let first = HttpService::new(&dir.join("one"), "web", "one").unwrap();
    first.publish(&stage.operator, "1.0.0").unwrap();
    // Publishing again is no error and changes nothing.
    first.publish(&stage.operator, "1.0.0").unwrap();
    stage.operator.run(&["assign", "e2e-unit", "web"]).unwrap();
    let status = stage.wait_active("web", "1.0.0", LIMIT).unwrap();
    let time = since_desired_sent(&status).unwrap();
    eprintln!("active {time} ms after desiredStatus");
    assert!(time < 10_000, "{time} ms, in a debug build");
    expect_page(&stage, "one");

    let items = status["items"].as_array().unwrap();
    assert!(items.iter().any(|item| item["state"] == "installed"), "{items:?}");
    let local = stage.unit.status().unwrap();
    assert_eq!(local["cm"]["cloud"]["state"], "connected", "{local}");

    let second = HttpService::new(&dir.join("two"), "web", "two").unwrap();
    second.publish(&stage.operator, "2.0.0").unwrap();
    stage.wait_active("web", "2.0.0", LIMIT).unwrap();
    expect_page(&stage, "two");

    stage.operator.run(&["unassign", "e2e-unit", "web"]).unwrap();
    stage
        .wait_status("the instance to be gone", LIMIT, |status| {
            let left = instances(status);
            if left.is_empty() { Ok(()) } else { Err(format!("{left:?}")) }
        })
        .unwrap();
    wait_for_or_last("its processes to be gone", LIMIT, || {
        let left: Vec<Vec<String>> = stage
            .unit
            .node()
            .processes()
            .into_iter()
            .map(aos_testbed::process::arguments)
            .filter(|words| words.iter().any(|word| word == "httpd"))
            .collect();
        if left.is_empty() { Ok(()) } else { Err(format!("{left:?}")) }
    })
    .unwrap();
    stage.unit.check_running().unwrap();
    let kinds = messages_are_valid(&messages);
    for kind in ["unitStatus", "desiredStatus", "requestBlobUrls", "blobUrls", "ack"] {
        assert!(kinds.contains(kind), "no {kind} among {kinds:?}");
    }
}

/// Every message that went either way fits the published schema; returns the kinds seen.
fn messages_are_valid(log: &Path) -> BTreeSet<String> {
    let text = fs::read_to_string(log).unwrap();
    let frames: Vec<Value> =
        text.lines().map(|line| serde_json::from_str(line.split_once(": ").unwrap().1).unwrap()).collect();
    if let Some(schema) = published_schema() {
        for frame in &frames {
            let errors: Vec<String> = schema
                .iter_errors(frame)
                .map(|error| format!("{}: {error}", error.instance_path()))
                .collect();
            assert!(errors.is_empty(), "{errors:#?} in {frame:#}");
        }
    }
    frames
        .iter()
        .filter_map(|frame| frame.pointer("/data/messageType")?.as_str().map(str::to_owned))
        .collect()
}

/// The schema is data of others and not kept here; the environment variable `AOS_SHARED` tells where it is.
fn published_schema() -> Option<jsonschema::Validator> {
    let root = std::env::var_os("AOS_SHARED")
        .map_or_else(|| PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../../shared"), PathBuf::from);
    let Ok(text) = fs::read(root.join("schema/aos-unit-messages-v7.schema.json")) else {
        eprintln!("skipped the comparison with the schema: it is not on this machine");
        return None;
    };
    let schema: Value = serde_json::from_slice(&text).unwrap();
    let bytes = |text: &str| text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"+/=".contains(&byte));
    let uuid =
        |text: &str| text.len() == 36 && text.bytes().all(|byte| byte.is_ascii_hexdigit() || byte == b'-');
    let options = jsonschema::options().should_validate_formats(true);
    Some(options.with_format("base64", bytes).with_format("uuid4", uuid).build(&schema).unwrap())
}
