//! Unit configuration and the parts of it that nodes get.

use aos_ids::Version;
use aos_loose_json::KeyError;
use serde::{Deserialize, Serialize};

use crate::alert_rules::{self, AlertRules};
use crate::{Document, Identity, document, percent};

/// Share of a quota that placement counts when nothing is requested, percent.
const DEFAULT_RATIO: f64 = 50.0;

/// Configuration of a Unit: `desiredStatus.unitConfig`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct UnitConfig {
    /// Set by the cloud, such as `7`.
    #[serde(default)]
    pub format_version: String,
    /// Grows with each change.
    pub version: Version,
    /// Per node or type of node.
    #[serde(default)]
    pub nodes: Vec<NodeConfig>,
}

impl UnitConfig {
    /// The configuration for a node: the entry that names it, else the first of its type, else an empty one.
    /// The result carries this configuration's version.
    pub fn for_node(&self, node_codename: &str, node_type: &str) -> NodeConfig {
        let named = self.nodes.iter().find(|entry| entry.node_codename() == Some(node_codename));
        let of_type = || {
            let untied = |entry: &&NodeConfig| entry.node.is_none() && entry.node_type() == node_type;
            self.nodes.iter().find(untied)
        };
        let mut config = named.or_else(of_type).cloned().unwrap_or_else(|| NodeConfig {
            node_group_subject: Identity { codename: Some(node_type.to_owned()), ..Identity::default() },
            ..NodeConfig::default()
        });
        config.version = Some(self.version.clone());
        config
    }
}

impl Document for UnitConfig {
    const NAME: &'static str = "unit configuration";

    fn check(&self) -> Result<(), KeyError> {
        for (index, node) in self.nodes.iter().enumerate() {
            node.check_at(&format!("nodes[{index}]."))?;
        }
        Ok(())
    }
}
document!(UnitConfig);

/// Configuration of one node, or of all nodes of one type.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", from = "Forms")]
pub struct NodeConfig {
    /// Version of the unit configuration it comes from; only in what a node gets.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub version: Option<Version>,
    /// Type of node.
    pub node_group_subject: Identity,
    /// One specific node.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub node: Option<Identity>,
    /// Alerts of the node, and thresholds of rebalancing.
    #[serde(skip_serializing_if = "AlertRules::is_empty")]
    pub alert_rules: AlertRules,
    /// Shares of quotas that count as requested.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub resource_ratios: Option<ResourceRatios>,
    /// Labels of the node: an instance runs only where all of its labels are.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub labels: Vec<String>,
    /// Nodes of higher priority are preferred.
    pub priority: u64,
}

impl NodeConfig {
    /// The type of node it is for; empty when it names none.
    pub fn node_type(&self) -> &str {
        self.node_group_subject.codename.as_deref().unwrap_or_default()
    }

    /// The specific node it is for.
    pub fn node_codename(&self) -> Option<&str> {
        self.node.as_ref()?.codename.as_deref()
    }

    fn check_at(&self, path: &str) -> Result<(), KeyError> {
        if self.node_type().is_empty() {
            return Err(KeyError::new(format!("{path}nodeGroupSubject.codename"), "is missing"));
        }
        if self.node.is_some() && self.node_codename().unwrap_or_default().is_empty() {
            return Err(KeyError::new(format!("{path}node.codename"), "is missing"));
        }
        self.alert_rules.check(&format!("{path}alertRules"))
    }
}

impl Document for NodeConfig {
    const NAME: &'static str = "node configuration";

    fn check(&self) -> Result<(), KeyError> {
        self.check_at("")
    }
}
document!(NodeConfig);

/// Shares in percent, 0..=100; `None` means 50.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ResourceRatios {
    /// Of the CPU quota.
    #[serde(skip_serializing_if = "Option::is_none", deserialize_with = "percent::read")]
    pub cpu: Option<f64>,
    /// Of the memory quota.
    #[serde(skip_serializing_if = "Option::is_none", deserialize_with = "percent::read")]
    pub ram: Option<f64>,
    /// Of the storage quota.
    #[serde(skip_serializing_if = "Option::is_none", deserialize_with = "percent::read")]
    pub storage: Option<f64>,
    /// Of the state quota.
    #[serde(skip_serializing_if = "Option::is_none", deserialize_with = "percent::read")]
    pub state: Option<f64>,
}

impl ResourceRatios {
    /// A share as a factor 0..=1 with the default and the upper bound applied.
    pub fn factor(ratio: Option<f64>) -> f64 {
        ratio.unwrap_or(DEFAULT_RATIO).clamp(0.0, 100.0) / 100.0
    }
}

/// Both forms: v7, and the older one with `nodeType` and `nodeId`, whose devices and resources are ignored
/// because the node has its own file of them.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Forms {
    version: Option<Version>,
    node_group_subject: Option<Identity>,
    node_type: Option<String>,
    node: Option<Identity>,
    node_id: Option<String>,
    #[serde(default, deserialize_with = "alert_rules::or_default")]
    alert_rules: AlertRules,
    resource_ratios: Option<ResourceRatios>,
    #[serde(default)]
    labels: Vec<String>,
    #[serde(default)]
    priority: u64,
}

impl From<Forms> for NodeConfig {
    fn from(forms: Forms) -> Self {
        let named = |codename: Option<String>| {
            let codename = codename.filter(|codename| !codename.is_empty());
            codename.map(|codename| Identity { codename: Some(codename), ..Identity::default() })
        };
        Self {
            version: forms.version,
            node_group_subject: forms
                .node_group_subject
                .or_else(|| named(forms.node_type))
                .unwrap_or_default(),
            node: forms.node.or_else(|| named(forms.node_id)),
            alert_rules: forms.alert_rules,
            resource_ratios: forms.resource_ratios,
            labels: forms.labels,
            priority: forms.priority,
        }
    }
}
