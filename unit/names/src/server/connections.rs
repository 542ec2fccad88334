//! Questions that come over connections: who may connect, and when a connection is over.

use std::net::{SocketAddr, SocketAddrV4};
use std::time::{Duration, Instant};

use nix::sys::epoll::{EpollEvent, EpollFlags};

use super::questions::BATCH;
use super::{CONNECTION, Server, Stream, readable};
use crate::packet::MAX_QUERY;
use crate::relay::Asker;
use crate::streams::{Framed, Gone};

/// Most connections of instances.
const MAX_STREAMS: usize = 16;
/// Most of them from one network.
const MAX_STREAMS_OF_ZONE: usize = 4;
/// How long a connection may wait for its next question or for its reader.
pub(super) const STREAM_TIME: Duration = Duration::from_secs(10);

impl Server {
    pub(super) fn on_connection(&mut self, zone: u64, now: Instant) {
        for _ in 0..BATCH {
            let Some(listener) = self.zones.get(&zone) else { return };
            let Some(Ok((stream, from))) = listener.pair.as_ref().map(|pair| pair.streams.accept()) else {
                return;
            };
            let inside = matches!(from, SocketAddr::V4(from) if listener.zone.contains(*from.ip()));
            let of_zone = self.streams.values().filter(|stream| stream.zone == zone).count();
            let room = self.streams.len() < MAX_STREAMS && of_zone < MAX_STREAMS_OF_ZONE;
            if !inside || !room || stream.set_nonblocking(true).is_err() {
                continue;
            }
            let number = self.number();
            if self.epoll.add(&stream, EpollEvent::new(readable(), CONNECTION | number)).is_ok() {
                let framed = Framed::new(stream, MAX_QUERY);
                let stream = Stream { zone, framed, waits: false, until: now + STREAM_TIME };
                self.streams.insert(number, stream);
            }
        }
    }

    pub(super) fn on_stream(&mut self, number: u64, now: Instant) {
        let Some(stream) = self.streams.get_mut(&number) else { return };
        if stream.framed.wants_write() {
            return self.settle(number);
        }
        if stream.waits {
            // Nothing is read while a question is under way, so this is the other side hanging up.
            return self.drop_stream(number);
        }
        let zone = stream.zone;
        let peer = match stream.framed.stream().peer_addr() {
            Ok(SocketAddr::V4(peer)) => Ok(peer),
            _ => Err(Gone),
        };
        let read = peer.and_then(|peer: SocketAddrV4| Ok((peer, stream.framed.read()?)));
        match read {
            Ok((_, None)) => {}
            Ok((peer, Some(packet))) => {
                stream.waits = true;
                if !self.may_ask(zone, now) {
                    return self.drop_stream(number);
                }
                self.on_question(Asker::Stream { zone, stream: number }, *peer.ip(), &packet, now);
                self.settle(number);
            }
            Err(Gone) => self.drop_stream(number),
        }
    }

    /// Writes what waits and listens for what comes next.
    pub(super) fn settle(&mut self, number: u64) {
        let Some(stream) = self.streams.get_mut(&number) else { return };
        if stream.framed.flush().is_err() {
            return self.drop_stream(number);
        }
        let flags = match (stream.framed.wants_write(), stream.waits) {
            (true, _) => EpollFlags::EPOLLOUT,
            (false, true) => EpollFlags::empty(),
            (false, false) => readable(),
        };
        let mut event = EpollEvent::new(flags, CONNECTION | number);
        let _ = self.epoll.modify(stream.framed.stream(), &mut event);
    }

    pub(super) fn drop_stream(&mut self, number: u64) {
        self.streams.remove(&number);
        let gone = |asker: &Asker| matches!(asker, Asker::Stream { stream, .. } if *stream == number);
        for flight in self.relay.forget(gone) {
            self.upstreams.remove(&flight);
        }
    }
}
