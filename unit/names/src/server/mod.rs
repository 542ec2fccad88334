//! The sockets: brings packets to the core and carries out what it says. One epoll descriptor stands for all.

mod connections;
mod questions;

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::net::UdpSocket;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};

use crate::host::Host;
use crate::relay::Relay;
use crate::sockets::Pair;
use crate::store::{Error, Store, check};
use crate::streams::Framed;
use crate::zone::{MAX_ZONES, Zone};

/// Questions a network may ask in a slice of time; then the others have their turn.
const MAX_OF_SLICE: u32 = 1000;
const SLICE: Duration = Duration::from_millis(100);
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
}
