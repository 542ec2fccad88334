//! The launcher's rules: which instances exist, where they are, and what each node has to be told.
//!
//! Pure. Records are made from run requests, placed, and kept; what a node should do is always derived from
//! the records and the node's last report, so a message lost or a restart of either side changes nothing.
//! An instance that already runs as recorded is never touched.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, SystemTime};

use aos_ids::{Digest, InstanceIdent, ItemId, ItemKind, NodeId, RuntimeId, SubjectId};
use aos_status::{AosCode, ErrorInfo};

pub use super::derived::Command;
use super::numbers::lowest_free;
use super::placement::{self, Node, Place, Space, Variant, Wish};
use super::records::{Change, Extras, Key, Record, Report, RunRequest, Standing};

/// Versions of one instance that are remembered.
const MAX_VERSIONS: usize = 2;

/// What is known of an item that is to be run.
#[derive(Debug, Clone, PartialEq)]
pub struct Image {
    /// Ways to run it, in order of preference.
    pub variants: Vec<Variant>,
    /// The rest of the configuration, for each manifest.
    pub extras: BTreeMap<Digest, Extras>,
}

/// Images by item and version; an error tells why an item cannot be run.
pub type Images = BTreeMap<(ItemId, String), Result<Image, ErrorInfo>>;

/// Everything a balancing run looks at.
#[derive(Debug)]
pub struct Surroundings<'a> {
    /// Provisioned nodes whose Service Manager is known.
    pub nodes: &'a [Node],
    /// Those of them that can take new instances now.
    pub connected: &'a BTreeSet<NodeId>,
    /// Nodes that are linked but have been taken out of service: what runs there has to go.
    pub withdrawn: &'a BTreeSet<NodeId>,
    /// Items.
    pub images: &'a Images,
    /// Space for storages and states.
    pub space: Space,
    /// Subjects of the Unit itself.
    pub subjects: &'a BTreeSet<SubjectId>,
    /// User and group numbers of the system.
    pub system_numbers: &'a BTreeSet<u32>,
    /// Now.
    pub now: SystemTime,
}

/// All instances of the Unit.
#[derive(Debug, Default)]
pub struct Launcher {
    requests: Vec<RunRequest>,
    pub(super) records: BTreeMap<Key, Record>,
    /// Why an active record has no place or was given up.
    pub(super) failures: BTreeMap<Key, ErrorInfo>,
    /// Active records whose node is away and that found no other place.
    misplaced: BTreeSet<Key>,
    /// Last word of each node.
    pub(super) reports: BTreeMap<NodeId, Vec<Report>>,
}

impl Launcher {
    /// Takes up stored requests and records.
    pub fn new(requests: Vec<RunRequest>, records: impl IntoIterator<Item = (Key, Record)>) -> Self {
        Self { requests, records: records.into_iter().collect(), ..Self::default() }
    }

    /// What was asked for.
    pub fn requests(&self) -> &[RunRequest] {
        &self.requests
    }

    /// Replaces what is asked for; placed by the next [`Launcher::balance`].
    pub fn set_requests(&mut self, mut requests: Vec<RunRequest>) {
        requests.sort_by(|a, b| b.priority.cmp(&a.priority).then_with(|| a.item.cmp(&b.item)));
        self.requests = requests;
    }

    /// All records.
    pub fn records(&self) -> &BTreeMap<Key, Record> {
        &self.records
    }

    /// True when an active record has no place, or only one that cannot be used now.
    pub fn has_unplaced(&self) -> bool {
        self.active().any(|(key, record)| record.node.is_none() || self.misplaced.contains(key))
    }

    pub(super) fn active(&self) -> impl Iterator<Item = (&Key, &Record)> {
        self.records.iter().filter(|(_, record)| record.standing == Standing::Active)
    }

    /// Makes the records follow the requests and gives every instance a place. Returns what changed.
    pub fn balance(&mut self, with: &Surroundings<'_>) -> Vec<Change> {
        let before = self.records.clone();
        let mut wanted: Vec<(Key, Option<(NodeId, RuntimeId)>)> = Vec::new();
        let mut disabled = BTreeSet::new();
        for request in self.requests.clone() {
            let keys = self.keys_of(&request, with);
            for (key, pinned) in keys {
                if wanted.iter().any(|(known, _)| known.0 == key.0) {
                    continue;
                }
                if !self.make(&key, &request, pinned.is_some(), with) {
                    let error = ErrorInfo::new(AosCode::NoMemory, "no free user or group number");
                    self.failures.insert(key, error);
                } else if request.unit_subject && !with.subjects.contains(&request.subject) {
                    disabled.insert(key);
                } else {
                    wanted.push((key, pinned));
                }
            }
        }
        let places = self.places(&wanted, with);
        let keep: BTreeSet<&Key> = wanted.iter().map(|(key, _)| key).collect();
        self.failures.retain(|key, _| keep.contains(key));
        self.misplaced.clear();
        for (key, record) in &mut self.records {
            if !keep.contains(key) {
                let standing = if disabled.contains(key) { Standing::Disabled } else { Standing::Cached };
                if record.standing != standing {
                    (record.standing, record.since) = (standing, with.now);
                }
                (record.node, record.runtime) = (None, None);
            }
        }
        for ((key, _), place) in wanted.iter().zip(places) {
            self.settle(key, place, with);
        }
        self.drop_old_versions();
        changes(&before, &self.records)
    }

    /// The instances that a request stands for, pinned ones with their place.
    fn keys_of(
        &self,
        request: &RunRequest,
        with: &Surroundings<'_>,
    ) -> Vec<(Key, Option<(NodeId, RuntimeId)>)> {
        let key = |number| {
            let ident = InstanceIdent {
                item: request.item.clone(),
                subject: request.subject.clone(),
                instance: number,
                kind: request.kind,
                preinstalled: false,
            };
            (ident, request.version.clone())
        };
        if request.kind != ItemKind::Component || request.count > 0 {
            return (0..request.count).map(|number| (key(number), None)).collect();
        }
        let known: Vec<(u64, &Record)> = self
            .records
            .iter()
            .filter(|((ident, version), record)| {
                record.pinned
                    && *version == request.version
                    && (&ident.item, &ident.subject) == (&request.item, &request.subject)
            })
            .map(|((ident, _), record)| (ident.instance, record))
            .collect();
        let mut next = known.iter().map(|(number, _)| number + 1).max().unwrap_or(0);
        let image = with.images.get(&(request.item.clone(), request.version.clone()));
        let kinds: BTreeSet<&String> = image
            .and_then(|image| image.as_ref().ok())
            .map(|image| image.variants.iter().flat_map(|variant| &variant.runtimes).collect())
            .unwrap_or_default();
        let mut keys = Vec::new();
        for node in with.nodes {
            for runtime in node.runtimes.iter().filter(|runtime| kinds.contains(&runtime.kind)) {
                let here = |record: &Record| {
                    record.node.as_ref() == Some(&node.id) && record.runtime.as_ref() == Some(&runtime.id)
                };
                let number = known.iter().find(|(_, record)| here(record)).map_or_else(
                    || {
                        next += 1;
                        next - 1
                    },
                    |(number, _)| *number,
                );
                keys.push((key(number), Some((node.id.clone(), runtime.id.clone()))));
            }
        }
        keys
    }

    /// Makes or refreshes a record; false when no number is left.
    fn make(&mut self, key: &Key, request: &RunRequest, pinned: bool, with: &Surroundings<'_>) -> bool {
        if let Some(record) = self.records.get_mut(key) {
            record.owner = request.owner.clone();
            record.unit_subject = request.unit_subject;
            record.priority = request.priority;
            record.labels.clone_from(&request.labels);
            record.pinned = pinned;
            return true;
        }
        let (uid, gid) = if request.kind == ItemKind::Component {
            (0, 0)
        } else {
            let uids = self.records.values().map(|record| record.uid).collect();
            let of_item = self.records.iter().find(|((ident, _), _)| ident.item == request.item);
            let gid = of_item.map(|(_, record)| record.gid).or_else(|| {
                lowest_free(&self.records.values().map(|record| record.gid).collect(), with.system_numbers)
            });
            match (lowest_free(&uids, with.system_numbers), gid) {
                (Some(uid), Some(gid)) => (uid, gid),
                _ => return false,
            }
        };
        let record = Record {
            standing: Standing::Active,
            manifest: None,
            node: None,
            runtime: None,
            uid,
            gid,
            owner: request.owner.clone(),
            unit_subject: request.unit_subject,
            priority: request.priority,
            labels: request.labels.clone(),
            pinned,
            since: with.now,
            extras: Extras::default(),
            environment: Vec::new(),
            environment_untold: false,
        };
        self.records.insert(key.clone(), record);
        true
    }

    fn places(
        &self,
        wanted: &[(Key, Option<(NodeId, RuntimeId)>)],
        with: &Surroundings<'_>,
    ) -> Vec<Result<Place, ErrorInfo>> {
        let missing = ErrorInfo::new(AosCode::NotFound, "item is not on the Unit");
        let wishes: Vec<Wish<'_>> = wanted
            .iter()
            .map(|(key, pinned)| {
                let variants = match with.images.get(&(key.0.item.clone(), key.1.clone())) {
                    Some(Ok(image)) => Ok(image.variants.as_slice()),
                    Some(Err(error)) => Err(error.clone()),
                    None => Err(missing.clone()),
                };
                let labels = self.records.get(key).map_or(&[][..], |record| &record.labels);
                let pinned = pinned.as_ref().map(|(node, runtime)| (node, runtime));
                Wish { kind: key.0.kind, labels, variants, present: self.present(key), pinned }
            })
            .collect();
        placement::place(&wishes, with.nodes, with.connected, with.space)
    }

    /// Where the instance runs now, in this version or in the one that it replaces.
    fn present(&self, key: &Key) -> Option<(&NodeId, &RuntimeId)> {
        let here = |record: &'_ Record| record.node.is_some() && record.runtime.is_some();
        let own = self.records.get(key).filter(|record| here(record));
        let record = own.or_else(|| {
            let same = self.active().filter(|((ident, _), record)| *ident == key.0 && here(record));
            same.map(|(_, record)| record).next()
        })?;
        record.node.as_ref().zip(record.runtime.as_ref())
    }

    fn settle(&mut self, key: &Key, place: Result<Place, ErrorInfo>, with: &Surroundings<'_>) {
        let Some(record) = self.records.get_mut(key) else { return };
        if record.standing != Standing::Active {
            (record.standing, record.since) = (Standing::Active, with.now);
        }
        match place {
            Ok(place) => {
                let image = with
                    .images
                    .get(&(key.0.item.clone(), key.1.clone()))
                    .and_then(|image| image.as_ref().ok());
                let extras =
                    place.manifest.and_then(|manifest| image.and_then(|image| image.extras.get(&manifest)));
                record.extras = extras.cloned().unwrap_or_default();
                record.manifest = place.manifest;
                record.node = Some(place.node);
                record.runtime = Some(place.runtime);
                self.failures.remove(key);
            }
            Err(error) => {
                // A node that is away may still run the instance: it is not told to stop what it kept alive.
                let away = |node: &NodeId| {
                    !with.nodes.iter().any(|known| known.id == *node) && !with.withdrawn.contains(node)
                };
                if record.node.as_ref().is_some_and(away) {
                    self.misplaced.insert(key.clone());
                } else {
                    (record.node, record.runtime) = (None, None);
                }
                self.failures.insert(key.clone(), error);
            }
        }
    }

    fn drop_old_versions(&mut self) {
        let mut by_ident: BTreeMap<&InstanceIdent, Vec<(&Key, &Record)>> = BTreeMap::new();
        for (key, record) in &self.records {
            by_ident.entry(&key.0).or_default().push((key, record));
        }
        let mut drop = Vec::new();
        for mut versions in by_ident.into_values().filter(|versions| versions.len() > MAX_VERSIONS) {
            versions.sort_by_key(|(_, record)| (record.standing == Standing::Active, record.since));
            let surplus = versions.len() - MAX_VERSIONS;
            drop.extend(versions.iter().take(surplus).map(|(key, _)| (*key).clone()));
        }
        for key in drop {
            self.records.remove(&key);
        }
    }

    /// Drops records that have not been wanted for `ttl`; their data may go with them.
    pub fn expire(&mut self, now: SystemTime, ttl: Duration) -> Vec<Change> {
        let before = self.records.clone();
        self.records.retain(|_, record| {
            record.standing != Standing::Cached || now.duration_since(record.since).is_ok_and(|age| age < ttl)
        });
        changes(&before, &self.records)
    }
}

fn changes(before: &BTreeMap<Key, Record>, after: &BTreeMap<Key, Record>) -> Vec<Change> {
    let gone = before.keys().filter(|key| !after.contains_key(*key)).map(|key| (key.clone(), None));
    let new = after.iter().filter(|(key, record)| before.get(*key) != Some(*record));
    gone.chain(new.map(|(key, record)| (key.clone(), Some(record.clone())))).collect()
}

#[cfg(test)]
#[path = "core_tests.rs"]
mod tests;
