//! Image configuration.

use std::collections::BTreeMap;

use aos_ids::Digest;
use aos_loose_json::KeyError;
use serde::{Deserialize, Serialize};

use crate::{Document, MAX_LAYERS, Platform, Protocol, document};

/// The OCI image configuration, as far as it is used here. User, volumes, labels and history are ignored: a
/// Unit assigns user and storage itself.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct ImageConfig {
    /// When it was made, RFC 3339.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub created: Option<String>,
    /// Who made it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub author: Option<String>,
    /// CPU architecture.
    pub architecture: String,
    /// Variant of the architecture.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub variant: String,
    /// Operating system.
    pub os: String,
    /// Version of the operating system.
    #[serde(rename = "os.version", skip_serializing_if = "String::is_empty")]
    pub os_version: String,
    /// Features of the operating system.
    #[serde(rename = "os.features", skip_serializing_if = "Vec::is_empty")]
    pub os_features: Vec<String>,
    /// How the process is started.
    pub config: ContainerConfig,
    /// The layers' content.
    pub rootfs: RootFs,
}

impl ImageConfig {
    /// What the image was built for.
    pub fn platform(&self) -> Platform {
        Platform {
            architecture: self.architecture.clone(),
            variant: self.variant.clone(),
            os: self.os.clone(),
            os_version: self.os_version.clone(),
            os_features: self.os_features.clone(),
        }
    }
}

impl Document for ImageConfig {
    const NAME: &'static str = "image configuration";

    fn check(&self) -> Result<(), KeyError> {
        if self.rootfs.diff_ids.len() > MAX_LAYERS {
            let reason = format!("{} layers, at most {MAX_LAYERS}", self.rootfs.diff_ids.len());
            return Err(KeyError::new("rootfs.diff_ids", reason));
        }
        for port in self.config.exposed_ports.keys() {
            if parse_port(port).is_none() {
                let reason = format!("'{port}' is no port, expected e.g. 8080/tcp");
                return Err(KeyError::new("config.exposedPorts", reason));
            }
        }
        Ok(())
    }
}
document!(ImageConfig);

/// How the process of an image is started.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct ContainerConfig {
    /// Ports the process listens on: keys `port[-last][/protocol]`, values without meaning.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub exposed_ports: BTreeMap<String, serde_json::Value>,
    /// Environment, `NAME=value`.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub env: Vec<String>,
    /// First arguments.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub entrypoint: Vec<String>,
    /// Further arguments.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub cmd: Vec<String>,
    /// Working directory; empty means `/`.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub working_dir: String,
}

/// One exposed port.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct ExposedPort {
    /// First number, 1..=65535.
    pub port: u16,
    /// Last number of a range, else the same.
    pub last_port: u16,
    /// TCP unless named.
    pub protocol: Protocol,
}

impl ContainerConfig {
    /// The process's arguments: entry point, then command.
    pub fn arguments(&self) -> Vec<String> {
        self.entrypoint.iter().chain(&self.cmd).cloned().collect()
    }

    /// The exposed ports; unreadable ones, which a checked document does not have, are left out.
    pub fn ports(&self) -> Vec<ExposedPort> {
        self.exposed_ports.keys().filter_map(|text| parse_port(text)).collect()
    }
}

fn parse_port(text: &str) -> Option<ExposedPort> {
    let (port, protocol) = text.split_once('/').unwrap_or((text, "tcp"));
    let (first, last) = port.trim().split_once(['-', ':']).unwrap_or((port.trim(), port.trim()));
    let (port, last_port): (u16, u16) = (first.parse().ok()?, last.parse().ok()?);
    let in_order = port != 0 && port <= last_port;
    in_order.then_some(ExposedPort { port, last_port, protocol: protocol.parse().ok()? })
}

/// The layers' content.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct RootFs {
    /// Always `layers`.
    #[serde(rename = "type")]
    pub kind: String,
    /// SHA-256 of each layer's uncompressed tar, in the order of the manifest's layers.
    pub diff_ids: Vec<Digest>,
}

impl Default for RootFs {
    fn default() -> Self {
        Self { kind: "layers".to_owned(), diff_ids: Vec::new() }
    }
}
