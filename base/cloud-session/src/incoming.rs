//! What became of received messages: delivered and undecided, or accepted and remembered.

use std::time::Instant;

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
    /// With the time of the last copy. Few, and mostly none.
    undecided: Vec<(Txn, Instant)>,
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
        } else if self.undecided.iter().any(|(undecided, _)| undecided == txn) {
            Known::Undecided
        } else {
            Known::New
        }
    }

    pub(crate) fn undecided(&self) -> usize {
        self.undecided.len()
    }

    /// Notes a copy of a message without decision.
    pub(crate) fn copy(&mut self, txn: &Txn, now: Instant) {
        match self.undecided.iter_mut().find(|(undecided, _)| undecided == txn) {
            Some((_, last)) => *last = now,
            None => self.undecided.push((txn.clone(), now)),
        }
    }

    /// Ends the wait for a decision and tells when the last copy came; nothing when there is none to make.
    pub(crate) fn decide(&mut self, txn: &Txn) -> Option<Instant> {
        let at = self.undecided.iter().position(|(undecided, _)| undecided == txn)?;
        let (_, last) = self.undecided.swap_remove(at);
        if self.undecided.is_empty() {
            self.undecided = Vec::new();
        }
        Some(last)
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
        let texts = self.undecided.iter().map(|(txn, _)| txn.as_str().len()).sum::<usize>();
        self.undecided.capacity() * size_of::<(Txn, Instant)>() + texts + self.accepted.memory_bytes()
    }
}
