//! What an end has on disk, and what the tests want to know about it.

use std::collections::{BTreeMap, HashMap, HashSet};

use aos_cloud_protocol::{Body, Envelope, MessageType};
use aos_cloud_session::{Class, DropReason};
use aos_ids::Txn;
use jiff::Timestamp;

use crate::content;

/// Survives a crash.
#[derive(Default)]
pub struct Store {
    /// Durable messages, neither acknowledged nor given up, in order.
    pub outbox: Vec<Envelope>,
    /// Transactions of [`Store::effects`], by which repetitions are told.
    pub received: HashSet<Txn>,
    /// Messages that took effect, in order.
    pub effects: Vec<(Txn, MessageType)>,
    /// The peer's state as told by its statuses, by key: value and the time of the message that told it.
    pub picture: BTreeMap<u8, (Option<Timestamp>, u32)>,
    /// The end's own state, told by its statuses.
    pub own: BTreeMap<u8, u32>,
    pub log: Log,
}

/// Known to the tests only.
#[derive(Default)]
pub struct Log {
    pub sent: Vec<(Txn, MessageType, Class)>,
    /// Newest message about each state.
    pub newest: HashMap<(MessageType, u64), Txn>,
    /// State that each transaction is about.
    pub about: HashMap<Txn, (MessageType, u64)>,
    pub acknowledged: HashSet<Txn>,
    pub dropped: HashMap<Txn, DropReason>,
    pub parked: HashSet<Txn>,
}

impl Log {
    pub fn note(&mut self, envelope: &Envelope) {
        let (txn, kind) = (envelope.header.txn.clone(), envelope.body.message_type());
        if let Body::NewState(state) | Body::UpdateState(state) = &envelope.body {
            self.newest.insert((kind, state.instance), txn.clone());
            self.about.insert(txn.clone(), (kind, state.instance));
        }
        self.sent.push((txn, kind, Class::of(&envelope.body)));
    }
}

impl Store {
    /// The effect of a message and the memory of it, in one step; false when it was there before.
    pub fn take(&mut self, envelope: &Envelope, by_time: bool) -> bool {
        let txn = envelope.header.txn.clone();
        if !self.received.insert(txn.clone()) {
            return false;
        }
        self.effects.push((txn, envelope.body.message_type()));
        for (key, value) in content::told(&envelope.body) {
            let known = self.picture.entry(key).or_default();
            if !by_time || known.0 <= envelope.header.created_at {
                *known = (envelope.header.created_at, value);
            }
        }
        true
    }

    pub fn effects_of(&self, txn: &Txn) -> usize {
        self.effects.iter().filter(|(done, _)| done == txn).count()
    }

    pub fn told(&self) -> BTreeMap<u8, u32> {
        self.picture.iter().map(|(key, (_, value))| (*key, *value)).collect()
    }
}
