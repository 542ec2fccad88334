//! The OCI runtime specification of an instance: a pure function of what is known about it.
//!
//! Nothing of the host's file system is in the container but what the item asked for by name. The process
//! gets no new privileges, three capabilities at most, no device but the harmless ones and its own, and the
//! limits of its item. There is no seccomp filter yet.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use aos_item_format::{Quotas, ResourceMount};
use serde_json::{Value, json};

use crate::Error;
use crate::imagemanager::Image;
use crate::instance::InstanceInfo;
use crate::permissions::Secret;
use crate::resourcemanager::{Attached, Device};

const CPU_PERIOD: u64 = 100_000;
const MIN_CPU_QUOTA: u64 = 1000;
const CAPABILITIES: [&str; 3] = ["CAP_AUDIT_WRITE", "CAP_KILL", "CAP_NET_BIND_SERVICE"];
const MASKED: [&str; 10] = [
    "/proc/acpi",
    "/proc/asound",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/sys/firmware",
];
const READ_ONLY: [&str; 5] = ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"];

/// Figures of this node that limits refer to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NodeFigures {
    /// Cores of all CPUs, at least 1.
    pub cores: u64,
    /// Computing power of the whole node, DMIPS; 0 when not known.
    pub max_dmips: u64,
    /// Highest number of open files this process may grant.
    pub max_files: u64,
    /// The kernel has cgroup namespaces.
    pub cgroup_namespaces: bool,
}

/// Everything a specification depends on.
pub struct Input<'a> {
    /// The instance.
    pub info: &'a InstanceInfo,
    /// Its image.
    pub image: &'a Image,
    /// Its resources.
    pub attached: &'a Attached,
    /// Its root file system.
    pub rootfs: &'a Path,
    /// Its network namespace.
    pub namespace: &'a Path,
    /// Its state file on the host.
    pub state: Option<PathBuf>,
    /// Its storage folder on the host.
    pub storage: Option<PathBuf>,
    /// What it shows to IAM's clients.
    pub secret: Option<&'a Secret>,
    /// Its cgroup.
    pub cgroups_path: String,
    /// The node.
    pub node: NodeFigures,
}

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
        Mount::new("/sys", "sysfs", "sysfs", &["nosuid", "noexec", "nodev", "ro"]),
        Mount::new("/sys/fs/cgroup", "cgroup", "cgroup", &["nosuid", "noexec", "nodev", "relatime", "ro"]),
    ];
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

/// The whole `config.json`.
pub fn build(input: &Input<'_>) -> Result<Value, Error> {
    let Input { info, image, attached, node, .. } = input;
    let args = image.config.config.arguments();
    if args.is_empty() {
        return Err(Error::invalid(format!("image of {}", info.ident), "it names no process to run"));
    }
    let cwd = match image.config.config.working_dir.as_str() {
        "" => "/",
        folder => folder,
    };
    let mounts: Vec<Value> = mounts(input)?
        .into_iter()
        .map(|m| json!({"destination": m.destination, "type": m.kind, "source": m.source, "options": m.options}))
        .collect();
    let mut namespaces = vec![
        json!({"type": "pid"}),
        json!({"type": "network", "path": input.namespace}),
        json!({"type": "ipc"}),
        json!({"type": "uts"}),
        json!({"type": "mount"}),
    ];
    if node.cgroup_namespaces {
        namespaces.push(json!({"type": "cgroup"}));
    }
    Ok(json!({
        "ociVersion": "1.0.2",
        "root": {"path": input.rootfs, "readonly": true},
        "hostname": image.item.hostname.as_deref().unwrap_or("aos"),
        "process": {
            "terminal": false,
            "user": {"uid": info.uid, "gid": info.gid, "additionalGids": attached.groups},
            "args": args,
            "env": environment(info, image, attached, input.secret),
            "cwd": cwd,
            "noNewPrivileges": true,
            "capabilities": {"bounding": CAPABILITIES, "effective": CAPABILITIES, "permitted": CAPABILITIES},
            "rlimits": rlimits(&image.item.quotas, node),
        },
        "mounts": mounts,
        "linux": {
            "namespaces": namespaces,
            "cgroupsPath": input.cgroups_path,
            "sysctl": image.item.sysctl,
            "devices": attached.devices.iter().map(device).collect::<Vec<_>>(),
            "resources": resources(&image.item.quotas, attached, node),
            "maskedPaths": MASKED,
            "readonlyPaths": READ_ONLY,
        },
    }))
}

fn rlimits(quotas: &Quotas, node: &NodeFigures) -> Vec<Value> {
    let limit = |kind: &str, value: u64| json!({"type": kind, "soft": value, "hard": value});
    let mut limits = vec![limit("RLIMIT_NOFILE", quotas.no_file_limit.unwrap_or(1024).min(node.max_files))];
    if let Some(pids) = quotas.pids_limit {
        limits.push(limit("RLIMIT_NPROC", pids));
    }
    limits
}

fn resources(quotas: &Quotas, attached: &Attached, node: &NodeFigures) -> Value {
    let rule = |kind: &str, major: i64, minor: Option<i64>| {
        let mut rule = json!({"allow": true, "type": kind, "major": major, "access": "rwm"});
        if let (Some(minor), Some(fields)) = (minor, rule.as_object_mut()) {
            fields.insert("minor".into(), json!(minor));
        }
        rule
    };
    let mut devices = vec![json!({"allow": false, "access": "rwm"})];
    // null, zero, full, random, urandom, tty, ptmx and the pseudo terminals of the container itself.
    for minor in [3, 5, 7, 8, 9] {
        devices.push(rule("c", 1, Some(minor)));
    }
    devices.extend([rule("c", 5, Some(0)), rule("c", 5, Some(2)), rule("c", 136, None)]);
    for Device { kind, major, minor, access, .. } in
        attached.devices.iter().filter(|d| !d.access.is_empty() && d.kind != 'p')
    {
        devices.push(json!({"allow": true, "type": kind.to_string(), "major": major, "minor": minor, "access": access}));
    }
    let mut resources = json!({"devices": devices});
    let mut put = |name: &str, value: Value| {
        if let Some(fields) = resources.as_object_mut() {
            fields.insert(name.into(), value);
        }
    };
    if let Some(limit) = quotas.ram_limit {
        put("memory", json!({"limit": limit}));
    }
    if let Some(limit) = quotas.pids_limit {
        put("pids", json!({"limit": limit}));
    }
    if let Some(quota) = quotas.cpu_dmips_limit.and_then(|limit| cpu_quota(limit, node)) {
        put("cpu", json!({"period": CPU_PERIOD, "quota": quota}));
    }
    resources
}

/// CPU time in microseconds a period for a limit in DMIPS; none when the node's power is not known.
fn cpu_quota(limit: u64, node: &NodeFigures) -> Option<u64> {
    let whole = u128::from(limit) * u128::from(CPU_PERIOD) * u128::from(node.cores.max(1));
    let quota = whole.checked_div(u128::from(node.max_dmips))?;
    Some(u64::try_from(quota).unwrap_or(u64::MAX).max(MIN_CPU_QUOTA))
}

fn device(device: &Device) -> Value {
    json!({
        "path": device.path, "type": device.kind.to_string(), "major": device.major, "minor": device.minor,
        "fileMode": device.mode, "uid": device.uid, "gid": device.gid,
    })
}

/// Variables by name, later sources win: defaults, Aos, image, secret, resources, what the cloud overrides.
fn environment(
    info: &InstanceInfo,
    image: &Image,
    attached: &Attached,
    secret: Option<&Secret>,
) -> Vec<String> {
    let mut order: Vec<String> = Vec::new();
    let mut values: BTreeMap<String, String> = BTreeMap::new();
    let mut set = |name: &str, value: &str| {
        if values.insert(name.to_owned(), value.to_owned()).is_none() {
            order.push(name.to_owned());
        }
    };
    set("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin");
    set("TERM", "xterm");
    set("AOS_ITEM_ID", info.ident.item.as_str());
    set("AOS_SUBJECT_ID", info.ident.subject.as_str());
    set("AOS_INSTANCE_INDEX", &info.ident.instance.to_string());
    set("AOS_INSTANCE_ID", &info.id());
    let mut set_text = |text: &String| {
        let (name, value) = text.split_once('=').unwrap_or((text, ""));
        set(name, value);
    };
    image.config.config.env.iter().for_each(&mut set_text);
    if let Some(secret) = secret {
        set_text(&format!("AOS_SECRET={}", secret.expose()));
    }
    attached.env.iter().for_each(set_text);
    for (name, value) in &info.env {
        set(name, value);
    }
    order.iter().filter_map(|name| values.get(name).map(|value| format!("{name}={value}"))).collect()
}

#[cfg(test)]
#[path = "spec_tests.rs"]
mod tests;
