//! What became of received messages: delivered and undecided, or accepted and remembered.

use aos_ids::Txn;

use crate::memory::Memory;

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
    /// Few, and mostly none.
    undecided: Vec<Txn>,
    accepted: Memory,
}

impl Incoming {
    pub(crate) fn new(remembered: usize, accepted: impl IntoIterator<Item = Txn>) -> Self {
        let mut incoming = Self { undecided: Vec::new(), accepted: Memory::new(remembered) };
        for txn in accepted {
            incoming.remember(&txn);
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
        self.undecided.push(txn);
    }

    /// Ends the wait for a decision; false when there is none to make.
    pub(crate) fn decide(&mut self, txn: &Txn) -> bool {
        let Some(at) = self.undecided.iter().position(|undecided| undecided == txn) else { return false };
        self.undecided.swap_remove(at);
        if self.undecided.is_empty() {
            self.undecided = Vec::new();
        }
        true
    }

    pub(crate) fn remember(&mut self, txn: &Txn) {
        self.accepted.insert(txn);
    }

    /// Accepted transactions, oldest first.
    pub(crate) fn accepted(&self) -> impl Iterator<Item = Txn> {
        self.accepted.iter()
    }

    /// Heap memory, bytes.
    pub(crate) fn memory_bytes(&self) -> usize {
        let texts = self.undecided.iter().map(|txn| txn.as_str().len()).sum::<usize>();
        self.undecided.capacity() * size_of::<Txn>() + texts + self.accepted.memory_bytes()
    }
}
