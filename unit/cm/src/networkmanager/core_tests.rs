use std::collections::{BTreeMap, BTreeSet};

use aos_ids::{InstanceIdent, ItemId, NodeId, OwnerId, SubjectId};
use proptest::prelude::*;

use super::*;

fn owner(n: u8) -> OwnerId {
    OwnerId::new(format!("sp{n}")).unwrap()
}

fn node(n: u8) -> NodeId {
    NodeId::new(format!("node{n}")).unwrap()
}

fn ident(item: u8, instance: u64) -> InstanceIdent {
    InstanceIdent::service(
        ItemId::new(format!("item{item}")).unwrap(),
        SubjectId::new("s").unwrap(),
        instance,
    )
}

fn wanted(hosts: &[&str], allowed: &[&str], ports: &[&str]) -> Wanted {
    let own = |list: &[&str]| list.iter().map(|text| (*text).to_owned()).collect();
    Wanted { hosts: own(hosts), allowed: own(allowed), ports: own(ports) }
}

// CM-50: the node is first in its subnet, a second node shares subnet and VLAN.
#[test]
fn nodes_of_one_owner_share_the_network() {
    let mut nets = Networks::default();
    let (first, effects) = nets.node_params(&owner(1), &node(1), &[], 7).unwrap();
    assert_eq!(
        (first.subnet.to_string().as_str(), first.ip.to_string().as_str()),
        ("172.17.0.0/16", "172.17.0.2")
    );
    assert_eq!(effects.changes.len(), 2);
    let (second, _) = nets.node_params(&owner(1), &node(2), &[], 9).unwrap();
    assert_eq!(
        (second.subnet, second.vlan, second.ip),
        (first.subnet, first.vlan, Ipv4Addr::new(172, 17, 0, 3))
    );
    let (again, effects) = nets.node_params(&owner(1), &node(1), &[], 3).unwrap();
    assert_eq!(again, first);
    assert_eq!(effects, Effects::default());
}

#[test]
fn subnets_that_the_host_reaches_are_left_out() {
    let mut nets = Networks::default();
    let routes = ["172.16.0.0/14".parse().unwrap(), "172.20.4.0/24".parse().unwrap()];
    let (params, _) = nets.node_params(&owner(1), &node(1), &routes, 0).unwrap();
    assert_eq!(params.subnet.to_string(), "172.21.0.0/16");
    let all = ["0.0.0.0/0".parse().unwrap()];
    assert_eq!(nets.node_params(&owner(2), &node(1), &all, 0).unwrap_err(), NetworkError::NoSubnet);
}

#[test]
fn unknown_network_or_node_is_refused() {
    let mut nets = Networks::default();
    let ask = |nets: &mut Networks, n| nets.allocate(&ident(1, 0), &owner(1), &node(n), Wanted::default());
    assert_eq!(ask(&mut nets, 1).unwrap_err(), NetworkError::NetworkNotFound);
    nets.node_params(&owner(1), &node(1), &[], 0).unwrap();
    assert_eq!(ask(&mut nets, 2).unwrap_err(), NetworkError::HostNotFound);
    assert!(ask(&mut nets, 1).is_ok());
}

#[test]
fn a_name_belongs_to_one_instance() {
    let mut nets = Networks::default();
    nets.node_params(&owner(1), &node(1), &[], 0).unwrap();
    nets.allocate(&ident(1, 0), &owner(1), &node(1), wanted(&["web"], &[], &[])).unwrap();
    let taken = nets.allocate(&ident(1, 1), &owner(1), &node(1), wanted(&["web"], &[], &[]));
    assert_eq!(taken.unwrap_err(), NetworkError::HostTaken("web".into()));
    assert!(nets.allocate(&ident(1, 0), &owner(1), &node(1), wanted(&["web"], &[], &[])).is_ok());
}

// CM-08, CM-52: rules follow exposed ports, only across subnets, and arrive later when the target does.
#[test]
fn rules_follow_targets() {
    let mut nets = Networks::default();
    nets.node_params(&owner(1), &node(1), &[], 0).unwrap();
    nets.node_params(&owner(2), &node(2), &[], 0).unwrap();
    let (client, _) = nets
        .allocate(&ident(1, 0), &owner(1), &node(1), wanted(&[], &["item2/80", "item3/53/udp"], &[]))
        .unwrap();
    assert!(client.rules.is_empty());

    let (server, effects) =
        nets.allocate(&ident(2, 0), &owner(2), &node(2), wanted(&[], &[], &["80"])).unwrap();
    let rule = Rule { dst_ip: server.ip, dst_port: "80".into(), proto: "tcp".into(), src_ip: client.ip };
    assert_eq!(effects.notices, [Notice { node: node(1), instance: ident(1, 0), rules: vec![rule.clone()] }]);

    // The full list is told, also for a second instance of the target.
    let (second, effects) =
        nets.allocate(&ident(2, 1), &owner(2), &node(2), wanted(&[], &[], &["80/tcp"])).unwrap();
    assert_eq!(effects.notices[0].rules.len(), 2);
    // Not exposed, or in the own subnet: nothing.
    let (_, effects) = nets.allocate(&ident(3, 0), &owner(2), &node(2), wanted(&[], &[], &["53"])).unwrap();
    assert!(effects.notices.is_empty());
    let (_, effects) =
        nets.allocate(&ident(3, 1), &owner(1), &node(1), wanted(&[], &[], &["53/udp"])).unwrap();
    assert!(effects.notices.is_empty());

    let effects = nets.release(&ident(2, 0), &node(2));
    assert_eq!(effects.notices[0].rules.len(), 1);
    assert_eq!(effects.notices[0].rules[0].dst_ip, second.ip);
}

// CM-52: a range is allowed where it is exposed too.
#[test]
fn ranges_meet_where_both_have_them() {
    for (allowed, exposed, expected) in [
        ("8089-8090/tcp", "8089-8090/tcp", vec!["8089-8090"]),
        ("8090", "8089-8095/tcp", vec!["8090"]),
        ("8085-8091", "8089-8095", vec!["8089-8091"]),
        ("8089-8095", "8090", vec!["8090"]),
        ("8089-8095/udp", "8090", vec![]),
        ("8089-8095", "8096-8099", vec![]),
        ("named", "named/tcp", vec!["named"]),
        ("named", "80", vec![]),
    ] {
        let mut nets = Networks::default();
        nets.node_params(&owner(1), &node(1), &[], 0).unwrap();
        nets.node_params(&owner(2), &node(1), &[], 0).unwrap();
        nets.allocate(&ident(2, 0), &owner(2), &node(1), wanted(&[], &[], &[exposed])).unwrap();
        let asked = wanted(&[], &[&format!("item2/{allowed}")], &[]);
        let (client, _) = nets.allocate(&ident(1, 0), &owner(1), &node(1), asked).unwrap();
        let ports: Vec<&str> = client.rules.iter().map(|rule| rule.dst_port.as_str()).collect();
        assert_eq!(ports, expected, "{allowed} of {exposed}");
    }
}

// CM-50, CM-51: what is exhausted says so, and what is given back can be had again.
#[test]
fn exhaustion_is_an_error_and_passes() {
    let mut nets = Networks::default();
    for n in 1..=4 {
        nets.node_params(&owner(n), &node(1), &[], 0).unwrap();
    }
    assert_eq!(nets.node_params(&owner(5), &node(1), &[], 0).unwrap_err(), NetworkError::NoSubnet);
    nets.release_node(&owner(2), &node(1)).unwrap();
    nets.node_params(&owner(5), &node(1), &[], 0).unwrap();

    let subnet: Subnet = "10.0.0.0/29".parse().unwrap();
    let mut nets = Networks::default();
    assert!(nets.restore(Change::Network(owner(1), Some((subnet, 7)))));
    nets.node_params(&owner(1), &node(1), &[], 0).unwrap();
    for instance in 0..4 {
        nets.allocate(&ident(1, instance), &owner(1), &node(1), Wanted::default()).unwrap();
    }
    let full = nets.allocate(&ident(1, 4), &owner(1), &node(1), Wanted::default());
    assert_eq!(full.unwrap_err(), NetworkError::NoAddress(subnet));
    nets.release(&ident(1, 2), &node(1));
    nets.allocate(&ident(1, 4), &owner(1), &node(1), Wanted::default()).unwrap();
}

#[test]
fn malformed_texts_are_refused() {
    let mut nets = Networks::default();
    nets.node_params(&owner(1), &node(1), &[], 0).unwrap();
    for (allowed, port) in
        [("item", "80"), ("item/80/tcp/x", "80"), ("/80", "80"), ("i/80", "80/tcp/x"), ("i/80", "")]
    {
        let asked = nets.allocate(&ident(1, 0), &owner(1), &node(1), wanted(&[], &[allowed], &[port]));
        assert!(asked.is_err(), "{allowed} {port}");
    }
}

#[test]
fn sync_releases_what_the_node_lost_and_repeats_rules() {
    let mut nets = Networks::default();
    nets.node_params(&owner(1), &node(1), &[], 0).unwrap();
    nets.node_params(&owner(2), &node(1), &[], 0).unwrap();
    nets.allocate(&ident(1, 0), &owner(1), &node(1), wanted(&[], &["item2/80"], &[])).unwrap();
    nets.allocate(&ident(2, 0), &owner(2), &node(1), wanted(&[], &[], &["80"])).unwrap();
    let present = BTreeMap::from([(ident(1, 0), vec![]), (ident(2, 0), vec![])]);
    let effects = nets.sync(&node(1), &present);
    assert_eq!(effects.notices.len(), 1);
    assert!(effects.changes.is_empty());
    let effects = nets.sync(&node(1), &BTreeMap::new());
    assert_eq!(effects.changes.len(), 2);
    let effects = nets.release_node(&owner(1), &node(1)).unwrap();
    assert_eq!(effects.changes.last(), Some(&Change::Network(owner(1), None)));
    assert_eq!(nets.release_node(&owner(1), &node(1)).unwrap_err(), NetworkError::NetworkNotFound);
}

#[test]
fn an_instance_that_moves_keeps_its_address_and_nobody_else_gets_it() {
    let mut nets = Networks::default();
    for n in 1..=2 {
        nets.node_params(&owner(1), &node(n), &[], 0).unwrap();
    }
    let (first, _) = nets.allocate(&ident(1, 0), &owner(1), &node(1), Wanted::default()).unwrap();
    let (moved, _) = nets.allocate(&ident(1, 0), &owner(1), &node(2), Wanted::default()).unwrap();
    assert_eq!(first.ip, moved.ip);
    assert!(nets.release(&ident(1, 0), &node(1)).changes.is_empty(), "the old node's release comes late");
    let (other, _) = nets.allocate(&ident(1, 1), &owner(1), &node(1), Wanted::default()).unwrap();
    assert_ne!(other.ip, first.ip);
}

#[derive(Debug, Clone)]
enum Op {
    Node(u8, u8, u16),
    Allocate(u8, u64, u8, u8),
    Release(u8, u64, u8),
    ReleaseNode(u8, u8),
}

fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        (1..6u8, 1..4u8, any::<u16>()).prop_map(|(o, n, r)| Op::Node(o, n, r)),
        (1..4u8, 0..3u64, 1..6u8, 1..4u8).prop_map(|(i, k, o, n)| Op::Allocate(i, k, o, n)),
        (1..4u8, 0..3u64, 1..4u8).prop_map(|(i, k, n)| Op::Release(i, k, n)),
        (1..6u8, 1..4u8).prop_map(|(o, n)| Op::ReleaseNode(o, n)),
    ]
}

proptest! {
    // CM-08, CM-50, CM-51: no address, subnet or VLAN is ever given twice, VLANs are 1..=4094, and what was stored
    // restores to the same value.
    #[test]
    fn nothing_is_given_twice_and_storage_is_complete(ops in proptest::collection::vec(op(), 0..60)) {
        let mut nets = Networks::default();
        let mut networks = BTreeMap::new();
        let mut hosts = BTreeMap::new();
        let mut instances = BTreeMap::new();
        for op in ops {
            let effects = match op {
                Op::Node(o, n, r) => nets.node_params(&owner(o), &node(n), &[], r).map(|(_, e)| e),
                Op::Allocate(i, k, o, n) =>
                    nets.clone().allocate(&ident(i, k), &owner(o), &node(n), Wanted::default()).map(|(_, e)| {
                        nets.allocate(&ident(i, k), &owner(o), &node(n), Wanted::default()).unwrap();
                        e
                    }),
                Op::Release(i, k, n) => Ok(nets.release(&ident(i, k), &node(n))),
                Op::ReleaseNode(o, n) => nets.release_node(&owner(o), &node(n)),
            };
            for change in effects.map(|e| e.changes).unwrap_or_default() {
                match change {
                    Change::Network(o, value) => { networks.remove(&o); value.map(|v| networks.insert(o, v)); }
                    Change::Host(o, n, value) => { hosts.remove(&(o.clone(), n.clone())); value.map(|v| hosts.insert((o, n), v)); }
                    Change::Instance(i, value) => { instances.remove(&i); value.map(|v| instances.insert(i, v)); }
                }
            }
            let ips: Vec<_> = hosts.values().copied().chain(instances.values().map(|i| i.ip)).collect();
            prop_assert_eq!(ips.iter().collect::<BTreeSet<_>>().len(), ips.len());
            let vlans: Vec<u16> = networks.values().map(|(_, vlan)| *vlan).collect();
            prop_assert_eq!(vlans.iter().collect::<BTreeSet<_>>().len(), vlans.len());
            prop_assert!(vlans.iter().all(|vlan| (1..=4094).contains(vlan)));
            prop_assert!(networks.len() <= MAX_NETWORKS);
        }
        let mut again = Networks::default();
        for (o, v) in &networks { prop_assert!(again.restore(Change::Network(o.clone(), Some(*v)))); }
        for ((o, n), v) in &hosts { prop_assert!(again.restore(Change::Host(o.clone(), n.clone(), Some(*v)))); }
        for (i, v) in &instances { prop_assert!(again.restore(Change::Instance(i.clone(), Some(v.clone())))); }
        prop_assert_eq!(again.instances, nets.instances);
    }

    // CM-30, CM-52: whatever happens in whatever order, each node knows the complete present list of each of its
    // instances from answers and notices alone; DIS-15.
    #[test]
    fn nodes_always_know_the_present_rules(
        ops in proptest::collection::vec((0..4u8, 1..4u8, 0..2u64, 1..3u8, 0..3u8, 0..4u8), 1..50)
    ) {
        let mut nets = Networks::default();
        for o in 1..=2 {
            for n in 1..=2 {
                nets.node_params(&owner(o), &node(n), &[], u16::from(o)).unwrap();
            }
        }
        let mut seen: BTreeMap<InstanceIdent, Vec<Rule>> = BTreeMap::new();
        for (kind, item, instance, place, ports, allowed) in ops {
            let who = ident(item, instance);
            let (o, n) = (owner(1 + item % 2), node(place));
            let effects = if kind < 3 {
                let ports: &[&str] = match ports { 0 => &[], 1 => &["80"], _ => &["80-90", "53/udp"] };
                let allowed: &[&str] = match allowed {
                    0 => &[],
                    1 => &["item1/80", "item2/80"],
                    2 => &["item2/85-95", "item3/53/udp"],
                    _ => &["item1/1-65535"],
                };
                let (params, effects) = nets.allocate(&who, &o, &n, wanted(&[], allowed, ports)).unwrap();
                seen.insert(who, params.rules);
                effects
            } else {
                let effects = nets.release(&who, &n);
                if !effects.changes.is_empty() {
                    seen.remove(&who);
                }
                effects
            };
            for notice in effects.notices {
                prop_assert!(seen.contains_key(&notice.instance));
                prop_assert_eq!(&nets.instances[&notice.instance].node, &notice.node);
                seen.insert(notice.instance, notice.rules);
            }
            for (known, rules) in &seen {
                prop_assert_eq!(rules, &nets.rules(known));
                for rule in rules {
                    let target = nets.instances.values().find(|other| other.ip == rule.dst_ip).unwrap();
                    prop_assert_ne!(&target.network, &nets.instances[known].network);
                    prop_assert!(!target.ports.is_empty());
                }
            }
        }
    }
}
