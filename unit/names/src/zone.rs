//! What is known about one network: where it asks, and which names it has.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};

use serde::{Deserialize, Serialize};

/// The names of one network.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Zone {
    /// The network; every name is also known with `.<network>` appended.
    pub network: String,
    /// Address its instances ask at, port 53: the bridge's.
    pub listen: Ipv4Addr,
    /// Prefix length of the network, 0..=32: who is outside gets no answer.
    pub prefix: u8,
    /// Names without the network's own suffix.
    pub names: BTreeMap<String, Ipv4Addr>,
    /// Name servers for everything else; empty means those of the host.
    pub upstream: Vec<IpAddr>,
}
