//! Pure parts: interface names, subnets, the texts of `/etc/hosts` and `/etc/resolv.conf`, the names an
//! instance is known by.

use std::fmt::Write as _;
use std::net::Ipv4Addr;

use aos_ids::InstanceIdent;

use crate::Error;

/// FNV-1a, 32 bit; peers derive interface names with it.
pub fn fnv1a(text: &str) -> u32 {
    text.bytes().fold(0x811c_9dc5, |hash, byte| (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193))
}

/// Host end of an instance's virtual cable.
pub fn veth_name(instance_id: &str) -> String {
    format!("veth{:08x}", fnv1a(instance_id))
}

/// Bridge of a network.
pub fn bridge_name(network: &str) -> String {
    format!("br-{:08x}", fnv1a(network))
}

/// VLAN interface of a network.
pub fn vlan_name(network: &str) -> String {
    format!("vlan-{:08x}", fnv1a(network))
}

/// Prefix length of a subnet text such as `172.17.0.0/16`; a bare address is a subnet of its own.
pub fn prefix_of(subnet: &str) -> Result<u8, Error> {
    let wrong =
        || Error::invalid(format!("subnet '{}'", subnet.escape_debug()), "expected address/prefix length");
    let (address, prefix) = subnet.split_once('/').unwrap_or((subnet, "32"));
    address.parse::<Ipv4Addr>().map_err(|_| wrong())?;
    prefix.parse().ok().filter(|&length| length <= 32).ok_or_else(wrong)
}

/// An IPv4 address from a peer.
pub fn address_of(text: &str) -> Result<Ipv4Addr, Error> {
    text.parse()
        .map_err(|_| Error::invalid(format!("address '{}'", text.escape_debug()), "expected an IPv4 address"))
}

/// The names under which other instances of the network find this one.
pub fn hosts_of(ident: &InstanceIdent, network: &str, hostname: Option<&str>) -> Vec<String> {
    let InstanceIdent { item, subject, instance, .. } = ident;
    let mut names: Vec<String> = hostname.into_iter().map(str::to_owned).collect();
    let mut long = vec![format!("{instance}.{subject}.{item}")];
    if *instance == 0 {
        long.push(format!("{subject}.{item}"));
    }
    for name in long {
        names.push(format!("{name}.{network}"));
        names.push(name);
    }
    names
}

/// Text of the instance's `/etc/hosts`.
pub fn hosts_text(ip: &str, network: &str, hostname: Option<&str>, extra: &[(String, String)]) -> String {
    let mut text = String::from("127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n");
    let own = hostname.map(|name| format!(" {name}")).unwrap_or_default();
    let _ = writeln!(text, "{ip}\t{network}{own}");
    for (ip, name) in extra {
        let _ = writeln!(text, "{ip}\t{name}");
    }
    text
}

/// Text of the instance's `/etc/resolv.conf`: the bridge first, then what CM named.
pub fn resolv_text(bridge_ip: &str, servers: &[String]) -> String {
    let mut listed: Vec<&str> = Vec::new();
    for server in std::iter::once(bridge_ip).chain(servers.iter().map(String::as_str)) {
        if !server.is_empty() && !listed.contains(&server) {
            listed.push(server);
        }
    }
    if listed.is_empty() {
        listed.push("8.8.8.8");
    }
    let mut text = String::new();
    for server in listed {
        let _ = writeln!(text, "nameserver {server}");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use aos_ids::{ItemId, SubjectId};

    #[test]
    fn names_are_the_ones_peers_derive() {
        assert_eq!(veth_name("33299ef5-ca7c-369d-aa0f-ddf797046b3b"), "vethd4b3ac8d");
        assert!(bridge_name("owner").len() <= 15);
        assert!(vlan_name("owner").len() <= 15);
    }

    #[test]
    fn subnets_and_addresses_are_checked() {
        assert_eq!(prefix_of("172.17.0.0/16").unwrap(), 16);
        assert_eq!(prefix_of("10.0.0.1").unwrap(), 32);
        assert!(prefix_of("10.0.0.0/33").is_err());
        assert!(prefix_of("x/8").is_err());
        assert!(address_of("").is_err());
    }

    #[test]
    fn texts_list_everything_once() {
        let ident = InstanceIdent::service(ItemId::new("i").unwrap(), SubjectId::new("s").unwrap(), 0);
        assert_eq!(hosts_of(&ident, "n", Some("h")), ["h", "0.s.i.n", "0.s.i", "s.i.n", "s.i"]);
        let hosts = hosts_text("10.0.0.2", "n", Some("h"), &[("10.9.0.5".into(), "cam".into())]);
        assert!(hosts.contains("\n10.0.0.2\tn h\n10.9.0.5\tcam\n"));
        assert_eq!(
            resolv_text("10.0.0.1", &["10.0.0.1".into(), "1.1.1.1".into()]),
            "nameserver 10.0.0.1\nnameserver 1.1.1.1\n"
        );
        assert_eq!(resolv_text("", &[]), "nameserver 8.8.8.8\n");
    }
}
