//! The packet filter: what it holds as values, and the changes that bring the kernel there. Pure.
//!
//! Table `inet aos`. A packet between two networks must please both ends: first the chain of the instance it
//! goes to (its exposed ports), then the chain of the one it comes from (its allowed connections). Both are
//! found by address in a map, so the order in which instances were started means nothing. Everything that
//! changes is an element of a set or a chain of one instance; the rules at the hooks never change, so the
//! filter of an instance that runs is never touched by another one's start.
//!
//! | place | what it does |
//! | --- | --- |
//! | `forward` (policy drop) | known connections pass, then `aos_targets`, then `aos_sources` |
//! | `instance_<id>` | own network passes; exposed ports go on to `aos_exposed`; the rest is dropped |
//! | `aos_exposed` | from an instance: its chain; from other links of instances: dropped; else passes |
//! | `instance_<id>_out` | only from its own bridge; own network and allowed flows pass, other networks do not, the rest is outside and passes |
//! | `aos_input` | from bridges of instances only DNS and echo requests to the bridge's address |
//! | `postrouting` | what leaves an instance towards the outside carries this machine's address |
//!
//! The table outlives this program: while it is away, running instances keep their rules and unknown addresses
//! have none. Rules of others in `forward` and `postrouting` stay where they are.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;

use super::conntrack::Way;
use super::nft::{
    Batch, CT_INVALID, CT_KNOWN, End, FoundRule, Hook, Key, Value, Verdict, link_and_address_key, link_key,
    prefix_mask,
};
use super::rules::{Flow, Ports};

/// The table.
pub const TABLE: &str = "aos";
const FORWARD: &str = "forward";
const POSTROUTING: &str = "postrouting";
const INPUT: &str = "aos_input";
const EXPOSED: &str = "aos_exposed";
const TARGETS: &str = "aos_targets";
const SOURCES: &str = "aos_sources";
const BRIDGES: &str = "aos_bridges";
const GATEWAYS: &str = "aos_gateways";
const INSIDE: &str = "aos_inside";
const PREFIX: &str = "instance_";
const OUT: &str = "_out";
/// ICMP echo request.
const ECHO: u8 = 8;
const DNS: u16 = 53;

/// The filter of one instance.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Guard {
    /// Instance ID.
    pub id: String,
    /// Its address.
    pub address: Ipv4Addr,
    /// Its network.
    pub subnet: (Ipv4Addr, u8),
    /// Its bridge.
    pub bridge: String,
    /// What others may reach of it.
    pub exposed: Vec<Ports>,
    /// What it may reach in other networks.
    pub allowed: Vec<Flow>,
}

impl Guard {
    fn has_in_network(&self, address: Ipv4Addr) -> bool {
        let (network, prefix) = self.subnet;
        (u32::from(address) ^ u32::from(network)) & prefix_mask(prefix) == 0
    }

    /// True when this guard refuses something that the earlier one let through.
    pub fn is_narrower(&self, earlier: &Self) -> bool {
        let place = |guard: &Self| (guard.address, guard.subnet, guard.bridge.clone());
        place(self) != place(earlier)
            || earlier.exposed.iter().any(|ports| !self.exposed.contains(ports))
            || earlier.allowed.iter().any(|flow| !self.allowed.contains(flow))
    }
}

/// False for connections between instances of different networks that these guards would not let begin. What has
/// to do with the outside or with this machine itself may always go on: nobody takes that away while an instance
/// runs.
pub fn may_go_on(guards: &BTreeMap<Ipv4Addr, &Guard>, way: &Way) -> bool {
    let Way { from, to, protocol, port } = *way;
    let fits = |ports: &Ports| port.is_some_and(|port| ports.contain(protocol, port));
    let source = guards.get(&from).is_none_or(|source| {
        source.has_in_network(to)
            || source.allowed.iter().any(|flow| flow.target == to && fits(&flow.ports))
            || !guards.values().any(|other| other.has_in_network(to))
    });
    let target = guards.get(&to).is_none_or(|target| {
        target.has_in_network(from) || target.exposed.iter().any(fits) || !guards.contains_key(&from)
    });
    source && target
}

fn target_chain(id: &str) -> String {
    format!("{PREFIX}{id}")
}

fn source_chain(id: &str) -> String {
    format!("{PREFIX}{id}{OUT}")
}

/// Names of an instance's chains.
pub fn chain_names(id: &str) -> [String; 2] {
    [target_chain(id), source_chain(id)]
}

/// Instance ID in the name of a chain.
pub fn instance_of(chain: &str) -> Option<&str> {
    let id = chain.strip_prefix(PREFIX)?;
    Some(id.strip_suffix(OUT).unwrap_or(id))
}

/// Table, hooks, empty sets and the rules that never change, in place of those of ours in `found`. What an older
/// program left in the shared chains (jumps to chains of instances, masquerades) goes as well. The caller adds
/// what is known to the same transaction, so that no packet meets the empty sets.
pub fn base(found: &[FoundRule]) -> Batch {
    let mut batch = Batch::default();
    batch.table(TABLE);
    batch.base_chain(TABLE, FORWARD, "filter", (Hook::Forward, 0), false);
    batch.base_chain(TABLE, POSTROUTING, "nat", (Hook::Postrouting, 100), true);
    batch.base_chain(TABLE, INPUT, "filter", (Hook::Input, 0), true);
    batch.chain(TABLE, EXPOSED);
    batch.set(TABLE, TARGETS, Key::Address, Value::Verdict);
    batch.set(TABLE, SOURCES, Key::Address, Value::Verdict);
    batch.set(TABLE, INSIDE, Key::Address, Value::None);
    batch.set(TABLE, BRIDGES, Key::Link, Value::None);
    batch.set(TABLE, GATEWAYS, Key::LinkAndAddress, Value::None);
    for set in [TARGETS, SOURCES, INSIDE, BRIDGES, GATEWAYS] {
        batch.empty(TABLE, set);
    }
    for rule in found {
        let shared = [FORWARD, POSTROUTING].contains(&rule.chain.as_str());
        let leads_to_instance = rule.targets.iter().any(|chain| instance_of(chain).is_some());
        let own_chain = [INPUT, EXPOSED].contains(&rule.chain.as_str());
        if own_chain || (shared && (rule.ours || leads_to_instance || rule.masquerades)) {
            batch.remove_rule(TABLE, &rule.chain, rule.handle);
        }
    }
    let mut rule = |chain: &str, write: &dyn Fn(&mut super::nft::Rule<'_>)| {
        batch.rule(TABLE, chain, |rule| write(rule));
    };
    rule(FORWARD, &|rule| rule.connection(CT_INVALID).verdict(Verdict::Drop));
    rule(FORWARD, &|rule| rule.connection(CT_KNOWN).verdict(Verdict::Accept));
    rule(FORWARD, &|rule| {
        rule.end_in(End::Target, TARGETS, true);
    });
    rule(FORWARD, &|rule| {
        rule.end_in(End::Source, SOURCES, true);
    });

    rule(EXPOSED, &|rule| {
        rule.end_in(End::Source, SOURCES, true);
    });
    rule(EXPOSED, &|rule| rule.link_in(false, BRIDGES, false).verdict(Verdict::Drop));
    rule(EXPOSED, &|rule| rule.verdict(Verdict::Accept));

    rule(INPUT, &|rule| rule.link_in(false, BRIDGES, true).verdict(Verdict::Accept));
    rule(INPUT, &|rule| rule.connection(CT_KNOWN).verdict(Verdict::Accept));
    for protocol in [17, 6] {
        rule(INPUT, &move |rule| {
            rule.link_and_target_in(GATEWAYS, false).ports(protocol, DNS, DNS).verdict(Verdict::Accept);
        });
    }
    rule(INPUT, &|rule| rule.link_and_target_in(GATEWAYS, false).icmp(ECHO).verdict(Verdict::Accept));
    rule(INPUT, &|rule| rule.verdict(Verdict::Drop));

    rule(POSTROUTING, &|rule| {
        rule.end_in(End::Source, INSIDE, false).link_in(true, BRIDGES, true).masquerade();
    });
    batch
}

/// The bridge of a network.
pub fn network(bridge: &str, gateway: Ipv4Addr) -> Batch {
    let mut batch = Batch::default();
    batch.member(TABLE, BRIDGES, &link_key(bridge));
    batch.member(TABLE, GATEWAYS, &link_and_address_key(bridge, gateway));
    batch
}

/// Undoes [`network`].
pub fn forget_network(bridge: &str, gateway: Ipv4Addr) -> Batch {
    let mut batch = Batch::default();
    batch.remove_member(TABLE, BRIDGES, &link_key(bridge));
    batch.remove_member(TABLE, GATEWAYS, &link_and_address_key(bridge, gateway));
    batch
}

/// The chains of an instance; replaces what is in them.
pub fn chains(guard: &Guard) -> Batch {
    let mut batch = Batch::default();
    let [target, source] = chain_names(&guard.id);
    let (network, prefix) = guard.subnet;
    for chain in [&target, &source] {
        batch.chain(TABLE, chain);
        batch.flush(TABLE, chain);
    }
    batch.rule(TABLE, &target, |rule| {
        rule.link_is(&guard.bridge).in_network(End::Source, network, prefix).verdict(Verdict::Accept);
    });
    for ports in &guard.exposed {
        batch.rule(TABLE, &target, |rule| {
            rule.ports(ports.protocol.number(), ports.first, ports.last).verdict(Verdict::Goto(EXPOSED));
        });
    }
    batch.rule(TABLE, &target, |rule| rule.verdict(Verdict::Drop));

    batch.rule(TABLE, &source, |rule| rule.link_is_not(&guard.bridge).verdict(Verdict::Drop));
    batch.rule(TABLE, &source, |rule| {
        rule.in_network(End::Target, network, prefix).verdict(Verdict::Accept);
    });
    for Flow { target, ports } in &guard.allowed {
        batch.rule(TABLE, &source, |rule| {
            rule.in_network(End::Target, *target, 32)
                .ports(ports.protocol.number(), ports.first, ports.last)
                .verdict(Verdict::Accept);
        });
    }
    batch.rule(TABLE, &source, |rule| rule.link_in(true, BRIDGES, false).verdict(Verdict::Drop));
    batch.rule(TABLE, &source, |rule| rule.verdict(Verdict::Accept));
    batch
}

/// Leads packets of the address to the instance's chains. Not to be repeated.
pub fn connect(id: &str, address: Ipv4Addr) -> Batch {
    let mut batch = Batch::default();
    let key = address.octets();
    batch.verdict_member(TABLE, TARGETS, &key, Verdict::Goto(&target_chain(id)));
    batch.verdict_member(TABLE, SOURCES, &key, Verdict::Goto(&source_chain(id)));
    batch.member(TABLE, INSIDE, &key);
    batch
}

/// Undoes [`connect`].
pub fn disconnect(address: Ipv4Addr) -> Batch {
    let mut batch = Batch::default();
    for map in [TARGETS, SOURCES, INSIDE] {
        batch.remove_member(TABLE, map, &address.octets());
    }
    batch
}

/// Removes the chains of an instance, to which nothing leads any more.
pub fn forget_chains(id: &str) -> Batch {
    let mut batch = Batch::default();
    for chain in chain_names(id) {
        forget_chain(&mut batch, &chain);
    }
    batch
}

/// Removes one chain with its rules.
pub fn forget_chain(batch: &mut Batch, chain: &str) {
    batch.flush(TABLE, chain);
    batch.remove_chain(TABLE, chain);
}

#[cfg(test)]
mod tests {
    use super::super::rules::Protocol;
    use super::*;

    fn guard(network: u8, host: u8, exposed: &[Ports], allowed: &[Flow]) -> Guard {
        Guard {
            id: format!("{network}-{host}"),
            address: Ipv4Addr::new(172, network, 0, host),
            subnet: (Ipv4Addr::new(172, network, 0, 0), 16),
            bridge: format!("br-{network}"),
            exposed: exposed.to_vec(),
            allowed: allowed.to_vec(),
        }
    }

    const WEB: Ports = Ports { first: 80, last: 90, protocol: Protocol::Tcp };
    const SERVER: Ipv4Addr = Ipv4Addr::new(172, 18, 0, 2);

    // What the rules in the kernel let begin may go on, whoever else comes or goes.
    #[test]
    fn a_connection_goes_on_as_long_as_both_ends_would_let_it_begin() {
        let flow = |first, last| Flow { target: SERVER, ports: Ports { first, last, ..WEB } };
        let judge = |client: &Guard, server: &Guard, (from, to, port): (Ipv4Addr, Ipv4Addr, u16)| {
            let guards = [client, server].map(|guard| (guard.address, guard));
            may_go_on(&guards.into(), &Way { from, to, protocol: 6, port: Some(port) })
        };
        let open = guard(18, 2, &[WEB], &[]);
        let client = |allowed: &[Flow]| guard(17, 2, &[], allowed);
        let own = client(&[]).address;
        let to_server = (own, SERVER, 85);
        assert!(judge(&client(&[flow(85, 85)]), &open, to_server));
        assert!(!judge(&client(&[flow(86, 90)]), &open, to_server), "not allowed any more");
        assert!(!judge(&client(&[flow(85, 85)]), &guard(18, 2, &[], &[]), to_server), "not exposed any more");
        assert!(!judge(&client(&[]), &open, (own, Ipv4Addr::new(172, 18, 9, 9), 85)), "its network is ours");
        let (outside, gateway) = (Ipv4Addr::new(203, 0, 113, 2), Ipv4Addr::new(172, 17, 0, 1));
        for way in [
            (own, Ipv4Addr::new(172, 17, 0, 3), 1),
            (own, outside, 443),
            (outside, SERVER, 85),
            (gateway, own, 9999),
            (outside, gateway, 22),
        ] {
            assert!(judge(&client(&[]), &open, way), "{way:?}");
        }
        let echo = Way { from: own, to: SERVER, protocol: 1, port: None };
        let friend = client(&[flow(85, 85)]);
        let guards = [&friend, &open].map(|guard| (guard.address, guard));
        assert!(!may_go_on(&guards.into(), &echo));
    }

    #[test]
    fn less_is_narrower_and_more_is_not() {
        let flow = Flow { target: SERVER, ports: WEB };
        let (less, more) = (guard(17, 2, &[], &[]), guard(17, 2, &[WEB], &[flow]));
        assert!(less.is_narrower(&more) && !more.is_narrower(&less) && !more.is_narrower(&more));
        assert!(guard(17, 3, &[WEB], &[flow]).is_narrower(&more), "another address");
    }
}
