//! The Unit configuration inside `desiredStatus`: alert rules, resource ratios, labels and priorities.

use std::fmt;
use std::time::Duration;

use serde::de::{self, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::AosIdentity;

/// Configuration of all nodes of a Unit.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct UnitConfig {
    /// SemVer text, at most 32 bytes for a Unit; must be higher than the installed one.
    pub version: String,
    /// Version of the format.
    #[serde(default)]
    pub format_version: String,
    /// Entries per node group or node.
    #[serde(default)]
    pub nodes: Vec<NodeConfig>,
}

/// Configuration of the nodes of one type, or of one node.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct NodeConfig {
    /// Node type, by codename.
    #[serde(default)]
    pub node_group_subject: AosIdentity,
    /// Restricts the entry to this node, by codename.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node: Option<AosIdentity>,
    /// When to raise quota alerts.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub alert_rules: Option<AlertRules>,
    /// Share of the node that instances may ask for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resource_ratios: Option<ResourceRatios>,
    /// Labels that instances may ask for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub labels: Option<Vec<String>>,
    /// 0 to 4294967294; higher is preferred for placement.
    #[serde(default, serialize_with = "write_priority", deserialize_with = "read_priority")]
    pub priority: u32,
}

/// Alert rules of a node.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct AlertRules {
    /// Processor, percent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cpu: Option<AlertRulePercents>,
    /// Memory, percent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ram: Option<AlertRulePercents>,
    /// Disks, percent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub partitions: Option<Vec<PartitionAlertRule>>,
    /// Received bytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub download: Option<AlertRulePoints>,
    /// Sent bytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub upload: Option<AlertRulePoints>,
}

/// Thresholds in percent of the whole.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct AlertRulePercents {
    /// 0 to 100; below it the alert ends.
    #[serde(deserialize_with = "percent")]
    pub min_threshold: f64,
    /// 0 to 100; from it the alert is raised.
    #[serde(deserialize_with = "percent")]
    pub max_threshold: f64,
    /// How long the value must stay. Read as number of seconds or duration text, written as whole seconds.
    #[serde(default, serialize_with = "write_seconds", deserialize_with = "read_seconds")]
    pub min_timeout: Duration,
}

/// Thresholds of one partition in percent of its size.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PartitionAlertRule {
    /// Name of the partition.
    pub name: String,
    /// As in [`AlertRulePercents`].
    #[serde(deserialize_with = "percent")]
    pub min_threshold: f64,
    /// As in [`AlertRulePercents`].
    #[serde(deserialize_with = "percent")]
    pub max_threshold: f64,
    /// As in [`AlertRulePercents`].
    #[serde(default, serialize_with = "write_seconds", deserialize_with = "read_seconds")]
    pub min_timeout: Duration,
}

/// Thresholds as absolute numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct AlertRulePoints {
    /// Bytes; below it the alert ends.
    pub min_threshold: u64,
    /// Bytes; from it the alert is raised.
    pub max_threshold: u64,
    /// As in [`AlertRulePercents`].
    #[serde(default, serialize_with = "write_seconds", deserialize_with = "read_seconds")]
    pub min_timeout: Duration,
}

/// Shares of a node's resources in percent; absent means no limit of that kind.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ResourceRatios {
    /// Processor.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cpu: Option<f64>,
    /// Memory.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ram: Option<f64>,
    /// Storage partition.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub storage: Option<f64>,
    /// State partition.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub state: Option<f64>,
}

const MAX_NODE_PRIORITY: u32 = u32::MAX - 1;

fn read_priority<'de, D: Deserializer<'de>>(deserializer: D) -> Result<u32, D::Error> {
    match u32::deserialize(deserializer)? {
        u32::MAX => Err(de::Error::custom("4294967295 is above 4294967294")),
        priority => Ok(priority),
    }
}

#[allow(clippy::trivially_copy_pass_by_ref, reason = "serde calls it with a reference to the field")]
fn write_priority<S: Serializer>(priority: &u32, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_u32((*priority).min(MAX_NODE_PRIORITY))
}

fn percent<'de, D: Deserializer<'de>>(deserializer: D) -> Result<f64, D::Error> {
    let value = f64::deserialize(deserializer)?;
    if (0.0..=100.0).contains(&value) {
        Ok(value)
    } else {
        Err(de::Error::custom(format_args!("{value} is no percentage")))
    }
}

/// Whole seconds, half rounded up; never 0, which the published schema refuses.
fn write_seconds<S: Serializer>(timeout: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
    let rounded = timeout.saturating_add(Duration::from_millis(500)).as_secs();
    serializer.serialize_u64(rounded.max(1))
}

fn read_seconds<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Duration, D::Error> {
    deserializer.deserialize_any(Seconds)
}

/// A number of seconds, or the text of a duration.
struct Seconds;

impl Visitor<'_> for Seconds {
    type Value = Duration;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a number of seconds or the text of a duration")
    }

    fn visit_u64<E: de::Error>(self, seconds: u64) -> Result<Duration, E> {
        self.visit_str(&seconds.to_string())
    }

    fn visit_f64<E: de::Error>(self, seconds: f64) -> Result<Duration, E> {
        self.visit_str(&seconds.to_string())
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<Duration, E> {
        aos_duration_text::parse(text.trim()).map_err(E::custom)
    }
}
