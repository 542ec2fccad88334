//! What became of received messages: delivered and undecided, or accepted and remembered.

use std::collections::{HashSet, VecDeque};

use aos_ids::Txn;

/// State of a received transaction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Known {
    /// Never seen, or forgotten.
    New,
    /// Delivered, not yet accepted.
    Undecided,
    /// Accepted.
    Accepted,
}

#[derive(Debug)]
pub(crate) struct Incoming {
    undecided: HashSet<Txn>,
    accepted: HashSet<Txn>,
    /// The accepted ones, oldest first.
    order: VecDeque<Txn>,
    remembered: usize,
}

impl Incoming {
    pub(crate) fn new(remembered: usize, accepted: impl IntoIterator<Item = Txn>) -> Self {
        let mut incoming =
            Self { undecided: HashSet::new(), accepted: HashSet::new(), order: VecDeque::new(), remembered };
        for txn in accepted {
            incoming.remember(txn);
        }
        incoming
    }

    pub(crate) fn known(&self, txn: &Txn) -> Known {
        if self.accepted.contains(txn) {
            Known::Accepted
        } else if self.undecided.contains(txn) {
            Known::Undecided
        } else {
            Known::New
        }
    }

    pub(crate) fn undecided(&self) -> usize {
        self.undecided.len()
    }

    pub(crate) fn deliver(&mut self, txn: Txn) {
        self.undecided.insert(txn);
    }

    /// Ends the wait for a decision; false when there is none to make.
    pub(crate) fn decide(&mut self, txn: &Txn) -> bool {
        self.undecided.remove(txn)
    }

    pub(crate) fn remember(&mut self, txn: Txn) {
        if self.remembered == 0 || !self.accepted.insert(txn.clone()) {
            return;
        }
        if self.order.len() >= self.remembered
            && let Some(oldest) = self.order.pop_front()
        {
            self.accepted.remove(&oldest);
        }
        self.order.push_back(txn);
    }

    /// Accepted transactions, oldest first.
    pub(crate) fn accepted(&self) -> impl Iterator<Item = &Txn> {
        self.order.iter()
    }
}
