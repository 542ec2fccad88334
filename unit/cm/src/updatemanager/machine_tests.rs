//! CM-13, CM-42: the update machine against its table, and under any order of events.

use aos_ids::{Digest, ItemId, ItemKind, OwnerId, SubjectId};
use proptest::prelude::*;

use super::super::desired::{DesiredInstance, DesiredItem, HaveInstance, differs};
use super::*;

fn item(n: u8, version: &str) -> DesiredItem {
    DesiredItem {
        id: ItemId::new(format!("i{n}")).unwrap(),
        kind: ItemKind::Service,
        version: version.into(),
        owner: OwnerId::new("sp").unwrap(),
        index: Digest::from_sha256([n; 32]),
    }
}

fn wish(n: u8) -> Box<Desired> {
    Box::new(Desired { items: Some(vec![item(n, "1.0.0")]), ..Desired::default() })
}

fn works(actions: &[Action]) -> Option<u64> {
    actions.iter().find_map(|action| match action {
        Action::Download(c) | Action::Configure(c) | Action::Launch(c) | Action::Finalize(c) => Some(*c),
        _ => None,
    })
}

fn run(machine: &mut Machine, mut actions: Vec<Action>) -> Vec<Action> {
    let now = Instant::now();
    let mut all = Vec::new();
    loop {
        all.extend(actions.clone());
        actions = match works(&actions) {
            Some(cycle) => machine.on(now, Event::StageDone(cycle)),
            None if machine.state() == UpdateState::Activating => {
                machine.on(now, Event::Instances { starting: false })
            }
            None => return all,
        };
    }
}

#[test]
fn a_wish_runs_through_all_states_and_ends_with_a_full_status() {
    let mut machine = Machine::new(None);
    let start = machine.on(Instant::now(), Event::Desired(wish(1), true));
    assert_eq!(start, [Action::Store, Action::Download(1)]);
    let all = run(&mut machine, start);
    assert_eq!(machine.state(), UpdateState::None);
    assert_eq!(all.iter().filter(|action| **action == Action::FullStatus).count(), 1);
    assert_eq!(machine.stored().applied, 1);
    let works: Vec<_> = all.iter().filter(|a| works(std::slice::from_ref(a)).is_some()).collect();
    assert!(matches!(
        works[..],
        [Action::Download(_), Action::Configure(_), Action::Launch(_), Action::Finalize(_)]
    ));
}

#[test]
fn every_stored_state_is_taken_up_again() {
    use UpdateState as S;
    for state in [S::Downloading, S::Pending, S::Installing, S::Launching, S::Activating, S::Finalizing] {
        let stored = Stored { state, desired: Some(*wish(1)), applied: 4 };
        let text = serde_json::to_string(&stored).unwrap();
        let mut machine = Machine::new(Some(serde_json::from_str(&text).unwrap()));
        let actions = machine.on(Instant::now(), Event::Started);
        let all = run(&mut machine, actions);
        assert_eq!(machine.state(), S::None, "{state:?}");
        assert_eq!(all.last(), Some(&Action::FullStatus), "{state:?}");
        assert_eq!(machine.stored().applied, 4, "a resumed update is not a new one");
    }
    let mut machine = Machine::new(None);
    assert!(machine.on(Instant::now(), Event::Started).is_empty());
}

// An update whose wish is lost does nothing instead of removing everything.
#[test]
fn a_state_without_a_wish_is_reset() {
    let mut machine =
        Machine::new(Some(Stored { state: UpdateState::Finalizing, desired: None, applied: 1 }));
    assert_eq!(machine.on(Instant::now(), Event::Started), [Action::Store, Action::FullStatus]);
}

#[test]
fn the_same_wish_is_ignored_and_another_replaces_it() {
    let mut machine = Machine::new(None);
    let now = Instant::now();
    let first = works(&machine.on(now, Event::Desired(wish(1), true))).unwrap();
    let mut certificates = wish(1);
    certificates.trust.chains = vec![super::super::desired::Chain { name: "c".into(), fingerprints: vec![] }];
    let again = machine.on(now, Event::Desired(certificates, true));
    assert!(matches!(again[..], [Action::Store, Action::Ignored(_)]), "{again:?}");

    let second = machine.on(now, Event::Desired(wish(2), true));
    assert_eq!(second[0], Action::CancelDownload);
    assert!(machine.on(now, Event::StageDone(first)).is_empty(), "the replaced cycle counts no more");
    run(&mut machine, second);
    assert_eq!(machine.desired().unwrap().items, wish(2).items);
    assert_eq!(machine.stored().applied, 2);
}

#[test]
fn a_new_wish_while_activating_starts_at_once() {
    let mut machine =
        Machine::new(Some(Stored { state: UpdateState::Activating, desired: Some(*wish(1)), applied: 1 }));
    let now = Instant::now();
    machine.on(now, Event::Started);
    let actions = machine.on(now, Event::Desired(wish(2), true));
    assert_eq!(machine.state(), UpdateState::Downloading);
    assert!(works(&actions).is_some());
    assert!(machine.on(now, Event::Instances { starting: false }).is_empty());
}

#[test]
fn waiting_for_instances_ends() {
    let mut machine =
        Machine::new(Some(Stored { state: UpdateState::Activating, desired: Some(*wish(1)), applied: 1 }));
    let start = Instant::now();
    machine.on(start, Event::Started);
    let later = start + Duration::from_secs(500);
    machine.on(later, Event::Instances { starting: true });
    assert!(
        machine.on(start + ACTIVATION_TIMEOUT, Event::Tick).iter().all(|a| matches!(a, Action::Timer(_)))
    );
    assert!(works(&machine.on(later + ACTIVATION_TIMEOUT, Event::Tick)).is_some());
    assert_eq!(machine.state(), UpdateState::Finalizing);
}

#[test]
fn lists_left_out_are_unchanged_and_empty_lists_remove() {
    let mut machine = Machine::new(None);
    let now = Instant::now();
    let start = machine.on(now, Event::Desired(wish(1), true));
    run(&mut machine, start);
    let start = machine.on(now, Event::Desired(Box::default(), true));
    run(&mut machine, start);
    assert_eq!(machine.desired().unwrap().items, wish(1).items);
    let none = Box::new(Desired { items: Some(vec![]), ..Desired::default() });
    machine.on(now, Event::Desired(none, true));
    assert_eq!(machine.desired().unwrap().items, Some(vec![]));
}

// CM-42
#[test]
fn what_makes_an_update_necessary() {
    let subject = SubjectId::new("s").unwrap();
    let entry = |count| DesiredInstance {
        item: item(1, "").id,
        subject: subject.clone(),
        priority: 0,
        count,
        labels: vec![],
    };
    let want = |count| Desired {
        items: Some(vec![item(1, "1.0.0")]),
        instances: Some(vec![entry(count)]),
        ..Desired::default()
    };
    let have = |instance, kind, version: &str, active| HaveInstance {
        item: item(1, "").id,
        subject: subject.clone(),
        instance,
        kind,
        version: version.into(),
        active,
    };
    let installed = [(item(1, "").id, ItemKind::Service, "1.0.0".to_owned())];
    let service = |n| have(n, ItemKind::Service, "1.0.0", false);
    assert!(!differs(&want(1), &installed, &[service(0)]));
    assert!(differs(&want(2), &installed, &[service(0)]), "one instance is missing");
    assert!(differs(&want(1), &installed, &[service(0), service(1)]), "one is too much");
    assert!(differs(&want(1), &[], &[service(0)]), "the item is missing");
    let older = [(item(1, "").id, ItemKind::Service, "0.9.0".to_owned())];
    assert!(differs(&want(1), &older, &[service(0)]));
    assert!(differs(&Desired { items: Some(vec![]), ..Desired::default() }, &installed, &[]));
    assert!(!differs(&Desired::default(), &installed, &[service(7)]), "left out means unchanged");
    let component = |version, active| have(0, ItemKind::Component, version, active);
    assert!(differs(&want(1), &installed, &[component("0.1.0", true)]));
    assert!(differs(&want(1), &installed, &[component("1.0.0", false)]));
    let other = Desired { items: None, instances: Some(vec![]), ..Desired::default() };
    assert!(
        !differs(&other, &installed, &[component("0.1.0", true)]),
        "a preinstalled component is left alone"
    );
}

proptest! {
    // Whatever happens in whatever order, the last different wish is the one that is carried out.
    #[test]
    fn no_wish_is_lost(steps in proptest::collection::vec((0..3u8, 0..4u8), 0..40)) {
        let mut machine = Machine::new(None);
        let now = Instant::now();
        let mut pending = None;
        let mut last = None;
        for (what, n) in steps {
            let actions = match what {
                0 => { last = Some(n); machine.on(now, Event::Desired(wish(n), true)) }
                1 => pending.map(|cycle| machine.on(now, Event::StageDone(cycle))).unwrap_or_default(),
                _ => machine.on(now, Event::Instances { starting: n % 2 == 0 }),
            };
            if let Some(cycle) = works(&actions) { pending = Some(cycle); }
        }
        let rest = match pending { Some(cycle) => machine.on(now, Event::StageDone(cycle)), None => vec![] };
        run(&mut machine, rest);
        prop_assert_eq!(machine.state(), UpdateState::None);
        if let Some(n) = last { prop_assert_eq!(&machine.desired().unwrap().items, &wish(n).items); }
    }
}
