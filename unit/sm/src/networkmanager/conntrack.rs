//! The kernel's memory of connections: what is remembered passes the packet filter without being asked again, so
//! what may not go on has to be forgotten.
//!
//! Forgotten is every connection of an address whose instance is gone, so that the next instance with that address
//! inherits none, and every connection between instances that the present rules would not let begin. All others
//! stay. A connection that is forgotten and goes on to send is a new one to the packet filter, which refuses it. The
//! list is read and judged in pieces of [`PIECE`], so memory is bounded however many connections there are.

use std::collections::BTreeSet;
use std::io;
use std::net::Ipv4Addr;

use super::netlink::{DUMP, Message, Received, Socket, attribute, messages};

/// `NFNL_SUBSYS_CTNETLINK`
const SUBSYSTEM: u16 = 1;
const GET: u16 = 1;
const DELETE: u16 = 2;
const STATISTICS: u16 = 5;
/// `AF_INET`, version 0, resource 0.
const HEAD: [u8; 4] = [2, 0, 0, 0];
/// Attributes of an entry.
const ORIGINAL: u16 = 1;
const REPLY: u16 = 2;
const NUMBER: u16 = 12;
const ZONE: u16 = 18;
/// Connections that are judged before they are forgotten.
const PIECE: usize = 1024;
/// Most pieces of one sweep; more connections than the kernel keeps by default.
const PIECES: usize = 512;

/// One direction of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Way {
    /// Sender.
    pub from: Ipv4Addr,
    /// Receiver.
    pub to: Ipv4Addr,
    /// Number of the protocol.
    pub protocol: u8,
    /// Port of the receiver; `None` for protocols without.
    pub port: Option<u16>,
}

impl Way {
    fn read(tuple: &[u8]) -> Option<Self> {
        let (ends, protocol) = (attribute(tuple, 1)?, attribute(tuple, 2)?);
        let address = |kind| attribute(ends, kind)?.first_chunk::<4>().map(|bytes| Ipv4Addr::from(*bytes));
        let port = attribute(protocol, 3).and_then(|bytes| bytes.first_chunk::<2>());
        Some(Self {
            from: address(1)?,
            to: address(2)?,
            protocol: *attribute(protocol, 1)?.first()?,
            port: port.map(|bytes| u16::from_be_bytes(*bytes)),
        })
    }
}

/// A connection that is remembered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Connection {
    /// As its first packet went.
    pub asked: Way,
    /// As answers come; other addresses where they are translated.
    pub answered: Way,
    /// What tells the kernel which one it is.
    name: Vec<(u16, Vec<u8>)>,
}

impl Connection {
    fn read(message: &Received<'_>) -> Option<Self> {
        let body = message.body.get(4..)?;
        let name = [ORIGINAL, NUMBER, ZONE].into_iter();
        Some(Self {
            asked: Way::read(attribute(body, ORIGINAL)?)?,
            answered: Way::read(attribute(body, REPLY)?)?,
            name: name.filter_map(|kind| Some((kind, attribute(body, kind)?.to_vec()))).collect(),
        })
    }

    /// True when one of its ends has, or had, one of the addresses.
    pub fn is_of(&self, addresses: &BTreeSet<Ipv4Addr>) -> bool {
        let Self { asked, answered, .. } = self;
        [asked.from, asked.to, answered.from, answered.to].iter().any(|end| addresses.contains(end))
    }
}

/// The connections in a datagram of the kernel.
pub fn connections(datagram: &[u8]) -> impl Iterator<Item = Connection> {
    messages(datagram).filter_map(|message| Connection::read(&message))
}

/// True when there is no connection at all. The list of none takes long: the kernel looks into every place of its table.
fn is_empty(socket: &mut Socket) -> io::Result<bool> {
    let mut count = None;
    socket.ask(Message::new((SUBSYSTEM << 8) | STATISTICS, 0, &HEAD), |message| {
        let entries = message.body.get(4..).and_then(|body| attribute(body, 1)?.first_chunk::<4>());
        count = count.or(entries.map(|bytes| u32::from_be_bytes(*bytes)));
    })?;
    Ok(count == Some(0))
}

/// Forgets the connections that are not to go on; answers how many.
pub fn sweep(socket: &mut Socket, is_over: impl Fn(&Connection) -> bool) -> io::Result<usize> {
    let mut count = 0;
    if is_empty(socket)? {
        return Ok(count);
    }
    for _ in 0..PIECES {
        let mut over = Vec::new();
        let mut more = false;
        socket.dump(Message::new((SUBSYSTEM << 8) | GET, DUMP, &HEAD), |message| {
            let Some(connection) = Connection::read(message).filter(|one| is_over(one)) else { return };
            if over.len() < PIECE {
                over.push(connection.name);
            } else {
                more = true;
            }
        })?;
        count += over.len();
        for name in over {
            let mut request = Message::new((SUBSYSTEM << 8) | DELETE, 0, &HEAD);
            for (kind, value) in name {
                request.put(kind, &value);
            }
            match socket.request(request) {
                // It ended by itself.
                Err(error) if error.raw_os_error() == Some(nix::libc::ENOENT) => {}
                other => other?,
            }
        }
        if !more {
            break;
        }
    }
    Ok(count)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn way(message: &mut Message, kind: u16, ends: [[u8; 4]; 2], protocol: u8, port: Option<u16>) {
        message.nest(kind, |tuple| {
            tuple.nest(1, |list| {
                list.put(1, &ends[0]).put(2, &ends[1]);
            });
            tuple.nest(2, |list| {
                list.put(1, &[protocol]);
                if let Some(port) = port {
                    list.put(2, &[0x80, 0]).put(3, &port.to_be_bytes());
                }
            });
        });
    }

    fn read(message: &Message) -> Option<Connection> {
        let body = message.bytes().get(16..)?;
        Connection::read(&Received { kind: SUBSYSTEM << 8, sequence: 1, body })
    }

    #[test]
    fn a_connection_is_read_with_both_ways_and_its_name() {
        let (inside, outside, here) = ([172, 17, 0, 2], [203, 0, 113, 2], [203, 0, 113, 1]);
        let mut message = Message::new(SUBSYSTEM << 8, 0, &HEAD);
        way(&mut message, ORIGINAL, [inside, outside], 6, Some(443));
        way(&mut message, REPLY, [outside, here], 6, Some(40000));
        message.put(NUMBER, &[1, 2, 3, 4]);
        let connection = read(&message).unwrap();
        let expected = Way { from: inside.into(), to: outside.into(), protocol: 6, port: Some(443) };
        assert_eq!(connection.asked, expected);
        assert_eq!(connection.answered.to, Ipv4Addr::from(here));
        assert_eq!(connection.name.iter().map(|(kind, _)| *kind).collect::<Vec<_>>(), [ORIGINAL, NUMBER]);
        for (address, is_its) in [(inside, true), (here, true), ([172, 17, 0, 3], false)] {
            assert_eq!(connection.is_of(&BTreeSet::from([address.into()])), is_its, "{address:?}");
        }
    }

    #[test]
    fn what_is_not_whole_is_none() {
        let mut message = Message::new(SUBSYSTEM << 8, 0, &HEAD);
        assert_eq!(read(&message), None);
        way(&mut message, ORIGINAL, [[172, 17, 0, 2], [172, 18, 0, 2]], 1, None);
        assert_eq!(read(&message), None);
        way(&mut message, REPLY, [[172, 18, 0, 2], [172, 17, 0, 2]], 1, None);
        assert_eq!(read(&message).unwrap().asked.port, None);
    }
}
