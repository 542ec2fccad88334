//! What comes from outside and is wrong is refused, told, and changes nothing.
#![allow(clippy::unwrap_used, missing_docs, reason = "tests")]

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use aos_testbed::stage::instances;
use aos_testbed::tls_probe::{self, Identity};
use aos_testbed::{Cloud, HttpService, Operator, Site, Stage, binaries, http, service, wait_for_or_last};

const LIMIT: Duration = Duration::from_secs(30);

/// The units listener answers discovery only to certificates that the cloud issued to Units.
fn discovery(cloud: &Cloud, identity: Option<Identity>) -> std::io::Result<u16> {
    let address = &cloud.endpoints().units;
    let mut stream =
        tls_probe::connect(address, &cloud.root_certificate(), identity, Duration::from_secs(5))?;
    let body = "{}";
    let request = format!(
        "POST /sd/v7/ HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    );
    let bytes = tls_probe::ask(&mut stream, &request)?;
    http::parse(&bytes).map(|answer| answer.status).ok_or_else(|| std::io::Error::other("no answer"))
}

// REL-04
#[test]
fn strangers_are_refused_in_the_handshake() {
    let site = Site::new("e2e-strangers").unwrap();
    let cloud = Cloud::start(&site).unwrap();
    let operator = Operator::enrol(&site, &cloud).unwrap();

    assert!(discovery(&cloud, None).is_err(), "without certificate");
    // A user's certificate is the cloud's own work, but of another kind.
    assert!(discovery(&cloud, Some(operator.identity().unwrap())).is_err(), "with a user's certificate");

    // A certificate that says what ours say, signed by somebody else.
    let dir = site.dir();
    let made = rcgen::generate_simple_self_signed(["e2e-unit".to_owned()]).unwrap();
    fs::write(dir.join("cert.pem"), made.cert.pem()).unwrap();
    fs::write(dir.join("key.pem"), made.signing_key.serialize_pem()).unwrap();
    let stranger = Identity::from_files(&dir.join("cert.pem"), &dir.join("key.pem")).unwrap();
    assert!(discovery(&cloud, Some(stranger)).is_err(), "with a stranger's certificate");
}

// REL-09
#[test]
fn a_wrong_configuration_file_ends_the_process_with_file_key_and_reason() {
    let dir = std::env::temp_dir().join(format!("aos-e2e-config-{}", std::process::id()));
    fs::create_dir_all(&dir).unwrap();
    let cases = [
        ("cm", r#"{"workingDir": "/x", "unitStatusSendTimeout": "soon"}"#, "unitStatusSendTimeout"),
        ("cm", r#"{"workingDir": 5}"#, "workingDir"),
        (
            "sm",
            r#"{"workingDir": "/x", "cmServerURL": "a:1", "iamPublicServerURL": "a:2", "runtimes": [{"plugin": "magic", "type": "x"}]}"#,
            "plugin",
        ),
        (
            "iam",
            r#"{"iamPublicServerURL": ":1", "nodeInfo": {"maxDMIPS": "many"}, "migration": {}}"#,
            "maxDMIPS",
        ),
        ("iam", "{", "line 1"),
    ];
    for (component, content, key) in cases {
        let file = dir.join(format!("{component}.cfg"));
        fs::write(&file, content).unwrap();
        let output =
            Command::new(binaries::find("aos").unwrap()).args([component, "-c"]).arg(&file).output().unwrap();
        let text = [output.stdout, output.stderr].concat();
        let text = String::from_utf8_lossy(&text).to_lowercase();
        assert!(!output.status.success(), "{component} took {content}");
        for word in [&file.display().to_string(), key] {
            assert!(text.contains(&word.to_lowercase()), "{component}: no '{word}' in {text}");
        }
    }
    let missing =
        Command::new(binaries::find("aos").unwrap()).args(["cm", "-c", "/nowhere/cm.cfg"]).output().unwrap();
    assert!(!missing.status.success());
    fs::remove_dir_all(&dir).unwrap();
}

fn files(dir: &Path) -> BTreeSet<PathBuf> {
    let mut found = BTreeSet::new();
    let mut open = vec![dir.to_path_buf()];
    while let Some(dir) = open.pop() {
        for entry in fs::read_dir(&dir).unwrap().flatten() {
            if entry.file_type().unwrap().is_dir() {
                open.push(entry.path());
            } else {
                found.insert(entry.path());
            }
        }
    }
    found
}

// REL-07, PRO-64
#[test]
fn a_damaged_blob_is_never_installed_and_the_running_version_stays() {
    let site = Site::new("e2e-damaged").unwrap();
    let mut stage = Stage::online(site, "e2e-unit", |step| eprintln!("{step}")).unwrap();
    let dir = stage.site.dir().to_path_buf();
    let blobs = dir.join("cloud");

    HttpService::new(&dir.join("one"), "web", "one").unwrap().publish(&stage.operator, "1.0.0").unwrap();
    stage.operator.run(&["assign", "e2e-unit", "web", "--version", "1.0.0"]).unwrap();
    stage.wait_active("web", "1.0.0", LIMIT).unwrap();
    let before = stage.service_pid();

    let known = files(&blobs);
    HttpService::new(&dir.join("two"), "web", "two").unwrap().publish(&stage.operator, "2.0.0").unwrap();
    // The layer is by far the largest of the new files; one byte in its middle is turned over.
    let new = files(&blobs).difference(&known).cloned().collect::<Vec<_>>();
    let layer = new.iter().max_by_key(|path| fs::metadata(path).unwrap().len()).unwrap();
    let mut bytes = fs::read(layer).unwrap();
    assert!(bytes.len() > 100_000, "{new:?}");
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::write(layer, bytes).unwrap();

    stage.operator.run(&["assign", "e2e-unit", "web", "--version", "2.0.0"]).unwrap();
    stage
        .wait_status("the item to fail", LIMIT, |status| {
            let items = status["items"].as_array().cloned().unwrap_or_default();
            let failed = items.iter().any(|item| {
                item["version"] == "2.0.0"
                    && item["state"] == "failed"
                    && item
                        .pointer("/error/message")
                        .and_then(|text| text.as_str())
                        .is_some_and(|text| !text.is_empty())
            });
            if failed { Ok(()) } else { Err(format!("{items:?}")) }
        })
        .unwrap();
    let status = stage.status().unwrap();
    let running: Vec<_> = instances(&status).into_iter().filter(|one| one.state == "active").collect();
    assert!(running.iter().all(|one| one.version == "1.0.0") && running.len() == 1, "{running:?}");
    assert_eq!(stage.service_pid(), before);
    let link = stage.unit.link_to_service(service::PORT, LIMIT).unwrap();
    let page = wait_for_or_last("the old page", LIMIT, || {
        http::get(link.address(), "/", Duration::from_secs(2)).map_err(|error| error.to_string())
    })
    .unwrap();
    assert_eq!(page.text().trim(), "one");
}
