//! The network of each instance: a bridge for each owner, a namespace and a virtual cable for each instance, a
//! packet filter, traffic figures, names.
//!
//! Addresses come from the Communication Manager and are remembered, so that instances start without it. What
//! runs is adopted after a restart of ours without touching a packet. One task owns all of it; orders that wait
//! are carried out together. A network's bridge is there as long as one of its instances runs.
//!
//! Between nodes a VLAN joins the bridges where the kernel has VLANs and there is a default route; else the
//! network ends at this node. Upload speed is bounded inside the instance's namespace, which holds for
//! instances without the right to change their network.

mod conntrack;
mod counters;
mod dns;
mod filter;
mod firewall;
mod lane;
mod links;
mod names;
mod netlink;
mod netns;
mod nft;
mod period;
mod plan;
mod plumbing;
mod rules;
mod task;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::SystemTime;

use aos_ids::InstanceIdent;
use serde::{Deserialize, Serialize};
use tokio::sync::{mpsc, oneshot, watch};

use crate::Error;
use crate::database::Database;
use crate::instance::InstanceInfo;
use crate::smclient::CmCalls;
pub use conntrack::connections;
pub use dns::Dns;
use task::{Order, Task};

/// Orders that may wait.
const QUEUE: usize = 64;

/// A network on this node, as CM gave it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeNetwork {
    /// Address range, `172.17.0.0/16`.
    pub subnet: String,
    /// Address of the bridge; gateway of the instances.
    pub ip: String,
    /// VLAN that joins the nodes, 0 for none.
    pub vlan: u64,
}

/// The network of one instance, as CM gave it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct InstanceNetwork {
    /// Whose it is.
    pub ident: InstanceIdent,
    /// The network.
    pub network: String,
    /// Address range of the instance.
    pub subnet: String,
    /// Its address.
    pub ip: String,
    /// Name servers beside the bridge.
    pub dns: Vec<String>,
    /// Outgoing openings: destination, port, protocol, source.
    pub rules: Vec<[String; 4]>,
    /// What it was given for.
    #[serde(default)]
    pub wishes: Wishes,
}

/// What an item says about its network.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Wishes {
    /// Host name of the container.
    pub hostname: Option<String>,
    /// Ports it offers.
    pub exposed_ports: Vec<String>,
    /// Other items it wants to reach.
    pub allowed_connections: Vec<String>,
    /// Lines for `/etc/hosts`: address and name.
    pub hosts: Vec<(String, String)>,
    /// Bandwidth out of the instance, kbit/s; `None` or 0 for no bound.
    #[serde(default)]
    pub upload_speed: Option<u64>,
    /// Bandwidth into the instance, kbit/s; `None` or 0 for no bound.
    #[serde(default)]
    pub download_speed: Option<u64>,
    /// Most bytes a day to public peers; `None` or 0 for no bound.
    #[serde(default)]
    pub upload_limit: Option<u64>,
    /// Most bytes a day from public peers; `None` or 0 for no bound.
    #[serde(default)]
    pub download_limit: Option<u64>,
}

/// Bytes exchanged with public peers in the present period, a UTC day.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counters {
    /// Received.
    pub download: u64,
    /// Sent.
    pub upload: u64,
}

/// Traffic of the node and its instances.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Traffic {
    /// The node itself, without its instances.
    pub system: Counters,
    /// Instances whose network is up, by instance ID.
    pub instances: BTreeMap<String, Counters>,
}

/// A network ready for a container.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Prepared {
    /// The network namespace.
    pub namespace: PathBuf,
    /// Address of the instance.
    pub ip: String,
    /// Content of `/etc/hosts`.
    pub hosts: String,
    /// Content of `/etc/resolv.conf`.
    pub resolv: String,
}

/// What the network manager works with.
pub struct Surroundings {
    /// Storage.
    pub database: Database,
    /// Calls to CM.
    pub cm: CmCalls,
    /// Identifier of this node.
    pub node_id: String,
    /// Where network namespaces are kept.
    pub folder: PathBuf,
    /// The name server.
    pub dns: Dns,
    /// With packet filter and traffic counters. Without them instances reach everything and are reached by
    /// everything: for kernels that have no nf_tables.
    pub filtered: bool,
}

/// Handle of the network task.
#[derive(Clone)]
pub struct NetworkManager {
    orders: mpsc::Sender<Order>,
    view: watch::Receiver<View>,
    filtered: bool,
}

/// What others may look at without asking the task.
#[derive(Debug, Clone, Default)]
struct View {
    addresses: BTreeMap<String, String>,
    /// The day the counters belong to, days since 1970.
    day: u64,
}

/// Seconds since 1970.
fn now() -> u64 {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0, |time| time.as_secs())
}

impl NetworkManager {
    /// Reads what is stored, takes up what is in the kernel, and prepares the task.
    pub async fn open(parts: Surroundings) -> Result<(Self, impl Future<Output = ()> + Send), Error> {
        let (orders, queue) = mpsc::channel(QUEUE);
        let (publish, view) = watch::channel(View::default());
        let filtered = parts.filtered;
        let task = Task::open(parts, publish).await?;
        Ok((Self { orders, view, filtered }, task.run(queue)))
    }

    async fn ask<T>(&self, order: impl FnOnce(oneshot::Sender<T>) -> Order) -> Result<T, Error> {
        let (answer, result) = oneshot::channel();
        self.orders.send(order(answer)).await.map_err(|_| Error::Ended("the network manager"))?;
        result.await.map_err(|_| Error::Ended("the network manager"))
    }

    /// Allocates (once) and sets up the network of an instance.
    pub async fn prepare(&self, info: &InstanceInfo, wishes: Wishes) -> Result<Prepared, Error> {
        let info = Box::new(info.clone());
        self.ask(|answer| Order::Prepare { info, wishes, answer }).await?
    }

    /// Takes up the network of an instance that runs; mends the cable if it is cut.
    pub async fn adopt(&self, id: String) -> Result<(), Error> {
        self.ask(|answer| Order::Adopt { id, answer }).await?
    }

    /// Takes the set-up down; the allocation stays.
    pub async fn stop(&self, id: String) -> Result<(), Error> {
        self.ask(|answer| Order::Stop { id, answer }).await?
    }

    /// Gives the allocation back. CM learns it as soon as it can be told.
    pub async fn release(&self, id: String) -> Result<(), Error> {
        self.ask(|answer| Order::Release { id, answer }).await?
    }

    /// Subscribes to CM's rules and compares states with it; to be called once for each new connection. The
    /// answer comes when it is done, or cannot be.
    pub async fn synchronise(&self) -> Result<(), Error> {
        self.ask(|answer| Order::Synchronise { answer }).await?
    }

    /// Bytes of the present period, straight from the kernel. Without packet filter there are none.
    pub async fn traffic(&self) -> Result<Traffic, Error> {
        if !self.filtered {
            return Ok(Traffic::default());
        }
        if period::is_over(self.view.borrow().day, period::day_of(now())) {
            self.ask(|answer| Order::Turn { answer }).await?;
        }
        netlink::Socket::netfilter()
            .and_then(|mut socket| filter::read(&mut socket))
            .map_err(Error::system("read the traffic counters"))
    }

    /// Addresses of all known instances by instance ID.
    pub fn addresses(&self) -> BTreeMap<String, String> {
        self.view.borrow().addresses.clone()
    }
}
