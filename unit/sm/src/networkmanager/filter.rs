//! Packet filter and counters in the kernel, kept at what is asked.
//!
//! Knows exactly what it has put there, so that each change is one small transaction. When a transaction fails
//! (somebody else removed a table, say) everything is read and built anew, then the instances are added one by
//! one, so that only those that cannot be added fail.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::Ipv4Addr;

use super::conntrack::{Connection, sweep};
use super::counters::{self, Meter};
use super::firewall::{self, Guard};
use super::netlink::{Message, Received, Socket};
use super::nft::{self, Batch, FoundRule, Object};
use super::plumbing::{Net, Socketed};
use super::{Counters, Traffic};

/// Instances in one transaction; more would not fit into the socket's buffer.
const AT_ONCE: usize = 16;

/// The filter as it is in the kernel.
pub struct Filter {
    socket: Socket,
    instances: BTreeMap<String, (Guard, Meter)>,
    networks: BTreeMap<String, Ipv4Addr>,
}

/// What is in the kernel when nobody remembers.
#[derive(Default)]
struct Found {
    chains: BTreeSet<String>,
    rules: Vec<FoundRule>,
    counters: BTreeMap<String, u64>,
    quotas: BTreeSet<String>,
}

impl Filter {
    /// Takes up the rules and counters of `known` that are there, removes those of others, and makes the tables.
    pub fn open(known: &[Socketed], system: Counters, reset: bool) -> io::Result<Self> {
        let mut filter =
            Self { socket: Socket::netfilter()?, instances: BTreeMap::new(), networks: BTreeMap::new() };
        filter.rebuild(known, system)?;
        // Whoever was here before may have ended between a change of the rules and its consequences.
        let stopped = known.iter().filter(|one| !filter.instances.contains_key(one.id()));
        let stopped = stopped.map(|one| one.guard.address).collect();
        filter.forget_connections(stopped);
        if reset {
            filter.reset()?;
        }
        Ok(filter)
    }

    fn list(&mut self, request: Message, each: impl FnMut(&Received<'_>)) -> io::Result<()> {
        match self.socket.dump(request, each) {
            Err(error) if error.raw_os_error() == Some(nix::libc::ENOENT) => Ok(()),
            other => other,
        }
    }

    fn find(&mut self) -> io::Result<Found> {
        let mut found = Found::default();
        self.list(nft::list_chains(), |message| {
            let chain = nft::chain_of(message).filter(|(table, _)| *table == firewall::TABLE);
            found.chains.extend(chain.map(|(_, chain)| chain.to_owned()));
        })?;
        self.list(nft::list_rules(firewall::TABLE), |message| {
            found.rules.extend(nft::rule_of(message, firewall::TABLE));
        })?;
        self.list(nft::list_objects(counters::TABLE, Object::Counter, false), |message| {
            let counter = nft::counter_of(message, counters::TABLE);
            found.counters.extend(counter.map(|(name, bytes)| (name.to_owned(), bytes)));
        })?;
        self.list(nft::list_objects(counters::TABLE, Object::Quota, false), |message| {
            found.quotas.extend(nft::object_of(message, counters::TABLE, Object::Quota).map(str::to_owned));
        })?;
        Ok(found)
    }

    /// Reads what is there and brings it to the instances of `known` whose chains are there, in one transaction.
    fn rebuild(&mut self, known: &[Socketed], system: Counters) -> io::Result<()> {
        let found = self.find()?;
        let figures = counters::figures(found.counters.iter().map(|(name, bytes)| (name.as_str(), *bytes)));
        let mut batch = firewall::base(&found.rules);
        batch.extend(counters::base(!counters::has_system(&found.counters), system));
        self.instances.clear();
        self.networks.clear();
        let mut kept = BTreeSet::new();
        let mut begun = Batch::default();
        for one in known {
            let chains = firewall::chain_names(one.id());
            if !chains.iter().all(|chain| found.chains.contains(chain)) {
                continue;
            }
            kept.extend(chains);
            self.open_network(&one.net, &mut batch);
            batch.extend(firewall::chains(&one.guard));
            batch.extend(firewall::connect(one.id(), one.guard.address));
            let (counters, quotas) = one.meter.objects();
            let complete = counters.iter().all(|name| found.counters.contains_key(name))
                && quotas.iter().all(|name| found.quotas.contains(name));
            if complete {
                kept.extend(counters.into_iter().chain(quotas));
                batch.extend(counters::connect(&one.meter));
            } else {
                let carried = figures.instances.get(one.id()).copied().unwrap_or_default();
                begun.extend(counters::begin(&one.meter, carried));
            }
            self.instances.insert(one.id().to_owned(), (one.guard.clone(), one.meter.clone()));
        }
        for chain in found.chains.iter().filter(|chain| firewall::instance_of(chain).is_some()) {
            if !kept.contains(chain) {
                firewall::forget_chain(&mut batch, chain);
            }
        }
        counters::forget_unknown(&mut batch, &found.counters, &found.quotas, &kept);
        batch.extend(begun);
        let result = self.socket.transaction(batch.finish());
        let Err(error) = result else { return Ok(()) };
        // Something of the same name but another shape is in the way: an older program's, or somebody else's.
        tracing::warn!("the packet filter that is there cannot be taken up, it is made anew: {error}");
        let mut batch = Batch::default();
        for table in [firewall::TABLE, counters::TABLE] {
            batch.table(table);
            batch.remove_table(table);
        }
        batch.extend(firewall::base(&[]));
        batch.extend(counters::base(true, system));
        self.instances.clear();
        self.networks.clear();
        self.socket.transaction(batch.finish())
    }

    fn open_network(&mut self, net: &Net, batch: &mut Batch) {
        if self.networks.insert(net.bridge.clone(), net.gateway.0).is_none() {
            batch.extend(firewall::network(&net.bridge, net.gateway.0));
        }
    }

    fn addition(&mut self, one: &Socketed, carried: &BTreeMap<String, Counters>) -> Batch {
        let mut batch = Batch::default();
        self.open_network(&one.net, &mut batch);
        let before = self.instances.get(one.id()).cloned();
        if before.as_ref().is_none_or(|(guard, _)| *guard != one.guard) {
            batch.extend(firewall::chains(&one.guard));
        }
        match &before {
            Some((guard, _)) if guard.address == one.guard.address => {}
            Some((guard, _)) => {
                batch.extend(firewall::disconnect(guard.address));
                batch.extend(firewall::connect(one.id(), one.guard.address));
            }
            None => batch.extend(firewall::connect(one.id(), one.guard.address)),
        }
        if before.as_ref().is_none_or(|(_, meter)| *meter != one.meter) {
            if let Some((_, meter)) = &before {
                batch.extend(counters::end(meter));
            }
            batch.extend(counters::begin(&one.meter, carried.get(one.id()).copied().unwrap_or_default()));
        }
        self.instances.insert(one.id().to_owned(), (one.guard.clone(), one.meter.clone()));
        batch
    }

    /// Lets packets of instances through and counts them; replaces what was there for them. One result for each.
    pub fn add(&mut self, all: &[Socketed], carried: &BTreeMap<String, Counters>) -> Vec<io::Result<()>> {
        let mut results = Vec::new();
        for part in all.chunks(AT_ONCE) {
            let before = (self.instances.clone(), self.networks.clone());
            let mut batch = Batch::default();
            for one in part {
                let addition = self.addition(one, carried);
                batch.extend(addition);
            }
            if batch.is_empty() || self.socket.transaction(batch.finish()).is_ok() {
                results.extend(part.iter().map(|_| Ok(())));
                self.forget_refused(part, &before.0);
                continue;
            }
            (self.instances, self.networks) = before.clone();
            let repaired = self.repair();
            for one in part {
                let result = match &repaired {
                    Ok(()) => self.add_one(one, carried),
                    Err(error) => Err(io::Error::new(error.kind(), error.to_string())),
                };
                results.push(result);
            }
            self.forget_refused(part, &before.0);
        }
        results
    }

    /// After a change of `changed`: the connections that what was there `before` let through and nothing does now.
    fn forget_refused(&mut self, changed: &[Socketed], before: &BTreeMap<String, (Guard, Meter)>) {
        let old = |one: &Socketed| before.get(one.id()).map(|(guard, _)| guard);
        if changed.iter().any(|one| old(one).is_some_and(|guard| one.guard.is_narrower(guard))) {
            let left = changed.iter().filter_map(old).map(|guard| guard.address);
            self.forget_connections(left.collect());
        }
    }

    /// Forgets the connections of addresses that have no instance now, and all between instances that may not go
    /// on. What cannot be forgotten is told: the rules hold for all connections that begin.
    fn forget_connections(&mut self, mut addresses: BTreeSet<Ipv4Addr>) {
        let guards: BTreeMap<Ipv4Addr, &Guard> =
            self.instances.values().map(|(guard, _)| (guard.address, guard)).collect();
        addresses.retain(|address| !guards.contains_key(address));
        let is_over = |one: &Connection| one.is_of(&addresses) || !firewall::may_go_on(&guards, &one.asked);
        match sweep(&mut self.socket, is_over) {
            Ok(0) => {}
            Ok(count) => tracing::debug!("{count} connections that are not allowed any more have ended"),
            Err(error) => tracing::warn!("connections that are not allowed any more go on: {error}"),
        }
    }

    fn add_one(&mut self, one: &Socketed, carried: &BTreeMap<String, Counters>) -> io::Result<()> {
        let before = (self.instances.clone(), self.networks.clone());
        let batch = self.addition(one, carried);
        let result = if batch.is_empty() { Ok(()) } else { self.socket.transaction(batch.finish()) };
        if result.is_err() {
            (self.instances, self.networks) = before;
        }
        result
    }

    /// Brings the kernel back to what this value says, whatever happened to it.
    fn repair(&mut self) -> io::Result<()> {
        let traffic = self.traffic().unwrap_or_default();
        let instances = std::mem::take(&mut self.instances);
        let networks = std::mem::take(&mut self.networks);
        self.rebuild(&[], traffic.system)?;
        let mut batch = Batch::default();
        for (bridge, gateway) in &networks {
            batch.extend(firewall::network(bridge, *gateway));
        }
        for (id, (guard, meter)) in &instances {
            batch.extend(firewall::chains(guard));
            batch.extend(firewall::connect(id, guard.address));
            let carried = traffic.instances.get(id).copied().unwrap_or_default();
            batch.extend(counters::begin(meter, carried));
        }
        if !batch.is_empty() {
            self.socket.transaction(batch.finish())?;
        }
        (self.instances, self.networks) = (instances, networks);
        Ok(())
    }

    /// Removes everything of instances and of networks nobody uses any more.
    pub fn remove(&mut self, ids: &[String], idle: &[Net]) -> io::Result<()> {
        let mut batch = Batch::default();
        let mut left = BTreeSet::new();
        for id in ids {
            if let Some((guard, meter)) = self.instances.remove(id) {
                left.insert(guard.address);
                batch.extend(firewall::disconnect(guard.address));
                batch.extend(firewall::forget_chains(id));
                batch.extend(counters::end(&meter));
            }
        }
        for net in idle {
            if let Some(gateway) = self.networks.remove(&net.bridge) {
                batch.extend(firewall::forget_network(&net.bridge, gateway));
            }
        }
        let removed = if batch.is_empty() || self.socket.transaction(batch.finish()).is_ok() {
            Ok(())
        } else {
            self.repair()
        };
        if !left.is_empty() {
            self.forget_connections(left);
        }
        removed
    }

    /// The bytes of this period.
    pub fn traffic(&mut self) -> io::Result<Traffic> {
        read(&mut self.socket)
    }

    /// Starts all counters and quotas at zero.
    pub fn reset(&mut self) -> io::Result<()> {
        for kind in [Object::Counter, Object::Quota] {
            self.list(nft::list_objects(counters::TABLE, kind, true), |_| {})?;
        }
        Ok(())
    }
}

/// The figures as the kernel has them now; no process, no file, a few datagrams.
pub fn read(socket: &mut Socket) -> io::Result<Traffic> {
    let mut found = Vec::new();
    socket.dump(nft::list_objects(counters::TABLE, Object::Counter, false), |message| {
        let counter = nft::counter_of(message, counters::TABLE);
        found.extend(counter.map(|(name, bytes)| (name.to_owned(), bytes)));
    })?;
    Ok(counters::figures(found.iter().map(|(name, bytes)| (name.as_str(), *bytes))))
}
