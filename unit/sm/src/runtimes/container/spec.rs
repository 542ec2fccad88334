//! The OCI runtime specification of an instance: a pure function of what is known about it.
//!
//! The process gets no new privileges, three capabilities at most, no device but the harmless ones and its own,
//! the system calls of its filter and the limits of its item. When memory runs out it goes before any
//! program of ours.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use aos_item_format::Quotas;
use serde_json::{Value, json};

use super::idmap::IdMap;
use super::mounts::{is_bound, mounts};
use crate::Error;
use crate::imagemanager::Image;
use crate::instance::InstanceInfo;
use crate::permissions::Secret;
use crate::resourcemanager::{Attached, Device};

const CPU_PERIOD: u64 = 100_000;
const MIN_CPU_QUOTA: u64 = 1000;
/// Both crun 1.8 and runc 1.1 take it; they refuse later ones.
const OCI_VERSION: &str = "1.0.2";
/// Between 0 (like any process) and 1000 (first to go).
const OOM_SCORE: i32 = 500;
const CAPABILITIES: [&str; 3] = ["CAP_AUDIT_WRITE", "CAP_KILL", "CAP_NET_BIND_SERVICE"];
const MASKED: [&str; 11] = [
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
    "/sys/devices/virtual/powercap",
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
    /// Files of the host it gets to see.
    pub host_files: &'a [PathBuf],
    /// Its user namespace, if it has one.
    pub users: Option<Users<'a>>,
    /// Its filter of system calls.
    pub seccomp: Option<&'a Value>,
    /// Processes and threads allowed when the item says nothing.
    pub default_pids: Option<u64>,
}

/// The user namespace of an instance.
#[derive(Debug, Clone, Copy)]
pub struct Users<'a> {
    /// Ids inside and on the host.
    pub map: &'a IdMap,
    /// The kernel's view of its network namespace, mounted on the host.
    pub sysfs: &'a Path,
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
    let mut linux = json!({
        "namespaces": namespaces,
        "cgroupsPath": input.cgroups_path,
        "resources": resources(&image.item.quotas, input),
        "maskedPaths": MASKED,
        "readonlyPaths": READ_ONLY,
    });
    if let Some(linux) = linux.as_object_mut() {
        let sysctl = image.item.sysctl.iter();
        match input.users {
            None => {
                linux.insert("sysctl".into(), json!(image.item.sysctl));
                let made = attached.devices.iter().filter(|device| !is_bound(device, false));
                linux.insert("devices".into(), made.map(device).collect());
            }
            Some(Users { map, .. }) => {
                // Those of the network are set from outside, its namespace does not belong to this one.
                let rest: BTreeMap<_, _> = sysctl.filter(|(name, _)| !is_of_network(name)).collect();
                linux.insert("sysctl".into(), json!(rest));
                map.put(linux);
            }
        }
        if let Some(filter) = input.seccomp {
            linux.insert("seccomp".into(), filter.clone());
        }
    }
    Ok(json!({
        "ociVersion": OCI_VERSION,
        "root": {"path": input.rootfs, "readonly": true},
        "hostname": image.item.hostname.as_deref().unwrap_or("runc"),
        "process": {
            "terminal": false,
            "user": {"uid": info.uid, "gid": info.gid, "additionalGids": attached.groups},
            "args": args,
            "env": environment(info, image, attached, input.secret),
            "cwd": cwd,
            "noNewPrivileges": true,
            "capabilities": {"bounding": CAPABILITIES, "effective": CAPABILITIES, "permitted": CAPABILITIES},
            "rlimits": rlimits(&image.item.quotas, node),
            "oomScoreAdj": OOM_SCORE,
        },
        "mounts": mounts,
        "linux": linux,
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

/// True for a kernel parameter of the network namespace.
pub fn is_of_network(name: &str) -> bool {
    name.starts_with("net.") || name.starts_with("net/")
}

fn resources(quotas: &Quotas, input: &Input<'_>) -> Value {
    let Input { attached, node, .. } = input;
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
    if let Some(limit) = quotas.pids_limit.or(input.default_pids) {
        put("pids", json!({"limit": limit}));
    }
    if let Some(quota) = quotas.cpu_dmips_limit.and_then(|limit| cpu_quota(limit, node)) {
        put("cpu", json!({"period": CPU_PERIOD, "quota": quota}));
    }
    resources
}

/// CPU time in microseconds a period for a limit in DMIPS; none when the node's power is not known.
pub fn cpu_quota(limit: u64, node: &NodeFigures) -> Option<u64> {
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
pub fn environment(
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
