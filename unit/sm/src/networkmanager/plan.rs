//! From what CM gave and an item wants to what the kernel gets; pure.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;

use aos_unit_api::servicemanager::v5 as wire;

use super::counters::Meter;
use super::dns::Names;
use super::firewall::Guard;
use super::nft::prefix_mask;
use super::plumbing::{Net, Socketed};
use super::{InstanceNetwork, NodeNetwork, names, rules};
use crate::Error;

/// The network of an owner.
pub fn net(network: &str, here: &NodeNetwork) -> Result<Net, Error> {
    let vlan = u16::try_from(here.vlan).ok().filter(|id| (1..4095).contains(id));
    Ok(Net {
        bridge: names::bridge_name(network),
        gateway: (names::address_of(&here.ip)?, names::prefix_of(&here.subnet)?),
        vlan: vlan.map(|id| (names::vlan_name(network), id)),
    })
}

/// The network of an instance.
pub fn socketed(id: &str, instance: &InstanceNetwork, here: &NodeNetwork) -> Result<Socketed, Error> {
    let net = net(&instance.network, here)?;
    let address = names::address_of(&instance.ip)?;
    let prefix = names::prefix_of(&instance.subnet)?;
    let (allowed, foreign) = rules::flows(&instance.rules, &instance.ip)?;
    if foreign {
        tracing::warn!("a rule for {} names another source, its own address is used", instance.ident);
    }
    let wishes = &instance.wishes;
    let bound = |limit: Option<u64>| limit.filter(|bytes| *bytes > 0);
    Ok(Socketed {
        veth: names::veth_name(id),
        guard: Guard {
            id: id.to_owned(),
            address,
            subnet: (Ipv4Addr::from(u32::from(address) & prefix_mask(prefix)), prefix),
            bridge: net.bridge.clone(),
            exposed: rules::exposed(&wishes.exposed_ports)?,
            allowed,
        },
        meter: Meter {
            id: id.to_owned(),
            address,
            download_limit: bound(wishes.download_limit),
            upload_limit: bound(wishes.upload_limit),
        },
        prefix,
        upload_speed: wishes.upload_speed.unwrap_or(0),
        download_speed: wishes.download_speed.unwrap_or(0),
        net,
    })
}

/// Gives a running instance its names.
pub fn claim(all: &mut BTreeMap<String, Names>, id: &str, instance: &InstanceNetwork) -> Result<(), Error> {
    let suffix = format!(".{}", instance.network);
    let mut own = names::hosts_of(&instance.ident, &instance.network, instance.wishes.hostname.as_deref());
    // The name server adds the network's name itself.
    own.retain(|name| !name.ends_with(&suffix));
    let address = names::address_of(&instance.ip)?;
    all.entry(instance.network.clone()).or_default().claim(id, address, &own)
}

/// What CM is told of an instance.
pub fn state(instance: &InstanceNetwork) -> wire::InstanceNetworkStateInfo {
    let rule = |[dst_ip, dst_port, proto, src_ip]: &[String; 4]| wire::FirewallRule {
        dst_ip: dst_ip.clone(),
        dst_port: dst_port.clone(),
        proto: proto.clone(),
        src_ip: src_ip.clone(),
    };
    wire::InstanceNetworkStateInfo {
        instance: Some((&instance.ident).into()),
        network_id: instance.network.clone(),
        ip: instance.ip.clone(),
        firewall_rules: instance.rules.iter().map(rule).collect(),
    }
}

/// A rule of CM.
pub fn rule(rule: wire::FirewallRule) -> [String; 4] {
    [rule.dst_ip, rule.dst_port, rule.proto, rule.src_ip]
}
