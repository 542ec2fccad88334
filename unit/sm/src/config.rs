//! The configuration file (`sm.cfg`), upstream's keys and defaults.
//!
//! Read once at start. Keys without a meaning here (migration scripts, top-level
//! storage folders) are accepted, so that a file written for upstream is taken without warnings.

mod file;
mod native;

use std::path::{Path, PathBuf};
use std::time::Duration;

use aos_config_file::ConfigError;
use aos_duration_text::DurationText;

use crate::logprovider::Limits;
use crate::resourcemanager::quotas::Policy;
use file::{Container, DiskQuotas, File, Firewall, Runtime};
pub use native::NativeConfig;

/// Most runtimes of a node, as all peers have it.
const MAX_RUNTIMES: usize = 4;

/// The whole configuration, checked.
#[derive(Debug, Clone)]
pub struct Config {
    /// Base folder of everything kept.
    pub working_dir: PathBuf,
    /// Root certificates; `None` only where nothing is encrypted.
    pub ca_cert: Option<PathBuf>,
    /// Certificate type of the Service Manager at IAM.
    pub cert_storage: String,
    /// Public server of IAM, `host:port`.
    pub iam_public_url: String,
    /// Protected server of IAM, `host:port`; empty when not used.
    pub iam_protected_url: String,
    /// Server of the Communication Manager, `host:port`.
    pub cm_server_url: String,
    /// CM is shown no certificate of ours; for development only.
    pub insecure: bool,
    /// Pause between two connection attempts.
    pub cm_reconnect_timeout: Duration,
    /// Stored configuration of this node.
    pub node_config_file: PathBuf,
    /// Host resources that items may ask for.
    pub resources_config_file: PathBuf,
    /// Sampling of load figures.
    pub poll_period: Duration,
    /// Number of samples the average goes over, at least 1.
    pub average_samples: u32,
    /// Blobs and layers.
    pub image_path: PathBuf,
    /// Share of their disk that images may take, percent; 0 is all of it.
    pub images_part_limit: u8,
    /// How long removed items stay on disk.
    pub update_item_ttl: Duration,
    /// How often outdated items are looked for.
    pub remove_outdated_period: Duration,
    /// Parts of answers to requests for logs.
    pub log_limits: Limits,
    /// Log files of core components, where nobody keeps a journal.
    pub component_log_dir: PathBuf,
    /// Which entries of the journal are alerts.
    pub journal_alerts: JournalAlerts,
    /// Instances are kept apart by a packet filter, and their traffic is counted. Off only for kernels that cannot.
    pub firewall: bool,
    /// What to do about disk quotas where a file system has none.
    pub disk_quotas: Policy,
    /// The container runtimes of this node.
    pub containers: Vec<ContainerConfig>,
    /// The native runtimes of this node; at least one runtime is there.
    pub natives: Vec<NativeConfig>,
}

/// Which entries of the journal are alerts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JournalAlerts {
    /// Regular expressions; a message that fits one is none.
    pub filter: Vec<String>,
    /// Least urgent priority of entries about units and of instances, 0..=7.
    pub service_priority: u8,
    /// Least urgent priority of all others, 0..=7.
    pub system_priority: u8,
}

/// One container runtime.
#[derive(Debug, Clone)]
pub struct ContainerConfig {
    /// Type reported to CM; part of the runtime's identifier.
    pub runtime_type: String,
    /// One bundle for each instance, the keeper's socket, network namespaces.
    pub runtime_dir: PathBuf,
    /// Prefix of storage paths.
    pub storage_dir: PathBuf,
    /// Prefix of state paths.
    pub state_dir: PathBuf,
    /// State folder of the OCI runtime.
    pub state_root: PathBuf,
    /// The OCI runtime's command, crun or runc.
    pub executable: PathBuf,
    /// Parent of the instances' cgroups.
    pub cgroup_parent: String,
    /// Log files of instances.
    pub log_dir: PathBuf,
    /// Cap of one log file, bytes.
    pub log_max_bytes: u64,
    /// Time between SIGTERM and SIGKILL.
    pub stop_grace: Duration,
    /// Each instance has a user namespace of its own.
    pub user_namespaces: bool,
    /// Folders of the host's root that lie below images which count on it; `None` for none.
    pub host_binds: Option<Vec<String>>,
    /// Which system calls instances may use.
    pub seccomp: SeccompChoice,
    /// Processes and threads of an instance whose item limits them not; `None` for any number.
    pub default_pids_limit: Option<u64>,
}

/// Which system calls instances may use.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SeccompChoice {
    /// The ones of our own profile.
    Default,
    /// All.
    Unconfined,
    /// As a file says, in the form of the OCI runtime specification.
    File(PathBuf),
}

impl Config {
    /// Reads and checks the file.
    pub fn load(path: &Path) -> Result<Self, ConfigError> {
        let file: File = aos_config_file::load(path)?;
        Self::check(path, file)
    }

    fn check(path: &Path, file: File) -> Result<Self, ConfigError> {
        let wrong = |key: &str, reason: &str| ConfigError::key(path, key, reason);
        let seconds = |text: Option<DurationText>, default: u64| {
            text.map_or(Duration::from_secs(default), DurationText::get)
        };
        if file.working_dir.as_os_str().is_empty() {
            return Err(wrong("workingDir", "is needed"));
        }
        if file.cm_server_url.is_empty() {
            return Err(wrong("cmServerURL", "is needed"));
        }
        if file.iam_public_server_url.is_empty() {
            return Err(wrong("iamPublicServerURL", "is needed"));
        }
        if file.runtimes.len() > MAX_RUNTIMES {
            return Err(wrong("runtimes", "at most 4 runtimes are possible"));
        }
        let working_dir = file.working_dir;
        let poll_period = seconds(file.monitoring.poll_period, 35);
        let window = seconds(file.monitoring.average_window, 35);
        if poll_period < Duration::from_secs(1) {
            return Err(wrong("monitoring.pollPeriod", "must be at least one second"));
        }
        let samples = window.as_millis() / poll_period.as_millis();
        let (containers, natives) = runtimes(path, &working_dir, file.runtimes)?;
        Ok(Self {
            ca_cert: file.ca_cert.filter(|cert| !cert.as_os_str().is_empty()),
            cert_storage: certificate_type(file.cert_storage),
            iam_public_url: file.iam_public_server_url,
            iam_protected_url: file.iam_protected_server_url,
            cm_server_url: file.cm_server_url,
            insecure: file.insecure,
            cm_reconnect_timeout: seconds(file.cm_reconnect_timeout, 10),
            node_config_file: file.node_config_file.unwrap_or_else(|| working_dir.join("aos_node.cfg")),
            resources_config_file: file
                .resources_config_file
                .unwrap_or_else(|| PathBuf::from("/etc/aos/resources.cfg")),
            poll_period,
            average_samples: u32::try_from(samples).unwrap_or(u32::MAX).max(1),
            image_path: file.image_manager.image_path.unwrap_or_else(|| working_dir.join("images")),
            images_part_limit: u8::try_from(file.image_manager.images_part_limit).unwrap_or(100).min(100),
            update_item_ttl: seconds(file.image_manager.update_item_ttl, 30 * 24 * 3600),
            remove_outdated_period: seconds(file.image_manager.remove_outdated_period, 24 * 3600)
                .max(Duration::from_secs(1)),
            log_limits: Limits::new(
                file.logging.max_part_size.unwrap_or(262_144),
                file.logging.max_part_count.unwrap_or(80),
            ),
            component_log_dir: file
                .logging
                .component_log_dir
                .unwrap_or_else(|| PathBuf::from(crate::ownlog::DEFAULT_DIR)),
            journal_alerts: JournalAlerts {
                service_priority: priority(file.journal_alerts.service_alert_priority, 4),
                system_priority: priority(file.journal_alerts.system_alert_priority, 3),
                filter: file.journal_alerts.filter,
            },
            firewall: file.network.firewall != Some(Firewall::Off),
            disk_quotas: match file.disk_quotas {
                Some(DiskQuotas::Off) => Policy::Off,
                None | Some(DiskQuotas::Auto) => Policy::Auto,
                Some(DiskQuotas::Images) => Policy::Images,
                Some(DiskQuotas::Required) => Policy::Required,
            },
            containers,
            natives,
            working_dir,
        })
    }

    /// Types of all runtimes.
    pub fn runtime_types(&self) -> Vec<&str> {
        let containers = self.containers.iter().map(|runtime| runtime.runtime_type.as_str());
        containers.chain(self.natives.iter().map(|runtime| runtime.runtime_type.as_str())).collect()
    }

    /// Folder of what belongs to no runtime in particular and ends with the machine.
    pub fn run_dir(&self) -> &Path {
        let container = self.containers.first().map(|runtime| &runtime.runtime_dir);
        let native = self.natives.first().map(|runtime| &runtime.runtime_dir);
        container.or(native).map_or(Path::new("/run/aos"), PathBuf::as_path)
    }
}

/// Checks the list of runtimes. Runtimes for components are known, but not built yet: they are left out, so
/// that CM places nothing there.
fn runtimes(
    path: &Path,
    working_dir: &Path,
    given: Vec<Runtime>,
) -> Result<(Vec<ContainerConfig>, Vec<NativeConfig>), ConfigError> {
    let mut containers: Vec<ContainerConfig> = Vec::new();
    let mut natives: Vec<NativeConfig> = Vec::new();
    let mut types: Vec<String> = Vec::new();
    // Two runtimes in one folder would take each other's instances for rubbish.
    let mut folders: Vec<PathBuf> = Vec::new();
    for (index, runtime) in given.into_iter().enumerate() {
        let place = |key: &str| format!("runtimes[{index}].{key}");
        let wrong = |key: &str, reason: &str| ConfigError::key(path, place(key), reason);
        if runtime.runtime_type.is_empty() || runtime.runtime_type.len() > 64 {
            return Err(wrong("type", "must have 1 to 64 characters"));
        }
        if types.contains(&runtime.runtime_type) {
            return Err(wrong("type", "is there twice"));
        }
        types.push(runtime.runtime_type.clone());
        let mut own = |key: &str, folder: &mut PathBuf, given: bool, name: &str| {
            if folders.contains(folder) {
                if given {
                    return Err(wrong(&format!("config.{key}"), "another runtime has this folder"));
                }
                let last = folder.file_name().unwrap_or_default().to_string_lossy().into_owned();
                folder.set_file_name(format!("{last}-{name}"));
            }
            folders.push(folder.clone());
            Ok(())
        };
        match runtime.plugin.as_str() {
            "container" => {
                let part: Container = part(path, &place("config"), runtime.config)?;
                let (dir, root) = (part.runtime_dir.is_some(), part.crun_state_root.is_some());
                let mut one = container(working_dir, runtime.runtime_type, part);
                own("runtimeDir", &mut one.runtime_dir, dir, &one.runtime_type)?;
                own("crunStateRoot", &mut one.state_root, root, &one.runtime_type)?;
                containers.push(one);
            }
            "native" => {
                let part: native::Keys = part(path, &place("config"), runtime.config)?;
                let mut one = part.complete(working_dir, runtime.runtime_type);
                own("runtimeDir", &mut one.runtime_dir, false, &one.runtime_type)?;
                natives.push(one);
            }
            "boot" | "rootfs" => {
                tracing::warn!(
                    "runtime '{}' of plugin '{}' is left out: not built yet",
                    runtime.runtime_type,
                    runtime.plugin
                );
            }
            other => return Err(wrong("plugin", &format!("'{}' is not supported", other.escape_debug()))),
        }
    }
    if containers.is_empty() && natives.is_empty() {
        return Err(ConfigError::key(path, "runtimes", "a container or native runtime is needed"));
    }
    Ok((containers, natives))
}

fn part<T: serde::de::DeserializeOwned + Default>(
    path: &Path,
    key: &str,
    value: serde_json::Value,
) -> Result<T, ConfigError> {
    match value {
        serde_json::Value::Null => Ok(T::default()),
        value => aos_config_file::read_part(path, key, value),
    }
}

/// Priorities that do not exist are the default, as upstream has it.
fn priority(given: Option<i64>, default: u8) -> u8 {
    given.and_then(|given| u8::try_from(given).ok()).filter(|given| *given <= 7).unwrap_or(default)
}

/// Upstream's default is the folder of the storage; IAM knows the storage by its last part.
fn certificate_type(text: Option<String>) -> String {
    let text = text.unwrap_or_default();
    text.trim_end_matches('/').rsplit('/').next().filter(|word| !word.is_empty()).unwrap_or("sm").to_owned()
}

fn container(working_dir: &Path, runtime_type: String, part: Container) -> ContainerConfig {
    let parent = part
        .cgroup_parent
        .unwrap_or_else(|| "/system.slice/system-aos.slice/system-aos-service.slice".to_owned());
    ContainerConfig {
        runtime_type,
        runtime_dir: part.runtime_dir.unwrap_or_else(|| PathBuf::from("/run/aos/runtime")),
        storage_dir: part.storage_dir.unwrap_or_else(|| working_dir.join("storages")),
        state_dir: part.state_dir.unwrap_or_else(|| working_dir.join("states")),
        state_root: part.crun_state_root.unwrap_or_else(|| PathBuf::from("/run/crun")),
        executable: part.crun_executable.unwrap_or_else(|| PathBuf::from("/usr/bin/crun")),
        cgroup_parent: parent.trim_end_matches('/').to_owned(),
        log_dir: part.log_dir.unwrap_or_else(|| working_dir.join("logs")),
        log_max_bytes: part.log_max_bytes.unwrap_or(1024 * 1024).max(4096),
        stop_grace: part.stop_grace.map_or(Duration::from_secs(10), DurationText::get),
        user_namespaces: part.user_namespaces.unwrap_or(false),
        host_binds: part.host_binds.map(host_folders),
        seccomp: match part.seccomp_profile.as_deref() {
            None | Some("") => SeccompChoice::Default,
            Some("unconfined") => SeccompChoice::Unconfined,
            Some(file) => SeccompChoice::File(PathBuf::from(file)),
        },
        default_pids_limit: part.default_pids_limit.filter(|limit| *limit > 0),
    }
}

/// Names of folders of the root; an empty list stands for upstream's.
fn host_folders(names: Vec<String>) -> Vec<String> {
    if names.is_empty() {
        return ["bin", "sbin", "lib", "lib64", "usr"].map(str::to_owned).into();
    }
    let names = names.into_iter().map(|name| name.trim_matches('/').to_owned());
    names.filter(|name| !matches!(name.as_str(), "" | "." | "..") && !name.contains('/')).collect()
}

#[cfg(test)]
mod tests;
