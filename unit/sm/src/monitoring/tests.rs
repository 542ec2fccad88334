//! The task with real files of this machine and with cgroup files of our own.

use std::path::Path;

use super::*;
use aos_unit_api::common::v2;
use wire::alert::AlertItem;

use crate::runtimes::CgroupPaths;

const LIMIT: Duration = Duration::from_secs(30);

struct World {
    folder: tempfile::TempDir,
    watched: watch::Sender<Arc<Vec<Watched>>>,
    monitoring: Monitoring,
    outgoing: mpsc::Receiver<Outgoing>,
    connected: watch::Sender<bool>,
    alerts: mpsc::Receiver<wire::Alert>,
    _task: tokio::task::JoinHandle<()>,
}

fn world() -> World {
    let folder = tempfile::tempdir().unwrap();
    let (watched, instances) = watch::channel(Arc::default());
    let (outgoing_in, outgoing) = mpsc::channel(64);
    let (connected, connection) = watch::channel(true);
    let (alerts_in, alerts) = AlertSender::channel();
    let partition = |name: &str, path: &Path| Partition { name: name.into(), path: path.to_owned(), size: 0 };
    let settings = Settings {
        dmips: 10_000,
        ram: 1 << 40,
        partitions: vec![
            partition("storages", folder.path()),
            partition("gone", Path::new("/no/such/folder")),
        ],
        period: Duration::from_millis(50),
        average_samples: 2,
    };
    let links = Links {
        watched: instances,
        node_config: NodeConfigFile::new(folder.path().join("node.cfg")),
        outgoing: outgoing_in,
        connected: connection,
        alerts: alerts_in,
        networks: None,
        quotas: Quotas::default(),
    };
    let (monitoring, task) = Monitoring::open(settings, links).unwrap();
    World { folder, watched, monitoring, outgoing, connected, alerts, _task: tokio::spawn(task) }
}

impl World {
    /// An instance with cgroup files of its own, in use up to `ram`.
    fn instance(&self, number: u64, ram: &str) -> Watched {
        let dir = self.folder.path().join(number.to_string());
        std::fs::create_dir_all(&dir).unwrap();
        std::fs::write(dir.join("cpu.stat"), "usage_usec 99000000000\n").unwrap();
        std::fs::write(dir.join("memory.current"), ram).unwrap();
        let ident = v2::InstanceIdent {
            item_id: "i".into(),
            subject_id: "s".into(),
            instance: number,
            ..Default::default()
        };
        let ident: aos_ids::InstanceIdent = ident.try_into().unwrap();
        Watched {
            id: ident.instance_id(),
            ident,
            version: "1.0.0".into(),
            runtime: "r".into(),
            state: InstanceState::Active,
            pid: Some(1),
            cgroups: CgroupPaths {
                unified: true,
                memory: Some(dir.clone()),
                cpuacct: Some(dir),
                ..CgroupPaths::default()
            },
            params: Some(wire::MonitoringParameters::default()),
            storage: None,
            state_file: None,
            storage_limit: None,
            state_limit: None,
            uid: 0,
            log: "/none".into(),
        }
    }

    async fn message(&mut self) -> Wire {
        match tokio::time::timeout(LIMIT, self.outgoing.recv()).await.unwrap().unwrap() {
            Outgoing::Message(message) => message,
            other => panic!("{other:?}"),
        }
    }

    async fn sample(&mut self) -> wire::InstantMonitoring {
        loop {
            if let Wire::InstantMonitoring(sample) = self.message().await {
                return sample;
            }
        }
    }

    /// Figures of instances by number, from the first sample that shows exactly these.
    async fn shows(&mut self, numbers: &[u64]) -> Vec<wire::MonitoringData> {
        let until = Instant::now() + LIMIT;
        loop {
            let sample = self.sample().await;
            let all = sample.instances_monitoring;
            let shown: Vec<u64> = all.iter().map(|one| one.instance.as_ref().unwrap().instance).collect();
            if shown == numbers {
                return all.into_iter().filter_map(|one| one.monitoring_data).collect();
            }
            assert!(Instant::now() < until, "{shown:?} instead of {numbers:?}");
        }
    }
}

// SM-56, SM-57, SM-42, SM-07
#[tokio::test]
async fn the_node_is_sampled_each_period_and_averaged_on_request() {
    let mut world = world();
    world.monitoring.average();
    loop {
        // Asked before the first poll: the figures of now.
        match world.message().await {
            Wire::AverageMonitoring(average) => {
                let node = average.node_monitoring.unwrap();
                assert!(node.ram > 0 && node.cpu <= 10_000, "{node:?}");
                break;
            }
            Wire::InstantMonitoring(_) => {}
            other => panic!("{other:?}"),
        }
    }
    for _ in 0..2 {
        let node = world.sample().await.node_monitoring.unwrap();
        assert!(node.timestamp.unwrap().seconds > 1_700_000_000);
        let [storages] = node.partitions.as_slice() else { panic!("{:?}", node.partitions) };
        assert!(storages.name == "storages" && storages.used_size > 0, "{storages:?}");
    }
    world.connected.send_replace(false);
    // What was on its way comes; then nothing is queued for nobody, and the average is still there.
    world.monitoring.average();
    while !matches!(world.message().await, Wire::AverageMonitoring(_)) {}
}

// SM-07: an instance that was running before we looked begins with its second reading, so that the CPU time
// of its whole life is not told as that of one period; one that cannot be read is left out alone; another
// process is another life.
#[tokio::test]
async fn instances_are_sampled_without_their_past() {
    let mut world = world();
    let (one, mut two) = (world.instance(1, "1000\n"), world.instance(2, "2000\n"));
    let mut unwatched = world.instance(3, "3000\n");
    unwatched.params = None;
    let mut stopped = world.instance(4, "4000\n");
    stopped.state = InstanceState::Failed;
    let all = |two: &Watched| Arc::new(vec![one.clone(), two.clone(), unwatched.clone(), stopped.clone()]);
    world.watched.send_replace(all(&two));
    let figures = world.shows(&[1, 2]).await;
    assert_eq!(figures.iter().map(|data| (data.cpu, data.ram)).collect::<Vec<_>>(), [(0, 1000), (0, 2000)]);

    std::fs::write(world.folder.path().join("2/memory.current"), "much\n").unwrap();
    world.shows(&[1]).await;
    std::fs::write(world.folder.path().join("2/memory.current"), "2500\n").unwrap();
    assert_eq!(world.shows(&[1, 2]).await[1].ram, 2500);

    // A new start: other files under the same name.
    std::fs::remove_dir_all(world.folder.path().join("2")).unwrap();
    let again = world.instance(2, "7\n");
    two.pid = Some(2);
    two.cgroups = again.cgroups;
    world.watched.send_replace(all(&two));
    let until = Instant::now() + LIMIT;
    loop {
        let figures = world.shows(&[1, 2]).await;
        if figures[1].ram == 7 {
            assert_eq!(figures[1].cpu, 0, "its past is not counted");
            break;
        }
        assert!(Instant::now() < until);
    }
    world.watched.send_replace(Arc::default());
    world.shows(&[]).await;
}

// SM-61, SM-58: rules of a configuration that comes while everything runs.
#[tokio::test]
async fn rules_of_the_node_are_taken_when_they_change() {
    let mut world = world();
    world.sample().await;
    let text = r#"{"nodeGroupSubject":{"codename":"main"},"alertRules":{
        "partitions":[{"name":"gone","minThreshold":0,"maxThreshold":0},{"name":"storages","minThreshold":0,"maxThreshold":0}]}}"#;
    let file = NodeConfigFile::new(world.folder.path().join("node.cfg"));
    file.set(text, "1.0.0");
    assert_eq!(file.alert_rules().partitions.len(), 2);
    world.monitoring.rules_changed();
    for status in ["raise", "continue"] {
        let alert = tokio::time::timeout(LIMIT, world.alerts.recv()).await.unwrap().unwrap();
        let Some(AlertItem::SystemQuotaAlert(alert)) = alert.alert_item else { panic!("{alert:?}") };
        assert_eq!((alert.parameter.as_str(), alert.status.as_str()), ("storages", status));
        assert!(alert.value > 0);
    }
}
