//! Resources of the node that items may ask for: the resource file, what a request turns into, and who has what.
//!
//! A request becomes groups, mounts, variables, hosts and devices of this host (`devices`). A resource with a
//! count is given to that many instances at once (`shares`): the Communication Manager places by the same
//! counts, but an old wish, a second cloud or a node's own changed file may say otherwise, and the device knows
//! nothing of them. An instance holds what it asked for from its start until it is stopped for good. Disk
//! quotas are in `quotas`.

pub mod devices;
pub mod quotas;
mod shares;

use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError};

use aos_item_format::{NodeResource, ResourceMount, ResourceRequest, read_resources};

use crate::Error;

pub use devices::Device;
use shares::{Shares, Taken};

/// The resources of this node.
#[derive(Debug, Default)]
pub struct ResourceManager {
    resources: Vec<NodeResource>,
    shares: Mutex<Shares>,
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

impl ResourceManager {
    /// Reads the resource file; a missing one means no resources, a bad one ends the program.
    pub fn load(path: &Path) -> Result<Self, Error> {
        let Some(text) = aos_durable::read_bounded(path, 1024 * 1024)? else {
            tracing::warn!("there is no resource file {}", path.display());
            return Ok(Self::default());
        };
        let resources = read_resources(&text)
            .map_err(|error| Error::invalid(path.display().to_string(), error.to_string()))?;
        Ok(Self { resources, shares: Mutex::default() })
    }

    /// Names and share counts, for the registration.
    pub fn offered(&self) -> impl Iterator<Item = (&str, u64)> {
        self.resources.iter().map(|resource| (resource.name.as_str(), resource.shared_count))
    }

    /// Gives the instance `id` what its item asks for, instead of what it had; all of it or nothing.
    ///
    /// # Errors
    /// [`Error::ResourceTaken`] when a shared resource has no room, [`Error::NotFound`] for an unknown resource,
    /// group or device.
    pub fn allocate(&self, id: &str, requests: &[ResourceRequest]) -> Result<Attached, Error> {
        let mut attached = Attached::default();
        let mut wanted = Vec::new();
        for request in requests {
            let resource = self.resource(&request.name)?;
            attach(resource, &request.mode, &mut attached)?;
            wanted.push((resource.name.as_str(), resource.shared_count));
        }
        self.shares().take(id, &wanted).map_err(|Taken { resource, shared_count, users }| {
            Error::ResourceTaken { resource, shared_count, users: users.join(", ") }
        })?;
        Ok(attached)
    }

    /// Counts an instance that was found running.
    pub fn adopt(&self, id: &str, requests: &[ResourceRequest]) {
        self.shares().hold(id, requests.iter().map(|request| request.name.as_str()));
    }

    /// Takes back what an instance has; nothing when it has nothing.
    pub fn release(&self, id: &str) {
        self.shares().release(id);
    }

    fn resource(&self, name: &str) -> Result<&NodeResource, Error> {
        let found = self.resources.iter().find(|resource| resource.name == name);
        found.ok_or_else(|| Error::NotFound(format!("resource '{name}'")))
    }

    fn shares(&self) -> MutexGuard<'_, Shares> {
        // Every change of the count is complete before anything can panic.
        self.shares.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn attach(resource: &NodeResource, access: &str, attached: &mut Attached) -> Result<(), Error> {
    for group in &resource.groups {
        let gid = devices::group_id(group)?;
        if !attached.groups.contains(&gid) {
            attached.groups.push(gid);
        }
    }
    attached.mounts.extend(resource.mounts.iter().cloned());
    attached.env.extend(resource.envs.iter().cloned());
    attached.hosts.extend(resource.hosts.iter().map(|host| (host.ip.clone(), host.hostname.clone())));
    for mapping in resource.device_mappings() {
        for device in devices::find(mapping.host, mapping.container, access)? {
            device.add_to(&mut attached.devices);
        }
        if attached.devices.len() > devices::MAX_DEVICES {
            return Err(devices::too_many());
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    fn manager(text: &str) -> ResourceManager {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("resources.cfg");
        fs::write(&path, text).unwrap();
        ResourceManager::load(&path).unwrap()
    }

    fn wish(name: &str) -> ResourceRequest {
        ResourceRequest { name: name.into(), mode: "rw".into() }
    }

    // SM-32
    #[test]
    fn requests_turn_into_what_the_file_says() {
        let manager = manager(
            r#"[{"name":"zero","sharedCount":2,"groups":["root"],"devices":["/dev/zero:/dev/null2:x"],"envs":["A=1"],
                "hosts":[{"ip":"10.9.0.5","hostname":"cam"}],
                "mounts":[{"destination":"/run/x","source":"/run","type":"bind","options":["bind","ro"]}]}]"#,
        );
        assert_eq!(manager.offered().collect::<Vec<_>>(), [("zero", 2)]);
        let attached = manager.allocate("i", &[wish("zero")]).unwrap();
        assert_eq!(attached.groups, [0]);
        assert_eq!((attached.env.len(), attached.mounts.len()), (1, 1));
        assert_eq!(attached.hosts, [("10.9.0.5".to_owned(), "cam".to_owned())]);
        let device = attached.devices.first().unwrap();
        assert_eq!(
            (device.path.as_str(), device.kind, device.major, device.minor),
            ("/dev/null2", 'c', 1, 5)
        );
        assert_eq!(device.access, "rw");
        assert!(matches!(manager.allocate("i", &[wish("gone")]), Err(Error::NotFound(_))));
    }

    // SM-05: a shared resource has as many users as the file says, and the next one is told who they are.
    #[test]
    fn a_shared_resource_is_counted() {
        let manager = manager(r#"[{"name":"cam","sharedCount":1},{"name":"any"}]"#);
        manager.allocate("a", &[wish("cam"), wish("any")]).unwrap();
        manager.allocate("b", &[wish("any")]).unwrap();
        let error = manager.allocate("b", &[wish("cam")]).unwrap_err();
        assert_eq!(error.info().message, "resource 'cam' is for 1 instance at a time and in use by a");
        assert!(matches!(error, Error::ResourceTaken { resource, .. } if resource == "cam"));
        manager.release("a");
        manager.allocate("b", &[wish("cam")]).unwrap();
        manager.adopt("c", &[wish("cam")]);
        manager.release("b");
        assert!(manager.allocate("d", &[wish("cam")]).is_err());
    }

    #[test]
    fn an_unknown_group_or_device_takes_nothing() {
        let manager = manager(
            r#"[{"name":"g","sharedCount":1,"groups":["no-such-group"]},{"name":"d","devices":["/dev/no-such"]},
                {"name":"cam","sharedCount":1}]"#,
        );
        let error = manager.allocate("a", &[wish("cam"), wish("g")]).unwrap_err();
        assert!(error.to_string().contains("no-such-group"), "{error}");
        assert!(manager.allocate("a", &[wish("cam"), wish("d")]).is_err());
        manager.allocate("b", &[wish("cam")]).unwrap();
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
