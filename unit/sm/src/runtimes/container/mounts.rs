//! What is mounted into an instance, in order.
//!
//! Of the host's file system there is nothing but what the item asked for by name, its own state and storage,
//! and two harmless things many programs look for: `nsswitch.conf` and the certificates of public authorities,
//! each only where the host has it and the image has not.

use std::path::{Path, PathBuf};

use aos_item_format::ResourceMount;

use super::spec::Input;
use crate::Error;
use crate::resourcemanager::Device;

/// Files of the host that an image without them gets to see.
const HOST_FILES: [&str; 2] = ["/etc/nsswitch.conf", "/etc/ssl"];

/// A mount of the specification.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mount {
    /// Path in the container.
    pub destination: String,
    /// File system or `bind`.
    pub kind: String,
    /// Source.
    pub source: String,
    /// Options.
    pub options: Vec<String>,
}

impl Mount {
    fn new(destination: &str, kind: &str, source: &str, options: &[&str]) -> Self {
        let options = options.iter().map(|&option| option.to_owned()).collect();
        Self { destination: destination.into(), kind: kind.into(), source: source.into(), options }
    }

    /// True when the mount point has to be a file.
    pub fn is_on_file(&self) -> bool {
        self.kind == "bind" && !Path::new(&self.source).is_dir()
    }
}

/// The mounts in order; a later one for the same place replaces an earlier one.
pub fn mounts(input: &Input<'_>) -> Result<Vec<Mount>, Error> {
    let mut mounts = vec![
        Mount::new("/proc", "proc", "proc", &["nosuid", "noexec", "nodev"]),
        Mount::new("/dev", "tmpfs", "tmpfs", &["nosuid", "strictatime", "mode=755", "size=65536k"]),
        Mount::new(
            "/dev/pts",
            "devpts",
            "devpts",
            &["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"],
        ),
        Mount::new("/dev/shm", "tmpfs", "shm", &["nosuid", "noexec", "nodev", "mode=1777", "size=65536k"]),
        Mount::new("/dev/mqueue", "mqueue", "mqueue", &["nosuid", "noexec", "nodev"]),
        match input.users {
            None => Mount::new("/sys", "sysfs", "sysfs", &["nosuid", "noexec", "nodev", "ro"]),
            // Inside its user namespace a container may not mount the view of a network that is not its own.
            Some(users) => Mount::new(
                "/sys",
                "bind",
                &users.sysfs.to_string_lossy(),
                &["rbind", "nosuid", "noexec", "nodev", "ro"],
            ),
        },
        Mount::new("/sys/fs/cgroup", "cgroup", "cgroup", &["nosuid", "noexec", "nodev", "relatime", "ro"]),
    ];
    for file in input.host_files {
        let path = file.to_string_lossy();
        mounts.push(Mount::new(&path, "bind", &path, &["bind", "ro", "nosuid", "nodev"]));
    }
    if let Some(size) = input.image.item.quotas.tmp_limit {
        let size = format!("size={size}");
        mounts.push(Mount::new(
            "/tmp",
            "tmpfs",
            "tmpfs",
            &["nosuid", "nodev", "strictatime", "mode=1777", &size],
        ));
    }
    for mount in &input.attached.mounts {
        mounts.push(resource_mount(mount)?);
    }
    if let Some(state) = &input.state {
        mounts.push(Mount::new(
            "/state.dat",
            "bind",
            &state.to_string_lossy(),
            &["bind", "rw", "nosuid", "nodev"],
        ));
    }
    if let Some(storage) = &input.storage {
        mounts.push(Mount::new(
            "/storage",
            "bind",
            &storage.to_string_lossy(),
            &["bind", "rw", "nosuid", "nodev"],
        ));
    }
    for device in input.attached.devices.iter().filter(|device| is_bound(device, input.users.is_some())) {
        let source = device.source.to_string_lossy();
        mounts.push(Mount::new(&device.path, "bind", &source, &["bind", "nosuid", "noexec"]));
    }
    let mut placed: Vec<Mount> = Vec::new();
    for mount in mounts {
        match placed.iter_mut().find(|known| known.destination == mount.destination) {
            Some(known) => *known = mount,
            None => placed.push(mount),
        }
    }
    Ok(placed)
}

fn resource_mount(mount: &ResourceMount) -> Result<Mount, Error> {
    let path = mount.destination.as_str();
    if !path.starts_with('/') || path.split('/').any(|part| part == "..") || path.trim_matches('/').is_empty()
    {
        return Err(Error::invalid(format!("mount '{}'", path.escape_debug()), "it is no absolute path"));
    }
    let kind = if mount.kind.is_empty() { "bind" } else { &mount.kind };
    let options: Vec<&str> = mount.options.iter().map(String::as_str).collect();
    Ok(Mount::new(path, kind, &mount.source, &options))
}

/// True for a device that is shown as the host's own node instead of a new one: in a user namespace no node can
/// be made, and nowhere outside of `/dev`, as the root is read-only. The device rules guard both.
pub fn is_bound(device: &Device, in_user_namespace: bool) -> bool {
    in_user_namespace || !device.path.starts_with("/dev/")
}

/// The files of the host that are shown to an image of these layers.
pub fn host_files(layers: &[PathBuf], has: impl Fn(&Path) -> bool) -> Vec<PathBuf> {
    let missing = |file: &PathBuf| {
        let inside = file.strip_prefix("/").unwrap_or(file);
        has(file) && !layers.iter().any(|layer| has(&layer.join(inside)))
    };
    HOST_FILES.iter().map(PathBuf::from).filter(missing).collect()
}
