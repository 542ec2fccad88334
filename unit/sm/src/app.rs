//! Composition: opens the stores, builds the modules, connects them, runs them, stops them in reverse.
//!
//! Stored instances are taken up or started before anybody is asked anything; IAM is needed once in a node's
//! life (its description is remembered), CM only for new wishes. An orderly stop leaves containers running.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use aos_blob_source::Dialer;
use aos_iam_link::{IamLink, IamLinkConfig, LinkError};
use aos_keep::protocol::Exit;
use aos_supervise::{Shutdown, TaskTree};
use aos_tls::IdentitySlot;
use aos_unit_api::common::v2;
use aos_unit_api::iamanager::v6::NodeInfo;
use aos_unit_api::servicemanager::v5 as wire;
use serde_json::json;
use tokio::sync::{mpsc, oneshot, watch};

use crate::Error;
use crate::alerts::{self, AlertSender, Alerts};
use crate::config::Config;
use crate::database::Database;
use crate::iamclient::{CertificateSource, node_info};
use crate::imagemanager::{ImageManager, Retention};
use crate::launcher::{Command, Launcher, Parts, RuntimeEntry};
use crate::logprovider::LogProvider;
use crate::monitoring::{Links, Monitoring, Partition, Settings};
use crate::networkmanager::{self, Dns, NetworkManager};
use crate::nodeconfig::NodeConfigFile;
use crate::permissions::Permissions;
use crate::resourcemanager::ResourceManager;
use crate::resourcemanager::quotas::Quotas;
use crate::runtimes::container::{ContainerRuntime, NodeFigures};
use crate::runtimes::keeper::{Flood, Keeper, Known, tell_floods};
use crate::runtimes::native::NativeRuntime;
use crate::smclient::{Dial, Refused, SmClient, shared_channel};

/// Instances a runtime takes.
const MAX_INSTANCES: u64 = 256;
/// Time an orderly stop may take.
const STOP_TIME: Duration = Duration::from_secs(5);

/// Where the surroundings are; production has one choice, tests another.
pub struct Surroundings {
    /// Who describes this node and certifies us; `None` uses the description given and no encryption.
    pub plain_node: Option<NodeInfo>,
    /// The program that knows `keep`.
    pub keeper: PathBuf,
    /// Folder of the local status socket.
    pub status_dir: PathBuf,
}

/// Reads the configuration and runs until told to stop.
pub fn run(path: &Path) -> Result<(), Error> {
    let config = Config::load(path)?;
    let surroundings = Surroundings {
        plain_node: None,
        keeper: PathBuf::from("/proc/self/exe"),
        status_dir: aos_local_status::run_dir(),
    };
    run_with(config, surroundings)
}

/// Runs with a given configuration and surroundings.
pub fn run_with(config: Config, surroundings: Surroundings) -> Result<(), Error> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .max_blocking_threads(8)
        .on_thread_park(aos_footprint::before_sleep)
        .thread_keep_alive(Duration::from_secs(2))
        .build()
        .map_err(Error::system("start the runtime"))?;
    let result = runtime.block_on(async {
        let shutdown = Shutdown::on_signals().map_err(Error::system("listen to signals"))?;
        serve(config, surroundings, shutdown).await
    });
    runtime.shutdown_timeout(Duration::from_secs(1));
    result
}

/// Runs on the present runtime until `shutdown`.
pub async fn serve(config: Config, surroundings: Surroundings, shutdown: Shutdown) -> Result<(), Error> {
    let mut tree = TaskTree::new(shutdown.clone());
    tokio::select! {
        built = build(&mut tree, config, surroundings) => built?,
        () = shutdown.wait() => return Ok(()),
    }
    aos_supervise::notify_ready();
    tracing::info!("service manager is ready");
    tree.run(STOP_TIME).await.map_err(Error::Task)
}

fn keep_running(tree: &mut TaskTree, name: &'static str, task: impl Future<Output = ()> + Send + 'static) {
    tree.spawn(name, move |stop: Shutdown| async move {
        tokio::select! {
            () = stop.wait() => {}
            () = task => {}
        }
    });
}

async fn build(tree: &mut TaskTree, config: Config, surroundings: Surroundings) -> Result<(), Error> {
    let Surroundings { plain_node, keeper, status_dir } = surroundings;
    let resources = ResourceManager::load(&config.resources_config_file)?;
    aos_durable::create_dir(&config.working_dir, 0o700)?;
    let database = Database::open(&config.working_dir.join("sm.db"))?;
    let (node, dial, iam) = match plain_node {
        Some(node) => (node, Dial::Plain { url: config.cm_server_url.clone() }, None),
        None => secure(&config, &database).await?,
    };
    // The main node gives blobs only to whoever shows a certificate of the Unit.
    let identity = iam.as_ref().map(|link| link.slot(&config.cert_storage)).unwrap_or_default();
    let registrations = config.run_dir().join("registrations");
    let (permissions, permissions_task) = Permissions::open(iam, config.cert_storage.clone(), registrations)?;
    keep_running(tree, "permissions", permissions_task);
    let (channel, calls) = shared_channel();
    let retention = Retention {
        ttl: config.update_item_ttl,
        period: config.remove_outdated_period,
        part_limit: config.images_part_limit,
    };
    let (images, images_task) = ImageManager::open(
        config.image_path.clone(),
        retention,
        database.clone(),
        calls.clone(),
        sources(&config, &identity)?,
    )?;
    keep_running(tree, "images", images_task);
    let spaces = config.run_dir().join("netns");

    let (exits_in, exits) = mpsc::channel(64);
    let (floods_in, floods) = mpsc::channel(16);
    let keepers = Keepers { program: keeper, exits: exits_in, floods: floods_in };
    let runtimes = open_runtimes(tree, &config, &node, keepers).await?;
    let dns = runtimes.values().next().map(|entry| Dns::new(entry.keeper.clone()));
    let (networks, networks_task) = NetworkManager::open(networkmanager::Surroundings {
        database: database.clone(),
        cm: calls,
        node_id: node.node_id.clone(),
        folder: spaces,
        dns: dns.ok_or_else(|| Error::NotFound("a runtime".to_owned()))?,
        filtered: config.firewall,
    })
    .await?;
    keep_running(tree, "networks", networks_task);
    let info = sm_info(&node, &config.runtime_types(), &resources);
    let (outgoing, outgoing_queue) = SmClient::queue();
    let (commands, command_queue) = mpsc::channel(64);
    let (alerts, alert_queue) = AlertSender::channel();
    let (alerts_out, alerts_for_cm) = mpsc::channel(1);
    let alert_database = database.clone();
    let storages = config.containers.iter().map(|container| container.storage_dir.clone()).collect();
    let quotas = Quotas::new(config.disk_quotas, storages);
    let parts = Parts {
        runtimes,
        images,
        networks: networks.clone(),
        resources,
        quotas: quotas.clone(),
        permissions,
        database,
        outgoing: outgoing.clone(),
        alerts: alerts.clone(),
        exits,
    };
    let launcher = Launcher::open(parts).await?;
    let watched = launcher.watched();
    keep_running(tree, "log floods", tell_floods(floods, watched.clone(), alerts.clone()));
    let links = alerts::Links {
        queue: alert_queue,
        out: alerts_out,
        watched: watched.clone(),
        database: alert_database,
    };
    let settings = alerts::Settings::new(&config.journal_alerts);
    let alerts_task = Alerts::open(settings, config.component_log_dir.clone(), links).await;
    tree.spawn("alerts", move |stop: Shutdown| alerts_task.run(stop));
    keep_running(tree, "launcher", launcher.run(command_queue));
    let (connected, connection) = watch::channel(false);
    let node_config = NodeConfigFile::new(config.node_config_file.clone());
    let links = Links {
        watched,
        node_config: node_config.clone(),
        outgoing: outgoing.clone(),
        connected: connection.clone(),
        alerts,
        networks: Some(networks.clone()),
        quotas: quotas.clone(),
    };
    let (monitoring, monitoring_task) = Monitoring::open(measured(&node, &config), links)?;
    keep_running(tree, "monitoring", monitoring_task);
    let client = SmClient {
        dial,
        pause: config.cm_reconnect_timeout,
        info,
        channel,
        outgoing: outgoing_queue,
        alerts: alerts_for_cm,
        launcher: commands.clone(),
        networks,
        node_config,
        monitoring,
        logs: LogProvider::new(
            commands.clone(),
            config.working_dir.clone(),
            config.component_log_dir.clone(),
            config.log_limits,
        ),
        connected,
        refused: Refused::default(),
    };
    keep_running(tree, "cm client", client.run());
    let cm = config.cm_server_url.clone();
    let component_logs = config.component_log_dir;
    keep_running(
        tree,
        "local status",
        local_status(status_dir, [node.node_id, cm], component_logs, commands, connection),
    );
    Ok(())
}

/// How keepers are started and where they report to.
struct Keepers {
    program: PathBuf,
    exits: mpsc::Sender<Exit>,
    floods: mpsc::Sender<Flood>,
}

impl Keepers {
    async fn open(&self, tree: &mut TaskTree, dir: &Path) -> Result<(Keeper, Known), Error> {
        let (exits, floods) = (self.exits.clone(), self.floods.clone());
        let (link, known, task) = Keeper::open(dir.to_owned(), self.program.clone(), exits, floods).await?;
        keep_running(tree, "keeper link", task);
        Ok((link, known))
    }
}

async fn open_runtimes(
    tree: &mut TaskTree,
    config: &Config,
    node: &NodeInfo,
    keepers: Keepers,
) -> Result<BTreeMap<String, RuntimeEntry>, Error> {
    let figures = figures_of(node);
    let mut runtimes = BTreeMap::new();
    for one in &config.containers {
        let (keeper, known) = keepers.open(tree, &one.runtime_dir).await?;
        let runtime = Box::new(ContainerRuntime::open(one.clone(), figures, keeper.clone())?);
        let id = runtime_id(&one.runtime_type, &node.node_id);
        runtimes.insert(id, RuntimeEntry { runtime, keeper, known });
    }
    for one in &config.natives {
        aos_durable::create_dir(&one.runtime_dir, 0o711)?;
        let (keeper, known) = keepers.open(tree, &one.runtime_dir).await?;
        let runtime = NativeRuntime::open(one.clone(), figures, keeper.clone(), keepers.program.clone())?;
        let id = runtime_id(&one.runtime_type, &node.node_id);
        runtimes.insert(id, RuntimeEntry { runtime: Box::new(runtime), keeper, known });
    }
    Ok(runtimes)
}

/// Description of the node and our certificate, from IAM.
async fn secure(config: &Config, database: &Database) -> Result<(NodeInfo, Dial, Option<IamLink>), Error> {
    let ca_cert = config.ca_cert.clone().ok_or_else(|| Error::NotFound("key caCert".to_owned()))?;
    let link = IamLink::new(IamLinkConfig {
        public_url: config.iam_public_url.clone(),
        protected_url: config.iam_protected_url.clone(),
        ca_cert: ca_cert.clone(),
        plaintext: false,
    })
    .map_err(|error| match error {
        LinkError::Prepare(source) => Error::Tls { peer: "IAM".to_owned(), source },
        other => Error::invalid("link to IAM", other.to_string()),
    })?;
    let certificate = if config.insecure {
        tracing::warn!("CM is shown no certificate of ours: this is for development only");
        None
    } else {
        Some(CertificateSource::of(&link, &config.cert_storage))
    };
    let node = node_info(&link, database).await?;
    let dial = Dial::Secure { url: config.cm_server_url.clone(), ca_cert, certificate };
    Ok((node, dial, Some(link)))
}

fn measured(node: &NodeInfo, config: &Config) -> Settings {
    let partitions = node.partitions.iter().map(|one| Partition {
        name: one.name.clone(),
        path: one.path.clone().into(),
        size: one.total_size,
    });
    Settings {
        dmips: node.max_dmips,
        ram: node.total_ram,
        partitions: partitions.collect(),
        period: config.poll_period,
        average_samples: config.average_samples,
    }
}

/// Connections to servers of blobs; `https` needs the roots, which a node without encryption may lack.
fn sources(config: &Config, identity: &IdentitySlot) -> Result<Dialer, Error> {
    let Some(path) = &config.ca_cert else { return Ok(Dialer::default()) };
    let tls = |source| Error::Tls { peer: "servers of blobs".to_owned(), source };
    let roots = aos_tls::roots_from_pem_file(path).map_err(tls)?;
    Dialer::new(roots, identity).map_err(tls)
}

fn figures_of(node: &NodeInfo) -> NodeFigures {
    let cores = node.cpus.iter().map(|cpu| cpu.num_cores).sum::<u64>();
    if cores == 0 {
        tracing::warn!("IAM names no CPU cores of this node, one is assumed");
    }
    let files = rustix::process::getrlimit(rustix::process::Resource::Nofile);
    NodeFigures {
        cores: cores.max(1),
        max_dmips: node.max_dmips,
        max_files: files.maximum.unwrap_or(u64::MAX),
        cgroup_namespaces: Path::new("/proc/self/ns/cgroup").exists(),
    }
}

/// Identifier of a runtime, as peers derive it.
pub fn runtime_id(runtime_type: &str, node_id: &str) -> String {
    uuid::Uuid::new_v3(&uuid::Uuid::NAMESPACE_OID, format!("{runtime_type}-{node_id}").as_bytes()).to_string()
}

fn sm_info(node: &NodeInfo, types: &[&str], resources: &ResourceManager) -> wire::SmInfo {
    let arch = node.cpus.first().and_then(|cpu| cpu.arch_info.clone());
    // Without IAM's word the architecture this program was built for is certainly right.
    let arch = arch.unwrap_or_else(|| v2::ArchInfo {
        architecture: aos_item_format::normalised_architecture(std::env::consts::ARCH),
        ..Default::default()
    });
    let runtime = |runtime_type: &&str| wire::RuntimeInfo {
        runtime_id: runtime_id(runtime_type, &node.node_id),
        r#type: (*runtime_type).to_owned(),
        max_dmips: node.max_dmips,
        allowed_dmips: node.max_dmips,
        total_ram: node.total_ram,
        allowed_ram: node.total_ram,
        max_instances: MAX_INSTANCES,
        os_info: node.os_info.clone(),
        arch_info: Some(arch.clone()),
    };
    wire::SmInfo {
        node_id: node.node_id.clone(),
        runtimes: types.iter().map(runtime).collect(),
        resources: resources
            .offered()
            .map(|(name, shared_count)| wire::ResourceInfo { name: name.to_owned(), shared_count })
            .collect(),
    }
}

async fn local_status(
    dir: PathBuf,
    [node, cm]: [String; 2],
    component_logs: PathBuf,
    commands: mpsc::Sender<Command>,
    connected: watch::Receiver<bool>,
) {
    let provider = || {
        let (commands, node, cm, connected) =
            (commands.clone(), node.clone(), cm.clone(), *connected.borrow());
        let component_logs = component_logs.clone();
        async move {
            let (answer, result) = oneshot::channel();
            let asked = commands.send(Command::Describe(answer)).await;
            let instances = if asked.is_ok() { result.await.ok() } else { None };
            json!({
                "component": "sm",
                "pid": std::process::id(),
                "node": node,
                "cm": {"url": cm, "connected": connected},
                "componentLogs": component_logs,
                "instances": instances.unwrap_or_else(|| json!([])),
            })
        }
    };
    if let Err(error) = aos_local_status::serve(&dir, "sm", provider).await {
        tracing::error!("the local status is not served: {error}");
        std::future::pending::<()>().await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn runtime_ids_match_the_known_vector() {
        assert_eq!(runtime_id("crun", "node1"), "3b111977-f1d5-3bfa-919f-09604891c1b9");
    }
}
