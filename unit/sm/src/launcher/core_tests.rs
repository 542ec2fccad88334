//! The launcher's rules: scenarios, and random ones against what must always hold.

use super::*;
use crate::launcher::events::{Ended, Facts, Failure};
use crate::launcher::health::Question;
use std::sync::Arc;

use aos_duration_text::DurationText;
use aos_ids::{Digest, ItemId, SubjectId};
use aos_item_format::{Probe, Probes, TcpProbe};
use aos_status::{AosCode, ErrorInfo, InstanceState};
use proptest::prelude::*;

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

// SM-37, SM-54, SM-55
#[test]
fn a_new_instance_is_stored_prepared_started_and_reported() {
    let mut bench = Bench::new();
    let one = info(0, "1.0.0");
    assert_eq!(orders(&bench.want_one(&one)), ["store", "prepare", "report"]);
    assert_eq!(orders(&bench.on(Event::Prepared(Box::new(one.clone()), Ok(Facts::default())))), ["start"]);
    assert_eq!(orders(&bench.on(Event::Started(Box::new(one.clone()), Ok(7)))), ["report", "all", "in use"]);
    let states: Vec<_> = bench.reported().into_iter().map(|(state, _)| state).collect();
    assert_eq!(states, [InstanceState::Activating, InstanceState::Active]);
    assert_eq!(bench.status(&one).pid, Some(7));
}

#[test]
fn an_unchanged_instance_is_not_touched() {
    let mut bench = Bench::new();
    let one = info(0, "1.0.0");
    bench.bring_up(&one, 7);
    assert_eq!(orders(&bench.want_one(&one)), ["all", "in use"]);
    assert_eq!(orders(&bench.on(Event::CmConnected)), Vec::<&str>::new());
}

#[test]
fn what_is_stopped_is_removed_and_reported_inactive() {
    let mut bench = Bench::new();
    let one = info(0, "1.0.0");
    bench.bring_up(&one, 7);
    let actions = bench.on(Event::Update { start: vec![], stop: vec![one.ident.clone()] });
    assert_eq!(orders(&actions), ["store", "remove"]);
    bench.exit(&one, 7, 143);
    let actions = bench.on(Event::Stopped(one.ident.clone(), Ok(())));
    assert_eq!(orders(&actions), ["report", "all", "in use"]);
    assert_eq!(bench.reported().last().unwrap().0, InstanceState::Inactive);
    assert!(bench.core.statuses().is_empty());
    let unknown = Event::Update { start: vec![], stop: vec![one.ident] };
    assert_eq!(orders(&bench.on(unknown)), ["all", "in use"]);
}

#[test]
fn a_new_version_is_prepared_before_the_old_one_stops() {
    let mut bench = Bench::new();
    let (old, new) = (info(0, "1.0.0"), info(0, "2.0.0"));
    bench.bring_up(&old, 7);
    assert_eq!(orders(&bench.want_one(&new)), ["store", "prepare"]);
    assert_eq!(bench.status(&old).info, old, "the old version still runs");
    let actions = bench.on(Event::Prepared(Box::new(new.clone()), Ok(Facts::default())));
    assert_eq!(orders(&actions), ["stop", "report"]);
    assert_eq!(orders(&bench.on(Event::Stopped(new.ident.clone(), Ok(())))), ["prepare", "report"]);
    bench.on(Event::Prepared(Box::new(new.clone()), Ok(Facts::default())));
    bench.on(Event::Started(Box::new(new.clone()), Ok(8)));
    let status = bench.status(&new);
    assert_eq!((status.info, status.state, status.pid), (new, InstanceState::Active, Some(8)));
}

#[test]
fn when_the_new_version_cannot_be_prepared_the_old_one_stays() {
    let mut bench = Bench::new();
    let (old, new) = (info(0, "1.0.0"), info(0, "2.0.0"));
    bench.bring_up(&old, 7);
    bench.want_one(&new);
    let actions = bench.on(Event::Prepared(Box::new(new.clone()), Err(failure("wrong digest", false))));
    assert_eq!(orders(&actions), ["report", "all", "in use"]);
    let status = bench.status(&new);
    assert_eq!(
        (status.info.version.as_str(), status.state, status.pid),
        ("2.0.0", InstanceState::Failed, Some(7))
    );
    // Back to what runs: nothing has to happen to it.
    bench.want_one(&old);
    assert_eq!((bench.status(&old).info, bench.state(&old)), (old, InstanceState::Active));
}

#[test]
fn a_request_during_a_launch_is_merged() {
    let mut bench = Bench::new();
    let (old, new) = (info(0, "1.0.0"), info(0, "2.0.0"));
    bench.want_one(&old);
    bench.on(Event::Prepared(Box::new(old.clone()), Ok(Facts::default())));
    assert_eq!(orders(&bench.want_one(&new)), ["store", "report"]);
    assert_eq!(orders(&bench.on(Event::Started(Box::new(old.clone()), Ok(7)))), ["prepare", "report"]);

    let mut bench = Bench::new();
    bench.want_one(&old);
    let stop = Event::Update { start: vec![], stop: vec![old.ident.clone()] };
    assert_eq!(orders(&bench.on(stop)), ["store", "abandon"]);
    assert_eq!(orders(&bench.on(Event::Prepared(Box::new(old), Ok(Facts::default())))), ["remove", "report"]);
}

#[test]
fn a_crash_is_reported_with_its_code_and_restarted_until_the_burst_is_used_up() {
    let mut bench = Bench::new();
    let one = info(0, "1.0.0");
    bench.bring_up(&one, 1);
    for pid in 1..=3 {
        let actions = bench.exit(&one, pid, 3);
        let after: &[&str] = if pid == 3 { &["ack", "stop", "report"] } else { &["ack", "report"] };
        assert_eq!(orders(&actions), after, "who is given up holds nothing any more");
        let status = bench.status(&one);
        assert_eq!((status.state, status.error.unwrap().exit_code), (InstanceState::Failed, 3));
        if pid == 3 {
            break;
        }
        let due = bench.core.next_deadline().unwrap();
        assert_eq!(due, bench.now + Duration::from_secs(1));
        bench.now = due;
        assert_eq!(orders(&bench.on(Event::Tick)), ["prepare", "report"]);
        bench.on(Event::Prepared(Box::new(one.clone()), Ok(Facts::default())));
        bench.on(Event::Started(Box::new(one.clone()), Ok(pid + 1)));
    }
    bench.on(Event::Stopped(one.ident.clone(), Ok(())));
    assert_eq!(bench.status(&one).error.unwrap().exit_code, 3, "the reason is still told");
    assert_eq!(bench.core.next_deadline(), None, "given up");
    assert_eq!(orders(&bench.want_one(&one)), ["prepare", "report"], "asking again is another try");
}

#[test]
fn an_exit_that_overtakes_its_start_is_not_lost() {
    let mut bench = Bench::new();
    let one = info(0, "1.0.0");
    bench.want_one(&one);
    bench.on(Event::Prepared(Box::new(one.clone()), Ok(Facts::default())));
    bench.exit(&one, 9, 1);
    bench.on(Event::Started(Box::new(one.clone()), Ok(9)));
    assert_eq!(bench.state(&one), InstanceState::Failed);
    assert!(bench.core.next_deadline().is_some());
    // An exit of a process long replaced changes nothing.
    let due = bench.core.next_deadline().unwrap();
    bench.now = due;
    bench.on(Event::Tick);
    bench.on(Event::Prepared(Box::new(one.clone()), Ok(Facts::default())));
    bench.on(Event::Started(Box::new(one.clone()), Ok(10)));
    assert_eq!(orders(&bench.exit(&one, 9, 1)), ["ack"]);
    assert_eq!(bench.state(&one), InstanceState::Active);
}

#[test]
fn what_runs_at_start_is_taken_up_and_what_is_missing_is_started() {
    let now = Instant::now();
    let mut core = Core::new(["r".to_owned()].into(), Some(now));
    let (runs, gone, crashed) = (info(0, "1.0.0"), info(1, "1.0.0"), info(2, "1.0.0"));
    let found = |info: &InstanceInfo, running, missed| Found {
        info: info.clone(),
        running,
        ready: false,
        missed,
        facts: None,
    };
    let actions = core.on(
        now,
        Event::Begin(vec![
            found(&runs, Some((runs.clone(), 5)), None),
            found(&gone, None, None),
            found(&crashed, None, Some(Ended { signal: Some(9), ..Ended::default() })),
        ]),
    );
    assert_eq!(
        actions.iter().filter(|a| matches!(a, Action::Prepare(info) if info.ident == gone.ident)).count(),
        1
    );
    assert_eq!(orders(&actions), ["prepare", "report"]);
    let states: Vec<_> = core.statuses().into_iter().map(|status| status.state).collect();
    assert_eq!(states, [InstanceState::Active, InstanceState::Activating, InstanceState::Failed]);
    assert_eq!(core.next_deadline(), Some(now + Duration::from_secs(1)));
}

#[test]
fn passing_failures_are_tried_again_when_cm_is_back() {
    let mut bench = Bench::new();
    let (one, two) = (info(0, "1.0.0"), info(1, "1.0.0"));
    bench.want(&[one.clone(), two.clone()]);
    bench.on(Event::Prepared(Box::new(one.clone()), Err(failure("away", true))));
    bench.on(Event::Prepared(Box::new(two.clone()), Err(failure("broken", false))));
    assert_eq!((bench.state(&one), bench.state(&two)), (InstanceState::Activating, InstanceState::Failed));
    let actions = bench.on(Event::CmConnected);
    assert!(matches!(actions.first(), Some(Action::Prepare(info)) if info.ident == one.ident));
    assert_eq!(orders(&actions), ["prepare"]);
    bench.on(Event::Prepared(Box::new(one.clone()), Err(failure("slow", true))));
    bench.now = bench.core.next_deadline().unwrap();
    assert_eq!(orders(&bench.on(Event::Tick)), ["prepare"], "and by itself after a while");
}

// SM-46
#[test]
fn an_unknown_runtime_is_refused() {
    let mut bench = Bench::new();
    let mut one = info(0, "1.0.0");
    one.runtime = "other".into();
    bench.want_one(&one);
    let status = bench.status(&one);
    assert_eq!((status.state, status.error.unwrap().code()), (InstanceState::Failed, AosCode::NotFound));
}

// SM-48
#[test]
fn higher_priority_goes_first() {
    let mut bench = Bench::new();
    let actions = bench.want(&[info(1, "1.0.0"), info(3, "1.0.0"), info(2, "1.0.0")]);
    let order: Vec<u64> = actions
        .iter()
        .filter_map(|action| match action {
            Action::Prepare(info) => Some(info.priority),
            _ => None,
        })
        .collect();
    assert_eq!(order, [3, 2, 1]);
}

// SM-43, SM-74
#[test]
fn without_the_cloud_an_instance_ends_in_time_and_comes_back_with_it() {
    let mut bench = Bench::new();
    bench.on(Event::Cloud(true));
    let one = info(0, "1.0.0");
    let facts = Facts { offline_ttl: Some(Duration::from_mins(1)), ..Facts::default() };
    bench.want_one(&one);
    bench.on(Event::Prepared(Box::new(one.clone()), Ok(facts.clone())));
    bench.on(Event::Started(Box::new(one.clone()), Ok(7)));
    assert_eq!(bench.core.next_deadline(), None);
    bench.on(Event::Cloud(false));
    assert_eq!(bench.core.next_deadline(), Some(bench.now + Duration::from_mins(1)));
    bench.now += Duration::from_mins(1);
    assert_eq!(orders(&bench.on(Event::Tick)).first(), Some(&"stop"));
    bench.on(Event::Stopped(one.ident.clone(), Ok(())));
    assert_eq!(bench.state(&one), InstanceState::Inactive);
    assert_eq!(bench.core.next_deadline(), None);
    assert_eq!(orders(&bench.on(Event::Cloud(true))), ["offline", "prepare", "report"]);
    bench.on(Event::Prepared(Box::new(one.clone()), Ok(facts)));
    bench.on(Event::Started(Box::new(one.clone()), Ok(8)));
    // A short absence: the time begins anew with the next one.
    bench.on(Event::Cloud(false));
    bench.now += Duration::from_secs(59);
    bench.on(Event::Tick);
    bench.on(Event::Cloud(true));
    assert_eq!(bench.core.next_deadline(), None);
    bench.on(Event::Cloud(false));
    bench.on(Event::Cloud(false));
    assert_eq!(bench.core.next_deadline(), Some(bench.now + Duration::from_mins(1)));
    assert_eq!(bench.state(&one), InstanceState::Active);
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
        let result = if good { Ok(()) } else { Err("connection refused".to_owned()) };
        self.on(Event::Probed { ident: info.ident.clone(), pid, question, result })
    }

    fn tick(&mut self) -> Vec<Action> {
        self.now = self.core.next_deadline().unwrap();
        self.on(Event::Tick)
    }
}

#[test]
fn an_instance_is_active_when_it_is_ready_and_restarted_when_it_does_not_live() {
    let mut bench = Bench::new();
    let one = info(0, "1.0.0");
    let actions = bench.bring_up_probed(&one, 7, probes(Some(tcp()), Some(tcp())));
    assert_eq!(orders(&actions), ["probe", "report", "all", "in use"]);
    assert_eq!(bench.state(&one), InstanceState::Activating);
    bench.answer(&one, 7, Question::Ready, false);
    assert_eq!(bench.state(&one), InstanceState::Activating);
    assert_eq!(orders(&bench.tick()), ["probe"]);
    assert_eq!(orders(&bench.answer(&one, 7, Question::Ready, true)), ["ready", "probe", "report"]);
    assert_eq!(bench.state(&one), InstanceState::Active);
    for _ in 0..2 {
        assert_eq!(orders(&bench.answer(&one, 7, Question::Alive, false)), Vec::<&str>::new());
        assert_eq!(orders(&bench.tick()), ["probe"]);
    }
    let actions = bench.answer(&one, 7, Question::Alive, false);
    assert_eq!(orders(&actions), ["stop", "report"]);
    let status = bench.status(&one);
    assert_eq!(status.state, InstanceState::Failed);
    assert!(status.error.unwrap().message.contains("connection refused"));
    bench.exit(&one, 7, 143);
    bench.on(Event::Stopped(one.ident.clone(), Ok(())));
    assert_eq!(bench.state(&one), InstanceState::Failed, "until the pause is over");
    assert_eq!(orders(&bench.tick()), ["prepare", "report"]);
}

#[test]
fn who_is_not_ready_in_time_is_ended_and_tried_again() {
    let mut bench = Bench::new();
    let one = info(0, "1.0.0");
    bench.bring_up_probed(&one, 7, probes(Some(tcp()), None));
    let began = bench.now;
    while orders(&bench.tick()) == ["probe"] {
        bench.answer(&one, 7, Question::Ready, false);
    }
    assert_eq!(bench.now, began + Duration::from_secs(30));
    assert!(bench.status(&one).error.unwrap().message.contains("not ready within 30 s"));
    // An answer to the process of before does not count for the next one.
    bench.on(Event::Stopped(one.ident.clone(), Ok(())));
    bench.tick();
    bench.on(Event::Prepared(
        Box::new(one.clone()),
        Ok(Facts { probes: Some(probes(Some(tcp()), None)), ..Facts::default() }),
    ));
    bench.on(Event::Started(Box::new(one.clone()), Ok(8)));
    bench.answer(&one, 7, Question::Ready, true);
    assert_eq!(bench.state(&one), InstanceState::Activating);
    bench.answer(&one, 8, Question::Ready, true);
    assert_eq!(bench.state(&one), InstanceState::Active);
}

#[test]
fn a_ready_instance_stays_active_over_a_restart_of_ours() {
    let now = Instant::now();
    let one = info(0, "1.0.0");
    let facts = Some(Facts { probes: Some(probes(Some(tcp()), None)), ..Facts::default() });
    for (ready, state) in [(true, InstanceState::Active), (false, InstanceState::Activating)] {
        let mut core = Core::new(["r".to_owned()].into(), None);
        let running = Some((one.clone(), 5));
        let found = Found { info: one.clone(), running, ready, missed: None, facts: facts.clone() };
        core.on(now, Event::Begin(vec![found]));
        assert_eq!(core.statuses().first().unwrap().state, state);
    }
}

// What one instance gives back another one gets, in the same request and later; meanwhile it is no failure.
#[test]
fn a_resource_is_waited_for_while_another_instance_is_being_stopped() {
    let mut bench = Bench::new();
    let (one, two) = (info(0, "1.0.0"), info(1, "1.0.0"));
    bench.bring_up(&one, 7);
    bench.on(Event::Update { start: vec![two.clone()], stop: vec![one.ident.clone()] });
    let taken = Failure { kind: FailureKind::Conflict, ..failure("camera is in use", false) };
    bench.on(Event::Prepared(Box::new(two.clone()), Ok(Facts::default())));
    bench.on(Event::Started(Box::new(two.clone()), Err(taken.clone())));
    assert_eq!(bench.state(&two), InstanceState::Activating);
    let actions = bench.on(Event::Stopped(one.ident.clone(), Ok(())));
    assert!(orders(&actions).contains(&"prepare"), "{:?}", orders(&actions));
    bench.on(Event::Prepared(Box::new(two.clone()), Ok(Facts::default())));
    bench.on(Event::Started(Box::new(two.clone()), Err(taken)));
    let status = bench.status(&two);
    assert_eq!(
        (status.state, status.error.unwrap().message.as_str()),
        (InstanceState::Failed, "camera is in use")
    );
}

// An instance whose preparing failed is prepared again when it is asked for again, unchanged.
#[test]
fn a_failed_preparation_is_done_again_and_errors_are_fresh() {
    let mut bench = Bench::new();
    let one = info(0, "1.0.0");
    bench.want_one(&one);
    for text in ["no space", "wrong digest"] {
        let actions = bench.on(Event::Prepared(Box::new(one.clone()), Err(failure(text, false))));
        assert!(orders(&actions).contains(&"report"), "failed again is news, too");
        assert_eq!(bench.status(&one).error.unwrap().message, text);
        assert!(orders(&bench.want_one(&one)).contains(&"prepare"));
        assert_eq!(bench.status(&one).error, None, "no error of the past while it is tried");
    }
    bench.on(Event::Prepared(Box::new(one.clone()), Ok(Facts::default())));
    bench.on(Event::Started(Box::new(one.clone()), Ok(3)));
    assert_eq!((bench.state(&one), bench.status(&one).error), (InstanceState::Active, None));
}

// What is told at once and what is told in the list are the same, whatever happened in between.
#[test]
fn a_crash_is_in_the_list_of_all_statuses() {
    let mut bench = Bench::new();
    let one = info(0, "1.0.0");
    bench.bring_up(&one, 7);
    bench.exit(&one, 7, 9);
    let told = bench.log.iter().rev().find_map(|action| match action {
        Action::Report(statuses) => statuses.first().cloned(),
        _ => None,
    });
    assert_eq!(Some(bench.status(&one)), told);
    assert_eq!(bench.state(&one), InstanceState::Failed);
}

// Priority and monitoring say how an instance is treated, not how its process runs.
#[test]
fn another_priority_or_monitoring_restarts_nothing() {
    let mut bench = Bench::new();
    let one = info(0, "1.0.0");
    bench.bring_up(&one, 7);
    let changed = InstanceInfo { priority: 77, monitoring: Some(vec![1]), ..one.clone() };
    let actions = bench.want_one(&changed);
    assert_eq!(orders(&actions), ["store", "report", "all", "in use"]);
    assert_eq!((bench.status(&one).info, bench.status(&one).pid), (changed, Some(7)));
}

#[test]
fn what_goes_goes_by_rising_priority_before_anything_comes() {
    let mut bench = Bench::new();
    for instance in [1, 2, 3] {
        bench.bring_up(&info(instance, "1.0.0"), i32::try_from(instance).unwrap());
    }
    let stop = [3, 1, 2].map(|instance| info(instance, "1.0.0").ident).to_vec();
    let actions = bench.on(Event::Update { start: vec![info(9, "1.0.0")], stop });
    let order: Vec<(bool, u64)> = actions
        .iter()
        .filter_map(|action| match action {
            Action::Stop { info, .. } => Some((false, info.priority)),
            Action::Prepare(info) => Some((true, info.priority)),
            _ => None,
        })
        .collect();
    assert_eq!(order, [(false, 1), (false, 2), (false, 3), (true, 9)]);
}

#[test]
fn a_stop_that_fails_is_told_and_tried_again() {
    let mut bench = Bench::new();
    let one = info(0, "1.0.0");
    bench.bring_up(&one, 7);
    bench.on(Event::Update { start: vec![], stop: vec![one.ident.clone()] });
    bench.on(Event::Stopped(one.ident.clone(), Err(failure("it does not end", false))));
    assert_eq!(bench.state(&one), InstanceState::Failed);
    let first = bench.core.next_deadline().unwrap();
    assert_eq!(orders(&bench.tick()).first(), Some(&"remove"));
    bench.on(Event::Stopped(one.ident.clone(), Err(failure("it does not end", false))));
    assert!(bench.core.next_deadline().unwrap() - bench.now > first - bench.now, "the pause grows");
    bench.tick();
    bench.on(Event::Stopped(one.ident.clone(), Ok(())));
    assert!(bench.core.statuses().is_empty());
    // Wanted again meanwhile: what may still run is stopped before it is started.
    bench.bring_up(&one, 8);
    let two = info(0, "2.0.0");
    bench.want_one(&two);
    bench.on(Event::Prepared(Box::new(two.clone()), Ok(Facts::default())));
    bench.on(Event::Stopped(one.ident.clone(), Err(failure("it does not end", false))));
    assert_eq!(orders(&bench.tick()).first(), Some(&"stop"));
    let actions = bench.on(Event::Stopped(one.ident, Ok(())));
    assert_eq!(orders(&actions).first(), Some(&"prepare"));
}

#[test]
fn a_new_version_does_not_wait_for_the_pause_of_the_old_one() {
    let mut bench = Bench::new();
    let (old, new) = (info(0, "1.0.0"), info(0, "2.0.0"));
    bench.bring_up(&old, 7);
    bench.exit(&old, 7, 1);
    assert!(bench.core.next_deadline().is_some());
    assert_eq!(orders(&bench.want_one(&new)), ["store", "prepare", "report"]);
}

#[test]
fn a_suspended_instance_is_not_said_to_be_activating() {
    let mut bench = Bench::new();
    let one = info(0, "1.0.0");
    let facts = Facts { offline_ttl: Some(Duration::from_secs(5)), ..Facts::default() };
    bench.want_one(&one);
    bench.on(Event::Prepared(Box::new(one.clone()), Ok(facts)));
    bench.on(Event::Started(Box::new(one.clone()), Ok(7)));
    let before = bench.log.len();
    bench.tick();
    assert_eq!(bench.core.next_deadline(), None, "nothing is due while it is being stopped");
    bench.exit(&one, 7, 0);
    bench.on(Event::Stopped(one.ident.clone(), Ok(())));
    let told = bench.log.iter().skip(before).filter_map(|action| match action {
        Action::Report(statuses) => statuses.first().map(|status| status.state),
        _ => None,
    });
    let states: Vec<_> = told.collect();
    assert!(states.iter().all(|state| *state != InstanceState::Activating), "{states:?}");
    assert_eq!(bench.state(&one), InstanceState::Inactive);
}

/// A world that carries orders out in any order and with any result.
#[derive(Debug, Clone)]
enum Step {
    Want(u64, u8),
    Drop(u64),
    Finish(u8, bool),
    Crash(u64),
    Wait(u16),
    Cm,
    Cloud(bool),
    /// This program is killed and starts again.
    Restart,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        (0u64..3, 0u8..3).prop_map(|(instance, version)| Step::Want(instance, version)),
        (0u64..3).prop_map(Step::Drop),
        (any::<u8>(), any::<bool>()).prop_map(|(which, ok)| Step::Finish(which, ok)),
        (0u64..3).prop_map(Step::Crash),
        (0u16..3000).prop_map(Step::Wait),
        Just(Step::Cm),
        any::<bool>().prop_map(Step::Cloud),
        Just(Step::Restart),
    ];
    proptest::collection::vec(step, 1..80)
}

#[derive(Default)]
struct World {
    open: Vec<Action>,
    running: BTreeMap<InstanceIdent, (InstanceInfo, i32)>,
    wanted: BTreeMap<InstanceIdent, InstanceInfo>,
    asked: BTreeSet<i32>,
    facts: Facts,
    pids: i32,
}

impl World {
    fn take(&mut self, actions: Vec<Action>) -> Result<(), TestCaseError> {
        for action in actions {
            let ident = match &action {
                Action::Prepare(info) | Action::Stop { info, .. } => info.ident.clone(),
                Action::Start(info) => {
                    prop_assert!(!self.running.contains_key(&info.ident), "started while one runs");
                    info.ident.clone()
                }
                Action::Probe { pid, .. } => {
                    prop_assert!(self.asked.insert(*pid), "two questions at a time");
                    self.open.push(action);
                    continue;
                }
                _ => continue,
            };
            let same = self.open.iter().any(|other| match other {
                Action::Prepare(info) | Action::Start(info) | Action::Stop { info, .. } => {
                    info.ident == ident
                }
                _ => false,
            });
            prop_assert!(!same, "two orders for one instance at a time");
            self.open.push(action);
        }
        Ok(())
    }

    /// What a start finds: orders are forgotten, processes go on, wishes are stored, and what runs without
    /// being wished for is removed by the runtime.
    fn restart(&mut self) -> Vec<Found> {
        self.open.clear();
        self.asked.clear();
        let wanted = &self.wanted;
        self.running.retain(|ident, _| wanted.contains_key(ident));
        let found = self.wanted.values().map(|info| {
            let running = self.running.get(&info.ident).cloned();
            let facts = running.as_ref().map(|_| self.facts.clone());
            Found { info: info.clone(), running, ready: false, missed: None, facts }
        });
        found.collect()
    }

    fn finish(&mut self, which: usize, ok: bool) -> Option<Event> {
        if self.open.is_empty() {
            return None;
        }
        let action = self.open.remove(which % self.open.len());
        Some(match action {
            Action::Prepare(info) => Event::Prepared(
                info,
                if ok { Ok(self.facts.clone()) } else { Err(failure("p", which.is_multiple_of(3))) },
            ),
            Action::Start(info) if ok => {
                self.pids += 1;
                self.running.insert(info.ident.clone(), (*info.clone(), self.pids));
                Event::Started(info, Ok(self.pids))
            }
            Action::Start(info) => {
                let kind = match which % 3 {
                    0 => FailureKind::Passing,
                    1 => FailureKind::Conflict,
                    _ => FailureKind::Lasting,
                };
                Event::Started(info, Err(Failure { kind, ..failure("s", false) }))
            }
            // A stop that fails may have ended the process or not.
            Action::Stop { info, .. } if !ok => {
                if which.is_multiple_of(2) {
                    self.running.remove(&info.ident);
                }
                Event::Stopped(info.ident, Err(failure("t", false)))
            }
            Action::Stop { info, runtimes, .. } => {
                if self.running.contains_key(&info.ident) {
                    assert!(runtimes.contains(&info.runtime), "stopped where it does not run");
                }
                self.running.remove(&info.ident);
                Event::Stopped(info.ident, Ok(()))
            }
            Action::Probe { info, pid, question, .. } => {
                self.asked.remove(&pid);
                let result = if ok { Ok(()) } else { Err("refused".to_owned()) };
                Event::Probed { ident: info.ident, pid, question, result }
            }
            _ => return None,
        })
    }
}

proptest! {
    // Whatever happens in whatever order: one order at a time for each instance, never two containers of one,
    // and once the world is quiet and works, exactly what is wanted runs.
    #[test]
    fn the_wish_is_reached_in_the_end(steps in steps(), probed in any::<bool>(), ttl in any::<bool>()) {
        let mut now = Instant::now();
        let mut core = Core::new(["r".to_owned()].into(), Some(now));
        let facts = Facts {
            probes: probed.then(|| probes(Some(tcp()), Some(tcp()))),
            offline_ttl: ttl.then_some(Duration::from_secs(2)),
            ..Facts::default()
        };
        let mut world = World { facts, ..World::default() };
        world.take(core.on(now, Event::Begin(vec![])))?;
        for step in steps {
            let event = match step {
                Step::Want(instance, version) => {
                    let info = info(instance, &format!("{version}.0.0"));
                    world.wanted.insert(info.ident.clone(), info.clone());
                    Some(Event::Update { start: vec![info], stop: vec![] })
                }
                Step::Drop(instance) => {
                    let ident = info(instance, "0.0.0").ident;
                    world.wanted.remove(&ident);
                    Some(Event::Update { start: vec![], stop: vec![ident] })
                }
                Step::Finish(which, ok) => world.finish(usize::from(which), ok),
                Step::Crash(instance) => {
                    let info = info(instance, "0.0.0");
                    world.running.remove(&info.ident).map(|(info, pid)| {
                        Event::Exited { id: info.id(), pid, ended: Ended { code: Some(1), ..Ended::default() } }
                    })
                }
                Step::Wait(millis) => {
                    now += Duration::from_millis(u64::from(millis));
                    Some(Event::Tick)
                }
                Step::Cm => Some(Event::CmConnected),
                Step::Cloud(there) => Some(Event::Cloud(there)),
                Step::Restart => {
                    core = Core::new(["r".to_owned()].into(), Some(now));
                    Some(Event::Begin(world.restart()))
                }
            };
            if let Some(event) = event {
                world.take(core.on(now, event))?;
            }
        }
        let start: Vec<_> = world.wanted.values().cloned().collect();
        world.take(core.on(now, Event::Update { start, stop: vec![] }))?;
        world.take(core.on(now, Event::Cloud(true)))?;
        for _ in 0..200 {
            while let Some(event) = world.finish(0, true) {
                world.take(core.on(now, event))?;
            }
            let Some(due) = core.next_deadline() else { break };
            let before = core.next_deadline();
            now = due.max(now);
            let actions = core.on(now, Event::Tick);
            prop_assert!(!actions.is_empty() || core.next_deadline() != before, "it spins");
            world.take(actions)?;
        }
        let running: BTreeMap<_, _> = world.running.iter().map(|(ident, (info, _))| (ident.clone(), info.clone())).collect();
        prop_assert_eq!(&running, &world.wanted);
        prop_assert!(core.statuses().iter().all(|status| status.state == InstanceState::Active));
    }
}

// PRO-108: an instance whose variables changed is started again with them; the others go on, and nothing of
// the instance is forgotten.
#[test]
fn changed_variables_restart_their_instance_only() {
    let mut bench = Bench::new();
    let (one, other) = (info(0, "1"), info(1, "1"));
    bench.bring_up(&one, 10);
    bench.want(&[one.clone(), other.clone()]);
    bench.on(Event::Prepared(Box::new(other.clone()), Ok(Facts::default())));
    bench.on(Event::Started(Box::new(other.clone()), Ok(11)));
    let changed = InstanceInfo { env: vec![("LOG".into(), "debug".into())], ..one.clone() };
    let actions = bench.want(&[changed.clone(), other.clone()]);
    assert_eq!(orders(&actions), ["store", "prepare"]);
    assert!(
        matches!(&actions[0], Action::Store { put, remove } if *put == [changed.clone()] && remove.is_empty())
    );
    assert_eq!(bench.state(&other), InstanceState::Active);
    let actions = bench.on(Event::Prepared(Box::new(changed.clone()), Ok(Facts::default())));
    assert_eq!(orders(&actions), ["stop", "report"], "it is stopped, not removed");
    let actions = bench.on(Event::Stopped(one.ident.clone(), Ok(())));
    assert_eq!(orders(&actions), ["prepare", "report"]);
    bench.on(Event::Prepared(Box::new(changed.clone()), Ok(Facts::default())));
    let actions = bench.on(Event::Started(Box::new(changed.clone()), Ok(12)));
    assert!(orders(&actions).contains(&"all"), "CM hears that the node is done");
    assert_eq!(bench.status(&one).info.env, changed.env);
    assert_eq!(bench.status(&other).pid, Some(11));
    assert!(
        !orders(&bench.want(&[changed, other])).contains(&"prepare"),
        "the same once more changes nothing"
    );
}

// What is being fetched for a wish of yesterday does not hold up the one of today.
#[test]
fn an_image_nobody_wants_any_more_is_not_waited_for() {
    let mut bench = Bench::new();
    let (old, new) = (info(0, "1.0.0"), info(0, "2.0.0"));
    bench.want_one(&old);
    assert_eq!(orders(&bench.want_one(&new)), ["store", "abandon", "report"]);
    let actions = bench.on(Event::Prepared(Box::new(old.clone()), Err(failure("given up", false))));
    assert_eq!(orders(&actions).first(), Some(&"prepare"));
    assert_eq!(bench.status(&new).error, None);
    // Other variables with the same image need nothing else.
    let same = InstanceInfo { env: vec![("A".into(), "B".into())], ..new.clone() };
    assert!(!orders(&bench.want_one(&same)).contains(&"abandon"));
    let stop = Event::Update { start: vec![], stop: vec![old.ident] };
    assert!(orders(&bench.on(stop)).contains(&"abandon"));
}

// A node that starts without the cloud may learn only from the image that the time is over already.
#[test]
fn a_time_that_is_over_is_kept_when_it_is_learned_late() {
    let now = Instant::now();
    let mut core = Core::new(["r".to_owned()].into(), Some(now));
    let one = info(0, "1.0.0");
    let found = Found { info: one.clone(), running: None, ready: false, missed: None, facts: None };
    let later = now + Duration::from_mins(2);
    assert!(orders(&core.on(later, Event::Begin(vec![found]))).contains(&"prepare"));
    let facts = Facts { offline_ttl: Some(Duration::from_mins(1)), ..Facts::default() };
    let actions = core.on(later, Event::Prepared(Box::new(one.clone()), Ok(facts)));
    assert!(!orders(&actions).contains(&"start"), "{:?}", orders(&actions));
    assert_eq!(core.statuses().first().unwrap().state, InstanceState::Inactive);
    assert!(orders(&core.on(later, Event::Cloud(true))).contains(&"prepare"));
}
