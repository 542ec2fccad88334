//! Questions to the network manager, its answers, and the records it keeps.

use std::net::Ipv4Addr;

use aos_ids::{InstanceIdent, NodeId, OwnerId};
use serde::{Deserialize, Serialize};

use super::pool::Subnet;

/// Most exposed ports, allowed connections and host names of one instance.
pub const MAX_PER_INSTANCE: usize = 64;

/// Why a request cannot be served.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NetworkError {
    /// The owner has no network here.
    #[error("network not found")]
    NetworkNotFound,
    /// The node is not part of that network.
    #[error("host not found")]
    HostNotFound,
    /// All subnets are used or overlap a route of the host.
    #[error("no available subnet")]
    NoSubnet,
    /// Every VLAN number is taken.
    #[error("no available VLAN number")]
    NoVlan,
    /// The subnet is full.
    #[error("no available address in {0}")]
    NoAddress(Subnet),
    /// Somebody else has that name.
    #[error("host already exists: {0}")]
    HostTaken(String),
    /// `item/port[/proto]` expected.
    #[error("unsupported allowed connections format: '{0}'")]
    BadAllowedConnection(String),
    /// `port[/proto]` expected.
    #[error("unsupported exposed port format: '{0}'")]
    BadExposedPort(String),
    /// More entries than any peer can hold.
    #[error("an instance may have at most {MAX_PER_INSTANCE} ports, connections and names each")]
    TooMany,
}

/// One accepted flow, as the Service Manager's firewall gets it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Rule {
    /// Address of the target instance.
    pub dst_ip: Ipv4Addr,
    /// Port text as the target exposes it.
    pub dst_port: String,
    /// `tcp` or `udp`.
    pub proto: String,
    /// Address of the requesting instance.
    pub src_ip: Ipv4Addr,
}

/// A port with its protocol.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Port {
    /// Number or range `first-last`; anything else is only compared.
    pub port: String,
    /// `tcp` when not given.
    pub proto: String,
}

impl Port {
    pub(super) fn parse(text: &str) -> Result<Self, NetworkError> {
        let bad = || NetworkError::BadExposedPort(text.chars().take(80).collect());
        let mut parts = text.split('/');
        let port = parts.next().map(str::trim).filter(|part| !part.is_empty()).ok_or_else(bad)?;
        let proto = parts.next().unwrap_or("tcp");
        if parts.next().is_some() || proto.is_empty() {
            return Err(bad());
        }
        Ok(Self { port: port.to_owned(), proto: proto.to_ascii_lowercase() })
    }

    /// The part of this port (or range) that `exposed` covers too, as text; `None` when there is none.
    pub(super) fn common(&self, exposed: &Self) -> Option<String> {
        if self.proto != exposed.proto {
            return None;
        }
        if self.port == exposed.port {
            return Some(self.port.clone());
        }
        let ((first, last), (from, to)) = (range(&self.port)?, range(&exposed.port)?);
        let (first, last) = (first.max(from), last.min(to));
        match first.cmp(&last) {
            std::cmp::Ordering::Less => Some(format!("{first}-{last}")),
            std::cmp::Ordering::Equal => Some(first.to_string()),
            std::cmp::Ordering::Greater => None,
        }
    }
}

/// First and last of a port or range.
fn range(text: &str) -> Option<(u16, u16)> {
    let (first, last) = text.split_once(['-', ':']).unwrap_or((text, text));
    Some((first.trim().parse().ok()?, last.trim().parse().ok()?))
}

/// A wish to reach a port of another item.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Allowed {
    /// Item to reach; all its instances.
    pub item: String,
    /// Port of it.
    pub port: Port,
}

impl Allowed {
    pub(super) fn parse(text: &str) -> Result<Self, NetworkError> {
        let bad = || NetworkError::BadAllowedConnection(text.chars().take(160).collect());
        let (item, port) = text.split_once('/').ok_or_else(bad)?;
        if item.is_empty() {
            return Err(bad());
        }
        Ok(Self { item: item.to_owned(), port: Port::parse(port).map_err(|_| bad())? })
    }
}

/// Network part of one instance.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Instance {
    /// Owner of the network it is in.
    pub network: OwnerId,
    /// Node it runs on.
    pub node: NodeId,
    /// Its address.
    pub ip: Ipv4Addr,
    /// What it exposes.
    pub ports: Vec<Port>,
    /// What it wants to reach.
    pub allowed: Vec<Allowed>,
    /// Its names.
    pub hosts: Vec<String>,
}

/// What the Service Manager asks for an instance.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Wanted {
    /// Host names.
    pub hosts: Vec<String>,
    /// `item/port[/proto]` each.
    pub allowed: Vec<String>,
    /// `port[/proto]` each.
    pub ports: Vec<String>,
}

/// Answer to a node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodeParams {
    /// Subnet of the network.
    pub subnet: Subnet,
    /// Address of the node's bridge.
    pub ip: Ipv4Addr,
    /// VLAN number.
    pub vlan: u16,
}

/// Answer to an allocation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InstanceParams {
    /// Subnet of the network.
    pub subnet: Subnet,
    /// Address of the instance.
    pub ip: Ipv4Addr,
    /// All flows it may open now.
    pub rules: Vec<Rule>,
}

/// A record to store, or to drop when its value is `None`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// Subnet and VLAN of an owner.
    Network(OwnerId, Option<(Subnet, u16)>),
    /// Address of a node in a network.
    Host(OwnerId, NodeId, Option<Ipv4Addr>),
    /// Network part of an instance.
    Instance(InstanceIdent, Option<Instance>),
}

/// A node must be told the complete rule list of one of its instances.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Notice {
    /// Node of the requester.
    pub node: NodeId,
    /// The requester.
    pub instance: InstanceIdent,
    /// Its complete list.
    pub rules: Vec<Rule>,
}

/// What a call changed.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Effects {
    /// Records to store, in order.
    pub changes: Vec<Change>,
    /// Nodes to tell.
    pub notices: Vec<Notice>,
}
