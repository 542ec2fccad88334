//! The rules of the Unit's networks: who gets which subnet, VLAN, address and firewall rule.
//!
//! Pure: every call changes the value and names the records that changed. The shell works on a clone and
//! keeps it only after the records are stored, so memory and disk never disagree.
//!
//! A network belongs to an owner (provider) and is one /16 with one VLAN number 1..=4094. What a requester may
//! reach is derived from the allowed connections and the exposed ports of all known instances, never stored:
//! a target that comes later simply makes the derived list longer, and the requester's node is told.

use std::collections::{BTreeMap, VecDeque};
use std::net::Ipv4Addr;

use aos_ids::{InstanceIdent, NodeId, OwnerId};

use super::pool::{Addresses, Subnet, all_subnets};
pub use super::types::{
    Allowed, Change, Effects, Instance, InstanceParams, MAX_PER_INSTANCE, NetworkError, NodeParams, Notice,
    Port, Rule, Wanted,
};

/// Most networks of one Unit.
pub const MAX_NETWORKS: usize = 4;

#[derive(Debug, Clone)]
struct Network {
    subnet: Subnet,
    vlan: u16,
    hosts: BTreeMap<NodeId, Ipv4Addr>,
    addresses: Addresses,
}

/// All networks of the Unit.
#[derive(Debug, Clone)]
pub struct Networks {
    free: VecDeque<Subnet>,
    of_owners: BTreeMap<OwnerId, Network>,
    instances: BTreeMap<InstanceIdent, Instance>,
}

impl Default for Networks {
    fn default() -> Self {
        Self { free: all_subnets(), of_owners: BTreeMap::new(), instances: BTreeMap::new() }
    }
}

impl Networks {
    /// Takes a stored record up again. Records that contradict earlier ones are refused with `false`.
    pub fn restore(&mut self, record: Change) -> bool {
        match record {
            Change::Network(owner, Some((subnet, vlan))) => {
                if self.of_owners.values().any(|net| net.vlan == vlan || net.subnet.overlaps(subnet)) {
                    return false;
                }
                self.free.retain(|free| !free.overlaps(subnet));
                let network =
                    Network { subnet, vlan, hosts: BTreeMap::new(), addresses: Addresses::of(subnet) };
                self.of_owners.insert(owner, network);
                true
            }
            Change::Host(owner, node, Some(ip)) => self.of_owners.get_mut(&owner).is_some_and(|network| {
                let good = network.subnet.contains(ip) && network.addresses.occupy(ip);
                if good {
                    network.hosts.insert(node, ip);
                }
                good
            }),
            Change::Instance(ident, Some(instance)) => {
                let good = self.of_owners.get_mut(&instance.network).is_some_and(|network| {
                    network.subnet.contains(instance.ip) && network.addresses.occupy(instance.ip)
                });
                if good {
                    self.instances.insert(ident, instance);
                }
                good
            }
            _ => false,
        }
    }

    /// Parameters of `node` in the network of `owner`; makes the network and the host entry when absent.
    /// `routes` are the networks the host reaches already, `random` any number, to choose the VLAN.
    pub fn node_params(
        &mut self,
        owner: &OwnerId,
        node: &NodeId,
        routes: &[Subnet],
        random: u16,
    ) -> Result<(NodeParams, Effects), NetworkError> {
        let mut effects = Effects::default();
        if !self.of_owners.contains_key(owner) {
            if self.of_owners.len() >= MAX_NETWORKS {
                return Err(NetworkError::NoSubnet);
            }
            let vlan = self.free_vlan(random).ok_or(NetworkError::NoVlan)?;
            let place = self
                .free
                .iter()
                .position(|subnet| !routes.iter().any(|route| route.overlaps(*subnet)))
                .ok_or(NetworkError::NoSubnet)?;
            let subnet = self.free.remove(place).ok_or(NetworkError::NoSubnet)?;
            let network = Network { subnet, vlan, hosts: BTreeMap::new(), addresses: Addresses::of(subnet) };
            self.of_owners.insert(owner.clone(), network);
            effects.changes.push(Change::Network(owner.clone(), Some((subnet, vlan))));
        }
        let network = self.of_owners.get_mut(owner).ok_or(NetworkError::NetworkNotFound)?;
        let ip = if let Some(ip) = network.hosts.get(node) {
            *ip
        } else {
            let ip = network.addresses.take().ok_or(NetworkError::NoAddress(network.subnet))?;
            network.hosts.insert(node.clone(), ip);
            effects.changes.push(Change::Host(owner.clone(), node.clone(), Some(ip)));
            ip
        };
        Ok((NodeParams { subnet: network.subnet, ip, vlan: network.vlan }, effects))
    }

    fn free_vlan(&self, random: u16) -> Option<u16> {
        (0..4094u16)
            .map(|step| 1 + (random % 4094 + step) % 4094)
            .find(|vlan| !self.of_owners.values().any(|network| network.vlan == *vlan))
    }

    /// Gives an instance its address and rules, or gives the same again.
    pub fn allocate(
        &mut self,
        ident: &InstanceIdent,
        owner: &OwnerId,
        node: &NodeId,
        wanted: Wanted,
    ) -> Result<(InstanceParams, Effects), NetworkError> {
        let network = self.of_owners.get(owner).ok_or(NetworkError::NetworkNotFound)?;
        if !network.hosts.contains_key(node) {
            return Err(NetworkError::HostNotFound);
        }
        if [wanted.hosts.len(), wanted.allowed.len(), wanted.ports.len()]
            .iter()
            .any(|n| *n > MAX_PER_INSTANCE)
        {
            return Err(NetworkError::TooMany);
        }
        let ports = wanted.ports.iter().map(|text| Port::parse(text)).collect::<Result<Vec<_>, _>>()?;
        let allowed =
            wanted.allowed.iter().map(|text| Allowed::parse(text)).collect::<Result<Vec<_>, _>>()?;
        let taken = self
            .instances
            .iter()
            .filter(|(other, _)| *other != ident)
            .find_map(|(_, other)| wanted.hosts.iter().find(|name| other.hosts.contains(name)));
        if let Some(name) = taken {
            return Err(NetworkError::HostTaken(name.clone()));
        }

        let before = self.all_rules();
        let mut effects = Effects::default();
        let known = self.instances.get(ident).filter(|known| known.network == *owner).map(|known| known.ip);
        let ip = if let Some(ip) = known {
            ip
        } else {
            self.drop_instance(ident, &mut effects);
            let network = self.of_owners.get_mut(owner).ok_or(NetworkError::NetworkNotFound)?;
            network.addresses.take().ok_or(NetworkError::NoAddress(network.subnet))?
        };
        let instance =
            Instance { network: owner.clone(), node: node.clone(), ip, ports, allowed, hosts: wanted.hosts };
        if self.instances.get(ident) != Some(&instance) {
            self.instances.insert(ident.clone(), instance.clone());
            effects.changes.push(Change::Instance(ident.clone(), Some(instance)));
        }
        self.notice_changes(&before, Some(ident), &mut effects);
        let subnet =
            self.of_owners.get(owner).map(|network| network.subnet).ok_or(NetworkError::NetworkNotFound)?;
        Ok((InstanceParams { subnet, ip, rules: self.rules(ident) }, effects))
    }

    /// Gives an instance's address back. An unknown instance is no error.
    pub fn release(&mut self, ident: &InstanceIdent, node: &NodeId) -> Effects {
        let mut effects = Effects::default();
        if self.instances.get(ident).is_some_and(|known| known.node == *node) {
            let before = self.all_rules();
            self.drop_instance(ident, &mut effects);
            self.notice_changes(&before, None, &mut effects);
        }
        effects
    }

    /// Takes a node out of a network, with all its instances there.
    pub fn release_node(&mut self, owner: &OwnerId, node: &NodeId) -> Result<Effects, NetworkError> {
        let network = self.of_owners.get(owner).ok_or(NetworkError::NetworkNotFound)?;
        if !network.hosts.contains_key(node) {
            return Err(NetworkError::HostNotFound);
        }
        let before = self.all_rules();
        let mut effects = Effects::default();
        for ident in self.idents(|known| known.node == *node && known.network == *owner) {
            self.drop_instance(&ident, &mut effects);
        }
        if let Some(network) = self.of_owners.get_mut(owner) {
            if let Some(ip) = network.hosts.remove(node) {
                network.addresses.release(ip);
                effects.changes.push(Change::Host(owner.clone(), node.clone(), None));
            }
            if network.hosts.is_empty() {
                let subnet = network.subnet;
                self.of_owners.remove(owner);
                self.free.push_back(subnet);
                effects.changes.push(Change::Network(owner.clone(), None));
            }
        }
        self.notice_changes(&before, None, &mut effects);
        Ok(effects)
    }

    /// Brings our view and the node's together: what the node no longer has is released, and instances whose
    /// rule list differs from ours are told the right one. `present` is what the node says it has.
    pub fn sync(&mut self, node: &NodeId, present: &BTreeMap<InstanceIdent, Vec<Rule>>) -> Effects {
        let before = self.all_rules();
        let mut effects = Effects::default();
        for ident in self.idents(|known| known.node == *node) {
            if !present.contains_key(&ident) {
                self.drop_instance(&ident, &mut effects);
            }
        }
        self.notice_changes(&before, None, &mut effects);
        for (ident, theirs) in present {
            let ours = self.rules(ident);
            let mut theirs = theirs.clone();
            theirs.sort();
            let told = effects.notices.iter().any(|notice| notice.instance == *ident);
            if ours != theirs && !told && self.instances.get(ident).is_some_and(|known| known.node == *node) {
                effects.notices.push(Notice { node: node.clone(), instance: ident.clone(), rules: ours });
            }
        }
        effects
    }

    /// All flows the instance may open now, sorted. Instances in the same subnet need none.
    pub fn rules(&self, ident: &InstanceIdent) -> Vec<Rule> {
        let Some(requester) = self.instances.get(ident) else { return Vec::new() };
        let mut rules = Vec::new();
        for allowed in &requester.allowed {
            let of_item = |(target, known): &(&InstanceIdent, &Instance)| {
                target.item.as_str() == allowed.item && known.network != requester.network
            };
            for (_, known) in self.instances.iter().filter(of_item) {
                for dst_port in known.ports.iter().filter_map(|exposed| allowed.port.common(exposed)) {
                    let proto = allowed.port.proto.clone();
                    rules.push(Rule { dst_ip: known.ip, dst_port, proto, src_ip: requester.ip });
                }
            }
        }
        rules.sort();
        rules.dedup();
        rules
    }

    /// Address and names of all instances, for the hosts file.
    pub fn hosts(&self) -> impl Iterator<Item = (Ipv4Addr, &[String])> {
        self.instances
            .values()
            .filter(|known| !known.hosts.is_empty())
            .map(|known| (known.ip, known.hosts.as_slice()))
    }

    fn idents(&self, wanted: impl Fn(&Instance) -> bool) -> Vec<InstanceIdent> {
        self.instances.iter().filter(|(_, known)| wanted(known)).map(|(ident, _)| ident.clone()).collect()
    }

    fn drop_instance(&mut self, ident: &InstanceIdent, effects: &mut Effects) {
        if let Some(known) = self.instances.remove(ident) {
            if let Some(network) = self.of_owners.get_mut(&known.network) {
                network.addresses.release(known.ip);
            }
            effects.changes.push(Change::Instance(ident.clone(), None));
        }
    }

    fn all_rules(&self) -> BTreeMap<InstanceIdent, Vec<Rule>> {
        let requesters = self.instances.iter().filter(|(_, known)| !known.allowed.is_empty());
        requesters.map(|(ident, _)| (ident.clone(), self.rules(ident))).collect()
    }

    /// Notices for requesters whose list differs from `before`; `asker` gets its list in the answer.
    fn notice_changes(
        &self,
        before: &BTreeMap<InstanceIdent, Vec<Rule>>,
        asker: Option<&InstanceIdent>,
        effects: &mut Effects,
    ) {
        for (instance, old) in before {
            let Some(known) = self.instances.get(instance) else { continue };
            let rules = self.rules(instance);
            if rules != *old && Some(instance) != asker {
                effects.notices.push(Notice { node: known.node.clone(), instance: instance.clone(), rules });
            }
        }
    }
}

#[cfg(test)]
#[path = "core_tests.rs"]
mod tests;
