//! The node's own file of resources that it offers to instances.

use serde::{Deserialize, Serialize};

use crate::{Document, FormatError};

/// One resource of a node.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct NodeResource {
    /// Name that items ask for.
    pub name: String,
    /// How many instances may use it at once; 0 means any number.
    pub shared_count: u64,
    /// Groups of the host added to the container's user.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub groups: Vec<String>,
    /// Mounts.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub mounts: Vec<ResourceMount>,
    /// Environment, `NAME=value`.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub envs: Vec<String>,
    /// Entries of the container's hosts file.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub hosts: Vec<HostEntry>,
    /// Devices, `host[:container]`; a folder means all devices in it.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub devices: Vec<String>,
}

/// A mount of a resource.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct ResourceMount {
    /// Path of the host, or the name of the source.
    pub source: String,
    /// Path in the container.
    pub destination: String,
    /// Kind of file system, such as `bind`.
    #[serde(rename = "type")]
    pub kind: String,
    /// Mount options.
    pub options: Vec<String>,
}

/// An entry of a hosts file.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct HostEntry {
    /// Address.
    pub ip: String,
    /// Name.
    pub hostname: String,
}

/// A device and where it appears.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DeviceMapping<'a> {
    /// Path on the host.
    pub host: &'a str,
    /// Path in the container.
    pub container: &'a str,
}

impl NodeResource {
    /// The devices with their paths in the container.
    pub fn device_mappings(&self) -> impl Iterator<Item = DeviceMapping<'_>> {
        self.devices.iter().map(|text| {
            let mut parts = text.split(':');
            let host = parts.next().unwrap_or(text);
            DeviceMapping { host, container: parts.next().filter(|path| !path.is_empty()).unwrap_or(host) }
        })
    }
}

impl Document for Vec<NodeResource> {
    const NAME: &'static str = "resource file";

    fn check(&self) -> Result<(), aos_loose_json::KeyError> {
        for (index, resource) in self.iter().enumerate() {
            let error = |reason: &str| aos_loose_json::KeyError::new(format!("[{index}].name"), reason);
            if resource.name.is_empty() {
                return Err(error("is missing"));
            }
            if self[..index].iter().any(|earlier| earlier.name == resource.name) {
                return Err(error("is the name of an earlier resource"));
            }
        }
        Ok(())
    }
}

/// Reads a resource file, a JSON array. That a missing file means no resources is up to the caller.
pub fn read_resources(bytes: &[u8]) -> Result<Vec<NodeResource>, FormatError> {
    crate::read(bytes)
}
