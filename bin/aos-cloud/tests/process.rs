//! The program as a process: signals and sudden death.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test that fails panics")]

mod common;

use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use aos_cloud_protocol::{InstanceState, MessageType};
use common::LIMIT;
use common::operator::Operator;
use common::unit::{TestUnit, full_status};
use serde_json::{Value, json};

struct Process {
    child: Child,
    endpoints: Value,
}

impl Process {
    async fn start(data: &Path) -> Self {
        Self::start_with(data, &[]).await
    }

    async fn start_with(data: &Path, more: &[&str]) -> Self {
        let child = Command::new(env!("CARGO_BIN_EXE_aos-cloud"))
            .args(["run", "--listen-units", "127.0.0.1:0", "--listen-api", "127.0.0.1:0"])
            .args(["--listen-blobs", "127.0.0.1:0", "--data"])
            .arg(data)
            .args(more)
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        let pid = child.id();
        let file = data.join("endpoints.json");
        let ready = async {
            loop {
                let text = std::fs::read_to_string(&file).unwrap_or_default();
                let found: Value = serde_json::from_str(&text).unwrap_or_default();
                if found["pid"] == pid {
                    return found;
                }
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        let endpoints = tokio::time::timeout(LIMIT, ready).await.expect("the cloud starts");
        Self { child, endpoints }
    }

    fn address(&self, key: &str) -> &str {
        self.endpoints[key].as_str().unwrap()
    }

    fn signal(&self, name: &str) {
        let status = Command::new("kill").args([name, &self.child.id().to_string()]).status();
        assert!(status.unwrap().success());
    }

    async fn ended(&mut self) -> std::process::ExitStatus {
        let wait = async {
            loop {
                if let Some(status) = self.child.try_wait().unwrap() {
                    return status;
                }
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        tokio::time::timeout(LIMIT, wait).await.expect("the cloud ends")
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[tokio::test]
async fn sudden_death_loses_nothing_that_was_acknowledged() {
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().join("data");
    let mut cloud = Process::start(&data).await;
    let admin = Operator::admin(cloud.address("api"), &data).await;
    let oem = admin.invited("oem", "Axle Works", "ann").await;
    let unit = TestUnit::provision(&oem, &data, cloud.address("units"), "unit-1").await;
    let (item, digests) = oem.publish("hello", "1.0.0", b"layer").await;
    oem.assign("unit-1", &item, &json!({})).await;
    let mut link = unit.connect().await;
    let message = link.expect_kind(MessageType::DesiredStatus).await;
    link.ack(&message).await;
    oem.status_until("unit-1", |status| status["desired"]["acked"] == true).await;
    let subject = oem.get("units/unit-1/").await.ok().json()["subject"]["id"].clone();
    let running = || full_status(Some((&item, subject.as_str().unwrap(), "1.0.0")), InstanceState::Active);
    let sent = link.send(running()).await;
    link.acked(&sent).await;

    cloud.child.kill().unwrap();
    cloud.ended().await;
    let again = Process::start(&data).await;
    assert_eq!(again.endpoints["discovery_url"], cloud.endpoints["discovery_url"]);
    let shown = oem.get("units/unit-1/status/").await.ok().json();
    assert_eq!(shown["instances"][0]["state"], "active");
    assert_eq!(shown["desired"]["acked"], true);
    assert!(oem.call("HEAD", &format!("blobs/{}", digests[0]), "").await.status.is_success());
    let mut link = unit.connect().await;
    let sent = link.send(running()).await;
    link.acked(&sent).await;
    assert!(link.nothing_of(MessageType::DesiredStatus).await);
}

#[tokio::test]
async fn sigterm_stops_in_time_with_a_session_open() {
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().join("data");
    let mut cloud = Process::start(&data).await;
    let admin = Operator::admin(cloud.address("api"), &data).await;
    let oem = admin.invited("oem", "Axle Works", "ann").await;
    let unit = TestUnit::provision(&oem, &data, cloud.address("units"), "unit-1").await;
    let _silent = unit.connect().await;
    let start = Instant::now();
    cloud.signal("-TERM");
    assert!(cloud.ended().await.success());
    assert!(start.elapsed() < Duration::from_secs(2), "{:?}", start.elapsed());
    assert!(!data.join("bootstrap-token").exists() || admin.credentials.chain.len() == 3);
}

#[tokio::test]
async fn units_are_moved_away_when_there_is_time_for_it() {
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().join("data");
    let mut cloud = Process::start_with(&data, &["--drain-time", "3"]).await;
    let admin = Operator::admin(cloud.address("api"), &data).await;
    let oem = admin.invited("oem", "Axle Works", "ann").await;
    let mut units = vec![];
    for number in 0..4 {
        let name = format!("unit-{number}");
        units.push(TestUnit::provision(&oem, &data, cloud.address("units"), &name).await);
    }
    let mut links = vec![];
    for unit in &units {
        links.push(unit.connect().await);
    }
    cloud.signal("-TERM");
    // Discovery answers all the time, and never with an address.
    let told = async {
        loop {
            let answer = units[0].discover(Some(&units[0].online), "unit-0").await.unwrap().json();
            if answer["errorCode"] == 2 {
                assert_eq!(answer["connectionInfo"], json!([]));
                return answer["nextRequestDelay"].as_u64().unwrap();
            }
        }
    };
    assert!(tokio::time::timeout(LIMIT, told).await.unwrap() >= 1000);
    for link in &mut links {
        assert_eq!(link.closed().await, 1012);
    }
    assert!(cloud.ended().await.success());
}

#[tokio::test]
async fn two_clouds_never_share_their_data() {
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().join("data");
    let _first = Process::start(&data).await;
    let second = Command::new(env!("CARGO_BIN_EXE_aos-cloud"))
        .args(["run", "--listen-units", "127.0.0.1:0", "--listen-api", "127.0.0.1:0"])
        .args(["--listen-blobs", "127.0.0.1:0", "--data"])
        .arg(&data)
        .output()
        .unwrap();
    assert!(!second.status.success());
    assert!(String::from_utf8_lossy(&second.stderr).contains("another cloud"));
}
