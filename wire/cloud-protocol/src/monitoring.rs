//! `monitoringData`: samples and state changes of nodes and instances.

use aos_status::{InstanceState, NodeState};
use jiff::Timestamp;
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use serde_json::Value;

use crate::{AosIdentity, lenient};

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

/// A whole number, or the nearest one to a fraction.
fn rounded<'de, D: Deserializer<'de>>(deserializer: D) -> Result<u64, D::Error> {
    let value = Value::deserialize(deserializer)?;
    if let Ok(whole) = lenient::from_value(value.clone()) {
        return Ok(whole);
    }
    match lenient::from_value::<f64>(value) {
        #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "range checked")]
        Ok(value) if (0.0..9.0e18).contains(&value) => Ok(value.round() as u64),
        _ => Err(de::Error::custom("no amount")),
    }
}
