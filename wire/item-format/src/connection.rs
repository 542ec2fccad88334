//! Openings between items, and transport protocols.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use aos_ids::ItemId;
use serde::Serializer;
use serde::ser::SerializeMap;

/// Transport protocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Protocol {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
}

impl Protocol {
    /// The word in documents.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
        }
    }
}

/// A text that is no connection.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("'{0}' is no connection, expected <item>/<port>[-<port>][/<tcp|udp>]")]
pub struct BadConnection(String);

impl FromStr for Protocol {
    type Err = BadConnection;
    fn from_str(word: &str) -> Result<Self, BadConnection> {
        if word.eq_ignore_ascii_case("tcp") {
            Ok(Self::Tcp)
        } else if word.eq_ignore_ascii_case("udp") {
            Ok(Self::Udp)
        } else {
            Err(BadConnection(word.chars().take(40).collect()))
        }
    }
}

/// An opening towards another item: `<item>/<port>[-<port>][/<protocol>]`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct AllowedConnection {
    /// The item connected to.
    pub item: ItemId,
    /// First port, 1..=65535.
    pub first_port: u16,
    /// Last port, not below the first.
    pub last_port: u16,
    /// TCP unless named.
    pub protocol: Protocol,
}

impl FromStr for AllowedConnection {
    type Err = BadConnection;

    fn from_str(text: &str) -> Result<Self, BadConnection> {
        let read = || {
            let mut parts = text.split('/');
            let item = ItemId::new(parts.next()?).ok()?;
            let ports = parts.next()?;
            let protocol = parts.next().unwrap_or("tcp").parse().ok()?;
            let (first, last) = ports.split_once(['-', ':']).unwrap_or((ports, ports));
            let (first_port, last_port): (u16, u16) = (first.parse().ok()?, last.parse().ok()?);
            let in_order = first_port != 0 && first_port <= last_port && parts.next().is_none();
            in_order.then_some(Self { item, first_port, last_port, protocol })
        };
        read().ok_or_else(|| BadConnection(text.chars().take(100).collect()))
    }
}

impl fmt::Display for AllowedConnection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.item, self.first_port)?;
        if self.last_port != self.first_port {
            write!(f, "-{}", self.last_port)?;
        }
        write!(f, "/{}", self.protocol.as_str())
    }
}

/// Writes connections as an object whose keys they are.
pub(crate) fn write_connections<S: Serializer>(
    connections: &[AllowedConnection],
    serializer: S,
) -> Result<S::Ok, S::Error> {
    let mut map = serializer.serialize_map(Some(connections.len()))?;
    for connection in connections {
        map.serialize_entry(&connection.to_string(), &BTreeMap::<String, String>::new())?;
    }
    map.end()
}
