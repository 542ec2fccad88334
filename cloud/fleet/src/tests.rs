//! The rules, with examples and generated histories.

use aos_cloud_protocol::{
    AosIdentity, DesiredStatus, InstanceInfo, InstanceState, InstancesInfo, ItemState, ItemStatus, NodeInfo,
    UnitStatus,
};
use aos_ids::{Digest, ItemKind};
use proptest::prelude::*;

use super::*;

fn item(id: &str, version: &str, state: ItemState) -> ItemStatus {
    ItemStatus { item: AosIdentity::by_id(id), version: version.to_owned(), state, error_info: None }
}

fn group(id: &str, version: &str, numbers: &[u64], state: InstanceState) -> InstancesInfo {
    let instance = |number: &u64| InstanceInfo {
        node: AosIdentity::by_codename("main"),
        runtime: AosIdentity::by_codename("crun"),
        instance: *number,
        state_checksum: None,
        state,
        error_info: None,
    };
    InstancesInfo {
        item: AosIdentity::by_id(id),
        subject: AosIdentity::by_id("subject"),
        version: version.to_owned(),
        instances: numbers.iter().map(instance).collect(),
    }
}

fn full(items: Vec<ItemStatus>, instances: Vec<InstancesInfo>) -> UnitStatus {
    UnitStatus {
        is_delta_info: false,
        items: Some(items),
        instances: Some(instances),
        ..UnitStatus::default()
    }
}

fn delta(items: Vec<ItemStatus>) -> UnitStatus {
    UnitStatus { is_delta_info: true, items: Some(items), ..UnitStatus::default() }
}

fn states(state: &UnitState) -> Vec<(String, ItemState)> {
    state.items.iter().map(|item| (item.value.version.clone(), item.value.state)).collect()
}

fn target(assigned: Vec<Assigned>) -> Target {
    Target {
        subject_id: "subject".to_owned(),
        assigned,
        signing: Signing {
            chain_name: "items".to_owned(),
            certificates: vec![(vec![1], "AA".to_owned()), (vec![2], "BB".to_owned())],
        },
        unit_config: None,
        nodes: vec![],
    }
}

fn service(version: &str, known: &[&str]) -> Assigned {
    Assigned {
        item_id: "i1".to_owned(),
        kind: ItemKind::Service,
        owner_id: "o1".to_owned(),
        owner_kind: OwnerKind::ServiceProvider,
        version: version.to_owned(),
        known: known.iter().map(|v| ((*v).to_owned(), Digest::from_sha256([7; 32]))).collect(),
        num_instances: 2,
        priority: 5,
        labels: vec!["main".to_owned()],
    }
}

// PRO-54, CLO-19
#[test]
fn a_delta_changes_what_it_mentions_and_a_full_status_everything() {
    let mut state = UnitState::default();
    let both = vec![item("i", "1.0.0", ItemState::Installed), item("i", "2.0.0", ItemState::Downloading)];
    state.merge(full(both, vec![]), 10, 1);
    state.merge(delta(vec![item("i", "2.0.0", ItemState::Installed)]), 20, 1);
    let expected = [("1.0.0".to_owned(), ItemState::Installed), ("2.0.0".to_owned(), ItemState::Installed)];
    assert_eq!(states(&state), expected);
    state.merge(full(vec![item("i", "2.0.0", ItemState::Installed)], vec![]), 30, 1);
    assert_eq!(states(&state), expected[1..]);
}

#[test]
fn older_messages_never_undo_newer_ones() {
    let mut state = UnitState::default();
    state.merge(full(vec![item("i", "1.0.0", ItemState::Downloading)], vec![]), 10, 1);
    state.merge(delta(vec![item("i", "1.0.0", ItemState::Installed)]), 30, 1);
    // A delta and a full status that were repeated late.
    assert_eq!(state.merge(delta(vec![item("i", "1.0.0", ItemState::Pending)]), 20, 1), Merged::Applied);
    assert_eq!(states(&state)[0].1, ItemState::Installed);
    state.merge(full(vec![item("i", "1.0.0", ItemState::Pending)], vec![]), 25, 1);
    assert_eq!(states(&state)[0].1, ItemState::Installed);
    assert_eq!(state.merge(delta(vec![]), 24, 1), Merged::Stale);
}

#[test]
fn the_first_full_status_of_a_session_counts_even_with_a_clock_set_back() {
    let mut state = UnitState::default();
    state.merge(full(vec![item("i", "1.0.0", ItemState::Installed)], vec![]), 1000, 1);
    assert!(state.is_known_in(1) && !state.is_known_in(2));
    assert_eq!(state.merge(full(vec![], vec![]), 10, 2), Merged::Applied);
    assert!(state.items.is_empty() && state.is_known_in(2));
    assert_eq!(state.merge(delta(vec![item("i", "2.0.0", ItemState::Pending)]), 11, 2), Merged::Applied);
}

#[test]
fn the_state_survives_its_stored_form() {
    let mut state = UnitState::default();
    let running = group("i", "1.0.0", &[0, 1], InstanceState::Active);
    state.merge(full(vec![item("i", "1.0.0", ItemState::Installed)], vec![running]), 10, 1);
    let text = serde_json::to_string(&state).unwrap();
    assert_eq!(serde_json::from_str::<UnitState>(&text).unwrap(), state);
}

#[test]
fn latest_is_the_highest_release() {
    let known = ["1.2.0", "1.10.0", "2.0.0-rc.1", "no version"];
    assert_eq!(resolve(LATEST, known), Some("1.10.0"));
    assert_eq!(resolve(LATEST, ["2.0.0-rc.1", "2.0.0-rc.2"]), Some("2.0.0-rc.2"));
    assert_eq!(resolve("1.2.0", known), Some("1.2.0"));
    assert_eq!(resolve("3.0.0", known), None);
    assert_eq!(resolve(LATEST, []), None);
}

// CLO-18
#[test]
fn a_desired_status_is_always_complete() {
    let (status, skipped) = desired_status(&target(vec![]));
    assert_eq!(skipped, []);
    let text = serde_json::to_value(&status).unwrap();
    for list in ["items", "instances", "subjects", "certificates", "certificateChains"] {
        assert!(text[list].is_array(), "{list}");
    }
    assert_eq!(serde_json::from_value::<DesiredStatus>(text).unwrap(), status);
}

// CLO-15
#[test]
fn assignments_become_items_and_instances() {
    let mut layer = service(LATEST, &["1.0.0"]);
    layer.item_id = "layer".to_owned();
    layer.kind = ItemKind::Layer;
    let mut unknown = service("9.0.0", &["1.0.0"]);
    unknown.item_id = "unknown".to_owned();
    let (status, skipped) =
        desired_status(&target(vec![service(LATEST, &["1.0.0", "1.1.0"]), layer, unknown]));
    assert_eq!(skipped, [Skipped { item_id: "unknown".to_owned(), version: "9.0.0".to_owned() }]);
    let items = status.items.unwrap();
    assert_eq!(items.len(), 2);
    assert_eq!(items[0].version, "1.1.0");
    let instances = status.instances.unwrap();
    assert_eq!(instances.len(), 1);
    assert_eq!((instances[0].num_instances, instances[0].priority), (2, 5));
}

#[test]
fn comparison_looks_at_items_instances_and_nodes() {
    let (desired, _) = desired_status(&target(vec![service("1.0.0", &["1.0.0"])]));
    let installed = || vec![item("i1", "1.0.0", ItemState::Installed)];
    let check_with = |mut status: UnitStatus, connected: bool| {
        status.nodes = Some(vec![node(connected)]);
        let mut state = UnitState::default();
        state.merge(status, 1, 1);
        compare(&desired, &state)
    };
    let check = |status| check_with(status, true);
    let active = |numbers: &[u64]| vec![group("i1", "1.0.0", numbers, InstanceState::Active)];
    assert_eq!(check(full(installed(), active(&[0, 1]))), Comparison::Same);
    assert_eq!(check(full(installed(), active(&[0]))), Comparison::Lost);
    assert_eq!(check_with(full(installed(), active(&[0])), false), Comparison::Unclear);
    assert_eq!(check(full(vec![], vec![])), Comparison::Lost);
    let starting = vec![group("i1", "1.0.0", &[0], InstanceState::Activating)];
    assert_eq!(check(full(installed(), starting)), Comparison::Unclear);
    let fetching = vec![item("i1", "1.0.0", ItemState::Downloading)];
    assert_eq!(check(full(fetching, vec![])), Comparison::Unclear);
    let old = vec![group("i1", "0.9.0", &[0, 1], InstanceState::Active)];
    assert_eq!(check(full(installed(), old)), Comparison::Lost);
    let mut own = installed();
    own.push(ItemStatus {
        item: AosIdentity::by_codename("rootfs"),
        version: "1.0.0".to_owned(),
        state: ItemState::Installed,
        error_info: None,
    });
    assert_eq!(check(full(own, active(&[0, 1]))), Comparison::Same, "what came with the Unit does not count");
}

fn node(connected: bool) -> NodeInfo {
    serde_json::from_value(serde_json::json!({
        "identity": {"codename": "main"}, "nodeGroupSubject": {"codename": "gateway"},
        "maxDmips": 1, "totalRam": 1, "osInfo": {"os": "linux"},
        "isConnected": connected, "state": "provisioned",
    }))
    .unwrap()
}

#[test]
fn a_desired_status_goes_out_when_it_is_needed_and_only_then() {
    let mut link = Delivery::default();
    assert_eq!(link.on_desired(1, false), Step::Send);
    assert_eq!(link.on_desired(1, false), Step::Wait, "the session repeats it");
    assert_eq!(link.on_desired(1, true), Step::Wait);
    assert_eq!(link.on_full_status(1, true, Comparison::Lost), Step::Wait, "just sent here");
    assert_eq!(link.on_desired(2, false), Step::Send);

    let mut reconnected = Delivery::default();
    assert_eq!(reconnected.on_desired(2, true), Step::Wait, "acknowledged before");
    assert_eq!(reconnected.on_full_status(2, true, Comparison::Same), Step::Wait);
    assert_eq!(reconnected.on_full_status(2, true, Comparison::Lost), Step::Wait, "the first one decides");

    let mut lost = Delivery::default();
    assert_eq!(lost.on_desired(2, true), Step::Wait);
    assert_eq!(lost.on_full_status(2, true, Comparison::Unclear), Step::Wait);
    assert_eq!(lost.on_full_status(2, true, Comparison::Lost), Step::Send);
    assert_eq!(lost.on_full_status(2, true, Comparison::Lost), Step::Wait);
}

proptest! {
    /// Any order of the same messages of one session, the greeting first, ends in the same state.
    #[test]
    fn the_order_of_arrival_does_not_matter(
        messages in prop::collection::vec((any::<bool>(), 0..4_usize, 0..4_usize), 1..8),
        seed in any::<u64>(),
    ) {
        let words = [ItemState::Downloading, ItemState::Pending, ItemState::Installed, ItemState::Failed];
        let history: Vec<(i64, UnitStatus)> = messages
            .iter()
            .enumerate()
            .map(|(number, (is_full, version, word))| {
                let entry = vec![item("i", &format!("{version}.0.0"), words[*word])];
                let status = if *is_full { full(entry, vec![]) } else { delta(entry) };
                (100 + i64::try_from(number).unwrap_or(0), status)
            })
            .collect();
        let run = |messages: &[(i64, UnitStatus)]| {
            let mut state = UnitState::default();
            state.merge(full(vec![], vec![]), 1, 1);
            for (at, status) in messages {
                state.merge(status.clone(), *at, 1);
            }
            state
        };
        let in_order = run(&history);
        let mut shuffled = history.clone();
        let mut random = seed;
        for at in (1..shuffled.len()).rev() {
            random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            shuffled.swap(at, usize::try_from(random >> 33).unwrap_or(0) % (at + 1));
        }
        prop_assert_eq!(run(&shuffled), in_order);
    }
}

#[test]
fn changes_that_name_ever_new_things_do_not_grow_what_is_known() {
    let mut state = UnitState::default();
    state.merge(full(vec![], vec![]), 1, 1);
    for round in 0..3_i64 {
        let items = (0..3000).map(|number| item(&format!("{round}-{number}"), "1.0.0", ItemState::Installed));
        state.merge(delta(items.collect()), 10 + round, 1);
    }
    assert_eq!(state.items.len(), MAX_KNOWN);
    assert!(state.items.iter().all(|item| item.at >= 11), "the oldest went first");
}
