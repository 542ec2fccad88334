//! What a Unit is, merged from its statuses.
//!
//! Statuses may arrive late, twice and out of order: a Unit repeats unacknowledged messages in any order.
//! Every entry therefore remembers the time of the message that wrote it, and older messages never undo
//! newer ones. The first full status of a session always counts, because a Unit's clock may have been set
//! back meanwhile.

use std::collections::BTreeMap;

use aos_cloud_protocol::{AosIdentity, InstanceInfo, ItemStatus, NodeInfo, UnitConfigStatus, UnitStatus};
use serde::{Deserialize, Serialize};

/// Identity and version of an item, the key of its status.
pub type ItemKey = (String, String);
/// Item, subject, version and number: the key of an instance.
pub type InstanceKey = (String, String, String, u64);

/// A value and the time of the message that wrote it, microseconds since 1970.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Stamped<T> {
    /// The time.
    pub at: i64,
    /// The value.
    pub value: T,
}

/// An instance with what it is an instance of.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Instance {
    /// The item.
    pub item: AosIdentity,
    /// The subject.
    pub subject: AosIdentity,
    /// Version of the item.
    pub version: String,
    /// The instance.
    pub info: InstanceInfo,
}

/// What a status did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Merged {
    /// It counted.
    Applied,
    /// It was older than the last full status.
    Stale,
}

/// Items, and instances, that are known of one Unit at most. Units of the original report 128 and 256.
pub const MAX_KNOWN: usize = 4096;
/// Nodes that are known of one Unit at most.
pub const MAX_KNOWN_NODES: usize = 256;

/// Merged state of a Unit.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct UnitState {
    /// Session of the last full status; 0 before the first one.
    pub session: i64,
    /// Time of the last full status.
    pub full_at: i64,
    /// Unit configurations.
    pub unit_config: Option<Stamped<Vec<UnitConfigStatus>>>,
    /// Subjects that the Unit reports.
    pub subjects: Option<Stamped<Vec<AosIdentity>>>,
    /// Nodes.
    pub nodes: Vec<Stamped<NodeInfo>>,
    /// Items, removed ones until the next full status.
    pub items: Vec<Stamped<ItemStatus>>,
    /// Instances.
    pub instances: Vec<Stamped<Instance>>,
}

impl UnitState {
    /// Merges a status made at `created_at` (microseconds since 1970) that came in `session`.
    pub fn merge(&mut self, status: UnitStatus, created_at: i64, session: i64) -> Merged {
        let greeting = !status.is_delta_info && session > self.session;
        if !greeting && created_at < self.full_at {
            return Merged::Stale;
        }
        let full = !status.is_delta_info;
        // What a full status does not mention is gone, unless a later message has mentioned it already.
        let newer = |at: i64| !full || (!greeting && at > created_at);
        let stamped = |value| Stamped { at: created_at, value };

        let mut nodes = keyed(&mut self.nodes, node_key, newer);
        for node in status.nodes.into_iter().flatten() {
            put(&mut nodes, node_key(&node), stamped(node));
        }
        self.nodes = newest(nodes, MAX_KNOWN_NODES);

        let stamped = |value| Stamped { at: created_at, value };
        let mut items = keyed(&mut self.items, item_key, newer);
        for item in status.items.into_iter().flatten() {
            put(&mut items, item_key(&item), stamped(item));
        }
        self.items = newest(items, MAX_KNOWN);

        let stamped = |value| Stamped { at: created_at, value };
        let mut instances = keyed(&mut self.instances, instance_key, newer);
        for group in status.instances.into_iter().flatten() {
            for info in group.instances {
                let instance = Instance {
                    item: group.item.clone(),
                    subject: group.subject.clone(),
                    version: group.version.clone(),
                    info,
                };
                put(&mut instances, instance_key(&instance), stamped(instance));
            }
        }
        self.instances = newest(instances, MAX_KNOWN);

        replace(&mut self.unit_config, status.unit_config, created_at, newer);
        replace(&mut self.subjects, status.subjects, created_at, newer);
        if full {
            self.full_at = created_at;
            self.session = session;
        }
        Merged::Applied
    }

    /// The configurations that the Unit reports.
    pub fn config_statuses(&self) -> &[UnitConfigStatus] {
        self.unit_config.as_ref().map_or(&[], |reported| &reported.value)
    }

    /// True when `session` has brought a full status.
    pub fn is_known_in(&self, session: i64) -> bool {
        self.session == session && session > 0
    }
}

fn name(identity: &AosIdentity) -> String {
    identity.key().unwrap_or_default().to_owned()
}

fn node_key(node: &NodeInfo) -> String {
    name(&node.identity)
}

fn item_key(item: &ItemStatus) -> ItemKey {
    (name(&item.item), item.version.clone())
}

fn instance_key(instance: &Instance) -> InstanceKey {
    (name(&instance.item), name(&instance.subject), instance.version.clone(), instance.info.instance)
}

fn keyed<K: Ord, T>(
    entries: &mut Vec<Stamped<T>>,
    key: impl Fn(&T) -> K,
    keep: impl Fn(i64) -> bool,
) -> BTreeMap<K, Stamped<T>> {
    std::mem::take(entries)
        .into_iter()
        .filter(|entry| keep(entry.at))
        .map(|entry| (key(&entry.value), entry))
        .collect()
}

/// The entries in order; of too many the ones told of last. Changes could name ever new things.
fn newest<K, T>(entries: BTreeMap<K, Stamped<T>>, max: usize) -> Vec<Stamped<T>> {
    let mut entries: Vec<Stamped<T>> = entries.into_values().collect();
    if entries.len() > max {
        let mut times: Vec<i64> = entries.iter().map(|entry| entry.at).collect();
        times.sort_unstable();
        let oldest_kept = times[times.len() - max];
        entries.retain(|entry| entry.at >= oldest_kept);
        entries.truncate(max);
    }
    entries
}

/// Of two entries with the same key the one of the later message stays.
fn put<K: Ord, T>(entries: &mut BTreeMap<K, Stamped<T>>, key: K, new: Stamped<T>) {
    if entries.get(&key).is_none_or(|old| old.at <= new.at) {
        entries.insert(key, new);
    }
}

fn replace<T>(
    present: &mut Option<Stamped<T>>,
    reported: Option<T>,
    created_at: i64,
    keep: impl Fn(i64) -> bool,
) {
    if present.as_ref().is_some_and(|entry| !keep(entry.at)) {
        *present = None;
    }
    if let Some(value) = reported
        && present.as_ref().is_none_or(|entry| entry.at <= created_at)
    {
        *present = Some(Stamped { at: created_at, value });
    }
}
