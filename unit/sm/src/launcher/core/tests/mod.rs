//! The launcher's rules: scenarios by subject, and random ones against what must always hold (`world`).

mod cloud;
mod ends;
mod health;
mod wishes;
mod world;

use std::sync::Arc;

use aos_duration_text::DurationText;
use aos_ids::{Digest, ItemId, SubjectId};
use aos_item_format::{Probe, Probes, TcpProbe};
use aos_status::{AosCode, ErrorInfo, InstanceState};

use super::*;
use crate::launcher::events::{Ended, Failure};
use crate::launcher::health::{ProbeError, Question};
use crate::launcher::restart::RunParameters;

fn info(instance: u64, version: &str) -> InstanceInfo {
    let ident = InstanceIdent::service(ItemId::new("item").unwrap(), SubjectId::new("s").unwrap(), instance);
    let mut digest = [0u8; 32];
    for (to, from) in digest.iter_mut().zip(version.bytes()) {
        *to = from;
    }
    InstanceInfo {
        ident,
        version: version.into(),
        manifest: Digest::from_sha256(digest),
        owner: "o".into(),
        runtime: "r".into(),
        uid: 1,
        gid: 1,
        priority: instance,
        storage_path: String::new(),
        state_path: String::new(),
        env: vec![],
        refused_env: vec![],
        monitoring: None,
    }
}

fn failure(text: &str, passing: bool) -> Failure {
    let kind = if passing { FailureKind::Passing } else { FailureKind::Lasting };
    Failure { error: ErrorInfo::new(AosCode::Failed, text), kind }
}

struct Bench {
    core: Core,
    now: Instant,
    log: Vec<Action>,
}

impl Bench {
    fn new() -> Self {
        let now = Instant::now();
        let mut bench = Self { core: Core::new(["r".to_owned()].into(), Some(now)), now, log: Vec::new() };
        bench.on(Event::Begin(vec![]));
        bench
    }

    fn on(&mut self, event: Event) -> Vec<Action> {
        let actions = self.core.on(self.now, event);
        self.log.extend(actions.iter().filter(|action| matches!(action, Action::Report(_))).map(|action| {
            match action {
                Action::Report(statuses) => Action::Report(statuses.clone()),
                _ => Action::ReportAll,
            }
        }));
        actions
    }

    fn want(&mut self, start: &[InstanceInfo]) -> Vec<Action> {
        self.on(Event::Update { start: start.to_vec(), stop: vec![] })
    }

    fn want_one(&mut self, info: &InstanceInfo) -> Vec<Action> {
        self.want(std::slice::from_ref(info))
    }

    fn bring_up(&mut self, info: &InstanceInfo, pid: i32) {
        self.want(std::slice::from_ref(info));
        self.on(Event::Prepared(Box::new(info.clone()), Ok(Facts::default())));
        self.on(Event::Started(Box::new(info.clone()), Ok(pid)));
        assert_eq!(self.state(info), InstanceState::Active);
    }

    fn exit(&mut self, info: &InstanceInfo, pid: i32, code: i32) -> Vec<Action> {
        self.on(Event::Exited { id: info.id(), pid, ended: Ended { code: Some(code), ..Ended::default() } })
    }

    fn status(&self, info: &InstanceInfo) -> Status {
        self.core.statuses().into_iter().find(|status| status.info.ident == info.ident).unwrap()
    }

    fn state(&self, info: &InstanceInfo) -> InstanceState {
        self.status(info).state
    }

    fn reported(&self) -> Vec<(InstanceState, String)> {
        let mut states = Vec::new();
        for action in &self.log {
            if let Action::Report(statuses) = action {
                states.extend(statuses.iter().map(|status| (status.state, status.info.version.clone())));
            }
        }
        states
    }
}

fn orders(actions: &[Action]) -> Vec<&'static str> {
    let name = |action: &Action| match action {
        Action::Store { .. } => "store",
        Action::Prepare(_) => "prepare",
        Action::Start(_) => "start",
        Action::Stop { why: Why::Remove, .. } => "remove",
        Action::Stop { .. } => "stop",
        Action::Abandon(_) => "abandon",
        Action::Probe { .. } => "probe",
        Action::Ready { .. } => "ready",
        Action::Offline(_) => "offline",
        Action::Acknowledge { .. } => "ack",
        Action::Report(_) => "report",
        Action::ReportAll => "all",
        Action::InUse(_) => "in use",
    };
    actions.iter().map(name).collect()
}

fn tcp() -> Probe {
    Probe { tcp: Some(TcpProbe { port: 1 }), ..Probe::default() }
}

fn probes(readiness: Option<Probe>, liveness: Option<Probe>) -> Arc<Probes> {
    let start_timeout = DurationText(Duration::from_secs(30));
    Arc::new(Probes { start_timeout, readiness, liveness })
}

impl Bench {
    fn bring_up_probed(&mut self, info: &InstanceInfo, pid: i32, probes: Arc<Probes>) -> Vec<Action> {
        self.want_one(info);
        let facts = Facts { probes: Some(probes), ..Facts::default() };
        self.on(Event::Prepared(Box::new(info.clone()), Ok(facts)));
        self.on(Event::Started(Box::new(info.clone()), Ok(pid)))
    }

    fn answer(&mut self, info: &InstanceInfo, pid: i32, question: Question, good: bool) -> Vec<Action> {
        let result = if good { Ok(()) } else { Err(ProbeError::Http(503)) };
        self.on(Event::Probed { ident: info.ident.clone(), pid, question, result })
    }

    fn tick(&mut self) -> Vec<Action> {
        self.now = self.core.next_deadline().unwrap();
        self.on(Event::Tick)
    }
}
