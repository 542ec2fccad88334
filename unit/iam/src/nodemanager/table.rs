//! The nodes of the Unit as far as they are known, and what each change means.

use std::collections::BTreeMap;

use aos_status::NodeState;

use crate::Error;
use crate::currentnode::NodeInfo;

/// Nodes of a Unit.
pub(super) const MAX_NODES: usize = 16;

/// A node and its link.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// The node.
    pub info: NodeInfo,
    /// Whether it is reachable now.
    pub connected: bool,
    /// What it showed when it connected last; none without mutual TLS.
    pub shown: Option<Shown>,
    /// Number of the change that made it so; 0 for what was there at start.
    pub revision: u64,
}

/// The certificate of a node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Shown {
    /// Serial number, big endian without leading zeros.
    pub serial: Vec<u8>,
    /// End of validity, seconds since 1970 UTC.
    pub not_after: i64,
}

/// All known nodes, at most 16.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Nodes {
    entries: BTreeMap<String, Entry>,
    revision: u64,
}

/// What a change means for the database.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Keep {
    /// Nothing.
    AsIs,
    /// The node is stored.
    Store(Box<NodeInfo>),
    /// The node is not stored: it is no part of the Unit yet, or any more.
    Forget(String),
}

impl Nodes {
    /// The stored nodes; none is connected.
    pub fn new(stored: Vec<NodeInfo>) -> Self {
        let entries = stored
            .into_iter()
            .take(MAX_NODES)
            .map(|info| (info.node_id.clone(), Entry { info, connected: false, shown: None, revision: 0 }))
            .collect();
        Self { entries, revision: 0 }
    }

    /// Identities of all nodes.
    pub fn ids(&self) -> Vec<String> {
        self.entries.keys().cloned().collect()
    }

    /// One node.
    pub fn get(&self, id: &str) -> Result<&Entry, Error> {
        self.entries.get(id).ok_or_else(|| Error::NotFound(format!("node '{id}' is not known")))
    }

    /// Number of the newest change.
    pub fn revision(&self) -> u64 {
        self.revision
    }

    /// Nodes changed after `revision`, oldest change first.
    pub fn changed_since(&self, revision: u64) -> Vec<&Entry> {
        let mut changed: Vec<_> = self.entries.values().filter(|entry| entry.revision > revision).collect();
        changed.sort_by_key(|entry| entry.revision);
        changed
    }

    /// Takes a node's description and that it is connected.
    pub fn set(&mut self, info: NodeInfo) -> Result<Keep, Error> {
        let known = self.entries.get(&info.node_id);
        if known.is_none() && self.entries.len() >= MAX_NODES {
            return Err(Error::TooMany(format!("a Unit has at most {MAX_NODES} nodes")));
        }
        if known.is_some_and(|entry| entry.info == info && entry.connected) {
            return Ok(Keep::AsIs);
        }
        let keep = match known {
            Some(entry) if entry.info == info => Keep::AsIs,
            _ if info.state == NodeState::Unprovisioned => Keep::Forget(info.node_id.clone()),
            _ => Keep::Store(Box::new(info.clone())),
        };
        self.put(info, true);
        Ok(keep)
    }

    /// Notes the certificate that a node has shown; no change of what the node is.
    pub fn show(&mut self, id: &str, shown: Option<Shown>) {
        if let Some(entry) = self.entries.get_mut(id) {
            entry.shown = shown;
        }
    }

    /// Changes a node's state.
    pub fn set_state(&mut self, id: &str, state: NodeState) -> Result<Keep, Error> {
        let entry = self.get(id)?;
        if entry.info.state == state {
            return Ok(Keep::AsIs);
        }
        let connected = entry.connected;
        let info = NodeInfo { state, ..entry.info.clone() };
        let keep = match state {
            NodeState::Unprovisioned => Keep::Forget(info.node_id.clone()),
            _ => Keep::Store(Box::new(info.clone())),
        };
        self.put(info, connected);
        Ok(keep)
    }

    /// Notes that a node is not reachable any more.
    pub fn disconnect(&mut self, id: &str) {
        if let Some(entry) = self.entries.get(id).filter(|entry| entry.connected) {
            let info = entry.info.clone();
            self.put(info, false);
        }
    }

    /// Makes what is there the starting point, which is no change for anybody.
    pub fn settle(&mut self) {
        self.revision = 0;
        for entry in self.entries.values_mut() {
            entry.revision = 0;
        }
    }

    fn put(&mut self, info: NodeInfo, connected: bool) {
        self.revision += 1;
        let shown = self.entries.remove(&info.node_id).and_then(|known| known.shown);
        let entry = Entry { info, connected, shown, revision: self.revision };
        self.entries.insert(entry.info.node_id.clone(), entry);
    }
}
