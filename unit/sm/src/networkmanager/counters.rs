//! Counting traffic with public peers, and the bound on it. Pure.
//!
//! Table `inet aos-traffic`. Each instance has two named counters, found by its address in a map, and quotas
//! where it is bounded; both start at what was counted before in the same day, so the kernel's numbers are the
//! day's numbers. An exhausted quota drops the packet at once, not only when somebody looks. Counting comes
//! behind the packet filter: what is not let through is not counted. Peers in private networks, on the link or
//! on this machine do not count.
//!
//! The table outlives this program, so that nothing is lost while it is away.

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;

use super::nft::{Batch, End, Hook, Key, Object, Value, Verdict};
use super::{Counters, Traffic};

/// The table.
pub const TABLE: &str = "aos-traffic";
const SYSTEM: &str = "system";
const PRIVATE: [(Ipv4Addr, u8); 5] = [
    (Ipv4Addr::new(127, 0, 0, 0), 8),
    (Ipv4Addr::new(10, 0, 0, 0), 8),
    (Ipv4Addr::new(172, 16, 0, 0), 12),
    (Ipv4Addr::new(192, 168, 0, 0), 16),
    (Ipv4Addr::new(169, 254, 0, 0), 16),
];
/// First two bytes and their mask: unique local, link local, multicast, and the loopback address.
const PRIVATE_V6: [(u16, u16); 4] = [(0xfc00, 0xfe00), (0xfe80, 0xffc0), (0xff00, 0xff00), (0, 0xffff)];

/// One direction, seen from the instance.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Direction {
    Down,
    Up,
}

use Direction::{Down, Up};

impl Direction {
    const fn word(self) -> &'static str {
        match self {
            Down => "in",
            Up => "out",
        }
    }

    /// The end of a packet at which the instance is.
    const fn own(self) -> End {
        match self {
            Down => End::Target,
            Up => End::Source,
        }
    }

    const fn peer(self) -> End {
        match self {
            Down => End::Source,
            Up => End::Target,
        }
    }

    fn counter(self, name: &str) -> String {
        format!("{}_{name}", self.word())
    }

    fn quota(self, name: &str) -> String {
        format!("limit_{}_{name}", self.word())
    }

    fn counters(self) -> String {
        format!("{}_counters", self.word())
    }

    fn quotas(self) -> String {
        format!("{}_limits", self.word())
    }
}

/// What is counted of one instance.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Meter {
    /// Instance ID.
    pub id: String,
    /// Its address.
    pub address: Ipv4Addr,
    /// Most bytes from public peers in a day.
    pub download_limit: Option<u64>,
    /// Most bytes to public peers in a day.
    pub upload_limit: Option<u64>,
}

impl Meter {
    /// Names of its counters and of its quotas.
    pub fn objects(&self) -> (Vec<String>, Vec<String>) {
        let counters = [Down, Up].map(|direction| direction.counter(&self.id)).into();
        let bounded = self.directions().into_iter().filter(|(_, limit)| limit.is_some());
        (counters, bounded.map(|(direction, _)| direction.quota(&self.id)).collect())
    }

    fn directions(&self) -> [(Direction, Option<u64>); 2] {
        [(Down, self.download_limit), (Up, self.upload_limit)]
    }
}

/// Table, chains, empty maps and the rules that never change. `fresh` when there is no such table yet; the node's
/// own counters then start at `system`.
pub fn base(fresh: bool, system: Counters) -> Batch {
    let mut batch = Batch::default();
    batch.table(TABLE);
    for direction in [Down, Up] {
        batch.set(TABLE, &direction.counters(), Key::Address, Value::Object(Object::Counter));
        batch.set(TABLE, &direction.quotas(), Key::Address, Value::Object(Object::Quota));
        batch.empty(TABLE, &direction.counters());
        batch.empty(TABLE, &direction.quotas());
        if fresh {
            let bytes = if direction == Down { system.download } else { system.upload };
            batch.counter(TABLE, &direction.counter(SYSTEM), bytes);
        }
        let (of_system, of_instances) = (format!("{}_system", direction.word()), direction.word());
        for chain in [of_system.as_str(), of_instances] {
            batch.chain(TABLE, chain);
            batch.flush(TABLE, chain);
            for (network, prefix) in PRIVATE {
                batch.rule(TABLE, chain, |rule| {
                    rule.in_network(direction.peer(), network, prefix).verdict(Verdict::Return);
                });
            }
            for (value, mask) in PRIVATE_V6 {
                batch.rule(TABLE, chain, |rule| {
                    rule.in_ipv6_network(direction.peer(), value, mask).verdict(Verdict::Return);
                });
            }
        }
        batch.rule(TABLE, &of_system, |rule| {
            rule.count(&direction.counter(SYSTEM));
        });
        batch.rule(TABLE, of_instances, |rule| {
            rule.object_of(direction.own(), &direction.quotas()).verdict(Verdict::Drop);
        });
        batch.rule(TABLE, of_instances, |rule| {
            rule.object_of(direction.own(), &direction.counters());
        });
    }
    let hooks: [(&str, Hook, &[&str]); 3] = [
        ("input", Hook::Input, &["in_system"]),
        ("output", Hook::Output, &["out_system"]),
        ("forward", Hook::Forward, &["in", "out"]),
    ];
    for (chain, hook, targets) in hooks {
        batch.base_chain(TABLE, chain, "filter", (hook, 10), true);
        batch.flush(TABLE, chain);
        for target in targets {
            batch.rule(TABLE, chain, |rule| rule.verdict(Verdict::Jump(target)));
        }
    }
    batch
}

/// Counts an instance, beginning at `carried`.
pub fn begin(meter: &Meter, carried: Counters) -> Batch {
    let mut batch = Batch::default();
    for (direction, limit) in meter.directions() {
        let used = if direction == Down { carried.download } else { carried.upload };
        batch.counter(TABLE, &direction.counter(&meter.id), used);
        if let Some(limit) = limit {
            batch.quota(TABLE, &direction.quota(&meter.id), limit, used);
        }
    }
    batch.extend(connect(meter));
    batch
}

/// Leads packets to the counters that are there.
pub fn connect(meter: &Meter) -> Batch {
    let mut batch = Batch::default();
    let key = meter.address.octets();
    for (direction, limit) in meter.directions() {
        batch.object_member(TABLE, &direction.counters(), &key, &direction.counter(&meter.id));
        if limit.is_some() {
            batch.object_member(TABLE, &direction.quotas(), &key, &direction.quota(&meter.id));
        }
    }
    batch
}

/// Undoes [`begin`].
pub fn end(meter: &Meter) -> Batch {
    let mut batch = Batch::default();
    let key = meter.address.octets();
    for (direction, limit) in meter.directions() {
        batch.remove_member(TABLE, &direction.counters(), &key);
        batch.remove_object(TABLE, &direction.counter(&meter.id), Object::Counter);
        if limit.is_some() {
            batch.remove_member(TABLE, &direction.quotas(), &key);
            batch.remove_object(TABLE, &direction.quota(&meter.id), Object::Quota);
        }
    }
    batch
}

/// True when the node's own counters are among those found.
pub fn has_system(counters: &BTreeMap<String, u64>) -> bool {
    [Down, Up].iter().all(|direction| counters.contains_key(&direction.counter(SYSTEM)))
}

/// Removes counters and quotas that were found and are not to be kept. Nothing leads to them: [`base`] empties the
/// maps.
pub fn forget_unknown(
    batch: &mut Batch,
    counters: &BTreeMap<String, u64>,
    quotas: &BTreeSet<String>,
    kept: &BTreeSet<String>,
) {
    let system = [Down, Up].map(|direction| direction.counter(SYSTEM));
    for name in counters.keys().filter(|name| !kept.contains(*name) && !system.contains(name)) {
        batch.remove_object(TABLE, name, Object::Counter);
    }
    for name in quotas.difference(kept) {
        batch.remove_object(TABLE, name, Object::Quota);
    }
}

/// The figures from counters by name; names that are none of ours are left out.
pub fn figures<'a>(counters: impl Iterator<Item = (&'a str, u64)>) -> Traffic {
    let mut traffic = Traffic::default();
    for (name, bytes) in counters {
        let Some((direction, id)) = [Down, Up]
            .into_iter()
            .find_map(|one| Some((one, name.strip_prefix(one.word())?.strip_prefix('_')?)))
        else {
            continue;
        };
        let place = if id == SYSTEM {
            &mut traffic.system
        } else {
            traffic.instances.entry(id.to_owned()).or_default()
        };
        match direction {
            Down => place.download = bytes,
            Up => place.upload = bytes,
        }
    }
    traffic
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_are_found_by_name() {
        let counters =
            [("in_system", 1), ("out_system", 2), ("in_a_b", 3), ("out_a_b", 4), ("other", 5), ("in", 6)];
        let traffic = figures(counters.into_iter());
        assert_eq!(traffic.system, Counters { download: 1, upload: 2 });
        assert_eq!(traffic.instances["a_b"], Counters { download: 3, upload: 4 });
        assert_eq!(traffic.instances.len(), 1);
    }
}
