//! Throw-away cgroups that a box lives in, on hosts with cgroup v1, hybrid or v2.
//!
//! A box is one new child cgroup in every mounted hierarchy, below the cgroup that the caller is in. All
//! processes of the box are in it, whatever they fork, so killing what is in it and removing it leaves
//! nothing behind. Nothing else of the host's hierarchies is changed.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::error::{Error, Result, Tried};
use crate::wait::pause;

/// One mounted hierarchy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hierarchy {
    /// Where it is mounted.
    pub mount: PathBuf,
    /// Our own cgroup as a folder below `mount`.
    pub own: PathBuf,
    /// Mount option that mounts it again: `cpu,cpuacct`, `none,name=systemd`; empty for version 2.
    pub option: String,
}

impl Hierarchy {
    /// True for cgroup version 2.
    pub fn is_v2(&self) -> bool {
        self.option.is_empty()
    }
}

/// The hierarchies of this host as the calling process sees them.
pub fn hierarchies() -> Result<Vec<Hierarchy>> {
    let mounts = read(Path::new("/proc/self/mountinfo"))?;
    let own = read(Path::new("/proc/self/cgroup"))?;
    Ok(parse(&mounts, &own))
}

/// True when version 2 is the only one mounted: it holds all controllers.
pub fn is_pure_v2(hierarchies: &[Hierarchy]) -> bool {
    !hierarchies.is_empty() && hierarchies.iter().all(Hierarchy::is_v2)
}

fn parse(mounts: &str, own: &str) -> Vec<Hierarchy> {
    let mut found: Vec<Hierarchy> = Vec::new();
    for line in mounts.lines() {
        let Some((left, right)) = line.split_once(" - ") else { continue };
        let left: Vec<&str> = left.split(' ').collect();
        let mut right = right.split(' ');
        let kind = right.next().unwrap_or_default();
        let super_options = right.nth(1).unwrap_or_default();
        let (Some(root), Some(mount)) = (left.get(3), left.get(4)) else { continue };
        let controllers: Vec<&str> = super_options
            .split(',')
            .filter(|word| !matches!(*word, "rw" | "ro" | "xattr" | "clone_children" | "none"))
            .filter(|word| !word.starts_with("release_agent="))
            .collect();
        let (option, key) = match kind {
            "cgroup2" => (String::new(), String::new()),
            "cgroup" if controllers.iter().any(|word| word.starts_with("name=")) => {
                (format!("none,{}", controllers.join(",")), controllers.join(","))
            }
            "cgroup" => (controllers.join(","), controllers.join(",")),
            _ => continue,
        };
        if found.iter().any(|known| known.option == option) {
            continue;
        }
        let Some(path) = own_path(own, &key) else { continue };
        let below =
            Path::new(&path).strip_prefix(root).unwrap_or_else(|_| Path::new(path.trim_start_matches('/')));
        let own = Path::new(mount).join(below);
        found.push(Hierarchy { mount: PathBuf::from(mount), own, option });
    }
    found
}

fn own_path(own: &str, key: &str) -> Option<String> {
    own.lines().find_map(|line| {
        let mut parts = line.splitn(3, ':');
        let _number = parts.next()?;
        let controllers = parts.next()?;
        let path = parts.next()?;
        let same = controllers.split(',').collect::<BTreeSet<_>>() == key.split(',').collect::<BTreeSet<_>>();
        same.then(|| path.to_owned())
    })
}

/// Makes the child cgroup `name` in every hierarchy and returns the folders.
///
/// On version 2 the parent is the mount's root where that is possible, because a cgroup that holds
/// processes cannot hand controllers on.
pub fn create(hierarchies: &[Hierarchy], name: &str) -> Result<Vec<PathBuf>> {
    let mut made = Vec::new();
    for hierarchy in hierarchies {
        let parent = if is_pure_v2(hierarchies) { &hierarchy.mount } else { &hierarchy.own };
        let dir = parent.join(name);
        fs::create_dir(&dir).tried(|| format!("cannot make cgroup {}", dir.display()))?;
        if hierarchy.option.split(',').any(|word| word == "cpuset") {
            inherit_cpuset(parent, &dir)?;
        }
        if is_pure_v2(hierarchies) {
            enable_controllers(parent);
        }
        made.push(dir);
    }
    Ok(made)
}

/// A version 1 cpuset starts empty and refuses processes until it has processors and memory nodes.
fn inherit_cpuset(parent: &Path, dir: &Path) -> Result<()> {
    for file in ["cpuset.cpus", "cpuset.mems"] {
        let value = read(&parent.join(file))?;
        write(&dir.join(file), value.trim())?;
    }
    write(&dir.join("cgroup.clone_children"), "1")
}

/// Hands every controller of `dir` on to its children, as far as the kernel lets us.
pub fn enable_controllers(dir: &Path) {
    let Ok(available) = fs::read_to_string(dir.join("cgroup.controllers")) else { return };
    for controller in available.split_whitespace() {
        let _ = fs::write(dir.join("cgroup.subtree_control"), format!("+{controller}"));
    }
}

/// Moves the calling process into the cgroup `dir`.
pub fn join(dir: &Path) -> Result<()> {
    write(&dir.join("cgroup.procs"), &std::process::id().to_string())
}

/// The processes in `dirs` and below.
pub fn processes(dirs: &[PathBuf]) -> BTreeSet<i32> {
    let mut found = BTreeSet::new();
    let mut open: Vec<PathBuf> = dirs.to_vec();
    while let Some(dir) = open.pop() {
        if let Ok(text) = fs::read_to_string(dir.join("cgroup.procs")) {
            found.extend(text.lines().filter_map(|line| line.parse::<i32>().ok()).filter(|pid| *pid > 0));
        }
        open.extend(children(&dir));
    }
    found
}

fn children(dir: &Path) -> Vec<PathBuf> {
    let Ok(entries) = fs::read_dir(dir) else { return Vec::new() };
    entries
        .flatten()
        .filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()))
        .map(|entry| entry.path())
        .collect()
}

/// Kills everything in `dirs` and removes them with what is below.
pub fn destroy(dirs: &[PathBuf], limit: Duration) -> Result<()> {
    let start = Instant::now();
    loop {
        for dir in dirs {
            thaw(dir);
        }
        for pid in processes(dirs) {
            let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
        }
        let left: Vec<&PathBuf> = dirs.iter().filter(|dir| !remove_tree(dir)).collect();
        let Some(first) = left.first() else { return Ok(()) };
        if start.elapsed() > limit {
            return Err(Error::Timeout {
                what: format!("cgroup {} to become empty", first.display()),
                after: limit,
                last: format!("processes {:?}", processes(dirs)),
            });
        }
        pause(Duration::from_millis(20));
    }
}

/// A frozen process of version 1 does not even die of a kill.
fn thaw(dir: &Path) {
    let state = dir.join("freezer.state");
    if state.exists() {
        for child in children(dir) {
            thaw(&child);
        }
        let _ = fs::write(state, "THAWED");
    }
}

fn remove_tree(dir: &Path) -> bool {
    for child in children(dir) {
        remove_tree(&child);
    }
    match fs::remove_dir(dir) {
        Ok(()) => true,
        Err(error) => error.kind() == io::ErrorKind::NotFound,
    }
}

fn read(path: &Path) -> Result<String> {
    fs::read_to_string(path).tried(|| format!("cannot read {}", path.display()))
}

fn write(path: &Path, value: &str) -> Result<()> {
    fs::write(path, value).tried(|| format!("cannot write '{value}' to {}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_hybrid_hierarchies() {
        let mounts = "\
30 20 0:26 / /sys/fs/cgroup rw - tmpfs tmpfs rw,mode=755
31 30 0:27 / /sys/fs/cgroup/cpu,cpuacct rw,relatime - cgroup cgroup rw,cpu,cpuacct
32 30 0:28 / /sys/fs/cgroup/systemd rw - cgroup cgroup rw,xattr,name=systemd
33 30 0:29 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw,nsdelegate
34 30 0:30 /docker/7 /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory
";
        let own = "9:name=systemd:/a\n4:memory:/docker/7/x\n2:cpuacct,cpu:/b\n0::/\n";
        let found = parse(mounts, own);
        let own: Vec<(&str, &str)> =
            found.iter().map(|one| (one.option.as_str(), one.own.to_str().unwrap())).collect();
        assert_eq!(
            own,
            [
                ("cpu,cpuacct", "/sys/fs/cgroup/cpu,cpuacct/b"),
                ("none,name=systemd", "/sys/fs/cgroup/systemd/a"),
                ("", "/sys/fs/cgroup/unified/"),
                ("memory", "/sys/fs/cgroup/memory/x"),
            ]
        );
        assert!(!is_pure_v2(&found));
    }

    #[test]
    fn finds_a_pure_v2_host() {
        let mounts =
            "30 20 0:26 / /sys/fs/cgroup rw,nosuid - cgroup2 cgroup2 rw,nsdelegate,memory_recursiveprot\n";
        let found = parse(mounts, "0::/user.slice/session-1.scope\n");
        assert!(is_pure_v2(&found));
        assert_eq!(found[0].own, Path::new("/sys/fs/cgroup/user.slice/session-1.scope"));
    }
}
