//! CM-15, CM-26: records, numbers and commands.

use aos_ids::OwnerId;

use aos_item_format::Platform;

use super::super::placement::Runtime;
use aos_status::InstanceState;

use super::*;

fn node(name: &str) -> Node {
    Node {
        id: NodeId::new(name).unwrap(),
        priority: 0,
        labels: vec![],
        ratios: Default::default(),
        cpu: 1000,
        ram: 1024,
        resources: vec![],
        runtimes: vec![Runtime {
            id: RuntimeId::new(format!("crun-{name}")).unwrap(),
            kind: "crun".into(),
            cpu: None,
            ram: None,
            max_instances: 0,
            platform: Platform::default(),
        }],
    }
}

fn request(item: &str, version: &str, count: u64) -> RunRequest {
    RunRequest {
        item: ItemId::new(item).unwrap(),
        kind: ItemKind::Service,
        version: version.into(),
        owner: OwnerId::new("sp").unwrap(),
        subject: SubjectId::new("s").unwrap(),
        unit_subject: false,
        priority: 0,
        count,
        labels: vec![],
    }
}

struct World {
    launcher: Launcher,
    nodes: Vec<Node>,
    images: Images,
    subjects: BTreeSet<SubjectId>,
    withdrawn: BTreeSet<NodeId>,
}

impl World {
    fn new(nodes: &[&str], versions: &[(&str, &str)]) -> Self {
        let variant = Variant { manifest: Some(Digest::from_sha256([1; 32])), ..Variant::default() };
        let image = Image { variants: vec![variant], extras: BTreeMap::new() };
        Self {
            launcher: Launcher::default(),
            nodes: nodes.iter().map(|name| node(name)).collect(),
            images: versions
                .iter()
                .map(|(item, version)| {
                    ((ItemId::new(*item).unwrap(), (*version).to_owned()), Ok(image.clone()))
                })
                .collect(),
            subjects: BTreeSet::new(),
            withdrawn: BTreeSet::new(),
        }
    }

    fn run(&mut self, requests: Vec<RunRequest>) -> Vec<Change> {
        self.launcher.set_requests(requests);
        self.balance(SystemTime::UNIX_EPOCH)
    }

    fn balance(&mut self, now: SystemTime) -> Vec<Change> {
        let connected = self.nodes.iter().map(|node| node.id.clone()).collect();
        self.launcher.balance(&Surroundings {
            nodes: &self.nodes,
            connected: &connected,
            withdrawn: &self.withdrawn,
            images: &self.images,
            space: Space::default(),
            subjects: &self.subjects,
            system_numbers: &BTreeSet::new(),
            now,
        })
    }

    fn report_all(&mut self, name: &str, state: InstanceState) {
        let node = NodeId::new(name).unwrap();
        let reports = self
            .launcher
            .command(&node)
            .start
            .into_iter()
            .map(|((ident, version), record)| Report {
                ident,
                version,
                runtime: record.runtime,
                manifest: record.manifest,
                state,
                error: None,
                env_errors: vec![],
            })
            .collect();
        self.launcher.node_reports(&node, reports);
    }

    fn command(&self, name: &str) -> Command {
        self.launcher.command(&NodeId::new(name).unwrap())
    }
}

#[test]
fn numbers_of_a_service_and_of_its_update() {
    let mut world = World::new(&["main"], &[("i", "1.0.0"), ("i", "1.0.1"), ("j", "1.0.0")]);
    world.run(vec![request("i", "1.0.0", 2)]);
    let numbers = |world: &World| -> Vec<(u32, u32)> {
        world.command("main").start.iter().map(|(_, record)| (record.uid, record.gid)).collect()
    };
    assert_eq!(numbers(&world), [(5000, 5000), (5001, 5000)]);
    world.report_all("main", InstanceState::Active);
    world.run(vec![request("i", "1.0.1", 2)]);
    assert_eq!(numbers(&world), [(5002, 5000), (5003, 5000)]);
    assert_eq!(world.command("main").stop.len(), 2);
    world.run(vec![request("i", "1.0.1", 2), request("j", "1.0.0", 1)]);
    assert_eq!(numbers(&world)[2], (5004, 5001));
    // Back to the old version: its records come back with their numbers.
    world.run(vec![request("i", "1.0.0", 2)]);
    assert_eq!(numbers(&world), [(5000, 5000), (5001, 5000)]);
}

#[test]
fn a_running_instance_is_left_alone() {
    let mut world = World::new(&["main"], &[("i", "1.0.0"), ("j", "1.0.0")]);
    world.run(vec![request("i", "1.0.0", 1)]);
    assert!(world.command("main").needed);
    assert_eq!(world.launcher.statuses()[0].state, InstanceState::Activating);
    world.report_all("main", InstanceState::Active);
    assert!(!world.command("main").needed);
    assert!(!world.launcher.starting());
    let record = world.command("main").start[0].clone();
    assert!(world.run(vec![request("i", "1.0.0", 1)]).is_empty(), "asking again changes no record");

    world.run(vec![request("i", "1.0.0", 1), request("j", "1.0.0", 1)]);
    let command = world.command("main");
    assert!(command.needed && command.stop.is_empty());
    assert_eq!(command.start[0], record, "the running one is sent exactly as before");
}

#[test]
fn a_restart_takes_everything_up_again() {
    let mut world = World::new(&["a", "b"], &[("i", "1.0.0")]);
    world.run(vec![request("i", "1.0.0", 2)]);
    let records = world.launcher.records().clone();
    let requests = world.launcher.requests().to_vec();
    world.launcher = Launcher::new(requests, records.clone());
    assert!(world.balance(SystemTime::UNIX_EPOCH).is_empty());
    assert_eq!(*world.launcher.records(), records);
    world.launcher.fail_starting();
    assert!(world.launcher.statuses().iter().all(|status| status.state == InstanceState::Failed));
    for name in ["a", "b"] {
        world.report_all(name, InstanceState::Active);
    }
    assert!(world.launcher.statuses().iter().all(|status| status.state == InstanceState::Active));
}

// CM-15, CM-45
#[test]
fn instances_of_a_lost_node_move_and_are_stopped_there_later() {
    let mut world = World::new(&["a", "b"], &[("i", "1.0.0")]);
    world.run(vec![request("i", "1.0.0", 1)]);
    world.report_all("a", InstanceState::Active);
    let a = world.nodes.remove(0);
    world.balance(SystemTime::UNIX_EPOCH);
    assert_eq!(world.command("b").start.len(), 1);
    world.nodes.insert(0, a);
    world.balance(SystemTime::UNIX_EPOCH);
    assert_eq!(world.command("b").start.len(), 1, "it stays where it is now");
    assert_eq!(world.command("a").stop.len(), 1);
}

#[test]
fn no_image_no_instance() {
    let mut world = World::new(&["a"], &[]);
    world.run(vec![request("i", "1.0.0", 1)]);
    let status = &world.launcher.statuses()[0];
    assert_eq!((status.state, status.node.as_ref()), (InstanceState::Failed, None));
    assert_eq!(status.error.as_ref().unwrap().code(), AosCode::NotFound);
    assert!(!world.launcher.starting());
    assert!(world.launcher.has_unplaced());
}

#[test]
fn instances_of_the_units_own_subjects_come_and_go_with_them() {
    let mut world = World::new(&["a"], &[("i", "1.0.0")]);
    let own = RunRequest { unit_subject: true, ..request("i", "1.0.0", 1) };
    world.run(vec![own]);
    assert!(world.launcher.statuses().is_empty());
    world.subjects.insert(SubjectId::new("s").unwrap());
    world.balance(SystemTime::UNIX_EPOCH);
    assert_eq!(world.command("a").start.len(), 1);
    world.report_all("a", InstanceState::Active);
    world.subjects.clear();
    world.balance(SystemTime::UNIX_EPOCH);
    assert_eq!(world.command("a").stop.len(), 1);
}

#[test]
fn a_component_without_a_number_runs_on_every_fitting_runtime() {
    let mut world = World::new(&["a", "b", "c"], &[("i", "1.0.0")]);
    if let Some(Ok(image)) = world.images.values_mut().next() {
        image.variants[0].runtimes = vec!["crun".into()];
    }
    let component = RunRequest { kind: ItemKind::Component, ..request("i", "1.0.0", 0) };
    world.run(vec![component.clone()]);
    let places = |world: &World| -> Vec<(u64, String)> {
        let statuses = world.launcher.statuses();
        statuses.iter().map(|s| (s.ident.instance, s.node.as_ref().unwrap().to_string())).collect()
    };
    let expected = [(0, "a".to_owned()), (1, "b".to_owned()), (2, "c".to_owned())];
    assert_eq!(places(&world), expected);
    assert!(world.run(vec![component]).is_empty());
    assert_eq!(places(&world), expected);
}

#[test]
fn unwanted_instances_keep_their_record_for_a_time() {
    let mut world = World::new(&["a"], &[("i", "1.0.0")]);
    world.run(vec![request("i", "1.0.0", 1)]);
    let later = SystemTime::UNIX_EPOCH + Duration::from_secs(100);
    world.launcher.set_requests(vec![]);
    world.balance(later);
    let ttl = Duration::from_secs(10);
    assert!(
        world.launcher.expire(later + Duration::from_secs(9), ttl).is_empty(),
        "counted from now, not from creation"
    );
    assert_eq!(world.launcher.expire(later + ttl, ttl).len(), 1);
}

#[test]
fn preinstalled_components_are_shown_and_never_stopped() {
    let mut world = World::new(&["a"], &[]);
    let ident = InstanceIdent {
        item: ItemId::new("boot").unwrap(),
        subject: SubjectId::new("model").unwrap(),
        instance: 0,
        kind: ItemKind::Component,
        preinstalled: true,
    };
    let report = Report {
        ident,
        version: "1".into(),
        runtime: None,
        manifest: None,
        state: InstanceState::Active,
        error: None,
        env_errors: vec![],
    };
    world.launcher.node_reports(&NodeId::new("a").unwrap(), vec![report]);
    assert!(!world.command("a").needed);
    assert_eq!(world.launcher.statuses().len(), 1);
}

// A Service Manager that is away for long must not find its instances unwanted when it comes back.
#[test]
fn an_instance_of_the_only_node_waits_for_it() {
    let mut world = World::new(&["a"], &[("i", "1.0.0")]);
    world.run(vec![request("i", "1.0.0", 1)]);
    world.report_all("a", InstanceState::Active);
    let a = world.nodes.remove(0);
    world.balance(SystemTime::UNIX_EPOCH);
    assert_eq!(world.launcher.statuses()[0].state, InstanceState::Failed);
    assert!(world.launcher.has_unplaced());
    assert!(world.command("a").stop.is_empty());
    world.nodes.push(a);
    world.balance(SystemTime::UNIX_EPOCH);
    assert_eq!(world.launcher.statuses()[0].state, InstanceState::Active);
    assert!(!world.launcher.has_unplaced() && !world.command("a").needed);
}

// PRO-39: what runs on a node that is taken out of service is stopped; on one that is only away it is not.
#[test]
fn a_withdrawn_node_is_emptied_and_an_absent_one_is_not() {
    for withdrawn in [false, true] {
        let mut world = World::new(&["a"], &[("i", "1.0.0")]);
        world.run(vec![request("i", "1.0.0", 1)]);
        world.report_all("a", InstanceState::Active);
        let node = world.nodes.remove(0);
        if withdrawn {
            world.withdrawn.insert(node.id.clone());
        }
        world.balance(SystemTime::UNIX_EPOCH);
        let command = world.command("a");
        let expected = if withdrawn { (0, 1) } else { (1, 0) };
        assert_eq!((command.start.len(), command.stop.len()), expected);
        assert!(world.launcher.has_unplaced());
        world.withdrawn.clear();
        world.nodes.push(node);
        world.balance(SystemTime::UNIX_EPOCH);
        assert_eq!(world.command("a").start.len(), 1, "it is back");
    }
}

// PRO-108: a changed environment is told until the node has carried it out, whatever else happens.
#[test]
fn an_environment_is_told_until_the_node_has_it() {
    let mut world = World::new(&["a"], &[("i", "1.0.0")]);
    world.run(vec![request("i", "1.0.0", 2)]);
    world.report_all("a", InstanceState::Active);
    assert!(!world.command("a").needed);
    let of = |value: &'static str| {
        move |ident: &InstanceIdent| match ident.instance {
            0 => vec![("A".to_owned(), value.to_owned())],
            _ => vec![],
        }
    };
    assert_eq!(world.launcher.set_environments(of("1")).len(), 1);
    let first = world.command("a");
    assert!(first.needed && first.stop.is_empty());
    assert_eq!(first.start[0].1.environment, [("A".to_owned(), "1".to_owned())]);
    assert_eq!(world.launcher.set_environments(of("1")), [], "nothing new");
    world.launcher.set_environments(of("2"));
    assert_eq!(world.launcher.environments_told(&first), [], "that was the one before");
    let second = world.command("a");
    assert!(second.needed);
    assert_eq!(world.launcher.environments_told(&second).len(), 1);
    assert!(!world.command("a").needed);
    world.balance(SystemTime::UNIX_EPOCH);
    assert!(!world.command("a").needed, "placing anew keeps it");
}
