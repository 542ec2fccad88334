//! The network of each instance: a bridge for each owner, a namespace and a virtual cable for each instance.
//!
//! Addresses come from the Communication Manager and are remembered, so that instances start without it.
//! What runs is adopted after a restart of ours. One task owns all of it and works through its orders one
//! by one. A network's bridge is there as long as one of its instances runs.
//!
//! Not built yet: firewall rules, bandwidth limits, names of other instances. Between nodes a VLAN joins the
//! bridges where the kernel has VLANs and there is a default route; else the network ends at this node.

mod dns;
mod links;
mod names;
mod netns;

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use aos_ids::InstanceIdent;
use aos_unit_api::servicemanager::v5 as wire;
use serde::{Deserialize, Serialize};
use tokio::sync::{mpsc, oneshot, watch};

use crate::Error;
use crate::database::Database;
use crate::instance::InstanceInfo;
use crate::smclient::CmCalls;
use links::Links;

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
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
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

enum Order {
    Prepare { info: Box<InstanceInfo>, wishes: Wishes, answer: oneshot::Sender<Result<Prepared, Error>> },
    Adopt { id: String, answer: oneshot::Sender<Result<(), Error>> },
    Stop { id: String, answer: oneshot::Sender<Result<(), Error>> },
    Release { id: String, answer: oneshot::Sender<Result<(), Error>> },
}

/// Handle of the network task.
#[derive(Clone)]
pub struct NetworkManager {
    orders: mpsc::Sender<Order>,
    view: watch::Receiver<View>,
}

/// What others may look at without asking the task.
#[derive(Debug, Clone, Default)]
struct View {
    addresses: BTreeMap<String, String>,
    running: Vec<InstanceNetwork>,
}

impl NetworkManager {
    /// Reads what is stored and prepares the task; namespaces live in `folder`.
    pub async fn open(
        database: Database,
        cm: CmCalls,
        node_id: String,
        folder: PathBuf,
    ) -> Result<(Self, impl Future<Output = ()> + Send), Error> {
        let (orders, queue) = mpsc::channel(64);
        let (publish, view) = watch::channel(View::default());
        let task = Task {
            publish,
            networks: database.networks().await?,
            instances: database.instance_networks().await?,
            running: BTreeSet::new(),
            vlan_noted: false,
            links: Links::open()?,
            spaces: netns::Folder::open(folder)?,
            database,
            cm,
            node_id,
        };
        task.publish();
        Ok((Self { orders, view }, task.run(queue)))
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

    /// Gives the allocation back.
    pub async fn release(&self, id: String) -> Result<(), Error> {
        self.ask(|answer| Order::Release { id, answer }).await?
    }

    /// Networks of running instances, for the synchronisation after a connect.
    pub fn state(&self) -> Vec<wire::InstanceNetworkStateInfo> {
        self.view.borrow().running.iter().map(state_to_wire).collect()
    }

    /// Bytes of the present period.
    #[allow(clippy::unused_async, reason = "filled in with the counters")]
    pub async fn traffic(&self) -> Result<Traffic, Error> {
        Err(Error::NotSupported("counting traffic".to_owned()))
    }

    /// Addresses of all known instances by instance ID.
    pub fn addresses(&self) -> BTreeMap<String, String> {
        self.view.borrow().addresses.clone()
    }
}

struct Task {
    publish: watch::Sender<View>,
    networks: BTreeMap<String, NodeNetwork>,
    instances: BTreeMap<String, InstanceNetwork>,
    running: BTreeSet<String>,
    vlan_noted: bool,
    links: Links,
    spaces: netns::Folder,
    database: Database,
    cm: CmCalls,
    node_id: String,
}

impl Task {
    async fn run(mut self, mut queue: mpsc::Receiver<Order>) {
        while let Some(order) = queue.recv().await {
            match order {
                Order::Prepare { info, wishes, answer } => {
                    let _ = answer.send(self.prepare(&info, &wishes).await);
                }
                Order::Adopt { id, answer } => {
                    let _ = answer.send(self.bring_up(&id).await.map(|_| ()));
                }
                Order::Stop { id, answer } => {
                    let _ = answer.send(self.stop(&id).await);
                }
                Order::Release { id, answer } => {
                    let _ = answer.send(self.release(&id).await);
                }
            }
            self.publish();
        }
    }

    fn publish(&self) {
        let addresses = self.instances.iter().map(|(id, network)| (id.clone(), network.ip.clone())).collect();
        let running = self.running.iter().filter_map(|id| self.instances.get(id).cloned()).collect();
        self.publish.send_replace(View { addresses, running });
    }

    async fn prepare(&mut self, info: &InstanceInfo, wishes: &Wishes) -> Result<Prepared, Error> {
        let id = info.id();
        if self.instances.get(&id).is_some_and(|network| network.network != info.owner) {
            self.release(&id).await?;
        }
        if self.instances.get(&id).is_none_or(|network| network.wishes != *wishes) {
            self.allocate(&id, info, wishes).await?;
        }
        let (network, bridge_ip) = self.bring_up(&id).await?;
        Ok(Prepared {
            namespace: self.spaces.path(&id),
            hosts: names::hosts_text(
                &network.ip,
                &network.network,
                wishes.hostname.as_deref(),
                &wishes.hosts,
            ),
            resolv: names::resolv_text(&bridge_ip, &network.dns),
            ip: network.ip,
        })
    }

    /// Asks CM for network and address. An instance that has an address asks again when its wishes changed,
    /// and mostly gets the same one.
    async fn allocate(&mut self, id: &str, info: &InstanceInfo, wishes: &Wishes) -> Result<(), Error> {
        let network = self.cm.node_network(&info.owner, &self.node_id).await?;
        names::address_of(&network.ip)?;
        names::prefix_of(&network.subnet)?;
        let running = self.running.iter().filter_map(|id| self.instances.get(id));
        let in_use = running.filter(|instance| instance.network == info.owner).count() > 0;
        match self.networks.get(&info.owner) {
            Some(known) if *known == network => {}
            Some(_) if in_use => {
                tracing::warn!("network {} has other parameters now, used when it is idle", info.owner);
            }
            _ => {
                self.links.remove(&names::bridge_name(&info.owner)).await?;
                self.database.set_network(info.owner.clone(), Some(&network)).await?;
                self.networks.insert(info.owner.clone(), network);
            }
        }
        let hosts = names::hosts_of(&info.ident, &info.owner, wishes.hostname.as_deref());
        let given = self.cm.instance_network(&info.ident, &info.owner, &self.node_id, hosts, wishes).await?;
        names::address_of(&given.ip)?;
        names::prefix_of(&given.subnet)?;
        if self.instances.get(id).is_some_and(|known| known.ip != given.ip || known.subnet != given.subnet) {
            self.stop(id).await?;
        }
        self.database.set_instance_network(id.to_owned(), Some(&given)).await?;
        self.instances.insert(id.to_owned(), given);
        Ok(())
    }

    /// Bridge, namespace and cable of a known instance; answers its network and the bridge's address.
    async fn bring_up(&mut self, id: &str) -> Result<(InstanceNetwork, String), Error> {
        let instance = self.instances.get(id).cloned();
        let instance = instance.ok_or_else(|| Error::NotFound(format!("network of instance {id}")))?;
        let network = self.networks.get(&instance.network).cloned();
        let network = network.ok_or_else(|| Error::NotFound(format!("network {}", instance.network)))?;
        let bridge = names::bridge_name(&instance.network);
        let gateway = names::address_of(&network.ip)?;
        self.links.ensure_bridge(&bridge, gateway, names::prefix_of(&network.subnet)?).await?;
        self.ensure_vlan(&instance.network, &network, &bridge).await?;
        if !self.spaces.is_alive(id) {
            self.spaces.remove(id)?;
            self.spaces.make(id)?;
        }
        let veth = names::veth_name(id);
        if !self.links.is_plugged(&veth, &bridge).await? {
            let address = (names::address_of(&instance.ip)?, names::prefix_of(&instance.subnet)?);
            self.links.plug(&veth, &bridge, &self.spaces.path(id), address, gateway).await?;
        }
        self.running.insert(id.to_owned());
        Ok((instance, network.ip))
    }

    async fn ensure_vlan(&mut self, name: &str, network: &NodeNetwork, bridge: &str) -> Result<(), Error> {
        let Some(id) = u16::try_from(network.vlan).ok().filter(|id| (1..4095).contains(id)) else {
            return Ok(());
        };
        if !self.links.ensure_vlan(&names::vlan_name(name), id, bridge).await? && !self.vlan_noted {
            self.vlan_noted = true;
            tracing::warn!(
                "no VLAN for network {name}: no default route or no kernel support; it ends at this node"
            );
        }
        Ok(())
    }

    async fn stop(&mut self, id: &str) -> Result<(), Error> {
        self.running.remove(id);
        self.links.remove(&names::veth_name(id)).await?;
        self.spaces.remove(id)?;
        let Some(network) = self.instances.get(id).map(|instance| instance.network.clone()) else {
            return Ok(());
        };
        let used =
            |other: &String| self.instances.get(other).is_some_and(|instance| instance.network == network);
        if self.running.iter().any(used) {
            return Ok(());
        }
        self.links.remove(&names::vlan_name(&network)).await?;
        self.links.remove(&names::bridge_name(&network)).await
    }

    async fn release(&mut self, id: &str) -> Result<(), Error> {
        self.stop(id).await?;
        let Some(instance) = self.instances.get(id).cloned() else { return Ok(()) };
        self.database.set_instance_network(id.to_owned(), None).await?;
        self.instances.remove(id);
        // The Communication Manager learns it now or from the synchronisation after the next connect.
        if let Err(error) = self.cm.release_instance(&instance.ident, &self.node_id).await {
            tracing::info!("network of {} is not given back yet: {}", instance.ident, error.info().message);
        }
        if !self.instances.values().any(|other| other.network == instance.network) {
            self.database.set_network(instance.network.clone(), None).await?;
            self.networks.remove(&instance.network);
            if let Err(error) = self.cm.release_node_network(&instance.network, &self.node_id).await {
                tracing::info!(
                    "network {} is not given back yet: {}",
                    instance.network,
                    error.info().message
                );
            }
        }
        Ok(())
    }
}

fn state_to_wire(instance: &InstanceNetwork) -> wire::InstanceNetworkStateInfo {
    wire::InstanceNetworkStateInfo {
        instance: Some((&instance.ident).into()),
        network_id: instance.network.clone(),
        ip: instance.ip.clone(),
        firewall_rules: instance.rules.iter().map(rule_to_wire).collect(),
    }
}

fn rule_to_wire([dst_ip, dst_port, proto, src_ip]: &[String; 4]) -> wire::FirewallRule {
    wire::FirewallRule {
        dst_ip: dst_ip.clone(),
        dst_port: dst_port.clone(),
        proto: proto.clone(),
        src_ip: src_ip.clone(),
    }
}
