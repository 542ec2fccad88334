//! What is known about one network: where it asks, and which names it has. Pure.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};

use serde::{Deserialize, Serialize};

use crate::packet::{Code, Content, Query, kind};

/// Most names of a network.
pub const MAX_NAMES: usize = 4096;
/// Most networks.
pub const MAX_ZONES: usize = 64;

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
    /// Names without the network's own suffix, lower case.
    pub names: BTreeMap<String, Ipv4Addr>,
    /// Name servers for everything else; empty means those of the host.
    pub upstream: Vec<IpAddr>,
}

impl Zone {
    /// True for an address of the network.
    pub fn contains(&self, address: Ipv4Addr) -> bool {
        let mask = u32::MAX.checked_shl(32 - u32::from(self.prefix.min(32))).unwrap_or(0);
        (u32::from(address) ^ u32::from(self.listen)) & mask == 0
    }

    /// What the network itself knows about a question; `None` when others have to be asked.
    pub fn find(&self, query: &Query<'_>) -> Option<(Code, Content)> {
        let name = query.name.as_deref().filter(|name| !name.is_empty())?;
        if let Some(address) = reversed(name) {
            return self.find_address(address, query.kind);
        }
        let (bare, suffixed) = match self.without_suffix(name) {
            Some(bare) => (bare, true),
            None => (name, false),
        };
        match self.names.get(bare) {
            Some(address) if matches!(query.kind, kind::A | kind::ANY) => {
                Some((Code::NoError, Content::Address(*address)))
            }
            // The name is there, just not with this type: to say otherwise would hide its address, too.
            Some(_) => Some((Code::NoError, Content::None)),
            None if suffixed => Some((Code::NxDomain, Content::None)),
            // A single word is never a host of the world outside, but the world has zones of one word.
            None if !name.contains('.') => {
                let zone = matches!(query.kind, kind::NS | kind::SOA | kind::DS | kind::DNSKEY);
                (!zone).then_some((Code::NxDomain, Content::None))
            }
            None => None,
        }
    }

    fn without_suffix<'n>(&self, name: &'n str) -> Option<&'n str> {
        let at = name.len().checked_sub(self.network.len()).filter(|at| *at > 1)?;
        let (front, network) = name.split_at_checked(at)?;
        front.strip_suffix('.').filter(|_| network.eq_ignore_ascii_case(&self.network))
    }

    fn find_address(&self, address: Ipv4Addr, kind: u16) -> Option<(Code, Content)> {
        let mut names = self.names.iter().filter(|(_, theirs)| **theirs == address).map(|(name, _)| name);
        match names.next() {
            Some(name) if matches!(kind, kind::PTR | kind::ANY) => {
                Some((Code::NoError, Content::Name(name.clone())))
            }
            Some(_) => Some((Code::NoError, Content::None)),
            None if self.prefix > 0 && self.contains(address) => Some((Code::NxDomain, Content::None)),
            None => None,
        }
    }
}

/// The address in `4.3.2.1.in-addr.arpa`.
fn reversed(name: &str) -> Option<Ipv4Addr> {
    let mut octets = [0u8; 4];
    let mut parts = name.strip_suffix(".in-addr.arpa")?.split('.');
    for octet in octets.iter_mut().rev() {
        *octet = parts.next()?.parse().ok()?;
    }
    parts.next().is_none().then(|| Ipv4Addr::from(octets))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::packet::{read, tests::question};

    fn zone() -> Zone {
        let one = Ipv4Addr::new(10, 1, 0, 2);
        Zone {
            network: "Owner-1".into(),
            listen: Ipv4Addr::new(10, 1, 0, 1),
            prefix: 16,
            names: [("web".to_owned(), one), ("0.subject.item".to_owned(), one)].into(),
            upstream: vec![],
        }
    }

    fn ask(name: &str, kind: u16) -> Option<(Code, Content)> {
        zone().find(&read(&question(7, name, kind)).unwrap())
    }

    #[test]
    fn own_names_are_answered_and_foreign_ones_are_not() {
        let found = Some((Code::NoError, Content::Address(Ipv4Addr::new(10, 1, 0, 2))));
        let empty = Some((Code::NoError, Content::None));
        let unknown = Some((Code::NxDomain, Content::None));
        for name in ["web", "WEB", "web.owner-1", "0.subject.item", "0.Subject.item.OWNER-1"] {
            assert_eq!(ask(name, kind::A), found, "{name}");
            assert_eq!(ask(name, kind::ANY), found, "{name}");
            // AAAA, MX: not saying that there is no such name.
            assert_eq!(ask(name, 28), empty, "{name}");
            assert_eq!(ask(name, 15), empty, "{name}");
        }
        for name in ["other", "owner-1", "other.owner-1", "1.subject.item.owner-1", "com"] {
            assert_eq!(ask(name, kind::A), unknown, "{name}");
            assert_eq!(ask(name, 28), unknown, "{name}");
        }
        for name in ["example.com", "web.owner-2", "webowner-1.x", "1.subject.item", ""] {
            assert_eq!(ask(name, kind::A), None, "{name}");
        }
        assert_eq!(ask("com", kind::NS), None);
    }

    #[test]
    fn addresses_have_names() {
        let name = Some((Code::NoError, Content::Name("0.subject.item".into())));
        assert_eq!(ask("2.0.1.10.in-addr.arpa", kind::PTR), name);
        assert_eq!(ask("2.0.1.10.in-addr.arpa", kind::A), Some((Code::NoError, Content::None)));
        assert_eq!(ask("3.0.1.10.in-addr.arpa", kind::PTR), Some((Code::NxDomain, Content::None)));
        assert_eq!(ask("8.8.8.8.in-addr.arpa", kind::PTR), None);
        assert_eq!(ask("1.2.0.1.10.in-addr.arpa", kind::PTR), None);
        assert_eq!(ask("300.0.1.10.in-addr.arpa", kind::PTR), None);
    }

    #[test]
    fn the_prefix_decides_who_is_inside() {
        let mut zone = zone();
        assert!(zone.contains(Ipv4Addr::new(10, 1, 255, 255)) && !zone.contains(Ipv4Addr::new(10, 2, 0, 1)));
        zone.prefix = 0;
        assert!(zone.contains(Ipv4Addr::new(192, 0, 2, 1)));
        zone.prefix = 32;
        assert!(zone.contains(Ipv4Addr::new(10, 1, 0, 1)) && !zone.contains(Ipv4Addr::new(10, 1, 0, 0)));
    }
}
