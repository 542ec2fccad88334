//! The kernel's side of the networks: brings links, namespaces and packet filter to what is asked, many
//! instances at a time.
//!
//! All of it blocks (for a few milliseconds at most), so it runs on a thread of its own for each piece of work;
//! that thread may step into the namespaces it makes. The filter comes first and goes last, so that no cable
//! ever hangs without it. What is left of an earlier life and is asked for stays untouched; what nobody asks for
//! is removed.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::Ipv4Addr;
use std::os::fd::AsFd;

use tokio::sync::oneshot;

use super::counters::Meter;
use super::filter::Filter;
use super::firewall::Guard;
use super::links::{Link, Links, mac_of};
use super::netns::Folder;
use super::{Counters, Traffic};
use crate::Error;

/// A network on this node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Net {
    /// Its bridge.
    pub bridge: String,
    /// Address of the bridge and prefix length of the network.
    pub gateway: (Ipv4Addr, u8),
    /// Name and number of the VLAN that joins the nodes.
    pub vlan: Option<(String, u16)>,
}

/// The network of one instance.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Socketed {
    /// Its network.
    pub net: Net,
    /// Host end of its cable.
    pub veth: String,
    /// What it may exchange with whom.
    pub guard: Guard,
    /// What is counted.
    pub meter: Meter,
    /// Prefix length of its address.
    pub prefix: u8,
    /// kbit/s out of the instance, 0 for no bound.
    pub upload_speed: u64,
    /// kbit/s into the instance, 0 for no bound.
    pub download_speed: u64,
}

impl Socketed {
    /// Instance ID.
    pub fn id(&self) -> &str {
        &self.guard.id
    }
}

/// What exists in the kernel, and the way to it.
pub struct Plumbing {
    folder: Folder,
    links: Links,
    filter: Option<Filter>,
    veths: BTreeMap<String, String>,
    vlan_noted: bool,
}

fn failed(what: &str, id: &str) -> impl FnOnce(io::Error) -> Error {
    Error::system(format!("{what} of {id}"))
}

impl Plumbing {
    /// Takes up what is there of `known` and removes the rest. Without `filtered` there are no packet filter and no
    /// counters. `system` is what the node itself had in this period; `reset` when the period is a new one.
    pub fn open(
        folder: Folder,
        known: &[Socketed],
        filtered: bool,
        system: Counters,
        reset: bool,
    ) -> Result<Self, Error> {
        let mut links = Links::open().map_err(Error::system("open a netlink socket"))?;
        let filter = filtered.then(|| Filter::open(known, system, reset)).transpose();
        let filter = filter.map_err(Error::system(
            "set up the packet filter (the kernel's nf_tables; the key network.firewall can turn it off)",
        ))?;
        for id in folder.list() {
            if !known.iter().any(|one| one.id() == id)
                && let Err(error) = folder.remove(&id)
            {
                tracing::warn!("network namespace {id} is of no use and not removed: {error}");
            }
        }
        let names: BTreeSet<&str> = known
            .iter()
            .flat_map(|one| {
                let vlan = one.net.vlan.as_ref().map(|(name, _)| name.as_str());
                [Some(one.veth.as_str()), Some(one.net.bridge.as_str()), vlan].into_iter().flatten()
            })
            .collect();
        let present = links.list().map_err(Error::system("list the network links"))?;
        for link in present.iter().filter(|link| is_named_by_us(link) && !names.contains(link.name.as_str()))
        {
            tracing::info!("link {} is of no use, removed", link.name);
            if let Err(error) = links.remove(&link.name) {
                tracing::warn!("link {} is not removed: {error}", link.name);
            }
        }
        let veths = known.iter().filter(|one| present.iter().any(|link| link.name == one.veth));
        let veths = veths.map(|one| (one.id().to_owned(), one.veth.clone())).collect();
        Ok(Self { folder, links, filter, veths, vlan_noted: false })
    }

    /// Runs `work` on a thread of its own.
    pub async fn on_thread<T: Send + 'static>(
        mut self,
        work: impl FnOnce(&mut Self) -> T + Send + 'static,
    ) -> Result<(Self, T), Error> {
        let (answer, result) = oneshot::channel();
        std::thread::Builder::new()
            .name("network".to_owned())
            .stack_size(256 * 1024)
            .spawn(move || {
                let done = work(&mut self);
                let _ = answer.send((self, done));
            })
            .map_err(Error::system("start the network thread"))?;
        result.await.map_err(|_| Error::Ended("the network thread"))
    }

    /// Brings instances up, also those that are up already; one result for each. `carried` is what each had in this
    /// period, where it is not counted yet.
    pub fn up(&mut self, all: &[Socketed], carried: &BTreeMap<String, Counters>) -> Vec<Result<(), Error>> {
        let mut bridges = BTreeMap::new();
        for one in all {
            if !bridges.contains_key(&one.net.bridge) {
                let ready = self.network(&one.net);
                bridges.insert(one.net.bridge.clone(), ready);
            }
        }
        let allowed = match &mut self.filter {
            Some(filter) => filter.add(all, carried),
            None => all.iter().map(|_| Ok(())).collect(),
        };
        let mut results = Vec::new();
        for (one, allowed) in all.iter().zip(allowed) {
            let result = match (allowed, bridges.get(&one.net.bridge)) {
                (Err(error), _) => Err(failed("allow the packets", one.id())(error)),
                (_, Some(Ok(bridge))) => self.cable(one, *bridge),
                (_, Some(Err(error))) => {
                    let again = io::Error::new(error.kind(), error.to_string());
                    Err(Error::system(format!("set up bridge {}", one.net.bridge))(again))
                }
                (_, None) => Err(Error::NotFound(format!("bridge {}", one.net.bridge))),
            };
            results.push(result);
        }
        let broken: Vec<&Socketed> =
            all.iter().zip(&results).filter(|(_, result)| result.is_err()).map(|(one, _)| one).collect();
        for one in &broken {
            self.unplug(one.id(), &one.veth);
        }
        if let Some(filter) = self.filter.as_mut().filter(|_| !broken.is_empty()) {
            let ids: Vec<String> = broken.iter().map(|one| one.id().to_owned()).collect();
            if let Err(error) = filter.remove(&ids, &[]) {
                tracing::warn!("rules of instances that did not start are left: {error}");
            }
        }
        results
    }

    fn network(&mut self, net: &Net) -> io::Result<u32> {
        // Packets between networks and to the outside need it.
        std::fs::write("/proc/sys/net/ipv4/ip_forward", "1")?;
        let bridge = self.links.ensure_bridge(&net.bridge, mac_of(&net.bridge), net.gateway)?;
        if let Some((name, id)) = &net.vlan {
            // Other nodes have the same bridge names but other addresses of the bridge.
            let mac = mac_of(&format!("{name} {}", net.gateway.0));
            if !self.links.ensure_vlan(name, mac, *id, bridge)? && !self.vlan_noted {
                self.vlan_noted = true;
                tracing::warn!(
                    "no VLAN {id} for {}: no default route or no kernel support; the network ends at this node",
                    net.bridge
                );
            }
        }
        Ok(bridge)
    }

    /// Namespace and cable of an instance, unless they are there.
    fn cable(&mut self, one: &Socketed, bridge: u32) -> Result<(), Error> {
        let id = one.id();
        if self.folder.is_alive(id) {
            let cable = self.links.find(&one.veth).map_err(failed("look at the cable", id))?;
            if cable.is_some_and(|link| link.kind == "veth" && link.master == bridge) {
                self.veths.insert(id.to_owned(), one.veth.clone());
                return Ok(());
            }
        }
        if let Some((other, _)) = self.veths.iter().find(|(other, veth)| **veth == one.veth && *other != id) {
            return Err(Error::Taken { what: format!("link name {}", one.veth), by: other.clone() });
        }
        self.links.remove(&one.veth).map_err(failed("remove the old cable", id))?;
        self.folder.remove(id).map_err(failed("remove the old network namespace", id))?;
        let (space, mut inside) = self.folder.make(id).map_err(failed("make the network namespace", id))?;
        let cable = self.links.lay_cable(&one.veth, bridge, space.as_fd());
        let index = cable.map_err(failed("lay the cable", id))?;
        self.veths.insert(id.to_owned(), one.veth.clone());
        let furnished = inside.furnish((one.guard.address, one.prefix), one.net.gateway.0);
        let inner = furnished.map_err(failed("set up the interface", id))?;
        if one.upload_speed > 0 {
            inside.limit(inner, one.upload_speed).map_err(failed("limit the upload speed", id))?;
        }
        if one.download_speed > 0 {
            self.links.limit(index, one.download_speed).map_err(failed("limit the download speed", id))?;
        }
        Ok(())
    }

    fn unplug(&mut self, id: &str, veth: &str) -> bool {
        self.veths.remove(id);
        let gone = self.links.remove(veth).and_then(|()| self.folder.remove(id));
        if let Err(error) = &gone {
            tracing::error!("the network of {id} is not taken down: {error}");
        }
        gone.is_ok()
    }

    /// Takes instances (ID and host end of the cable) down, and the networks nobody uses any more.
    pub fn down(&mut self, instances: &[(String, String)], idle: &[Net]) -> Result<(), Error> {
        let mut complete = true;
        let of_networks = || {
            let vlan = |net: &'_ Net| net.vlan.as_ref().map(|(name, _)| name.clone());
            idle.iter().flat_map(move |net| vlan(net).into_iter().chain([net.bridge.clone()]))
        };
        let links: BTreeSet<String> =
            instances.iter().map(|(_, veth)| veth.clone()).chain(of_networks()).collect();
        if let Err(error) = self.links.remove_all(&links.iter().map(String::as_str).collect()) {
            tracing::debug!("links are removed one by one: {error}");
        }
        for (id, veth) in instances {
            complete &= self.unplug(id, veth);
        }
        for name in of_networks() {
            if let Err(error) = self.links.remove(&name) {
                tracing::error!("link {name} is not removed: {error}");
                complete = false;
            }
        }
        if let Some(filter) = &mut self.filter {
            let ids: Vec<String> = instances.iter().map(|(id, _)| id.clone()).collect();
            filter.remove(&ids, idle).map_err(Error::system("remove the rules of instances"))?;
        }
        if complete {
            Ok(())
        } else {
            Err(Error::NotFound("a way to remove all links and namespaces".to_owned()))
        }
    }

    /// Gives instances that are up other openings; one result for each.
    pub fn refill(&mut self, all: &[Socketed]) -> Vec<Result<(), Error>> {
        let Some(filter) = &mut self.filter else { return all.iter().map(|_| Ok(())).collect() };
        let results = filter.add(all, &BTreeMap::new());
        all.iter()
            .zip(results)
            .map(|(one, result)| result.map_err(failed("change the openings", one.id())))
            .collect()
    }

    /// The bytes of this period.
    pub fn traffic(&mut self) -> Result<Traffic, Error> {
        match &mut self.filter {
            Some(filter) => filter.traffic().map_err(Error::system("read the traffic counters")),
            None => Ok(Traffic::default()),
        }
    }

    /// Starts all counters and bounds at zero.
    pub fn reset(&mut self) -> Result<(), Error> {
        match &mut self.filter {
            Some(filter) => filter.reset().map_err(Error::system("reset the traffic counters")),
            None => Ok(()),
        }
    }
}

/// True for names only this program gives: a word and eight hex digits, and the right kind.
fn is_named_by_us(link: &Link) -> bool {
    [("veth", "veth"), ("bridge", "br-"), ("vlan", "vlan-")].iter().any(|(kind, word)| {
        link.kind == *kind
            && link.name.strip_prefix(word).is_some_and(|rest| {
                rest.len() == 8
                    && rest.bytes().all(|byte| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte))
            })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn links_of_others_are_not_ours() {
        let link = |name: &str, kind: &str| Link {
            name: name.into(),
            index: 1,
            kind: kind.into(),
            master: 0,
            group: 0,
        };
        assert!(is_named_by_us(&link("veth0123abcd", "veth")));
        assert!(is_named_by_us(&link("br-0123abcd", "bridge")));
        assert!(is_named_by_us(&link("vlan-0123abcd", "vlan")));
        for (name, kind) in [
            ("veth0123abc", "veth"),
            ("br-0123abcd0123", "bridge"),
            ("br-0123abcd", "veth"),
            ("docker0", "bridge"),
            ("veth0123ABCD", "veth"),
        ] {
            assert!(!is_named_by_us(&link(name, kind)), "{name}");
        }
    }
}
