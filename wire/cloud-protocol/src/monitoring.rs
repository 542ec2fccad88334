//! `monitoringData`: samples and state changes of nodes and instances.

use std::fmt;

use aos_status::{InstanceState, NodeState};
use jiff::Timestamp;
use serde::de::{self, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::AosIdentity;

/// Samples since the last message.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct MonitoringData {
    /// Nodes; may be empty.
    #[serde(default)]
    pub nodes: Vec<NodeMonitoring>,
    /// Instances.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub instances: Vec<InstanceMonitoring>,
}

/// Samples of one node.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct NodeMonitoring {
    /// The node, by codename.
    pub node: AosIdentity,
    /// Changes of its state.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub node_states: Vec<NodeStateSample>,
    /// Samples.
    #[serde(default)]
    pub items: Vec<Sample>,
}

/// State of a node at a point in time. Written with both `connected` and `isConnected`, read with either:
/// peers disagree on the name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct NodeStateSample {
    /// When.
    #[serde(with = "crate::time")]
    pub timestamp: Timestamp,
    /// Link to the main node.
    #[serde(default)]
    pub connected: bool,
    /// State.
    pub state: NodeState,
}

impl Serialize for NodeStateSample {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        #[derive(Serialize)]
        #[serde(rename_all = "camelCase")]
        struct Written {
            #[serde(with = "crate::time")]
            timestamp: Timestamp,
            connected: bool,
            is_connected: bool,
            state: NodeState,
        }
        let Self { timestamp, connected, state } = *self;
        Written { timestamp, connected, is_connected: connected, state }.serialize(serializer)
    }
}

/// Samples of one instance.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct InstanceMonitoring {
    /// The item.
    pub item: AosIdentity,
    /// The subject.
    pub subject: AosIdentity,
    /// Number, from 0.
    pub instance: u64,
    /// The node, by codename.
    pub node: AosIdentity,
    /// Changes of its state; always written.
    #[serde(default)]
    pub item_states: Vec<InstanceStateSample>,
    /// Samples.
    #[serde(default)]
    pub items: Vec<Sample>,
}

/// State of an instance at a point in time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct InstanceStateSample {
    /// When.
    #[serde(with = "crate::time")]
    pub timestamp: Timestamp,
    /// State.
    pub state: InstanceState,
}

/// Use of resources at a point in time.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Sample {
    /// When.
    #[serde(with = "crate::time")]
    pub timestamp: Timestamp,
    /// Memory, bytes.
    #[serde(deserialize_with = "rounded")]
    pub ram: u64,
    /// Processing power, DMIPS. Fractions are rounded when read.
    #[serde(deserialize_with = "rounded")]
    pub cpu: u64,
    /// Bytes received in the present accounting period.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub download: Option<u64>,
    /// Bytes sent in the present accounting period.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub upload: Option<u64>,
    /// Use of partitions.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub partitions: Vec<PartitionUsage>,
}

/// Use of one partition.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PartitionUsage {
    /// Name of the partition.
    pub name: String,
    /// Bytes.
    pub used_size: u64,
}

/// A whole number, or the nearest one to a fraction; also as text.
fn rounded<'de, D: Deserializer<'de>>(deserializer: D) -> Result<u64, D::Error> {
    deserializer.deserialize_any(Amount)
}

struct Amount;

impl Visitor<'_> for Amount {
    type Value = u64;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an amount")
    }

    fn visit_u64<E: de::Error>(self, value: u64) -> Result<u64, E> {
        Ok(value)
    }

    fn visit_f64<E: de::Error>(self, value: f64) -> Result<u64, E> {
        #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "range checked")]
        if (0.0..9.0e18).contains(&value) {
            Ok(value.round() as u64)
        } else {
            Err(E::invalid_value(de::Unexpected::Float(value), &self))
        }
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<u64, E> {
        let text = text.trim();
        match text.parse() {
            Ok(value) => Ok(value),
            Err(_) => self.visit_f64(text.parse().unwrap_or(f64::NAN)),
        }
    }
}
