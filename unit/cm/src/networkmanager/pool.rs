//! Pools of subnets and of the addresses in them.
//!
//! Both are first-in first-out: what was given back is used again last, so that a stale packet or a stale DNS
//! answer seldom reaches a new owner of the address.

use std::collections::{BTreeSet, VecDeque};
use std::fmt;
use std::net::Ipv4Addr;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// Why a text is no IPv4 network.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("'{0}' is no IPv4 network, expected a.b.c.d/len")]
pub struct BadSubnet(pub String);

/// An IPv4 network, written `a.b.c.d/len`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Subnet {
    base: u32,
    prefix: u8,
}

impl Subnet {
    /// A network of `prefix` (0..=32) leading bits; host bits of `address` are cleared.
    pub fn new(address: Ipv4Addr, prefix: u8) -> Self {
        let prefix = prefix.min(32);
        Self { base: u32::from(address) & Self::mask(prefix), prefix }
    }

    const fn mask(prefix: u8) -> u32 {
        match prefix {
            0 => 0,
            bits => u32::MAX << (32 - bits),
        }
    }

    /// True when both share at least one address.
    pub fn overlaps(self, other: Self) -> bool {
        let mask = Self::mask(self.prefix.min(other.prefix));
        self.base & mask == other.base & mask
    }

    /// True when `address` lies in it.
    pub fn contains(self, address: Ipv4Addr) -> bool {
        u32::from(address) & Self::mask(self.prefix) == self.base
    }

    fn last(self) -> u32 {
        self.base | !Self::mask(self.prefix)
    }
}

impl fmt::Display for Subnet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", Ipv4Addr::from(self.base), self.prefix)
    }
}

impl FromStr for Subnet {
    type Err = BadSubnet;
    fn from_str(text: &str) -> Result<Self, BadSubnet> {
        let bad = || BadSubnet(text.chars().take(40).collect());
        let (address, prefix) = text.split_once('/').ok_or_else(bad)?;
        let prefix = prefix.parse::<u8>().ok().filter(|bits| *bits <= 32).ok_or_else(bad)?;
        Ok(Self::new(address.parse().map_err(|_| bad())?, prefix))
    }
}

impl TryFrom<String> for Subnet {
    type Error = BadSubnet;
    fn try_from(text: String) -> Result<Self, BadSubnet> {
        text.parse()
    }
}

impl From<Subnet> for String {
    fn from(subnet: Subnet) -> String {
        subnet.to_string()
    }
}

/// The fifteen private /16 networks that may be given to providers, in order of use.
pub fn all_subnets() -> VecDeque<Subnet> {
    (17..=31).map(|second| Subnet::new(Ipv4Addr::new(172, second, 0, 0), 16)).collect()
}

/// Addresses of one subnet, from `.0.2` up to `.255.254`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Addresses {
    last: u32,
    /// Next address that was never given out.
    fresh: u32,
    used: BTreeSet<u32>,
    released: VecDeque<u32>,
}

impl Addresses {
    /// All addresses of `subnet` but the network, the gateway-like first one and the broadcast address.
    pub fn of(subnet: Subnet) -> Self {
        Self {
            last: subnet.last().saturating_sub(1),
            fresh: subnet.base.saturating_add(2),
            used: BTreeSet::new(),
            released: VecDeque::new(),
        }
    }

    /// Takes the next free address.
    pub fn take(&mut self) -> Option<Ipv4Addr> {
        while self.fresh <= self.last {
            let address = self.fresh;
            self.fresh += 1;
            if self.used.insert(address) {
                return Some(address.into());
            }
        }
        let address = self.released.pop_front()?;
        self.used.insert(address);
        Some(address.into())
    }

    /// Marks an address of a stored record as taken; false when it is taken already.
    pub fn occupy(&mut self, address: Ipv4Addr) -> bool {
        let address = u32::from(address);
        self.released.retain(|free| *free != address);
        self.used.insert(address)
    }

    /// Gives an address back.
    pub fn release(&mut self, address: Ipv4Addr) {
        let address = u32::from(address);
        if self.used.remove(&address) && address < self.fresh {
            self.released.push_back(address);
        }
    }
}
