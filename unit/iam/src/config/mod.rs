//! The configuration file: upstream's `iam.cfg`, read once at start.
//!
//! Keys are matched without regard to case. Everything that can be known to be wrong from the file
//! alone is refused here with file, key and reason, so that later modules need not check again.
//! `migration` is accepted and unused: our migrations are part of the program.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use aos_duration_text::DurationText;
use aos_status::AosCode;
use serde::Deserialize;

mod check;
#[cfg(test)]
mod tests;

/// Why a configuration file cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file cannot be read, is no JSON or has values of the wrong type.
    #[error(transparent)]
    File(#[from] aos_config_file::ConfigError),
    /// A value breaks a rule.
    #[error("configuration {}: {key}: {reason}", file.display())]
    Value {
        /// The file.
        file: PathBuf,
        /// Path of the key, as in `certModules[1].maxItems`.
        key: String,
        /// What is wrong with it.
        reason: String,
        /// True when a limit on the number of things is exceeded.
        too_many: bool,
    },
}

impl ConfigError {
    /// Kind of the error.
    pub fn code(&self) -> AosCode {
        match self {
            Self::File(error) if error.is_not_found() => AosCode::NotFound,
            Self::Value { too_many: true, .. } => AosCode::NoMemory,
            Self::File(_) | Self::Value { .. } => AosCode::InvalidArgument,
        }
    }
}

/// The whole file.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct Config {
    /// Root CA in PEM, for checking peers.
    pub ca_cert: PathBuf,
    /// Type of the certificate that our servers show.
    pub cert_storage: String,
    /// Listen address of the public server.
    #[serde(rename = "iamPublicServerURL")]
    pub iam_public_server_url: String,
    /// Listen address of the protected server.
    #[serde(rename = "iamProtectedServerURL")]
    pub iam_protected_server_url: String,
    /// Main node's public server; only on secondary nodes.
    #[serde(rename = "mainIAMPublicServerURL")]
    pub main_iam_public_server_url: String,
    /// Main node's protected server; only on secondary nodes.
    #[serde(rename = "mainIAMProtectedServerURL")]
    pub main_iam_protected_server_url: String,
    /// Pause between attempts to reach the main node.
    pub node_reconnect_interval: Option<DurationText>,
    /// Program and arguments run at the begin of StartProvisioning; empty: none.
    pub start_provisioning_cmd_args: Vec<String>,
    /// Program and arguments run at the end of StartProvisioning; empty: none.
    pub disk_encryption_cmd_args: Vec<String>,
    /// Program and arguments run by FinishProvisioning; empty: none.
    pub finish_provisioning_cmd_args: Vec<String>,
    /// Program and arguments run by Deprovision; empty: none.
    pub deprovision_cmd_args: Vec<String>,
    /// Generation of the API told to clients that ask for it: 5, 6 or 7. All are served.
    pub api_version: Option<u64>,
    /// Whether protected services look at who calls; off for drop-in configurations.
    pub authorize_callers: bool,
    /// With `authorizeCallers`: certificate types by service, in place of the built-in ones.
    pub callers: BTreeMap<String, Vec<String>>,
    /// Allows certificate types to keep their keys in files: for development only.
    pub allow_file_keys: bool,
    /// Switches the permission services on.
    pub enable_permissions_handler: bool,
    /// Directory of the database.
    pub working_dir: PathBuf,
    /// Where the cloud gives certificates to Units without a session, `https://host:port`; empty: the host
    /// that the online certificate names, port 9443; `none`: nowhere.
    pub recovery_url: String,
    /// Share of a certificate's life, per cent, after which the Unit asks for a new one by itself; 75.
    pub renew_at_percent: Option<u8>,
    /// Upstream's migration directories; unused.
    pub migration: Option<Migration>,
    /// What the node is.
    pub node_info: Option<NodeInfoConfig>,
    /// Where the Unit's identity comes from.
    pub identifier: Option<IdentifierConfig>,
    /// Certificate types of this node, in provisioning order.
    pub cert_modules: Vec<CertModuleConfig>,
}

/// Upstream's migration directories, accepted so that their files load.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct Migration {
    /// Shipped migrations.
    pub migration_path: PathBuf,
    /// All migrations ever seen.
    pub merged_migration_path: PathBuf,
}

/// What the node is, as far as the node cannot find out by itself.
#[derive(Debug, Clone, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct NodeInfoConfig {
    /// File with the node's state; absent means unprovisioned.
    pub provisioning_state_path: PathBuf,
    /// The kernel's description of processors.
    pub cpu_info_path: PathBuf,
    /// The kernel's description of memory.
    pub mem_info_path: PathBuf,
    /// File whose first line is the node ID.
    #[serde(rename = "nodeIDPath")]
    pub node_id_path: PathBuf,
    /// Title for people.
    pub node_name: String,
    /// Group of equal nodes.
    pub node_type: String,
    /// Computing power.
    #[serde(rename = "maxDMIPS")]
    pub max_dmips: u64,
    /// Overrides the architecture found.
    pub architecture: Option<String>,
    /// Variant of the architecture.
    pub architecture_variant: Option<String>,
    /// Operating system.
    pub os: Option<String>,
    /// Version of the operating system.
    pub os_version: Option<String>,
    /// Free attributes; `MainNode` makes this the main node.
    pub attrs: BTreeMap<String, String>,
    /// Disk partitions reported and monitored.
    pub partitions: Vec<PartitionConfig>,
}

impl Default for NodeInfoConfig {
    fn default() -> Self {
        Self {
            provisioning_state_path: "/var/aos/.provisionstate".into(),
            cpu_info_path: "/proc/cpuinfo".into(),
            mem_info_path: "/proc/meminfo".into(),
            node_id_path: "/etc/machine-id".into(),
            node_name: String::new(),
            node_type: String::new(),
            max_dmips: 0,
            architecture: None,
            architecture_variant: None,
            os: None,
            os_version: None,
            attrs: BTreeMap::new(),
            partitions: Vec::new(),
        }
    }
}

impl NodeInfoConfig {
    /// Whether this is the main node of its Unit.
    pub fn is_main(&self) -> bool {
        self.attrs.keys().any(|name| name.eq_ignore_ascii_case("MainNode"))
    }
}

/// A disk partition.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct PartitionConfig {
    /// Name in reports.
    pub name: String,
    /// What it is used for.
    pub types: Vec<String>,
    /// Where it is mounted.
    pub path: PathBuf,
}

/// Where the Unit's identity comes from.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct IdentifierConfig {
    /// `fileidentifier`, `visidentifier`, `none` or empty.
    pub plugin: String,
    /// Parameters of all plugins; each uses its own.
    pub params: IdentifierParams,
}

/// Parameters of the identity plugins.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct IdentifierParams {
    /// File with the system ID.
    #[serde(rename = "systemIDPath")]
    pub system_id_path: PathBuf,
    /// File with `model;version`.
    pub unit_model_path: PathBuf,
    /// File with one subject a line.
    pub subjects_path: PathBuf,
    /// Address of a vehicle information server; for `visidentifier`.
    pub vis_server: String,
    /// CA of that server.
    pub ca_cert_file: PathBuf,
    /// Longest wait for its answer.
    pub web_socket_timeout: Option<DurationText>,
}

/// Key algorithm of a certificate type.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Algorithm {
    /// Elliptic curve P-384.
    #[default]
    Ecc,
    /// RSA with 2048 bits.
    Rsa,
}

/// Extended key usage that a certificate asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KeyUsage {
    /// TLS client.
    ClientAuth,
    /// TLS server.
    ServerAuth,
}

/// One certificate type as the file has it.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct CertModuleConfig {
    /// Name of the type.
    pub id: String,
    /// `pkcs11module`, or `filemodule` where `allowFileKeys` is set.
    pub plugin: String,
    /// `ecc` or `rsa`.
    #[serde(rename = "algorithm")]
    pub algorithm_word: String,
    /// Most certificates kept.
    pub max_items: u32,
    /// `clientAuth`, `serverAuth`.
    #[serde(rename = "extendedKeyUsage")]
    pub extended_key_usage_words: Vec<String>,
    /// DNS names for the certificate.
    pub alternative_names: Vec<String>,
    /// Entry is skipped.
    pub disabled: bool,
    /// Token and database are not compared at start.
    pub skip_validation: bool,
    /// The certificate is made here, not by a CA.
    pub self_signed: bool,
    /// The token.
    pub params: TokenParams,
}

/// Where a type's keys live.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct TokenParams {
    /// PKCS#11 library.
    pub library: PathBuf,
    /// Number of the slot.
    #[serde(rename = "slotID")]
    pub slot_id: Option<u32>,
    /// Position of the slot in the list of all slots.
    pub slot_index: Option<u32>,
    /// Label of the token.
    pub token_label: String,
    /// File with the user PIN.
    pub user_pin_path: PathBuf,
    /// Whether URLs name the library.
    pub module_path_in_url: bool,
    /// Folder of key files, for plugin `filemodule`.
    pub key_dir: PathBuf,
    /// User for a TEE login.
    pub uid: u32,
    /// Group for a TEE login.
    pub gid: u32,
}

/// One usable certificate type.
#[derive(Debug, Clone)]
pub struct CertModule {
    /// Name of the type, at most 16 bytes.
    pub id: String,
    /// Key algorithm.
    pub algorithm: Algorithm,
    /// Most certificates kept, 1..=5.
    pub max_items: usize,
    /// In the order of the file, at most 2.
    pub extended_key_usage: Vec<KeyUsage>,
    /// At most 4 of at most 42 characters.
    pub alternative_names: Vec<String>,
    /// Token and database are not compared at start.
    pub skip_validation: bool,
    /// The certificate is made here, not by a CA.
    pub self_signed: bool,
    /// The token.
    pub params: TokenParams,
}

/// A checked configuration.
#[derive(Debug, Clone)]
pub struct Checked {
    /// The file as read.
    pub raw: Config,
    /// Enabled certificate types.
    pub modules: Vec<CertModule>,
    /// The node.
    pub node: NodeInfoConfig,
}

/// Reads and checks the file at `path`.
pub fn load(path: &Path) -> Result<Checked, ConfigError> {
    let raw: Config = aos_config_file::load(path)?;
    check::check(path, raw)
}
