//! CM-23, CM-46, CM-61: content and timing of status reports.

use aos_ids::InstanceIdent;
use aos_status::NodeState;

use super::*;
use crate::launcher::records::Status;

const QUIET: Duration = Duration::from_secs(10);

fn node(name: &str, connected: bool) -> NodeInfo {
    NodeInfo {
        identity: AosIdentity::by_codename(name),
        node_group_subject: AosIdentity::by_codename("type"),
        max_dmips: 1,
        physical_ram: None,
        total_ram: 1,
        os_info: Default::default(),
        cpus: None,
        attrs: None,
        partitions: None,
        runtimes: None,
        resources: None,
        is_connected: connected,
        state: NodeState::Provisioned,
        error_info: None,
    }
}

fn status(n: u64, state: InstanceState, preinstalled: bool) -> Status {
    let ident = InstanceIdent::service("i".parse().unwrap(), "s".parse().unwrap(), n);
    Status {
        ident: InstanceIdent { preinstalled, ..ident },
        version: "1.0.0".into(),
        node: None,
        runtime: None,
        state,
        error: None,
    }
}

fn snapshot(nodes: Vec<NodeInfo>, instances: &[Status]) -> Snapshot {
    Snapshot::new(vec![], nodes, &Book::default(), instances, ["a".to_owned()])
}

#[test]
fn a_delta_holds_the_latest_form_of_what_changed_and_nothing_else() {
    let mut reporter = Reporter::new(QUIET);
    let full = reporter.full(snapshot(
        vec![node("a", false), node("b", false)],
        &[status(0, InstanceState::Activating, false)],
    ));
    assert_eq!((full.nodes.unwrap().len(), full.is_delta_info), (2, false));
    assert!(full.unit_config.is_some() && full.items.is_some() && full.subjects.is_some());

    let now = Instant::now();
    reporter.touch(now);
    let later = snapshot(
        vec![node("a", true), node("b", false)],
        &[status(0, InstanceState::Active, false), status(1, InstanceState::Activating, false)],
    );
    let delta = reporter.delta(later.clone()).unwrap();
    assert!(delta.is_delta_info);
    assert_eq!(delta.nodes.unwrap(), [node("a", true)]);
    let instances = delta.instances.unwrap();
    assert_eq!((instances.len(), instances[0].instances.len()), (1, 2));
    assert_eq!((delta.items, delta.subjects), (None, None));
    assert_eq!(reporter.delta(later), None);
}

// CM-61
#[test]
fn a_delta_waits_for_quiet_but_not_for_ever() {
    let mut reporter = Reporter::new(QUIET);
    let start = Instant::now();
    reporter.touch(start);
    assert_eq!(reporter.deadline(), None, "nothing is collected without a link");
    reporter.full(Snapshot::default());
    for second in 0..25 {
        reporter.touch(start + Duration::from_secs(second));
    }
    assert_eq!(reporter.deadline(), Some(start + 3 * QUIET));
    reporter.delta(Snapshot::default());
    assert_eq!(reporter.deadline(), None);
    reporter.touch(start);
    assert_eq!(reporter.deadline(), Some(start + QUIET));
    reporter.disconnected();
    assert_eq!(reporter.deadline(), None);
}

// CM-23
#[test]
fn preinstalled_components_are_items_too() {
    let instances = [0, 1].map(|n| status(n, InstanceState::Active, true));
    let full = Reporter::new(QUIET).full(snapshot(vec![], &instances));
    let items = full.items.unwrap();
    assert_eq!(items.len(), 1);
    assert_eq!((items[0].item.codename.as_deref(), items[0].state), (Some("i"), ItemState::Installed));
    assert!(full.instances.unwrap()[0].item.is_preinstalled());
}

#[test]
fn removed_items_are_told_once() {
    use crate::imagemanager::book::Record;
    let record = |state| Record {
        kind: ItemKind::Service,
        index: aos_ids::Digest::from_sha256([0; 32]),
        state,
        error: None,
        removed_at: None,
    };
    let of = |state: Option<ItemState>| {
        let records = state.map(|state| (("i".parse().unwrap(), "1.0.0".to_owned()), record(state)));
        Snapshot::new(vec![], vec![], &Book::new(records), &[], [])
    };
    let mut reporter = Reporter::new(QUIET);
    assert_eq!(reporter.full(of(Some(ItemState::Installed))).items.unwrap().len(), 1);
    let delta = reporter.delta(of(Some(ItemState::Removed))).unwrap();
    assert_eq!(delta.items.unwrap()[0].state, ItemState::Removed);
    assert_eq!(reporter.delta(of(None)), None);
    assert!(reporter.full(of(Some(ItemState::Removed))).items.unwrap().is_empty());
}
