//! Networks of the Unit: numbers, names and rules only; interfaces are the Service Managers' work.
//!
//! One task owns the [`core::Networks`]. Each request works on a clone, which is kept when its records are
//! stored. Nodes that subscribed are told new rule lists; one that is not there hears them at its next sync.
//! Names go to the hosts file of the DNS daemon, if there is one.

pub mod core;
pub mod pool;
mod routes;
mod store;
mod types;

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::PathBuf;

use aos_ids::{InstanceIdent, NodeId, OwnerId};
use aos_status::{AosCode, ErrorInfo};
use rusqlite::Connection;
use tokio::sync::{mpsc, oneshot};

use self::core::{Effects, InstanceParams, NetworkError, Networks, NodeParams, Notice, Rule, Wanted};
use crate::config::Config;
use crate::database::StoreError;

/// Requests that may wait.
const QUEUE: usize = 64;
/// Rule lists that may wait for a slow node.
const UPDATES: usize = 64;

/// A request of a node, with where its answer goes.
#[derive(Debug)]
pub enum Request {
    /// Parameters of a node in a network.
    Node(OwnerId, NodeId, oneshot::Sender<Result<NodeParams, ErrorInfo>>),
    /// Address and rules of an instance.
    Allocate(
        InstanceIdent,
        OwnerId,
        NodeId,
        Wanted,
        oneshot::Sender<Result<(InstanceParams, String), ErrorInfo>>,
    ),
    /// An instance is gone.
    Release(InstanceIdent, NodeId, oneshot::Sender<Result<(), ErrorInfo>>),
    /// A node left a network.
    ReleaseNode(OwnerId, NodeId, oneshot::Sender<Result<(), ErrorInfo>>),
    /// What a node has.
    Sync(NodeId, BTreeMap<InstanceIdent, Vec<Rule>>, oneshot::Sender<Result<(), ErrorInfo>>),
    /// A node wants to hear of new rules; replaces an older wish of it.
    Subscribe(NodeId, oneshot::Sender<mpsc::Receiver<Notice>>),
}

/// Way to the task.
#[derive(Debug, Clone)]
pub struct NetworkManager(mpsc::Sender<Request>);

impl NetworkManager {
    /// Sends a request and waits for its answer.
    pub async fn ask<T>(&self, request: impl FnOnce(oneshot::Sender<T>) -> Request) -> Result<T, ErrorInfo> {
        let (sender, receiver) = oneshot::channel();
        let stopped = || ErrorInfo::new(AosCode::Canceled, "the Communication Manager is stopping");
        self.0.send(request(sender)).await.map_err(|_| stopped())?;
        receiver.await.map_err(|_| stopped())
    }
}

/// The task's state.
pub struct Task {
    db: Connection,
    networks: Networks,
    requests: mpsc::Receiver<Request>,
    subscribers: BTreeMap<NodeId, mpsc::Sender<Notice>>,
    dns_ip: String,
    hosts_file: PathBuf,
    pid_file: PathBuf,
    hosts: String,
}

/// Opens the stored networks. The task runs until the last handle is dropped.
pub fn open(db: Connection, config: &Config) -> Result<(NetworkManager, Task), StoreError> {
    let networks = store::load(&db)?;
    let (sender, requests) = mpsc::channel(QUEUE);
    let task = Task {
        db,
        networks,
        requests,
        subscribers: BTreeMap::new(),
        dns_ip: config.dns_ip.clone(),
        hosts_file: config.dns_storage_path.join("addnhosts"),
        pid_file: config.dns_pid_file.clone(),
        hosts: String::new(),
    };
    Ok((NetworkManager(sender), task))
}

impl Task {
    /// Serves requests.
    pub async fn run(mut self) {
        self.write_hosts();
        while let Some(request) = self.requests.recv().await {
            self.serve(request);
        }
    }

    fn serve(&mut self, request: Request) {
        // A requester that is gone needs no answer: it asks again when it is back.
        match request {
            Request::Node(owner, node, answer) => {
                let random = u16::from_ne_bytes([
                    uuid::Uuid::new_v4().as_bytes()[0],
                    uuid::Uuid::new_v4().as_bytes()[1],
                ]);
                let table = std::fs::read_to_string("/proc/net/route").unwrap_or_default();
                let routes = routes::parse(&table);
                let _ = answer.send(self.change(|nets| nets.node_params(&owner, &node, &routes, random)));
            }
            Request::Allocate(ident, owner, node, wanted, answer) => {
                let result = self.change(|nets| nets.allocate(&ident, &owner, &node, wanted));
                if let Err(error) = &result {
                    tracing::warn!("no network for instance {ident} on {node}: {error}");
                }
                let _ = answer.send(result.map(|params| (params, self.dns_ip.clone())));
            }
            Request::Release(ident, node, answer) => {
                let _ = answer.send(self.change(|nets| Ok(((), nets.release(&ident, &node)))));
            }
            Request::ReleaseNode(owner, node, answer) => {
                let result =
                    self.change(|nets| nets.release_node(&owner, &node).map(|effects| ((), effects)));
                let _ = answer.send(result);
            }
            Request::Sync(node, present, answer) => {
                let _ = answer.send(self.change(|nets| Ok(((), nets.sync(&node, &present)))));
            }
            Request::Subscribe(node, answer) => {
                let (sender, receiver) = mpsc::channel(UPDATES);
                self.subscribers.insert(node, sender);
                let _ = answer.send(receiver);
            }
        }
    }

    fn change<T>(
        &mut self,
        work: impl FnOnce(&mut Networks) -> Result<(T, Effects), NetworkError>,
    ) -> Result<T, ErrorInfo> {
        let mut next = self.networks.clone();
        let (answer, effects) = work(&mut next).map_err(|error| {
            let code = match error {
                NetworkError::HostTaken(_) => AosCode::AlreadyExists,
                NetworkError::NoSubnet | NetworkError::NoVlan | NetworkError::NoAddress(_) => {
                    AosCode::NoMemory
                }
                _ => AosCode::Runtime,
            };
            ErrorInfo::new(code, error.to_string())
        })?;
        store::apply(&mut self.db, &effects.changes).map_err(|error| {
            tracing::error!("network records cannot be stored: {error}");
            ErrorInfo::new(AosCode::Failed, "network records cannot be stored")
        })?;
        self.networks = next;
        if !effects.changes.is_empty() {
            self.write_hosts();
        }
        for notice in effects.notices {
            self.tell(notice);
        }
        Ok(answer)
    }

    fn tell(&mut self, notice: Notice) {
        let node = notice.node.clone();
        let told = self.subscribers.get(&node).is_some_and(|subscriber| subscriber.try_send(notice).is_ok());
        if !told && self.subscribers.remove(&node).is_some() {
            // The closed stream makes the node subscribe and sync anew.
            tracing::debug!("node {node} does not take rule updates");
        }
    }

    /// Instances find each other without names too, so a hosts file that cannot be written is only logged.
    fn write_hosts(&mut self) {
        let mut text = String::new();
        for (ip, names) in self.networks.hosts() {
            let _ = writeln!(text, "{ip}\t{}", names.join("\t"));
        }
        if text == self.hosts {
            return;
        }
        let dir = self.hosts_file.parent().map(std::path::Path::to_owned).unwrap_or_default();
        let written = aos_durable::create_dir(&dir, 0o755)
            .and_then(|()| aos_durable::write_atomic(&self.hosts_file, text.as_bytes(), 0o644));
        match written {
            Ok(()) => self.hosts = text,
            Err(error) => {
                tracing::warn!("names of instances cannot be written: {error}");
                return;
            }
        }
        let pid =
            std::fs::read_to_string(&self.pid_file).ok().and_then(|text| text.trim().parse::<i32>().ok());
        let signalled = pid
            .and_then(rustix::process::Pid::from_raw)
            .map(|pid| rustix::process::kill_process(pid, rustix::process::Signal::HUP));
        if let Some(Err(error)) = signalled {
            tracing::warn!("the DNS daemon cannot be told of new names: {error}");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(dir: &std::path::Path) -> Config {
        let file = dir.join("cm.cfg");
        let text = serde_json::json!({
            "caCert": "/r", "workingDir": dir, "serviceDiscoveryUrl": "https://c/", "dnsIp": "10.0.0.1",
            "iamPublicServerUrl": "l:1", "cmServerUrl": ":0", "dnsStoragePath": dir.join("dns")
        });
        std::fs::write(&file, text.to_string()).unwrap();
        Config::load(&file).unwrap()
    }

    // CM-08, CM-50: addresses survive a restart; the hosts file follows.
    #[tokio::test]
    async fn addresses_survive_a_restart() {
        let dir = tempfile::tempdir().unwrap();
        let config = config(dir.path());
        let (owner, node): (OwnerId, NodeId) = ("sp".parse().unwrap(), "n".parse().unwrap());
        let ident = InstanceIdent::service("i".parse().unwrap(), "s".parse().unwrap(), 0);
        let mut answers = Vec::new();
        for _ in 0..2 {
            let (manager, task) = open(crate::database::open(&config.database()).unwrap(), &config).unwrap();
            let task = tokio::spawn(task.run());
            let params =
                manager.ask(|to| Request::Node(owner.clone(), node.clone(), to)).await.unwrap().unwrap();
            let wanted = Wanted { hosts: vec!["web".into()], ..Wanted::default() };
            let ask = |to| Request::Allocate(ident.clone(), owner.clone(), node.clone(), wanted, to);
            let (instance, dns) = manager.ask(ask).await.unwrap().unwrap();
            assert_eq!(dns, "10.0.0.1");
            let hosts = std::fs::read_to_string(dir.path().join("dns/addnhosts")).unwrap();
            assert_eq!(hosts, format!("{}\tweb\n", instance.ip));
            answers.push((params, instance));
            drop(manager);
            task.await.unwrap();
        }
        assert_eq!(answers[0], answers[1]);
    }
}
