//! Alert rules of items and nodes.
//!
//! A value at or above `max` for `minTimeout` raises an alert, one below `min` for as long ends it. A rule
//! without both thresholds counts as absent: taken as 0 it would alert for ever.

use aos_duration_text::DurationText;
use aos_loose_json::KeyError;
use serde::{Deserialize, Deserializer, Serialize};

use crate::percent::rounded;

/// Name of the partition that holds the instances' storages; `storage` rules of older documents mean it.
pub const STORAGES_PARTITION: &str = "storages";

/// Rules for one instance or one node.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(from = "Forms")]
pub struct AlertRules {
    /// Memory in use.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ram: Option<PercentRule>,
    /// CPU load.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cpu: Option<PercentRule>,
    /// Space in use.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub partitions: Vec<PartitionRule>,
    /// Bytes received since the start of the day.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub download: Option<PointsRule>,
    /// Bytes sent since the start of the day.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub upload: Option<PointsRule>,
}

/// Thresholds in percent, 0..=100.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct PercentRule {
    /// How long a value must last.
    pub min_timeout: DurationText,
    /// Below it the alert ends.
    pub min_threshold: f64,
    /// From it on the alert is raised.
    pub max_threshold: f64,
}

/// A percent rule for one partition.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct PartitionRule {
    /// Name of the partition.
    pub name: String,
    /// The thresholds.
    #[serde(flatten)]
    pub rule: PercentRule,
}

/// Thresholds in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct PointsRule {
    /// How long a value must last.
    pub min_timeout: DurationText,
    /// Below it the alert ends.
    pub min_threshold: u64,
    /// From it on the alert is raised.
    pub max_threshold: u64,
}

impl AlertRules {
    /// True when there is no rule at all.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// Checks ranges; `path` is where the rules stand in their document.
    pub(crate) fn check(&self, path: &str) -> Result<(), KeyError> {
        let order = |name: &str, ordered: bool, shown: String| {
            if ordered { Ok(()) } else { Err(KeyError::new(format!("{path}.{name}"), shown)) }
        };
        let percent = |name: &str, rule: &PercentRule| {
            let (min, max) = (rule.min_threshold, rule.max_threshold);
            order(
                name,
                (0.0..=100.0).contains(&min) && (0.0..=100.0).contains(&max),
                format!("thresholds {min} and {max} must be within 0 and 100"),
            )?;
            order(name, min <= max, format!("minThreshold {min} is above maxThreshold {max}"))
        };
        let points = |name: &str, rule: &PointsRule| {
            let (min, max) = (rule.min_threshold, rule.max_threshold);
            order(name, min <= max, format!("minThreshold {min} is above maxThreshold {max}"))
        };
        self.ram.iter().try_for_each(|rule| percent("ram", rule))?;
        self.cpu.iter().try_for_each(|rule| percent("cpu", rule))?;
        for (index, partition) in self.partitions.iter().enumerate() {
            percent(&format!("partitions[{index}]"), &partition.rule)?;
        }
        self.download.iter().try_for_each(|rule| points("download", rule))?;
        self.upload.iter().try_for_each(|rule| points("upload", rule))
    }
}

/// A rule as documents have it: each part may be missing.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase", bound(deserialize = "T: Deserialize<'de>"))]
struct Parts<T> {
    #[serde(default)]
    name: Option<String>,
    #[serde(default)]
    min_timeout: Option<DurationText>,
    #[serde(default = "none")]
    min_threshold: Option<T>,
    #[serde(default = "none")]
    max_threshold: Option<T>,
}

fn none<T>() -> Option<T> {
    None
}

impl Parts<f64> {
    fn percent(&self) -> Option<PercentRule> {
        Some(PercentRule {
            min_timeout: self.min_timeout.unwrap_or_default(),
            min_threshold: rounded(self.min_threshold?),
            max_threshold: rounded(self.max_threshold?),
        })
    }

    fn partition(self) -> Option<PartitionRule> {
        let rule = self.percent()?;
        Some(PartitionRule { rule, name: self.name.unwrap_or_default() })
    }
}

impl Parts<u64> {
    fn points(&self) -> Option<PointsRule> {
        Some(PointsRule {
            min_timeout: self.min_timeout.unwrap_or_default(),
            min_threshold: self.min_threshold?,
            max_threshold: self.max_threshold?,
        })
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Forms {
    ram: Option<Parts<f64>>,
    cpu: Option<Parts<f64>>,
    storage: Option<Parts<f64>>,
    #[serde(default)]
    partitions: Vec<Parts<f64>>,
    download: Option<Parts<u64>>,
    upload: Option<Parts<u64>>,
}

impl From<Forms> for AlertRules {
    fn from(forms: Forms) -> Self {
        let mut partitions: Vec<_> = forms.partitions.into_iter().filter_map(Parts::partition).collect();
        if let Some(rule) = forms.storage.and_then(|parts| parts.percent())
            && !partitions.iter().any(|partition| partition.name == STORAGES_PARTITION)
        {
            partitions.push(PartitionRule { name: STORAGES_PARTITION.to_owned(), rule });
        }
        Self {
            ram: forms.ram.and_then(|parts| parts.percent()),
            cpu: forms.cpu.and_then(|parts| parts.percent()),
            partitions,
            download: forms.download.and_then(|parts| parts.points()),
            upload: forms.upload.and_then(|parts| parts.points()),
        }
    }
}

/// For fields of type [`AlertRules`] that may be missing.
pub(crate) fn or_default<'de, D: Deserializer<'de>>(deserializer: D) -> Result<AlertRules, D::Error> {
    Option::<AlertRules>::deserialize(deserializer).map(Option::unwrap_or_default)
}
