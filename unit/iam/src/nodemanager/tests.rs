// IAM-13
use std::time::{Duration, Instant};

use aos_unit_api::iamanager::v6;
use proptest::prelude::*;

use super::controller::{Action, CallError, Controller, Event};
use super::table::Keep;
use super::*;
use crate::currentnode::OsInfo;

fn node(id: &str, state: NodeState) -> NodeInfo {
    NodeInfo {
        node_id: id.into(),
        node_type: "type".into(),
        title: String::new(),
        max_dmips: 0,
        total_ram: 0,
        physical_ram: None,
        os: OsInfo::default(),
        cpus: Vec::new(),
        partitions: Vec::new(),
        attrs: BTreeMap::new(),
        state,
        error: None,
    }
}

fn described(stream: StreamId, id: &str, state: NodeState) -> Event {
    Event::Described(stream, Box::new(node(id, state)))
}

#[allow(clippy::unnecessary_box_returns, reason = "as events and actions carry it")]
fn pause() -> Box<Request> {
    Box::new(Request::PauseNodeRequest(v6::PauseNodeRequest::default()))
}

fn paused() -> Box<Message> {
    Box::new(Message::PauseNodeResponse(v6::PauseNodeResponse::default()))
}

/// A controller with one connected node on stream 1.
fn connected(now: Instant) -> Controller {
    let mut controller = Controller::new("main".into());
    assert!(controller.on(now, Event::Opened(1, Side::Protected)).is_empty());
    let actions = controller.on(now, described(1, "node", NodeState::Provisioned));
    assert!(matches!(actions[..], [Action::Connected(1, _)]));
    controller
}

// IAM 26.11
#[test]
fn each_server_takes_its_kind_of_node() {
    let now = Instant::now();
    for (side, state, taken) in [
        (Side::Public, NodeState::Unprovisioned, true),
        (Side::Public, NodeState::Provisioned, false),
        (Side::Public, NodeState::Error, false),
        (Side::Protected, NodeState::Unprovisioned, false),
        (Side::Protected, NodeState::Provisioned, true),
        (Side::Protected, NodeState::Paused, true),
        (Side::Protected, NodeState::Error, true),
    ] {
        let mut controller = Controller::new("main".into());
        controller.on(now, Event::Opened(1, side));
        let actions = controller.on(now, described(1, "node", state));
        assert_eq!(!actions.is_empty(), taken, "{side:?} {state}");
    }
}

#[test]
fn a_node_cannot_pose_as_the_main_node() {
    let now = Instant::now();
    let mut controller = Controller::new("main".into());
    controller.on(now, Event::Opened(1, Side::Protected));
    let actions = controller.on(now, described(1, "main", NodeState::Provisioned));
    assert!(matches!(actions[..], [Action::End(1, _)]));
}

// The public server knows nobody: a connected node that has proved itself cannot be displaced there.
#[test]
fn a_stranger_cannot_displace_a_connected_node() {
    let now = Instant::now();
    let mut controller = connected(now);
    controller.on(now, Event::Opened(2, Side::Public));
    assert_eq!(controller.on(now, described(2, "node", NodeState::Unprovisioned)), []);
    assert_eq!(controller.on(now, Event::Closed(1)), [Action::Disconnected("node".into())]);
    let actions = controller.on(now, described(2, "node", NodeState::Unprovisioned));
    assert!(matches!(actions[..], [Action::Connected(2, _)]), "a node that was reset comes back");
}

// IAM 26.11
#[test]
fn the_end_of_an_older_stream_is_not_the_end_of_the_node() {
    let now = Instant::now();
    let mut controller = connected(now);
    controller.on(now, Event::Opened(2, Side::Protected));
    controller.on(now, described(2, "node", NodeState::Provisioned));
    assert_eq!(controller.on(now, Event::Closed(1)), []);
    assert_eq!(controller.on(now, Event::Closed(2)), [Action::Disconnected("node".into())]);
    // A node that changed to a state that its server does not take is gone as well.
    let mut controller = connected(now);
    let actions = controller.on(now, described(1, "node", NodeState::Unprovisioned));
    assert_eq!(actions, [Action::Disconnected("node".into())]);
}

#[test]
fn requests_of_a_kind_wait_for_one_another_and_other_kinds_do_not() {
    let now = Instant::now();
    let mut controller = connected(now);
    let call = |id, request| Event::Call(id, "node".into(), request);
    assert_eq!(controller.on(now, call(1, pause())), [Action::Send(1, pause())]);
    assert_eq!(controller.on(now, call(2, pause())), []);
    let resume = || Box::new(Request::ResumeNodeRequest(v6::ResumeNodeRequest::default()));
    assert_eq!(controller.on(now, call(3, resume())), [Action::Send(1, resume())]);
    let actions = controller.on(now, Event::Answered(1, paused()));
    assert_eq!(actions, [Action::Finish(1, Ok(paused())), Action::Send(1, pause())]);
    let actions = controller.on(now, Event::Answered(1, paused()));
    assert_eq!(actions, [Action::Finish(2, Ok(paused()))]);
    assert_eq!(controller.on(now, Event::Answered(1, paused())), [], "nobody waits");
}

// IAM 26.12
#[test]
fn an_absent_node_costs_three_tries_and_no_last_pause() {
    let mut now = Instant::now();
    let mut controller = Controller::new("main".into());
    let start = now;
    assert_eq!(controller.on(now, Event::Call(1, "node".into(), pause())), []);
    for _ in 0..2 {
        assert_eq!(controller.deadline(), Some(now + Duration::from_secs(10)));
        assert_eq!(controller.on(now + Duration::from_secs(9), Event::Tick), []);
        now += Duration::from_secs(10);
        let actions = controller.on(now, Event::Tick);
        if now - start == Duration::from_secs(20) {
            assert_eq!(actions, [Action::Finish(1, Err(CallError::NotConnected("node".into())))]);
        } else {
            assert_eq!(actions, []);
        }
    }
    assert_eq!(controller.deadline(), None);
}

#[test]
fn a_request_lost_with_its_stream_is_sent_again() {
    let now = Instant::now();
    let mut controller = connected(now);
    controller.on(now, Event::Call(1, "node".into(), pause()));
    assert_eq!(controller.on(now, Event::Closed(1)), [Action::Disconnected("node".into())]);
    // As soon as the node is back.
    controller.on(now, Event::Opened(2, Side::Protected));
    let later = now + Duration::from_secs(1);
    let actions = controller.on(later, described(2, "node", NodeState::Provisioned));
    assert!(matches!(&actions[..], [Action::Connected(2, _), Action::Send(2, _)]), "{actions:?}");
    assert_eq!(controller.on(now + Duration::from_secs(10), Event::Tick), [], "once");
    let silent = later + Duration::from_mins(1);
    assert_eq!(controller.on(silent, Event::Tick), []);
    let again = silent + Duration::from_secs(10);
    assert_eq!(controller.on(again, Event::Tick), [Action::Send(2, pause())]);
    let actions = controller.on(again + Duration::from_mins(1), Event::Tick);
    assert_eq!(actions, [Action::Finish(1, Err(CallError::NoAnswer("node".into())))]);
}

#[test]
fn a_late_answer_about_another_certificate_is_not_taken() {
    let now = Instant::now();
    let mut controller = connected(now);
    let create = |cert_type: &str| {
        Box::new(Request::CreateKeyRequest(v6::CreateKeyRequest {
            r#type: cert_type.into(),
            ..Default::default()
        }))
    };
    let made = |cert_type: &str| {
        let answer = v6::CreateKeyResponse { r#type: cert_type.into(), ..Default::default() };
        Event::Answered(1, Box::new(Message::CreateKeyResponse(answer)))
    };
    controller.on(now, Event::Call(1, "node".into(), create("sm")));
    assert!(controller.on(now, made("iam")).is_empty(), "of an order that was given up");
    assert!(matches!(controller.on(now, made("sm"))[..], [Action::Finish(1, Ok(_))]));
    controller.on(now, Event::Call(2, "node".into(), create("sm")));
    assert!(
        matches!(controller.on(now, made(""))[..], [Action::Finish(2, Ok(_))]),
        "an old node names no type"
    );
    let apply = v6::ApplyCertRequest { r#type: "sm".into(), ..Default::default() };
    controller.on(now, Event::Call(3, "node".into(), Box::new(Request::ApplyCertRequest(apply))));
    let applied = |cert_type: &str| {
        let cert = v6::CertInfo { r#type: cert_type.into(), ..Default::default() };
        let answer = v6::ApplyCertResponse { cert_info: Some(cert), ..Default::default() };
        Event::Answered(1, Box::new(Message::ApplyCertResponse(answer)))
    };
    assert!(controller.on(now, applied("iam")).is_empty());
    assert!(matches!(controller.on(now, applied("sm"))[..], [Action::Finish(3, Ok(_))]));
}

#[test]
fn stopping_answers_everybody() {
    let now = Instant::now();
    let mut controller = connected(now);
    controller.on(now, Event::Call(1, "node".into(), pause()));
    controller.on(now, Event::Call(2, "node".into(), pause()));
    let actions = controller.on(now, Event::Stop);
    let stopped = |id| Action::Finish(id, Err(CallError::Stopping));
    assert_eq!(actions[..2], [stopped(1), stopped(2)]);
    assert!(matches!(actions[2], Action::End(1, _)));
    assert_eq!(controller.on(now, Event::Call(3, "node".into(), pause())), [stopped(3)]);
    assert!(matches!(controller.on(now, Event::Opened(4, Side::Public))[..], [Action::End(4, _)]));
}

#[derive(Debug, Clone)]
enum Step {
    Open(StreamId),
    Describe(StreamId, u8, bool),
    Close(StreamId),
    Call(u8),
    Answer(StreamId),
    Wait(u64),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let stream = || 1..4_u64;
    prop::collection::vec(
        prop_oneof![
            stream().prop_map(Step::Open),
            (stream(), 0..2_u8, any::<bool>()).prop_map(|(s, n, p)| Step::Describe(s, n, p)),
            stream().prop_map(Step::Close),
            (0..2_u8).prop_map(Step::Call),
            stream().prop_map(Step::Answer),
            (1..70_u64).prop_map(Step::Wait),
        ],
        0..60,
    )
}

proptest! {
    /// Every request is finished exactly once, whatever nodes do.
    #[test]
    fn every_call_ends_once(steps in steps()) {
        let mut now = Instant::now();
        let mut controller = Controller::new("main".into());
        let (mut calls, mut finished) = (0, Vec::new());
        let mut take = |actions: Vec<Action>| {
            for action in actions {
                if let Action::Finish(id, _) = action {
                    finished.push(id);
                }
            }
        };
        for step in steps {
            let event = match step {
                Step::Open(stream) => Event::Opened(stream, Side::Protected),
                Step::Describe(stream, node, provisioned) => {
                    let state = if provisioned { NodeState::Provisioned } else { NodeState::Unprovisioned };
                    described(stream, &format!("node{node}"), state)
                }
                Step::Close(stream) => Event::Closed(stream),
                Step::Call(node) => {
                    calls += 1;
                    Event::Call(calls, format!("node{node}"), pause())
                }
                Step::Answer(stream) => Event::Answered(stream, paused()),
                Step::Wait(seconds) => {
                    now += Duration::from_secs(seconds);
                    Event::Tick
                }
            };
            take(controller.on(now, event));
        }
        while let Some(deadline) = controller.deadline() {
            now = now.max(deadline);
            take(controller.on(now, Event::Tick));
        }
        finished.sort_unstable();
        prop_assert_eq!(finished, (1..=calls).collect::<Vec<_>>());
    }
}

#[test]
fn the_table_tells_what_to_keep_and_what_changed() {
    let mut nodes = Nodes::new(vec![node("stored", NodeState::Provisioned)]);
    assert!(!nodes.get("stored").unwrap().connected);
    let fresh = node("fresh", NodeState::Unprovisioned);
    assert_eq!(nodes.set(fresh.clone()).unwrap(), Keep::Forget("fresh".into()));
    assert_eq!(nodes.set(fresh).unwrap(), Keep::AsIs);
    assert_eq!(nodes.revision(), 1, "the same again is no change");
    assert_eq!(nodes.set(node("stored", NodeState::Provisioned)).unwrap(), Keep::AsIs, "only connected");
    assert_eq!(nodes.revision(), 2);
    let kept = nodes.set_state("fresh", NodeState::Provisioned).unwrap();
    assert_eq!(kept, Keep::Store(Box::new(node("fresh", NodeState::Provisioned))));
    let changed: Vec<_> =
        nodes.changed_since(1).into_iter().map(|entry| entry.info.node_id.clone()).collect();
    assert_eq!(changed, ["stored", "fresh"]);
    nodes.disconnect("fresh");
    nodes.disconnect("fresh");
    assert_eq!(nodes.revision(), 4);
    assert!(nodes.set_state("unknown", NodeState::Paused).is_err());
}

#[test]
fn a_seventeenth_node_is_refused() {
    let mut nodes = Nodes::default();
    for number in 0..16 {
        nodes.set(node(&format!("node{number}"), NodeState::Provisioned)).unwrap();
    }
    let error = nodes.set(node("one more", NodeState::Provisioned)).unwrap_err();
    assert_eq!(error.code(), aos_status::AosCode::NoMemory);
    nodes.set(node("node3", NodeState::Paused)).unwrap();
}
