//! Item configuration: what an item needs to run, beyond its image.

use std::collections::BTreeMap;
use std::time::Duration;

use aos_duration_text::DurationText;
use aos_loose_json::KeyError;
use serde::ser::SerializeSeq;
use serde::{Deserialize, Serialize, Serializer};

use crate::alert_rules::{self, AlertRules};
use crate::connection::{AllowedConnection, BadConnection, write_connections};
use crate::probes::Probes;
use crate::several_forms::{NameOnly, names};
use crate::{Document, document};

/// Configuration of one image of a service or component.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", try_from = "Forms")]
pub struct ItemConfig {
    /// When it was made, RFC 3339.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub created: Option<String>,
    /// Who made it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub author: Option<String>,
    /// Placement counts no resources for it.
    pub skip_resource_limits: bool,
    /// Host name in the container and its name in the network of its owner.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hostname: Option<String>,
    /// May a running instance move to another node?
    pub balancing_policy: BalancingPolicy,
    /// Types of runtimes that may run it; empty means `crun` and `runc`.
    #[serde(skip_serializing_if = "Vec::is_empty", serialize_with = "write_runtimes")]
    pub runtimes: Vec<String>,
    /// Supervision of restarts.
    pub run_parameters: RunParameters,
    /// Kernel parameters of the container.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub sysctl: BTreeMap<String, String>,
    /// How long it may run without the cloud; `None` means for ever.
    #[serde(rename = "offlineTTL", skip_serializing_if = "Option::is_none")]
    pub offline_ttl: Option<DurationText>,
    /// Limits.
    #[serde(skip_serializing_if = "Quotas::is_empty")]
    pub quotas: Quotas,
    /// What placement counts for it.
    #[serde(skip_serializing_if = "RequestedResources::is_empty")]
    pub requested_resources: RequestedResources,
    /// Openings towards items of other owners, sorted.
    #[serde(skip_serializing_if = "Vec::is_empty", serialize_with = "write_connections")]
    pub allowed_connections: Vec<AllowedConnection>,
    /// Resources of the node to attach.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub resources: Vec<ResourceRequest>,
    /// Permissions: functional server → path → `r`, `w` or `rw`.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub permissions: BTreeMap<String, BTreeMap<String, String>>,
    /// Alerts on its resource usage.
    #[serde(skip_serializing_if = "AlertRules::is_empty")]
    pub alert_rules: AlertRules,
    /// How it is found out whether an instance is ready and lives.
    #[serde(skip_serializing_if = "Probes::is_empty")]
    pub probes: Probes,
    /// The node's own root file system lies below the image's layers.
    pub base_layer_is_node_rootfs: bool,
    /// Start order relative to other items.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub dependencies: Vec<Dependency>,
}

impl Default for ItemConfig {
    fn default() -> Self {
        Self {
            created: None,
            author: None,
            skip_resource_limits: false,
            hostname: None,
            balancing_policy: BalancingPolicy::Enabled,
            runtimes: Vec::new(),
            run_parameters: RunParameters::default(),
            sysctl: BTreeMap::new(),
            offline_ttl: None,
            quotas: Quotas::default(),
            requested_resources: RequestedResources::default(),
            allowed_connections: Vec::new(),
            resources: Vec::new(),
            permissions: BTreeMap::new(),
            alert_rules: AlertRules::default(),
            probes: Probes::default(),
            base_layer_is_node_rootfs: true,
            dependencies: Vec::new(),
        }
    }
}

impl ItemConfig {
    /// Paths of the keys that mean nothing, at most 100: Units pass over them. For whoever writes a document.
    pub fn unknown_keys(bytes: &[u8]) -> Result<Vec<String>, crate::FormatError> {
        let read = aos_loose_json::from_slice::<Self>(bytes, aos_loose_json::Rules::DOCUMENT);
        Ok(read.map_err(crate::invalid::<Self>)?.unknown)
    }

    /// The types of runtimes that may run it, with the default filled in.
    pub fn runtime_types(&self) -> Vec<&str> {
        if self.runtimes.is_empty() {
            vec!["crun", "runc"]
        } else {
            self.runtimes.iter().map(String::as_str).collect()
        }
    }
}

impl Document for ItemConfig {
    const NAME: &'static str = "item configuration";

    fn check(&self) -> Result<(), KeyError> {
        if self.offline_ttl.is_some_and(|ttl| ttl.get().is_zero()) {
            return Err(KeyError::new("offlineTTL", "must be longer than 0"));
        }
        self.probes.check()?;
        self.alert_rules.check("alertRules")
    }
}
document!(ItemConfig);

/// May the Unit move a running instance?
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum BalancingPolicy {
    /// Yes.
    #[default]
    Enabled,
    /// No, it keeps node and runtime.
    Disabled,
}

/// Supervision of restarts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct RunParameters {
    /// Window in which starts are counted.
    pub start_interval: DurationText,
    /// Restarts allowed within the window; 0 or below means any number.
    pub start_burst: i64,
    /// Pause before a restart.
    pub restart_interval: DurationText,
}

impl Default for RunParameters {
    fn default() -> Self {
        Self {
            start_interval: DurationText(Duration::from_secs(5)),
            start_burst: 3,
            restart_interval: DurationText(Duration::from_secs(1)),
        }
    }
}

/// Limits of an instance; `None` means unlimited, for storage and state: none at all.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Quotas {
    /// CPU, DMIPS.
    #[serde(rename = "cpuDMIPSLimit", skip_serializing_if = "Option::is_none")]
    pub cpu_dmips_limit: Option<u64>,
    /// Memory, bytes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ram_limit: Option<u64>,
    /// Processes and threads.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pids_limit: Option<u64>,
    /// Open files.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub no_file_limit: Option<u64>,
    /// Size of `/tmp`, bytes; without it there is no `/tmp`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tmp_limit: Option<u64>,
    /// Size of the state file, bytes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub state_limit: Option<u64>,
    /// Size of the persistent storage, bytes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub storage_limit: Option<u64>,
    /// Sending, kbit/s.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub upload_speed: Option<u64>,
    /// Receiving, kbit/s.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub download_speed: Option<u64>,
    /// Sending, bytes per calendar day.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub upload_limit: Option<u64>,
    /// Receiving, bytes per calendar day.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub download_limit: Option<u64>,
}

impl Quotas {
    /// True when nothing is limited.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

/// What placement counts for an instance; missing values follow from the quotas.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct RequestedResources {
    /// CPU, DMIPS.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cpu: Option<u64>,
    /// Memory, bytes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ram: Option<u64>,
    /// Persistent storage, bytes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub storage: Option<u64>,
    /// State, bytes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub state: Option<u64>,
}

impl RequestedResources {
    /// True when nothing is requested.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

/// A resource of the node that an instance uses.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ResourceRequest {
    /// Name in the node's resource file.
    pub name: String,
    /// Access to its devices: letters of `rwm`, may be empty.
    pub mode: String,
}

impl From<(String, Option<String>)> for ResourceRequest {
    fn from((name, mode): (String, Option<String>)) -> Self {
        Self { name, mode: mode.unwrap_or_else(|| "r".to_owned()) }
    }
}

/// Names something of the cloud; which parts are given depends on the place.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Identity {
    /// Identifier in the cloud.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub id: Option<String>,
    /// Kind, such as `service`.
    #[serde(rename = "type", skip_serializing_if = "Option::is_none")]
    pub kind: Option<String>,
    /// Name for programs.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub codename: Option<String>,
    /// Name for people.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub title: Option<String>,
    /// Explanation for people.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub description: Option<String>,
    /// Uniform resource name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub urn: Option<String>,
}

/// Start order relative to another item.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Dependency {
    /// The other item.
    pub identifier: Identity,
    /// `started`, `healthy`, `completed`, `before` or `after`; empty means `started`.
    #[serde(default)]
    pub condition: String,
}

fn write_runtimes<S: Serializer>(runtimes: &[String], serializer: S) -> Result<S::Ok, S::Error> {
    let mut list = serializer.serialize_seq(Some(runtimes.len()))?;
    for codename in runtimes {
        list.serialize_element(&BTreeMap::from([("codename", codename)]))?;
    }
    list.end()
}

/// All forms of the keys.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Forms {
    created: Option<String>,
    author: Option<String>,
    #[serde(default)]
    skip_resource_limits: bool,
    hostname: Option<String>,
    #[serde(default)]
    balancing_policy: BalancingPolicy,
    #[serde(default, deserialize_with = "names")]
    runtimes: Vec<NameOnly>,
    #[serde(default, deserialize_with = "names")]
    runners: Vec<NameOnly>,
    #[serde(default)]
    run_parameters: RunParameters,
    #[serde(default)]
    sysctl: BTreeMap<String, String>,
    #[serde(rename = "offlineTTL")]
    offline_ttl: Option<DurationText>,
    #[serde(default)]
    quotas: Quotas,
    #[serde(default)]
    requested_resources: RequestedResources,
    #[serde(default, deserialize_with = "names")]
    allowed_connections: Vec<NameOnly>,
    #[serde(default, deserialize_with = "names")]
    resources: Vec<ResourceRequest>,
    #[serde(default)]
    permissions: BTreeMap<String, BTreeMap<String, String>>,
    #[serde(default, deserialize_with = "alert_rules::or_default")]
    alert_rules: AlertRules,
    #[serde(default)]
    probes: Probes,
    base_layer_is_node_rootfs: Option<bool>,
    #[serde(default)]
    dependencies: Vec<Dependency>,
}

impl TryFrom<Forms> for ItemConfig {
    type Error = BadConnection;

    fn try_from(forms: Forms) -> Result<Self, BadConnection> {
        let runtimes = if forms.runtimes.is_empty() { forms.runners } else { forms.runtimes };
        let mut connections =
            forms.allowed_connections.iter().map(|name| name.0.parse()).collect::<Result<Vec<_>, _>>()?;
        connections.sort();
        connections.dedup();
        let not_empty = |text: Option<String>| text.filter(|text| !text.is_empty());
        Ok(Self {
            created: not_empty(forms.created),
            author: not_empty(forms.author),
            skip_resource_limits: forms.skip_resource_limits,
            hostname: not_empty(forms.hostname),
            balancing_policy: forms.balancing_policy,
            runtimes: runtimes.into_iter().map(|name| name.0).collect(),
            run_parameters: forms.run_parameters,
            sysctl: forms.sysctl,
            offline_ttl: forms.offline_ttl,
            quotas: forms.quotas,
            requested_resources: forms.requested_resources,
            allowed_connections: connections,
            resources: forms.resources,
            permissions: forms.permissions,
            alert_rules: forms.alert_rules,
            probes: forms.probes,
            base_layer_is_node_rootfs: forms.base_layer_is_node_rootfs.unwrap_or(true),
            dependencies: forms.dependencies,
        })
    }
}
