//! Texts of items and of the Communication Manager, read into ports and flows; pure.
//!
//! Nothing of a text goes any further than here: what cannot be read is refused with the text in the reason.

use std::net::Ipv4Addr;

use super::names::address_of;
use crate::Error;

/// Most openings one instance may have, in and out each.
pub const MAX_OPENINGS: usize = 1024;

/// Protocols with ports.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Protocol {
    /// Number 6.
    Tcp,
    /// Number 17.
    Udp,
}

impl Protocol {
    /// Its number in IP packets.
    pub const fn number(self) -> u8 {
        match self {
            Self::Tcp => 6,
            Self::Udp => 17,
        }
    }

    fn parse(text: &str) -> Option<Self> {
        match text.trim() {
            "" => Some(Self::Tcp),
            word if word.eq_ignore_ascii_case("tcp") => Some(Self::Tcp),
            word if word.eq_ignore_ascii_case("udp") => Some(Self::Udp),
            _ => None,
        }
    }
}

/// A range of ports of one protocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Ports {
    /// First, 1..=65535.
    pub first: u16,
    /// Last, not below the first.
    pub last: u16,
    /// TCP unless named.
    pub protocol: Protocol,
}

impl Ports {
    fn parse(ports: &str, protocol: &str) -> Option<Self> {
        let (first, last) = ports.split_once(['-', ':']).unwrap_or((ports, ports));
        let digits = |text: &str| {
            let text = text.trim();
            text.bytes().all(|byte| byte.is_ascii_digit()).then(|| text.parse::<u16>().ok()).flatten()
        };
        let (first, last) = (digits(first)?, digits(last)?);
        let protocol = Protocol::parse(protocol)?;
        (first != 0 && first <= last).then_some(Self { first, last, protocol })
    }

    /// True for one of these ports of this protocol, by number.
    pub fn contain(self, protocol: u8, port: u16) -> bool {
        self.protocol.number() == protocol && (self.first..=self.last).contains(&port)
    }

    /// An exposed port: `port[-last][/protocol]`.
    pub fn exposed(text: &str) -> Result<Self, Error> {
        let (ports, protocol) = text.split_once('/').unwrap_or((text, ""));
        Self::parse(ports, protocol).ok_or_else(|| {
            Error::invalid(
                format!("exposed port '{}'", shown(text)),
                "expected port[-last][/tcp|udp], ports from 1 to 65535",
            )
        })
    }
}

/// A flow an instance may open.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Flow {
    /// Where to.
    pub target: Ipv4Addr,
    /// Its ports.
    pub ports: Ports,
}

impl Flow {
    /// From a rule of CM: target, ports, protocol, source. The source is always the instance; whether the rule
    /// names another one is the second answer.
    pub fn of_rule(rule: &[String; 4], own: &str) -> Result<(Self, bool), Error> {
        let [target, ports, protocol, source] = rule;
        let parsed = Ports::parse(ports, protocol).ok_or_else(|| {
            Error::invalid(
                format!("firewall rule for port '{}/{}'", shown(ports), shown(protocol)),
                "expected ports from 1 to 65535 of tcp or udp",
            )
        })?;
        let foreign = !source.is_empty() && source != own;
        Ok((Self { target: address_of(target)?, ports: parsed }, foreign))
    }
}

/// All exposed ports of an instance, sorted, each once.
pub fn exposed(texts: &[String]) -> Result<Vec<Ports>, Error> {
    bounded(texts.len(), "exposed ports")?;
    let mut ports = texts.iter().map(|text| Ports::exposed(text)).collect::<Result<Vec<_>, _>>()?;
    ports.sort_unstable();
    ports.dedup();
    Ok(ports)
}

/// All flows of an instance, sorted, each once; and whether a rule named another source.
pub fn flows(rules: &[[String; 4]], own: &str) -> Result<(Vec<Flow>, bool), Error> {
    bounded(rules.len(), "firewall rules")?;
    let mut foreign = false;
    let mut flows = Vec::new();
    for rule in rules {
        let (flow, other) = Flow::of_rule(rule, own)?;
        foreign |= other;
        flows.push(flow);
    }
    flows.sort_unstable();
    flows.dedup();
    Ok((flows, foreign))
}

/// Adds rules that are not there yet; the answer is the new list, or `None` when nothing is new. Too many rules
/// change nothing at all.
pub fn appended(present: &[[String; 4]], more: &[[String; 4]]) -> Result<Option<Vec<[String; 4]>>, Error> {
    let mut list = present.to_vec();
    for rule in more {
        if !list.contains(rule) {
            list.push(rule.clone());
        }
    }
    bounded(list.len(), "firewall rules")?;
    Ok((list.len() > present.len()).then_some(list))
}

fn bounded(count: usize, what: &str) -> Result<(), Error> {
    if count > MAX_OPENINGS {
        return Err(Error::Limit { what: format!("the number of {what}"), limit: MAX_OPENINGS as u64 });
    }
    Ok(())
}

fn shown(text: &str) -> String {
    text.chars().take(40).collect::<String>().escape_debug().to_string()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn rule(target: &str, port: &str, protocol: &str, source: &str) -> [String; 4] {
        [target.into(), port.into(), protocol.into(), source.into()]
    }

    #[test]
    fn ports_and_ranges_are_read() {
        let ports = |first, last, protocol| Ports { first, last, protocol };
        assert_eq!(Ports::exposed("80").unwrap(), ports(80, 80, Protocol::Tcp));
        assert_eq!(Ports::exposed("53/UDP").unwrap(), ports(53, 53, Protocol::Udp));
        assert_eq!(Ports::exposed("8089-8090/tcp").unwrap(), ports(8089, 8090, Protocol::Tcp));
        for bad in [
            "",
            "0",
            "65536",
            "http",
            "80/icmp",
            "80/tcp/x",
            "90-80",
            "80; accept",
            "80 }",
            "+80",
            "-1",
            "1-",
        ] {
            let error = Ports::exposed(bad).unwrap_err().info();
            assert_eq!(error.code(), aos_status::AosCode::InvalidArgument, "{bad}");
        }
        let two = exposed(&["81".into(), "80".into(), "81/tcp".into()]).unwrap();
        assert_eq!(two.iter().map(|ports| ports.first).collect::<Vec<_>>(), [80, 81]);
    }

    // SM-51: the source is the instance whatever the rule says; target and port are needed.
    #[test]
    fn rules_are_read() {
        let (flows, foreign) = super::flows(
            &[rule("10.0.0.1", "80", "", ""), rule("10.0.0.1", "80", "tcp", "10.0.0.9")],
            "10.0.0.2",
        )
        .unwrap();
        assert_eq!((flows.len(), foreign), (1, true));
        for bad in [
            rule("", "80", "tcp", ""),
            rule("10.0.0.1", "", "tcp", ""),
            rule("10.0.0.1", "80", "sctp", ""),
            rule("10.0.0.1/8", "80", "tcp", ""),
            rule("10.0.0.1 accept", "80", "tcp", ""),
        ] {
            assert!(super::flows(std::slice::from_ref(&bad), "10.0.0.2").is_err(), "{bad:?}");
        }
    }

    #[test]
    fn an_update_is_appended_once_or_dropped_whole() {
        let one = [rule("10.0.0.1", "80", "tcp", "")];
        let two = [rule("10.0.0.1", "81", "tcp", ""), one[0].clone(), rule("10.0.0.1", "81", "tcp", "")];
        let list = appended(&one, &two).unwrap().unwrap();
        assert_eq!(list, [one[0].clone(), two[0].clone()]);
        assert_eq!(appended(&list, &two).unwrap(), None);
        let many: Vec<_> = (0..MAX_OPENINGS).map(|n| rule("10.0.0.2", &n.to_string(), "tcp", "")).collect();
        assert!(appended(&one, &many).is_err());
    }

    proptest! {
        #[test]
        fn any_text_is_read_or_refused(text in "[0-9a-z/:; {}\"-]{0,12}") {
            if let Ok(ports) = Ports::exposed(&text) {
                prop_assert!(ports.first > 0 && ports.first <= ports.last);
            }
        }
    }
}
