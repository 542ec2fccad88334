//! Resources of the node that items may ask for: the resource file, and what a request turns into.
//!
//! Counting the users of a shared resource is the Communication Manager's part; here a request is only
//! resolved to groups, mounts, variables, hosts and devices of this host.

use std::fs;
use std::io;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use aos_item_format::{NodeResource, ResourceMount, ResourceRequest, read_resources};

use crate::Error;

/// Most devices one request may bring.
const MAX_DEVICES: usize = 256;

/// The resources of this node.
#[derive(Debug, Clone, Default)]
pub struct ResourceManager {
    resources: Vec<NodeResource>,
}

/// What an instance gets.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Attached {
    /// Additional groups of its process.
    pub groups: Vec<u32>,
    /// Mounts.
    pub mounts: Vec<ResourceMount>,
    /// Variables, `NAME=value`.
    pub env: Vec<String>,
    /// Lines for `/etc/hosts`: address and name.
    pub hosts: Vec<(String, String)>,
    /// Devices.
    pub devices: Vec<Device>,
}

/// One device node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Device {
    /// Path in the container.
    pub path: String,
    /// `b`, `c` or `p`.
    pub kind: char,
    /// Major number.
    pub major: u64,
    /// Minor number.
    pub minor: u64,
    /// Permission bits.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Access: letters of `rwm`.
    pub access: String,
}

impl ResourceManager {
    /// Reads the resource file; a missing one means no resources, a bad one ends the program.
    pub fn load(path: &Path) -> Result<Self, Error> {
        let Some(text) = aos_durable::read_bounded(path, 1024 * 1024)? else {
            tracing::warn!("there is no resource file {}", path.display());
            return Ok(Self::default());
        };
        let resources = read_resources(&text)
            .map_err(|error| Error::invalid(path.display().to_string(), error.to_string()))?;
        Ok(Self { resources })
    }

    /// Names and share counts, for the registration.
    pub fn offered(&self) -> impl Iterator<Item = (&str, u64)> {
        self.resources.iter().map(|resource| (resource.name.as_str(), resource.shared_count))
    }

    /// Resolves the requests of an item.
    pub fn attach(&self, requests: &[ResourceRequest]) -> Result<Attached, Error> {
        let mut attached = Attached::default();
        for request in requests {
            let resource = self.resources.iter().find(|resource| resource.name == request.name);
            let resource = resource.ok_or_else(|| Error::NotFound(format!("resource '{}'", request.name)))?;
            for group in &resource.groups {
                let gid = group_id(group)?;
                if !attached.groups.contains(&gid) {
                    attached.groups.push(gid);
                }
            }
            attached.mounts.extend(resource.mounts.iter().cloned());
            attached.env.extend(resource.envs.iter().cloned());
            attached.hosts.extend(resource.hosts.iter().map(|host| (host.ip.clone(), host.hostname.clone())));
            for mapping in resource.device_mappings() {
                for (path, inside) in expand(Path::new(mapping.host), mapping.host, mapping.container)? {
                    let device = describe(&path, inside, &request.mode)?;
                    attached.devices.retain(|known| known.path != device.path);
                    attached.devices.push(device);
                    if attached.devices.len() > MAX_DEVICES {
                        return Err(Error::Limit {
                            what: "number of devices".into(),
                            limit: MAX_DEVICES as u64,
                        });
                    }
                }
            }
        }
        Ok(attached)
    }
}

fn group_id(name: &str) -> Result<u32, Error> {
    let path = Path::new("/etc/group");
    let text = fs::read_to_string(path).map_err(Error::file("read", path))?;
    let found = text.lines().find_map(|line| {
        let mut fields = line.split(':');
        (fields.next() == Some(name)).then(|| fields.nth(1).and_then(|gid| gid.parse().ok())).flatten()
    });
    found.ok_or_else(|| Error::NotFound(format!("group '{name}'")))
}

/// A folder stands for every device below it; links to folders are followed, unreadable ones skipped.
fn expand(path: &Path, host: &str, container: &str) -> Result<Vec<(PathBuf, String)>, Error> {
    let meta = fs::metadata(path).map_err(Error::file("look at device", path))?;
    if !meta.is_dir() {
        return Ok(vec![(path.to_owned(), container.to_owned())]);
    }
    let mut found = Vec::new();
    let mut open = vec![(path.to_owned(), 0)];
    while let Some((folder, depth)) = open.pop() {
        for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
            let path = entry.path();
            match fs::metadata(&path) {
                Ok(meta) if meta.is_dir() && depth < 8 => open.push((path, depth + 1)),
                Ok(meta) if is_device(&meta) && found.len() <= MAX_DEVICES => {
                    let inside = path.to_string_lossy().replacen(host, container, 1);
                    found.push((path, inside));
                }
                _ => {}
            }
        }
    }
    found.sort();
    Ok(found)
}

fn is_device(meta: &fs::Metadata) -> bool {
    let kind = meta.file_type();
    kind.is_block_device() || kind.is_char_device() || kind.is_fifo()
}

fn describe(path: &Path, inside: String, access: &str) -> Result<Device, Error> {
    let meta = fs::metadata(path).map_err(Error::file("look at device", path))?;
    let kind = match meta.file_type() {
        kind if kind.is_block_device() => 'b',
        kind if kind.is_char_device() => 'c',
        kind if kind.is_fifo() => 'p',
        _ => return Err(Error::file("use as device", path)(io::ErrorKind::InvalidInput.into())),
    };
    Ok(Device {
        path: inside,
        kind,
        major: nix::sys::stat::major(meta.rdev()),
        minor: nix::sys::stat::minor(meta.rdev()),
        mode: meta.mode() & 0o777,
        uid: meta.uid(),
        gid: meta.gid(),
        access: access.to_owned(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    // SM-32
    #[test]
    fn requests_turn_into_what_the_file_says() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("resources.cfg");
        fs::write(
            &path,
            r#"[{"name":"zero","sharedCount":2,"groups":["root"],"devices":["/dev/zero:/dev/null2"],"envs":["A=1"],
                "hosts":[{"ip":"10.9.0.5","hostname":"cam"}],
                "mounts":[{"destination":"/run/x","source":"/run","type":"bind","options":["bind","ro"]}]}]"#,
        )
        .unwrap();
        let manager = ResourceManager::load(&path).unwrap();
        assert_eq!(manager.offered().collect::<Vec<_>>(), [("zero", 2)]);
        let wish = |name: &str| ResourceRequest { name: name.into(), mode: "rw".into() };
        let attached = manager.attach(&[wish("zero")]).unwrap();
        assert_eq!(attached.groups, [0]);
        let device = attached.devices.first().unwrap();
        assert_eq!(
            (device.path.as_str(), device.kind, device.major, device.minor),
            ("/dev/null2", 'c', 1, 5)
        );
        assert_eq!(device.access, "rw");
        assert!(matches!(manager.attach(&[wish("gone")]), Err(Error::NotFound(_))));
    }

    #[test]
    fn no_file_means_no_resources_and_a_bad_one_is_an_error() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("resources.cfg");
        assert_eq!(ResourceManager::load(&path).unwrap().offered().count(), 0);
        fs::write(&path, "[{").unwrap();
        assert!(ResourceManager::load(&path).is_err());
    }
}
