//! A question's way: in over a datagram or a connection, answered here or by the next servers, and back.

use std::io::{ErrorKind, Read};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Instant;

use nix::sys::epoll::{EpollEvent, EpollFlags};

use super::connections::STREAM_TIME;
use super::{FLIGHT, MAX_OF_SLICE, SLICE, Server, Upstream, readable};
use crate::packet::{self, MAX_QUERY};
use crate::relay::{Action, Asker};
use crate::sockets;
use crate::streams::{Framed, Gone};

/// Questions taken from a socket before the loop looks elsewhere.
pub(super) const BATCH: u32 = 32;
/// Longest answer from outside over UDP, bytes.
const MAX_DATAGRAM: usize = 4096;

impl Server {
    /// Counts a question; false when the network has had its share for now.
    pub(super) fn may_ask(&mut self, number: u64, now: Instant) -> bool {
        let Some(listener) = self.zones.get_mut(&number) else { return false };
        if listener.slice_ends.is_none_or(|end| end <= now) {
            listener.slice_ends = Some(now + SLICE);
            listener.spent = 0;
        }
        listener.spent += 1;
        if listener.spent > MAX_OF_SLICE {
            self.listen_for(number, EpollFlags::empty());
            return false;
        }
        true
    }

    pub(super) fn on_datagrams(&mut self, number: u64, now: Instant) {
        let mut room = [0u8; MAX_QUERY + 1];
        for _ in 0..BATCH {
            let Some(pair) = self.zones.get(&number).and_then(|l| l.pair.as_ref()) else { return };
            let (count, from) = match pair.datagrams.recv_from(&mut room) {
                Ok((count, SocketAddr::V4(from))) => (count, from),
                Err(error) if error.kind() == ErrorKind::WouldBlock => return,
                // What an earlier answer met on its way.
                Ok(_) | Err(_) => continue,
            };
            let packet = room.get(..count).unwrap_or_default();
            self.on_question(Asker::Datagram { zone: number, from }, *from.ip(), packet, now);
            if !self.may_ask(number, now) {
                return;
            }
        }
    }

    pub(super) fn on_question(&mut self, asker: Asker, from: Ipv4Addr, bytes: &[u8], now: Instant) {
        let Some(listener) = self.zones.get(&asker.zone()).filter(|l| l.zone.contains(from)) else { return };
        let query = match packet::read(bytes) {
            Ok(query) => query,
            Err(refusal) => {
                match packet::refuse(bytes, refusal) {
                    Some(packet) => self.tell(&asker, &packet, now),
                    None => self.hang_up(&asker),
                }
                return;
            }
        };
        if let Some((code, content)) = listener.zone.find(&query) {
            let packet = packet::answer(&query, code, &content);
            return self.tell(&asker, &packet, now);
        }
        let servers = self.servers_of(asker.zone(), now);
        let mut id = [0u8; 2];
        let drawn = self.random.read_exact(&mut id).is_ok();
        // A number that can be guessed is worse than no answer.
        let servers = if drawn { servers } else { Vec::new() };
        let action = self.relay.begin(asker, &query, bytes, &servers, u16::from_be_bytes(id), now);
        self.perform(action, now);
    }

    /// The next servers for a network, never ourselves.
    fn servers_of(&mut self, number: u64, now: Instant) -> Vec<IpAddr> {
        let named = self.zones.get(&number).map(|l| l.zone.upstream.clone()).unwrap_or_default();
        let mut servers = if named.is_empty() { self.host.servers(now).to_vec() } else { named };
        servers.retain(|server| !self.zones.values().any(|l| IpAddr::V4(l.zone.listen) == *server));
        servers
    }

    pub(super) fn perform(&mut self, action: Option<Action>, now: Instant) {
        let mut next = action;
        while let Some(action) = next.take() {
            match action {
                Action::Ask { flight, server, stream, packet } => {
                    self.upstreams.remove(&flight);
                    match self.ask(flight, server, stream, &packet) {
                        Ok(upstream) => {
                            self.upstreams.insert(flight, upstream);
                        }
                        Err(_) => next = self.relay.failed(flight, now),
                    }
                }
                Action::Tell { flight, asker, packet } => {
                    if let Some(flight) = flight {
                        self.upstreams.remove(&flight);
                    }
                    self.tell(&asker, &packet, now);
                }
            }
        }
    }

    fn ask(&self, flight: u64, server: IpAddr, stream: bool, packet: &[u8]) -> std::io::Result<Upstream> {
        let port = self.settings.upstream_port;
        if stream {
            let mut framed = Framed::new(sockets::dial(server, port)?, usize::from(u16::MAX));
            framed.send(packet);
            let flags = readable() | EpollFlags::EPOLLOUT;
            self.epoll.add(framed.stream(), EpollEvent::new(flags, FLIGHT | flight))?;
            return Ok(Upstream::Stream(framed));
        }
        let socket = sockets::ask(server, port)?;
        socket.send(packet)?;
        self.epoll.add(&socket, EpollEvent::new(readable(), FLIGHT | flight))?;
        Ok(Upstream::Datagram(socket))
    }

    pub(super) fn on_upstream(&mut self, flight: u64, now: Instant) {
        let mut room = [0u8; MAX_DATAGRAM];
        for _ in 0..BATCH {
            let heard = match self.upstreams.get_mut(&flight) {
                None => return,
                Some(Upstream::Datagram(socket)) => match socket.recv(&mut room) {
                    Ok(count) => Ok(Some(room.get(..count).unwrap_or_default().to_vec())),
                    Err(error) if error.kind() == ErrorKind::WouldBlock => Ok(None),
                    Err(_) => Err(Gone),
                },
                Some(Upstream::Stream(framed)) => framed.flush().and_then(|()| framed.read()),
            };
            let action = match heard {
                Ok(Some(packet)) => self.relay.heard(flight, &packet, now),
                Ok(None) => break,
                Err(Gone) => self.relay.failed(flight, now),
            };
            if action.is_some() {
                return self.perform(action, now);
            }
        }
        if let Some(Upstream::Stream(framed)) = self.upstreams.get(&flight)
            && !framed.wants_write()
        {
            let mut event = EpollEvent::new(readable(), FLIGHT | flight);
            let _ = self.epoll.modify(framed.stream(), &mut event);
        }
    }

    fn tell(&mut self, asker: &Asker, packet: &[u8], now: Instant) {
        match asker {
            Asker::Datagram { zone, from } => {
                if let Some(pair) = self.zones.get(zone).and_then(|listener| listener.pair.as_ref()) {
                    // Who is gone, or has no room, asks again.
                    let _ = pair.datagrams.send_to(packet, SocketAddr::V4(*from));
                }
            }
            Asker::Stream { stream: number, .. } => {
                if let Some(stream) = self.streams.get_mut(number) {
                    stream.waits = false;
                    stream.until = now + STREAM_TIME;
                    stream.framed.send(packet);
                    self.settle(*number);
                }
            }
        }
    }

    fn hang_up(&mut self, asker: &Asker) {
        if let Asker::Stream { stream, .. } = asker {
            self.drop_stream(*stream);
        }
    }
}
