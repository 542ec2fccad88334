//! Transactions that were accepted in sessions that have ended.
//!
//! A Unit repeats after a reconnect what it saw no acknowledgement for; what had taken effect must not take
//! effect again. Lost with the process: statuses are merged by time and answers are idempotent, so the
//! worst is an alert kept twice.

use std::collections::{HashMap, VecDeque};
use std::sync::{Mutex, PoisonError};

use aos_ids::Txn;

/// Units that are remembered; of more the one that left first is forgotten.
const UNITS: usize = 4096;
/// Transactions remembered for each.
const TRANSACTIONS: usize = 256;

#[derive(Default)]
pub(crate) struct Memory {
    units: Mutex<Remembered>,
}

#[derive(Default)]
struct Remembered {
    transactions: HashMap<String, Vec<Txn>>,
    order: VecDeque<String>,
}

impl Memory {
    /// What the last session of the Unit had accepted, oldest first.
    pub(crate) fn take(&self, unit_id: &str) -> Vec<Txn> {
        let mut units = self.units.lock().unwrap_or_else(PoisonError::into_inner);
        units.order.retain(|known| known != unit_id);
        units.transactions.remove(unit_id).unwrap_or_default()
    }

    /// Keeps what a session had accepted.
    pub(crate) fn keep(&self, unit_id: &str, accepted: impl Iterator<Item = Txn>) {
        let mut accepted: Vec<Txn> = accepted.collect();
        accepted.drain(..accepted.len().saturating_sub(TRANSACTIONS));
        let mut units = self.units.lock().unwrap_or_else(PoisonError::into_inner);
        if units.transactions.insert(unit_id.to_owned(), accepted).is_none() {
            units.order.push_back(unit_id.to_owned());
        }
        if units.order.len() > UNITS
            && let Some(oldest) = units.order.pop_front()
        {
            units.transactions.remove(&oldest);
        }
    }
}
