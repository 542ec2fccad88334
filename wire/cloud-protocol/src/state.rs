//! States of instances: `newState`, `updateState`, `stateRequest`, `stateAcceptance`.
//!
//! Messages about one state are matched by item, subject, instance and checksum.

use serde::{Deserialize, Serialize};

use crate::{AosIdentity, StateChecksum};

/// Longest state that other peers accept, bytes.
pub const MAX_STATE: usize = 65_536;

/// A state: new on the Unit (`newState`), or to be put there (`updateState`).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct InstanceStateData {
    /// The item; always written by a Unit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub item: Option<AosIdentity>,
    /// The subject; always written by a Unit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub subject: Option<AosIdentity>,
    /// Number of the instance, from 0.
    pub instance: u64,
    /// Checksum of the state: SHA3-224.
    pub state_checksum: StateChecksum,
    /// Content of the state file.
    pub state: String,
}

/// A Unit asks for a state.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct StateRequest {
    /// The item.
    pub item: AosIdentity,
    /// The subject.
    pub subject: AosIdentity,
    /// Number of the instance, from 0.
    pub instance: u64,
    /// True for the initial state, false for the latest.
    #[serde(default)]
    pub default: bool,
}

/// What the cloud thinks of a new state.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct StateAcceptance {
    /// The item.
    pub item: AosIdentity,
    /// The subject.
    pub subject: AosIdentity,
    /// Number of the instance, from 0.
    pub instance: u64,
    /// Checksum of the state meant, as the Unit wrote it.
    pub checksum: StateChecksum,
    /// Verdict.
    pub result: StateResult,
    /// Why it was rejected; may be empty.
    #[serde(default)]
    pub reason: String,
}

/// Verdict over a state.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum StateResult {
    /// Kept.
    Accepted,
    /// The Unit shall ask for the last good one.
    Rejected,
}
