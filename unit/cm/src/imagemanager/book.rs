//! The book of items: what the Unit has of each item and in which state.
//!
//! Pure. Every call answers the records that changed, to be stored and reported. At most two versions of an
//! item are kept. A version that failed stays in the book with its reason until another wish replaces it, and
//! never touches the version that is installed.

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime};

use aos_ids::{Digest, ItemId, ItemKind};
use aos_status::{ErrorInfo, ItemState};
use serde::{Deserialize, Serialize};

use crate::updatemanager::desired::DesiredItem;

/// What is known of one version of an item.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// Service, component or layer.
    pub kind: ItemKind,
    /// Digest of its index.
    pub index: Digest,
    /// Its state.
    pub state: ItemState,
    /// Why it failed.
    pub error: Option<ErrorInfo>,
    /// When it became unwanted.
    pub removed_at: Option<SystemTime>,
}

/// Item and version.
pub type Key = (ItemId, String);

/// A record to store, or to drop when `None`; a dropped one is reported as removed.
pub type Change = (Key, Option<Record>);

/// All items of the Unit.
#[derive(Debug, Clone, Default)]
pub struct Book {
    records: BTreeMap<Key, Record>,
}

impl Book {
    /// Takes up stored records. A download that was under way counts as not begun.
    pub fn new(records: impl IntoIterator<Item = (Key, Record)>) -> Self {
        Self { records: records.into_iter().collect() }
    }

    /// All records.
    pub fn records(&self) -> &BTreeMap<Key, Record> {
        &self.records
    }

    /// Follows changes of another copy of the book.
    pub fn follow(&mut self, changes: Vec<Change>) {
        for (key, record) in changes {
            match record {
                Some(record) => {
                    self.records.insert(key, record);
                }
                None => {
                    self.records.remove(&key);
                }
            }
        }
    }

    /// One record.
    pub fn get(&self, id: &ItemId, version: &str) -> Option<&Record> {
        self.records.get(&(id.clone(), version.to_owned()))
    }

    /// The version that instances are to be made of when `wanted` is asked for: that one when it is complete,
    /// else the installed one, so that a broken update leaves what runs alone.
    pub fn usable(&self, id: &ItemId, wanted: &str) -> Option<(&str, &Record)> {
        let complete = |state| matches!(state, ItemState::Pending | ItemState::Installed);
        let of_item = || self.records.iter().filter(|((item, _), _)| item == id);
        of_item()
            .find(|((_, version), record)| version == wanted && complete(record.state))
            .or_else(|| of_item().find(|(_, record)| record.state == ItemState::Installed))
            .map(|((_, version), record)| (version.as_str(), record))
    }

    /// Prepares fetching what is wanted: leftovers of replaced wishes go, wanted versions become
    /// `downloading`, those that are complete stay as they are. Returns the changes.
    pub fn begin(&mut self, wanted: &[DesiredItem]) -> Vec<Change> {
        let mut changes = Vec::new();
        let unfinished = |state| !matches!(state, ItemState::Installed | ItemState::Removed);
        let leftovers: Vec<Key> = self
            .records
            .iter()
            .filter(|((id, version), record)| {
                unfinished(record.state)
                    && !wanted.iter().any(|want| want.id == *id && want.version == *version)
            })
            .map(|(key, _)| key.clone())
            .collect();
        for key in leftovers {
            self.records.remove(&key);
            changes.push((key, None));
        }
        for want in wanted {
            let key = (want.id.clone(), want.version.clone());
            let known = self.records.get(&key);
            let same = known.filter(|known| known.index == want.index && known.kind == want.kind);
            if same.is_some_and(|known| matches!(known.state, ItemState::Installed | ItemState::Pending)) {
                continue;
            }
            if known.is_none() {
                changes.extend(self.make_room(&want.id));
            }
            let record = Record {
                kind: want.kind,
                index: want.index,
                state: ItemState::Downloading,
                error: None,
                removed_at: None,
            };
            changes.push(self.put(key, record));
        }
        changes
    }

    /// Two versions of an item at most: the oldest removed one goes.
    fn make_room(&mut self, id: &ItemId) -> Option<Change> {
        let mut versions: Vec<_> = self.records.iter().filter(|((item, _), _)| item == id).collect();
        if versions.len() < 2 {
            return None;
        }
        versions.sort_by_key(|(_, record)| (record.state != ItemState::Removed, record.removed_at));
        let key = versions.first().map(|(key, _)| (*key).clone())?;
        self.records.remove(&key);
        Some((key, None))
    }

    /// Notes that a wanted version is complete, or why it is not.
    pub fn fetched(&mut self, id: &ItemId, version: &str, result: Result<(), ErrorInfo>) -> Option<Change> {
        let key = (id.clone(), version.to_owned());
        let mut record = self.records.get(&key)?.clone();
        // What is installed runs from the nodes' own copies: it stays, with the reason shown.
        let installed = record.state == ItemState::Installed;
        record.error = result.err();
        if !installed {
            record.state = if record.error.is_some() { ItemState::Failed } else { ItemState::Pending };
        }
        (self.records.get(&key) != Some(&record)).then(|| self.put(key, record))
    }

    /// Makes what is wanted and complete the current versions. Older versions of those and unwanted items
    /// become `removed`; a version whose replacement failed stays `installed`.
    pub fn finalize(&mut self, wanted: &[DesiredItem], now: SystemTime) -> Vec<Change> {
        let mut changes = Vec::new();
        let keys: Vec<Key> = self.records.keys().cloned().collect();
        for key in &keys {
            let Some(mut record) = self.records.get(key).cloned() else { continue };
            let want = wanted.iter().find(|want| want.id == key.0);
            let this = want.is_some_and(|want| want.version == key.1);
            let replacement_failed = want.is_some_and(|want| {
                self.get(&want.id, &want.version)
                    .is_none_or(|other| !matches!(other.state, ItemState::Pending | ItemState::Installed))
            });
            match record.state {
                ItemState::Pending if this => record.state = ItemState::Installed,
                ItemState::Installed if this || replacement_failed => {}
                ItemState::Failed if this => {}
                ItemState::Removed => {}
                ItemState::Failed | ItemState::Downloading => {
                    self.records.remove(key);
                    changes.push((key.clone(), None));
                    continue;
                }
                _ => {
                    record.state = ItemState::Removed;
                    record.removed_at = Some(now);
                }
            }
            if self.records.get(key) != Some(&record) {
                changes.push(self.put(key.clone(), record));
            }
        }
        changes
    }

    /// Drops items that have been unwanted for `ttl`.
    pub fn expire(&mut self, now: SystemTime, ttl: Duration) -> Vec<Change> {
        let old = |record: &Record| {
            record.state == ItemState::Removed
                && record.removed_at.is_none_or(|at| now.duration_since(at).is_ok_and(|age| age >= ttl))
        };
        let keys: Vec<Key> =
            self.records.iter().filter(|(_, record)| old(record)).map(|(key, _)| key.clone()).collect();
        keys.into_iter()
            .map(|key| {
                self.records.remove(&key);
                (key, None)
            })
            .collect()
    }

    fn put(&mut self, key: Key, record: Record) -> Change {
        self.records.insert(key.clone(), record.clone());
        (key, Some(record))
    }
}

#[cfg(test)]
#[path = "book_tests.rs"]
mod tests;
