//! The sockets: brings packets to the core and carries out what it says. One epoll descriptor stands for all.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::{ErrorKind, Read};
use std::net::{IpAddr, SocketAddr, SocketAddrV4, UdpSocket};
use std::os::fd::{AsFd, BorrowedFd};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};

use crate::host::Host;
use crate::packet::{self, MAX_QUERY};
use crate::relay::{Action, Asker, Relay};
use crate::sockets::{self, Pair};
use crate::store::{Error, Store, check};
use crate::streams::{Framed, Gone};
use crate::zone::{MAX_ZONES, Zone};

/// Most connections of instances.
const MAX_STREAMS: usize = 16;
/// Most of them from one network.
const MAX_STREAMS_OF_ZONE: usize = 4;
/// How long a connection may wait for its next question or for its reader.
const STREAM_TIME: Duration = Duration::from_secs(10);
/// Questions a network may ask in a slice of time; then the others have their turn.
const MAX_OF_SLICE: u32 = 1000;
const SLICE: Duration = Duration::from_millis(100);
/// Questions taken from a socket before the loop looks elsewhere.
const BATCH: u32 = 32;
/// Longest answer from outside over UDP, bytes.
const MAX_DATAGRAM: usize = 4096;
/// Until an address that could not be listened at is tried again.
const RETRY: Duration = Duration::from_secs(5);

const DATAGRAMS: u64 = 1 << 56;
const STREAMS: u64 = 2 << 56;
const CONNECTION: u64 = 3 << 56;
const FLIGHT: u64 = 4 << 56;
const NUMBER: u64 = (1 << 56) - 1;

/// Where a server lives.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Folder of the tables.
    pub folder: PathBuf,
    /// Port it listens on.
    pub port: u16,
    /// Port of the next servers.
    pub upstream_port: u16,
    /// The host's `resolv.conf`.
    pub resolv: PathBuf,
    /// Takes a line for whoever looks after the machine.
    pub note: fn(&str),
}

struct Listener {
    zone: Zone,
    /// Absent while the address cannot be listened at.
    pair: Option<Pair>,
    spent: u32,
    slice_ends: Option<Instant>,
}

struct Stream {
    zone: u64,
    framed: Framed,
    /// A question of it is under way.
    waits: bool,
    until: Instant,
}

enum Upstream {
    Datagram(UdpSocket),
    Stream(Framed),
}

/// The name server of a node.
pub struct Server {
    settings: Settings,
    epoll: Epoll,
    store: Store,
    random: File,
    host: Host,
    zones: BTreeMap<u64, Listener>,
    streams: BTreeMap<u64, Stream>,
    upstreams: BTreeMap<u64, Upstream>,
    relay: Relay,
    next_number: u64,
    retry_at: Option<Instant>,
}

fn readable() -> EpollFlags {
    EpollFlags::EPOLLIN
}

impl Server {
    /// Takes up the tables of an earlier run.
    pub fn open(settings: Settings) -> Result<Self, Error> {
        let system = |action| move |source| Error::System { action, source };
        let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)
            .map_err(|error| system("open an event queue")(error.into()))?;
        let random = File::open("/dev/urandom").map_err(system("open the source of random numbers"))?;
        let store = Store::open(&settings.folder)?;
        let mut server = Self {
            host: Host::new(settings.resolv.clone()),
            settings,
            epoll,
            random,
            zones: BTreeMap::new(),
            streams: BTreeMap::new(),
            upstreams: BTreeMap::new(),
            relay: Relay::default(),
            next_number: 0,
            retry_at: None,
            store,
        };
        for zone in server.store.load(server.settings.note) {
            let number = server.number();
            server.zones.insert(number, Listener { zone, pair: None, spent: 0, slice_ends: None });
        }
        server.bind_all(Instant::now());
        Ok(server)
    }

    /// Readable when [`Self::on_ready`] has something to do.
    pub fn descriptor(&self) -> BorrowedFd<'_> {
        self.epoll.0.as_fd()
    }

    /// Answers for a network from now on. After an error it is as it was.
    pub fn set(&mut self, zone: Zone) -> Result<(), Error> {
        let zone = check(zone)?;
        let known = self.find(&zone.network);
        let same_place = known
            .and_then(|number| self.zones.get(&number))
            .is_some_and(|listener| listener.zone.listen == zone.listen && listener.pair.is_some());
        if same_place {
            self.store.save(&zone)?;
            if let Some(listener) = known.and_then(|number| self.zones.get_mut(&number)) {
                listener.zone = zone;
            }
            return Ok(());
        }
        if known.is_none() && self.zones.len() >= MAX_ZONES {
            return Err(Error::Refused { network: zone.network, reason: "too many networks" });
        }
        let address = zone.listen;
        // What is asked for now is the truth: a network that had the address before has gone.
        let moved = self.zones.values().map(|listener| &listener.zone);
        let moved = moved.filter(|other| other.listen == address && other.network != zone.network);
        let moved: Vec<String> = moved.map(|other| other.network.clone()).collect();
        for network in moved {
            self.remove(&network)?;
        }
        let pair =
            Pair::bind(address, self.settings.port).map_err(|source| Error::Listen { address, source })?;
        self.store.save(&zone)?;
        if let Some(number) = known {
            self.close(number);
        }
        let number = self.number();
        self.watch(number, &pair);
        self.zones.insert(number, Listener { zone, pair: Some(pair), spent: 0, slice_ends: None });
        Ok(())
    }

    /// Forgets a network; an unknown one is no error.
    pub fn remove(&mut self, network: &str) -> Result<(), Error> {
        let Some(number) = self.find(network) else { return Ok(()) };
        self.store.remove(network)?;
        self.close(number);
        Ok(())
    }

    /// Forgets every network that is not listed.
    pub fn retain(&mut self, networks: &BTreeSet<String>) -> Result<(), Error> {
        let known: Vec<String> = self.zones.values().map(|listener| listener.zone.network.clone()).collect();
        for network in known.iter().filter(|network| !networks.contains(*network)) {
            self.remove(network)?;
        }
        Ok(())
    }

    /// When [`Self::on_time`] is to be called; `None` while nothing is under way.
    pub fn next_deadline(&self) -> Option<Instant> {
        let slices = self.zones.values().filter(|l| l.spent > MAX_OF_SLICE).filter_map(|l| l.slice_ends);
        let streams = self.streams.values().filter(|stream| !stream.waits).map(|stream| stream.until);
        slices.chain(streams).chain(self.relay.next_deadline()).chain(self.retry_at).min()
    }

    /// Does what is due.
    pub fn on_time(&mut self, now: Instant) {
        for flight in self.relay.overdue(now) {
            let action = self.relay.failed(flight, now);
            self.perform(action, now);
        }
        let late = |stream: &Stream| !stream.waits && stream.until <= now;
        let late: Vec<u64> =
            self.streams.iter().filter(|(_, stream)| late(stream)).map(|(number, _)| *number).collect();
        for number in late {
            self.drop_stream(number);
        }
        let over = |listener: &Listener| {
            listener.spent > MAX_OF_SLICE && listener.slice_ends.is_some_and(|end| end <= now)
        };
        let over: Vec<u64> =
            self.zones.iter().filter(|(_, listener)| over(listener)).map(|(number, _)| *number).collect();
        for number in over {
            if let Some(listener) = self.zones.get_mut(&number) {
                listener.slice_ends = None;
                listener.spent = 0;
            }
            self.listen_for(number, readable());
        }
        if self.retry_at.is_some_and(|at| at <= now) {
            self.bind_all(now);
        }
    }

    /// Takes what has arrived.
    pub fn on_ready(&mut self, now: Instant) {
        let mut events = [EpollEvent::empty(); 32];
        let Ok(count) = self.epoll.wait(&mut events, EpollTimeout::ZERO) else { return };
        for event in events.iter().take(count) {
            let number = event.data() & NUMBER;
            match event.data() & !NUMBER {
                DATAGRAMS => self.on_datagrams(number, now),
                STREAMS => self.on_connection(number, now),
                CONNECTION => self.on_stream(number, now),
                _ => self.on_upstream(number, now),
            }
        }
    }

    fn number(&mut self) -> u64 {
        self.next_number = (self.next_number + 1) & NUMBER;
        self.next_number
    }

    fn find(&self, network: &str) -> Option<u64> {
        let mut known = self.zones.iter().filter(|(_, listener)| listener.zone.network == network);
        known.next().map(|(number, _)| *number)
    }

    /// Listens wherever it does not yet.
    fn bind_all(&mut self, now: Instant) {
        self.retry_at = None;
        let unbound: Vec<u64> =
            self.zones.iter().filter(|(_, l)| l.pair.is_none()).map(|(number, _)| *number).collect();
        for number in unbound {
            let Some(address) = self.zones.get(&number).map(|listener| listener.zone.listen) else {
                continue;
            };
            match Pair::bind(address, self.settings.port) {
                Ok(pair) => {
                    self.watch(number, &pair);
                    if let Some(listener) = self.zones.get_mut(&number) {
                        listener.pair = Some(pair);
                    }
                }
                Err(error) => {
                    (self.settings.note)(&format!("cannot listen at {address} for names: {error}"));
                    self.retry_at = Some(now + RETRY);
                }
            }
        }
    }

    fn watch(&self, number: u64, pair: &Pair) {
        let _ = self.epoll.add(&pair.datagrams, EpollEvent::new(readable(), DATAGRAMS | number));
        let _ = self.epoll.add(&pair.streams, EpollEvent::new(readable(), STREAMS | number));
    }

    fn listen_for(&self, number: u64, flags: EpollFlags) {
        if let Some(pair) = self.zones.get(&number).and_then(|listener| listener.pair.as_ref()) {
            let _ = self.epoll.modify(&pair.datagrams, &mut EpollEvent::new(flags, DATAGRAMS | number));
        }
    }

    fn close(&mut self, number: u64) {
        self.zones.remove(&number);
        self.streams.retain(|_, stream| stream.zone != number);
        for flight in self.relay.forget(|asker| asker.zone() == number) {
            self.upstreams.remove(&flight);
        }
    }

    /// Counts a question; false when the network has had its share for now.
    fn may_ask(&mut self, number: u64, now: Instant) -> bool {
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

    fn on_datagrams(&mut self, number: u64, now: Instant) {
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

    fn on_question(&mut self, asker: Asker, from: std::net::Ipv4Addr, bytes: &[u8], now: Instant) {
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

    fn perform(&mut self, action: Option<Action>, now: Instant) {
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

    fn on_upstream(&mut self, flight: u64, now: Instant) {
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

    fn on_connection(&mut self, zone: u64, now: Instant) {
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

    fn on_stream(&mut self, number: u64, now: Instant) {
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
    fn settle(&mut self, number: u64) {
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

    fn drop_stream(&mut self, number: u64) {
        self.streams.remove(&number);
        let gone = |asker: &Asker| matches!(asker, Asker::Stream { stream, .. } if *stream == number);
        for flight in self.relay.forget(gone) {
            self.upstreams.remove(&flight);
        }
    }
}
