//! A scene for the message flows: cloud and one Unit that is online, and every message that crosses their link.
#![allow(dead_code, reason = "each test file uses its part")]

use std::fs;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use aos_testbed::{Cloud, Daemon, HttpService, Result, Site, Stage, http, service, wait_for_or_last};
use serde_json::{Value, json};

/// No step of a test takes longer.
pub const LIMIT: Duration = Duration::from_secs(30);
/// The Unit.
pub const UNIT: &str = "e2e-unit";
/// The item that most flows use.
pub const ITEM: &str = "web";

/// Which way a message went, seen from the Unit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Way {
    /// To the cloud.
    Out,
    /// From the cloud.
    In,
}

/// A message as the Unit logged it.
#[derive(Debug, Clone)]
pub struct Frame {
    pub way: Way,
    pub json: Value,
}

impl Frame {
    pub fn kind(&self) -> &str {
        self.json["data"]["messageType"].as_str().unwrap_or_default()
    }

    pub fn txn(&self) -> &str {
        self.json["header"]["txn"].as_str().unwrap_or_default()
    }

    pub fn correlation_id(&self) -> &str {
        self.json["data"]["correlationId"].as_str().unwrap_or_default()
    }

    pub fn data(&self) -> &Value {
        &self.json["data"]
    }
}

pub struct Scene {
    pub stage: Stage,
    log: PathBuf,
}

impl Scene {
    /// A provisioned Unit that is online, with short periods.
    pub fn online(name: &str) -> Self {
        Self::configured(name, |_| {})
    }

    /// The same; `change` edits the Communication Manager's configuration first.
    pub fn configured(name: &str, change: impl FnOnce(&mut Value)) -> Self {
        Self::with_cloud(name, &[], change)
    }

    /// The same; the cloud gets more options.
    pub fn with_cloud(name: &str, options: &[&str], change: impl FnOnce(&mut Value)) -> Self {
        let site = Arc::new(Site::new(name).unwrap());
        let cloud = Cloud::start_with(&site, options).unwrap();
        let mut told = |step: &str| eprintln!("{step}");
        let mut stage = Stage::provisioned_in(site, cloud, UNIT, &mut told).unwrap();
        let log = stage.unit.log_messages().unwrap();
        stage
            .unit
            .configure(Daemon::Cm, |document| {
                document["alerts"] = json!({"sendPeriod": "300ms"});
                document["monitoring"] = json!({"sendPeriod": "1s", "pollPeriod": "1s"});
                document["stateChangeDelay"] = json!("500ms");
                document["launcher"] = json!({"checkOverrideEnvVarsPeriod": "1s"});
                change(document);
            })
            .unwrap();
        stage
            .unit
            .configure(Daemon::Sm, |document| {
                document["monitoring"] = json!({"pollPeriod": "1s", "averageWindow": "1s"});
            })
            .unwrap();
        stage.unit.start_all().unwrap();
        stage.wait_online(LIMIT).unwrap();
        Self { stage, log }
    }

    /// Publishes a version of the test service with this page and lets the Unit run it.
    pub fn deploy(&mut self, version: &str, page: &str) {
        self.service(version, page, |_| {});
    }

    /// The same; `change` edits the item configuration.
    pub fn service(&mut self, version: &str, page: &str, change: impl FnOnce(&HttpService)) {
        let dir = self.stage.site.dir().join(format!("{ITEM}-{version}"));
        let service = HttpService::new(&dir, ITEM, page).unwrap();
        change(&service);
        service.publish(&self.stage.operator, version).unwrap();
        self.stage.operator.run(&["assign", UNIT, ITEM]).unwrap();
        self.active(version);
    }

    /// Lets the Unit run the service that can be worked from outside.
    pub fn deploy_handles(&mut self) {
        let dir = self.stage.site.dir().join("handles");
        let service = HttpService::with_handles(&dir, ITEM).unwrap();
        service.publish(&self.stage.operator, "1.0.0").unwrap();
        self.stage.operator.run(&["assign", UNIT, ITEM]).unwrap();
        self.active("1.0.0");
        self.until("the service to answer", || self.try_ask("/cgi-bin/env").map(|_| ()));
    }

    fn try_ask(&self, path: &str) -> std::result::Result<String, String> {
        let link = self.stage.unit.link_to_service(service::PORT, LIMIT).map_err(|e| e.to_string())?;
        let answer = http::get(link.address(), path, Duration::from_secs(2)).map_err(|e| e.to_string())?;
        if answer.status == 200 {
            Ok(answer.text())
        } else {
            Err(format!("{}: {}", answer.status, answer.text()))
        }
    }

    /// What the service answers; a write is repeated until it took place.
    pub fn ask(&self, path: &str) -> String {
        self.until(path, || self.try_ask(path))
    }

    /// Waits until the service answers what `wanted` likes.
    pub fn wait_answer(&self, path: &str, wanted: impl Fn(&str) -> bool) -> String {
        self.until(path, || {
            let text = self.try_ask(path)?;
            if wanted(&text) { Ok(text) } else { Err(text) }
        })
    }

    pub fn active(&mut self, version: &str) -> Value {
        let waited = self.stage.wait_active(ITEM, version, LIMIT);
        self.expect(waited)
    }

    pub fn expect<T>(&self, result: Result<T>) -> T {
        match result {
            Ok(value) => value,
            Err(error) => panic!("{}\n{}", aos_testbed::chain(&error), self.tails()),
        }
    }

    /// Ends of all logs.
    pub fn tails(&self) -> String {
        let cloud = aos_testbed::process::tail(self.stage.cloud.log(), 30);
        let frames = self.frames();
        let last = frames.iter().skip(frames.len().saturating_sub(24)).map(|frame| {
            let text: String = frame.data().to_string().chars().take(400).collect();
            format!("{:?} {} {text}\n", frame.way, frame.txn())
        });
        let last = last.collect::<Vec<_>>().concat();
        format!("{}--- cloud\n{cloud}\n--- messages\n{last}", self.stage.unit.log_tails(30))
    }

    /// `aosctl --output json` with these words.
    pub fn json(&self, args: &[&str]) -> Value {
        let result = self.stage.operator.json(args);
        self.expect(result)
    }

    /// `aosctl` with these words; what it prints.
    pub fn run(&self, args: &[&str]) -> String {
        let result = self.stage.operator.run(args);
        self.expect(result)
    }

    /// What `aosctl` says when it fails.
    pub fn refused(&self, args: &[&str]) -> String {
        match self.stage.operator.run(args) {
            Ok(text) => panic!("aosctl {args:?} succeeded: {text}"),
            Err(error) => error.to_string(),
        }
    }

    /// All messages so far, in order.
    pub fn frames(&self) -> Vec<Frame> {
        // A sealed message that was not opened stands there as bytes.
        let bytes = fs::read(&self.log).unwrap_or_default();
        let text = String::from_utf8_lossy(&bytes);
        text.lines()
            .filter_map(|line| {
                let (way, frame) = line.split_once(": ")?;
                let way = if way == "TX" { Way::Out } else { Way::In };
                // The last line may still be growing.
                Some(Frame { way, json: serde_json::from_str(frame).ok()? })
            })
            .collect()
    }

    /// Messages of a kind and way.
    pub fn sent(&self, way: Way, kind: &str) -> Vec<Frame> {
        self.frames().into_iter().filter(|frame| frame.way == way && frame.kind() == kind).collect()
    }

    /// Waits for a message that `wanted` likes, among those after the first `skip`.
    pub fn wait_frame(&self, skip: usize, way: Way, kind: &str, wanted: impl Fn(&Frame) -> bool) -> Frame {
        let waited = wait_for_or_last(&format!("{kind} ({way:?})"), LIMIT, || {
            let frames = self.frames();
            let later = frames.iter().skip(skip);
            let found = later.clone().find(|frame| frame.way == way && frame.kind() == kind && wanted(frame));
            found.cloned().ok_or_else(|| {
                let kinds: Vec<&str> = later.map(Frame::kind).collect();
                format!("{kinds:?}")
            })
        });
        self.expect(waited)
    }

    /// Waits until `condition` holds.
    pub fn until<T>(&self, what: &str, condition: impl FnMut() -> std::result::Result<T, String>) -> T {
        let waited = wait_for_or_last(what, LIMIT, condition);
        self.expect(waited)
    }

    /// The peer acknowledged this message with its own txn.
    pub fn wait_acked(&self, frame: &Frame) {
        let back = if frame.way == Way::Out { Way::In } else { Way::Out };
        self.wait_frame(0, back, "ack", |ack| ack.txn() == frame.txn());
    }

    /// Waits until `condition` likes a REST document.
    pub fn wait_document(&self, what: &str, path: &str, condition: impl Fn(&Value) -> bool) -> Value {
        self.until(what, || {
            let document = self.stage.operator.get(path).map_err(|error| aos_testbed::chain(&error))?;
            if condition(&document) { Ok(document) } else { Err(document.to_string()) }
        })
    }
}
