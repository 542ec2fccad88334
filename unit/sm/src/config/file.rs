//! The keys of the file as they are written, before anything is checked.

use std::path::PathBuf;

use aos_duration_text::DurationText;
use serde::Deserialize;

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
#[allow(clippy::struct_field_names, reason = "the names are the file's keys")]
pub(super) struct File {
    pub working_dir: PathBuf,
    pub ca_cert: Option<PathBuf>,
    pub cert_storage: Option<String>,
    #[serde(rename = "iamPublicServerURL", default)]
    pub iam_public_server_url: String,
    #[serde(rename = "iamProtectedServerURL", default)]
    pub iam_protected_server_url: String,
    #[serde(rename = "cmServerURL", default)]
    pub cm_server_url: String,
    #[serde(default)]
    pub insecure: bool,
    pub cm_reconnect_timeout: Option<DurationText>,
    pub node_config_file: Option<PathBuf>,
    pub resources_config_file: Option<PathBuf>,
    #[serde(default)]
    pub monitoring: Monitoring,
    #[serde(default)]
    pub image_manager: ImageManager,
    #[serde(default)]
    pub logging: Logging,
    #[serde(default)]
    pub network: Network,
    pub disk_quotas: Option<DiskQuotas>,
    #[serde(default)]
    pub runtimes: Vec<Runtime>,
    #[serde(default)]
    pub journal_alerts: JournalAlertKeys,
    // Accepted and without effect.
    #[serde(default, rename = "migration")]
    _migration: serde_json::Value,
    #[serde(default, rename = "storageDir")]
    _storage_dir: serde_json::Value,
    #[serde(default, rename = "stateDir")]
    _state_dir: serde_json::Value,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase")]
pub(super) struct Monitoring {
    pub poll_period: Option<DurationText>,
    pub average_window: Option<DurationText>,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase")]
pub(super) struct ImageManager {
    pub image_path: Option<PathBuf>,
    #[serde(default)]
    pub images_part_limit: u64,
    pub update_item_ttl: Option<DurationText>,
    pub remove_outdated_period: Option<DurationText>,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase")]
pub(super) struct Network {
    pub firewall: Option<Firewall>,
}

#[derive(Deserialize, Clone, Copy, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
pub(super) enum Firewall {
    Required,
    Off,
}

#[derive(Deserialize, Clone, Copy, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
pub(super) enum DiskQuotas {
    Off,
    Auto,
    Images,
    Required,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase")]
pub(super) struct Logging {
    pub max_part_size: Option<u64>,
    pub max_part_count: Option<u64>,
    pub component_log_dir: Option<PathBuf>,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase")]
pub(super) struct JournalAlertKeys {
    #[serde(default)]
    pub filter: Vec<String>,
    pub service_alert_priority: Option<i64>,
    pub system_alert_priority: Option<i64>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
#[allow(clippy::struct_field_names, reason = "the names are the file's keys")]
pub(super) struct Runtime {
    pub plugin: String,
    #[serde(rename = "type")]
    pub runtime_type: String,
    #[serde(default, rename = "isComponent")]
    _is_component: bool,
    #[serde(default)]
    pub config: serde_json::Value,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase")]
pub(super) struct Container {
    pub runtime_dir: Option<PathBuf>,
    pub storage_dir: Option<PathBuf>,
    pub state_dir: Option<PathBuf>,
    pub crun_state_root: Option<PathBuf>,
    pub crun_executable: Option<PathBuf>,
    pub cgroup_parent: Option<String>,
    pub log_dir: Option<PathBuf>,
    pub log_max_bytes: Option<u64>,
    pub stop_grace: Option<DurationText>,
    pub user_namespaces: Option<bool>,
    pub host_binds: Option<Vec<String>>,
    pub seccomp_profile: Option<String>,
    pub default_pids_limit: Option<u64>,
    // Nothing of the host is there but what is named, so there is nothing to hide.
    #[serde(default, rename = "hostWhiteoutsDir")]
    _host_whiteouts_dir: serde_json::Value,
}
