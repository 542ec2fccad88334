//! Configuration file `aos_cm.cfg`, in upstream's format.
//!
//! Read once at start. Keys match without regard to case; a wrong type, an unreadable duration or a value out
//! of range ends the process with file, key and reason. Missing directories derive from `workingDir`.
//! `migration.*` is accepted for files made for upstream; our schema is part of the program.

use std::path::{Path, PathBuf};
use std::time::Duration;

use aos_duration_text::DurationText;
use serde::Deserialize;

pub use aos_config_file::ConfigError;

use crate::fileserver;

const SECOND: Duration = Duration::from_secs(1);
const MINUTE: Duration = Duration::from_mins(1);
const DAY: Duration = Duration::from_hours(24);

/// The file as it is written.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
#[allow(clippy::struct_field_names, reason = "the keys of the file")]
struct File {
    ca_cert: PathBuf,
    cert_storage: Option<String>,
    working_dir: PathBuf,
    storage_dir: Option<PathBuf>,
    state_dir: Option<PathBuf>,
    unit_config_file: Option<PathBuf>,
    service_discovery_url: String,
    override_service_discovery_url: String,
    cloud_message_log: PathBuf,
    iam_public_server_url: String,
    iam_protected_server_url: String,
    cm_server_url: String,
    file_server_url: String,
    dns_storage_path: Option<PathBuf>,
    dns_ip: String,
    dns_pid_file: Option<PathBuf>,
    unit_status_send_timeout: Option<DurationText>,
    state_change_delay: Option<DurationText>,
    cloud_response_wait_timeout: Option<DurationText>,
    cloud_ping_interval: Option<DurationText>,
    cloud_dead_timeout: Option<DurationText>,
    open_enveloped_messages: bool,
    monitoring: Monitoring,
    node_info_provider: NodeInfoProvider,
    alerts: Alerts,
    image_manager: ImageManager,
    launcher: Launcher,
    migration: Migration,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Monitoring {
    poll_period: Option<DurationText>,
    average_window: Option<DurationText>,
    send_period: Option<DurationText>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct NodeInfoProvider {
    sm_connection_timeout: Option<DurationText>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Alerts {
    send_period: Option<DurationText>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct ImageManager {
    install_path: Option<PathBuf>,
    download_path: Option<PathBuf>,
    update_item_ttl: Option<DurationText>,
    remove_outdated_period: Option<DurationText>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Launcher {
    nodes_connection_timeout: Option<DurationText>,
    instance_ttl: Option<DurationText>,
    check_override_env_vars_period: Option<DurationText>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Migration {
    migration_path: PathBuf,
    merged_migration_path: PathBuf,
}

/// The configuration with all defaults filled in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// PEM file of the roots that verify peers, the cloud and signatures.
    pub ca_cert: PathBuf,
    /// Certificate type of our own identity at IAM.
    pub cert_storage: String,
    /// Directory of everything we keep, also of `cm.db`.
    pub working_dir: PathBuf,
    /// Root of the instances' storages.
    pub storage_dir: PathBuf,
    /// Root of the instances' states.
    pub state_dir: PathBuf,
    /// Kept Unit configuration.
    pub unit_config_file: PathBuf,
    /// Discovery URL, used last; its path is used always.
    pub service_discovery_url: String,
    /// Discovery URL that wins over all others, or empty.
    pub override_service_discovery_url: String,
    /// File that gets every message, if any.
    pub cloud_message_log: Option<PathBuf>,
    /// `host:port` of IAM's public services.
    pub iam_public_server_url: String,
    /// `host:port` of IAM's protected services.
    pub iam_protected_server_url: String,
    /// Address of our gRPC server.
    pub cm_server_url: String,
    /// Where other nodes find our file server; without it there is none.
    pub file_server: Option<fileserver::Address>,
    /// Directory of the hosts file.
    pub dns_storage_path: PathBuf,
    /// DNS server told to instances, or empty.
    pub dns_ip: String,
    /// File with the process that reads the hosts file.
    pub dns_pid_file: PathBuf,
    /// Quiet time of a state file before it is sent. A key of ours; upstream has it fixed.
    pub state_change_delay: Duration,
    /// Quiet time before a delta status.
    pub unit_status_send_timeout: Duration,
    /// Time for an acknowledgement and for an answer of the cloud.
    pub cloud_response_wait_timeout: Duration,
    /// Time between pings to the cloud.
    pub cloud_ping_interval: Duration,
    /// Time without a sign of life after which the link to the cloud is given up.
    pub cloud_dead_timeout: Duration,
    /// Whether frames sealed for the `offline` certificate are opened.
    pub open_enveloped_messages: bool,
    /// Period of monitoring messages.
    pub monitoring_send_period: Duration,
    /// Time a node may be without its Service Manager.
    pub sm_connection_timeout: Duration,
    /// Period of alert messages.
    pub alerts_send_period: Duration,
    /// Verified blobs.
    pub install_path: PathBuf,
    /// Partial blobs.
    pub download_path: PathBuf,
    /// How long an unwanted item stays on disk.
    pub update_item_ttl: Duration,
    /// Period of the search for outdated items.
    pub remove_outdated_period: Duration,
    /// How long to wait for nodes.
    pub nodes_connection_timeout: Duration,
    /// How long an unwanted instance keeps its data and numbers.
    pub instance_ttl: Duration,
    /// Period of the check of overridden variables.
    pub check_override_env_vars_period: Duration,
}

impl Config {
    /// Reads the file.
    pub fn load(path: &Path) -> Result<Self, ConfigError> {
        Self::check(path, aos_config_file::load(path)?)
    }

    fn check(path: &Path, file: File) -> Result<Self, ConfigError> {
        let needed = |key: &str, text: &str| match text {
            "" => Err(ConfigError::key(path, key, "is missing")),
            _ => Ok(()),
        };
        needed("workingDir", &file.working_dir.to_string_lossy())?;
        needed("caCert", &file.ca_cert.to_string_lossy())?;
        needed("iamPublicServerUrl", &file.iam_public_server_url)?;
        needed("cmServerUrl", &file.cm_server_url)?;
        // Both may be missing: the online certificate usually names the cloud.
        let url = |key: &str, text: &str| {
            let good = |url: &url::Url| matches!(url.scheme(), "https" | "http") && url.has_host();
            if text.is_empty() || url::Url::parse(text).is_ok_and(|url| good(&url)) {
                return Ok(());
            }
            Err(ConfigError::key(path, key, "is no http or https URL"))
        };
        url("serviceDiscoveryUrl", &file.service_discovery_url)?;
        url("overrideServiceDiscoveryUrl", &file.override_service_discovery_url)?;
        if !file.dns_ip.is_empty() && file.dns_ip.parse::<std::net::IpAddr>().is_err() {
            return Err(ConfigError::key(path, "dnsIp", "is no address"));
        }
        let file_server = match file.file_server_url.as_str() {
            "" => None,
            text => {
                let wrong = || ConfigError::key(path, "fileServerUrl", "is no host:port");
                Some(fileserver::Address::read(text).ok_or_else(wrong)?)
            }
        };
        let time = |key: &str, text: Option<DurationText>, default: Duration| match text {
            Some(DurationText(Duration::ZERO)) => Err(ConfigError::key(path, key, "must be longer than 0")),
            Some(DurationText(time)) => Ok(time),
            None => Ok(default),
        };
        // Accepted for upstream's files; samples are taken by the Service Managers, our schema is built in.
        let _ = (file.monitoring.poll_period, file.monitoring.average_window);
        let _ = (file.migration.migration_path, file.migration.merged_migration_path);

        let cloud_ping_interval = time("cloudPingInterval", file.cloud_ping_interval, 30 * SECOND)?;
        let cloud_dead_timeout = time("cloudDeadTimeout", file.cloud_dead_timeout, 3 * cloud_ping_interval)?;
        if cloud_dead_timeout <= cloud_ping_interval {
            return Err(ConfigError::key(path, "cloudDeadTimeout", "must be longer than cloudPingInterval"));
        }

        let wd = file.working_dir;
        let below = |given: Option<PathBuf>, name: &str| given.unwrap_or_else(|| wd.join(name));
        let dns_storage_path = file.dns_storage_path.unwrap_or_else(|| "/var/aos/dns".into());
        Ok(Self {
            ca_cert: file.ca_cert,
            cert_storage: file.cert_storage.unwrap_or_else(|| "cm".into()),
            storage_dir: below(file.storage_dir, "storages"),
            state_dir: below(file.state_dir, "states"),
            unit_config_file: below(file.unit_config_file, "aos_unit.cfg"),
            service_discovery_url: file.service_discovery_url,
            override_service_discovery_url: file.override_service_discovery_url,
            cloud_message_log: Some(file.cloud_message_log).filter(|path| !path.as_os_str().is_empty()),
            iam_public_server_url: file.iam_public_server_url,
            iam_protected_server_url: file.iam_protected_server_url,
            cm_server_url: file.cm_server_url,
            file_server,
            dns_pid_file: file.dns_pid_file.unwrap_or_else(|| dns_storage_path.join("pidfile")),
            dns_storage_path,
            dns_ip: file.dns_ip,
            state_change_delay: time("stateChangeDelay", file.state_change_delay, 10 * SECOND)?,
            unit_status_send_timeout: time(
                "unitStatusSendTimeout",
                file.unit_status_send_timeout,
                10 * SECOND,
            )?,
            cloud_response_wait_timeout: time(
                "cloudResponseWaitTimeout",
                file.cloud_response_wait_timeout,
                10 * SECOND,
            )?,
            cloud_ping_interval,
            cloud_dead_timeout,
            open_enveloped_messages: file.open_enveloped_messages,
            monitoring_send_period: time("monitoring.sendPeriod", file.monitoring.send_period, MINUTE)?,
            sm_connection_timeout: time(
                "nodeInfoProvider.smConnectionTimeout",
                file.node_info_provider.sm_connection_timeout,
                MINUTE,
            )?,
            alerts_send_period: time("alerts.sendPeriod", file.alerts.send_period, 10 * SECOND)?,
            install_path: below(file.image_manager.install_path, "install"),
            download_path: below(file.image_manager.download_path, "download"),
            update_item_ttl: time(
                "imageManager.updateItemTtl",
                file.image_manager.update_item_ttl,
                30 * DAY,
            )?,
            remove_outdated_period: time(
                "imageManager.removeOutdatedPeriod",
                file.image_manager.remove_outdated_period,
                DAY,
            )?,
            nodes_connection_timeout: time(
                "launcher.nodesConnectionTimeout",
                file.launcher.nodes_connection_timeout,
                10 * MINUTE,
            )?,
            instance_ttl: time("launcher.instanceTtl", file.launcher.instance_ttl, 30 * DAY)?,
            check_override_env_vars_period: time(
                "launcher.checkOverrideEnvVarsPeriod",
                file.launcher.check_override_env_vars_period,
                MINUTE,
            )?,
            working_dir: wd,
        })
    }

    /// Our database.
    pub fn database(&self) -> PathBuf {
        self.working_dir.join("cm.db")
    }
}

#[cfg(test)]
#[path = "config_tests.rs"]
mod tests;
