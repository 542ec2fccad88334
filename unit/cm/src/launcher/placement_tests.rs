//! The reference scenarios of placement (CM-15, CM-44), and what holds for every input.

use proptest::prelude::*;

use super::candidates::runs_on;
use super::*;

fn node(name: &str, priority: u64) -> Node {
    let kind = if name == "X" { "runx" } else { "runc" };
    Node {
        id: NodeId::new(name).unwrap(),
        priority,
        labels: vec![],
        ratios: Ratios::default(),
        cpu: 1000,
        ram: 1024,
        resources: vec![],
        runtimes: vec![Runtime {
            id: RuntimeId::new(format!("{kind}-{name}")).unwrap(),
            kind: kind.into(),
            cpu: None,
            ram: None,
            max_instances: 0,
            platform: Platform { architecture: "amd64".into(), os: "linux".into(), ..Platform::default() },
        }],
    }
}

fn four(l: u64, r1: u64, r2: u64, x: u64) -> Vec<Node> {
    vec![node("L", l), node("R1", r1), node("R2", r2), node("X", x)]
}

fn variant() -> Variant {
    Variant {
        platform: Platform { architecture: "x86_64".into(), os: "linux".into(), ..Platform::default() },
        ..Variant::default()
    }
}

fn spread(wishes: &[Wish<'_>], nodes: &[Node], space: Space) -> Vec<Result<Place, ErrorInfo>> {
    place(wishes, nodes, &nodes.iter().map(|node| node.id.clone()).collect(), space)
}

const SPACE: Space = Space { storage: Some(1024), state: Some(1024), common: false };

struct Service {
    variants: Vec<Variant>,
    labels: Vec<String>,
    present: Vec<Option<(NodeId, RuntimeId)>>,
}

fn service(count: usize, change: impl FnOnce(&mut Variant)) -> Service {
    let mut one = variant();
    change(&mut one);
    Service { variants: vec![one], labels: vec![], present: vec![None; count] }
}

fn wishes(services: &[Service]) -> Vec<Wish<'_>> {
    services
        .iter()
        .flat_map(|service| {
            service.present.iter().map(|present| Wish {
                kind: ItemKind::Service,
                labels: &service.labels,
                variants: Ok(&service.variants),
                present: present.as_ref().map(|(node, runtime)| (node, runtime)),
                pinned: None,
            })
        })
        .collect()
}

fn places(services: &[Service], nodes: &[Node]) -> Vec<String> {
    spread(&wishes(services), nodes, SPACE)
        .into_iter()
        .map(|result| match result {
            Ok(place) => place.node.to_string(),
            Err(error) => format!("{}: {}", error.aos_code, error.message),
        })
        .collect()
}

fn runx(one: &mut Variant) {
    one.runtimes = vec!["runx".into()];
    one.requested.cpu = Some(100);
}

// CM-44
#[test]
fn by_node_priority_and_free_cpu() {
    let runc = |one: &mut Variant| one.requested.cpu = Some(100);
    let services = [service(2, runc), service(2, runc), service(2, runx)];
    assert_eq!(places(&services, &four(50, 100, 100, 0)), ["R1", "R2", "R1", "R2", "X", "X"]);
}

// CM-44
#[test]
fn by_labels() {
    let mut nodes = four(0, 0, 0, 0);
    nodes[0].labels = vec!["label1".into()];
    nodes[1].labels = vec!["label2".into()];
    let services: Vec<Service> = ["label2", "label1", "label3"]
        .map(|label| Service { labels: vec![label.into()], ..service(2, |_| ()) })
        .into();
    let none = "5: no nodes with instance labels: label3 wanted, L has label1, R1 has label2, R2 has none, X has none";
    assert_eq!(places(&services, &nodes), ["R1", "R1", "L", "L", none, none]);
}

#[test]
fn by_resources() {
    let mut nodes = four(100, 50, 0, 0);
    nodes[0].resources = vec![("r1".into(), 2), ("r3".into(), 2)];
    nodes[1].resources = vec![("r1".into(), 2), ("r2".into(), 2)];
    let services: Vec<Service> = [vec!["r1", "r2"], vec!["r1"], vec!["r3"]]
        .map(|names| service(2, |one| one.resources = names.into_iter().map(Into::into).collect()))
        .into();
    assert_eq!(places(&services, &nodes), ["R1", "R1", "L", "L", "L", "L"]);
}

#[test]
fn shared_resource_without_count_is_unlimited() {
    let mut nodes = four(100, 0, 0, 0);
    nodes[0].resources = vec![("r".into(), 0)];
    assert_eq!(places(&[service(3, |one| one.resources = vec!["r".into()])], &nodes), ["L", "L", "L"]);
}

#[test]
fn by_storage_and_state() {
    for storage in [true, false] {
        let services = [service(5, |one| {
            let amounts = |value| {
                let mut amounts = Amounts::default();
                *(if storage { &mut amounts.storage } else { &mut amounts.state }) = Some(value);
                amounts
            };
            one.quota = amounts(500);
            one.requested = amounts(300);
        })];
        let what = if storage { "3: not enough storage space" } else { "3: not enough state space" };
        assert_eq!(places(&services, &four(100, 0, 0, 0)), ["L", "L", "L", what, what]);
    }
}

#[test]
fn storage_and_state_of_one_partition_share_it() {
    let services = [service(2, |one| {
        one.requested = Amounts { storage: Some(400), state: Some(200), ..Amounts::default() };
    })];
    let space = Space { storage: Some(1024), state: None, common: true };
    let results = spread(&wishes(&services), &four(1, 0, 0, 0), space);
    assert!(results[0].is_ok() && results[1].is_err());
}

#[test]
fn by_cpu_and_ram() {
    for cpu in [true, false] {
        let services = [service(5, |one| {
            let amounts = |value| {
                let mut amounts = Amounts::default();
                *(if cpu { &mut amounts.cpu } else { &mut amounts.ram }) = Some(value);
                amounts
            };
            one.quota = amounts(500);
            one.requested = amounts(300);
        })];
        assert_eq!(places(&services, &four(100, 50, 50, 50)), ["L", "L", "L", "R1", "R2"]);
    }
}

#[test]
fn a_quota_without_request_reserves_its_ratio() {
    let services = [service(3, |one| one.quota.cpu = Some(1000))];
    assert_eq!(places(&services, &four(100, 50, 50, 0)), ["L", "L", "R1"]);
    let mut nodes = four(100, 50, 50, 0);
    nodes[0].ratios.cpu = Some(100.0);
    assert_eq!(places(&services, &nodes), ["L", "R1", "R2"]);
    let skip = [service(3, |one| {
        one.quota.cpu = Some(100_000);
        one.skip_limits = true;
    })];
    assert_eq!(places(&skip, &four(100, 50, 50, 0)), ["L", "L", "L"]);
}

#[test]
fn instances_stay_where_they_run() {
    let here = Some((NodeId::new("R2").unwrap(), RuntimeId::new("runc-R2").unwrap()));
    let mut services = [service(2, |one| one.requested.cpu = Some(100))];
    services[0].present[1] = here;
    assert_eq!(places(&services, &four(100, 50, 50, 0)), ["L", "R2"]);
    // A node that is gone is no place to stay.
    let gone: Vec<Node> = four(100, 50, 50, 0).into_iter().filter(|node| node.id.as_str() != "R2").collect();
    assert_eq!(places(&services, &gone), ["L", "L"]);
}

#[test]
fn a_more_important_instance_gets_room_even_if_another_must_move() {
    let mut services =
        [service(1, |one| one.requested.cpu = Some(800)), service(1, |one| one.requested.cpu = Some(500))];
    services[0].labels = vec!["big".into()];
    services[1].present[0] = Some((NodeId::new("L").unwrap(), RuntimeId::new("runc-L").unwrap()));
    let mut nodes = four(100, 50, 50, 0);
    nodes[0].labels = vec!["big".into()];
    assert_eq!(places(&services, &nodes), ["L", "R1"]);
}

#[test]
fn platform_names_are_normalised() {
    let on = |architecture: &str, variant: &str| Platform {
        architecture: architecture.into(),
        variant: variant.into(),
        ..Platform::default()
    };
    assert!(runs_on(&on("arm64", ""), &on("aarch64", "v8")));
    assert!(runs_on(&on("aarch64", "v8"), &on("arm64", "")));
    assert!(!runs_on(&on("arm", "v7"), &on("arm", "v6")));
    assert!(runs_on(&on("", ""), &on("arm", "v6")));
    assert!(!runs_on(&on("amd64", ""), &on("arm64", "")));
    let features = Platform { os_features: vec!["win32k".into()], ..on("amd64", "") };
    assert!(!runs_on(&features, &on("amd64", "")));
}

#[test]
fn an_item_that_cannot_be_read_fails_with_its_reason() {
    let error = ErrorInfo::new(AosCode::NotFound, "item not found");
    let wish = Wish {
        kind: ItemKind::Service,
        labels: &[],
        variants: Err(error.clone()),
        present: None,
        pinned: None,
    };
    assert_eq!(spread(&[wish], &four(0, 0, 0, 0), SPACE), [Err(error)]);
}

fn any_node() -> impl Strategy<Value = Node> {
    (0..3u64, 0..1000u64, 0..1000u64, 0..3u64, 0..2usize).prop_map(|(priority, cpu, ram, max, label)| {
        let mut one = node("L", priority);
        one.cpu = cpu;
        one.ram = ram;
        one.runtimes[0].max_instances = max;
        one.labels = ["a"; 1].iter().take(label).map(|text| (*text).to_owned()).collect();
        one
    })
}

proptest! {
    // Never more than there is; same input, same answer; a placement fed back as present changes nothing.
    // CM-15
    #[test]
    fn capacity_holds_and_placement_is_stable(
        nodes in proptest::collection::vec(any_node(), 0..4),
        asks in proptest::collection::vec((0..400u64, 0..400u64, any::<bool>()), 0..12),
    ) {
        let nodes: Vec<Node> = nodes.into_iter().enumerate().map(|(i, mut one)| {
            one.id = NodeId::new(format!("n{i}")).unwrap();
            one.runtimes[0].id = RuntimeId::new(format!("r{i}")).unwrap();
            one
        }).collect();
        let mut services: Vec<Service> = asks.iter().map(|(cpu, ram, label)| {
            let mut one = service(1, |one| {
                one.requested.cpu = Some(*cpu);
                one.requested.ram = Some(*ram);
            });
            if *label { one.labels = vec!["a".into()]; }
            one
        }).collect();
        let first = spread(&wishes(&services), &nodes, Space::default());
        prop_assert_eq!(&first, &spread(&wishes(&services), &nodes, Space::default()));
        for node in &nodes {
            let here: Vec<_> = first.iter().zip(&asks)
                .filter(|(result, _)| result.as_ref().is_ok_and(|place| place.node == node.id)).collect();
            prop_assert!(here.iter().map(|(_, ask)| ask.0).sum::<u64>() <= node.cpu);
            prop_assert!(here.iter().map(|(_, ask)| ask.1).sum::<u64>() <= node.ram);
            let max = if node.runtimes[0].max_instances == 0 { 256 } else { node.runtimes[0].max_instances };
            prop_assert!(here.len() as u64 <= max);
            prop_assert!(here.iter().all(|(_, ask)| !ask.2 || !node.labels.is_empty()));
        }
        if first.iter().all(Result::is_ok) {
            for (service, result) in services.iter_mut().zip(&first) {
                service.present[0] = result.as_ref().ok().map(|place| (place.node.clone(), place.runtime.clone()));
            }
            prop_assert_eq!(first, spread(&wishes(&services), &nodes, Space::default()));
        }
    }
}
