//! Where the kernel shows the cgroups of an instance: one folder with cgroup v2, one for each controller with
//! cgroup v1.

use std::fs;
use std::path::{Path, PathBuf};

use crate::Error;

const MOUNTS: &str = "/proc/self/mountinfo";

/// The mounted hierarchies of this host.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Hierarchies {
    /// Mount point of cgroup v2.
    unified: Option<PathBuf>,
    /// Controllers and mount points of cgroup v1.
    v1: Vec<(Vec<String>, PathBuf)>,
}

/// The cgroups of one instance; the folders exist while it runs.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct CgroupPaths {
    /// cgroup v2: all paths below are the same folder.
    pub unified: bool,
    /// Memory: `memory.current` (v2) or `memory.usage_in_bytes`.
    pub memory: Option<PathBuf>,
    /// CPU limit: `cpu.max` (v2) or `cpu.cfs_quota_us`.
    pub cpu: Option<PathBuf>,
    /// CPU time: `cpu.stat` (v2) or `cpuacct.usage`.
    pub cpuacct: Option<PathBuf>,
    /// Processes: `pids.current`.
    pub pids: Option<PathBuf>,
    /// State of all processes together, with cgroup v1 only: `freezer.state`.
    pub freezer: Option<PathBuf>,
    /// Every folder, in every hierarchy: `cgroup.procs`.
    pub all: Vec<PathBuf>,
}

impl Hierarchies {
    /// Reads what is mounted now.
    pub fn find() -> Result<Self, Error> {
        let text = fs::read_to_string(MOUNTS).map_err(Error::file("read", MOUNTS))?;
        Ok(Self::parse(&text))
    }

    fn parse(mounts: &str) -> Self {
        let mut found = Self::default();
        for line in mounts.lines() {
            let Some((before, after)) = line.split_once(" - ") else { continue };
            let Some(point) = before.split(' ').nth(4) else { continue };
            let mut after = after.split(' ');
            let (kind, options) = (after.next(), after.nth(1).unwrap_or_default());
            match kind {
                Some("cgroup2") => found.unified = Some(PathBuf::from(point)),
                Some("cgroup") => {
                    let options = options.split(',').filter(|option| !matches!(*option, "rw" | "ro"));
                    found.v1.push((options.map(str::to_owned).collect(), PathBuf::from(point)));
                }
                _ => {}
            }
        }
        found
    }

    /// True when limits are set with cgroup v2: no controller of v1 is mounted.
    pub fn is_unified(&self) -> bool {
        self.unified.is_some() && self.of("memory").is_none()
    }

    /// The list of processes of the cgroup that this process is in, in the first hierarchy that shows it;
    /// `memberships` is what `/proc/self/cgroup` says.
    pub fn own_list(&self, memberships: &str) -> Option<PathBuf> {
        memberships.lines().find_map(|line| {
            let (controllers, path) = line.split_once(':')?.1.split_once(':')?;
            let same = |names: &[String]| names.iter().map(String::as_str).eq(controllers.split(','));
            let point = match controllers {
                "" => self.unified.as_ref().filter(|_| self.is_unified()),
                _ => self.v1.iter().find(|(names, _)| same(names)).map(|(_, point)| point),
            };
            Some(point?.join(path.trim_start_matches('/')).join("cgroup.procs")).filter(|list| list.exists())
        })
    }

    fn of(&self, controller: &str) -> Option<&PathBuf> {
        let has = |names: &[String]| names.iter().any(|name| name == controller);
        self.v1.iter().find(|(names, _)| has(names)).map(|(_, point)| point)
    }

    /// The folders of a cgroup, `path` being what the OCI runtime or we name it.
    pub fn paths(&self, path: &str) -> CgroupPaths {
        let inside = |point: &Path| point.join(path.trim_start_matches('/'));
        if self.is_unified() {
            let folder = self.unified.as_deref().map(inside);
            return CgroupPaths {
                unified: true,
                memory: folder.clone(),
                cpu: folder.clone(),
                cpuacct: folder.clone(),
                pids: folder.clone(),
                freezer: None,
                all: folder.into_iter().collect(),
            };
        }
        let of = |controller| self.of(controller).map(|point| inside(point));
        CgroupPaths {
            unified: false,
            memory: of("memory"),
            cpu: of("cpu"),
            cpuacct: of("cpuacct"),
            pids: of("pids"),
            freezer: of("freezer"),
            all: self.v1.iter().map(|(_, point)| inside(point)).collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_with_v1_has_a_folder_for_each_controller() {
        let text = "30 25 0:26 / /sys/fs/cgroup ro,nosuid - tmpfs tmpfs ro,mode=755\n\
            31 30 0:27 / /sys/fs/cgroup/unified rw shared:9 - cgroup2 cgroup2 rw\n\
            32 30 0:28 / /sys/fs/cgroup/cpu,cpuacct rw - cgroup cgroup rw,cpu,cpuacct\n\
            33 30 0:29 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n\
            34 30 0:30 / /sys/fs/cgroup/systemd rw - cgroup cgroup rw,xattr,name=systemd\n";
        let paths = Hierarchies::parse(text).paths("/aos/x");
        assert!(!paths.unified);
        assert_eq!(paths.memory.as_deref(), Some(Path::new("/sys/fs/cgroup/memory/aos/x")));
        assert_eq!(paths.cpuacct.as_deref(), Some(Path::new("/sys/fs/cgroup/cpu,cpuacct/aos/x")));
        assert_eq!(paths.pids, None);
        assert_eq!(paths.all.len(), 3);
    }

    #[test]
    fn the_list_of_the_own_cgroup_is_found_where_it_is_mounted() {
        let (old, new) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        for list in [old.path().join("services/sm/cgroup.procs"), new.path().join("sm/cgroup.procs")] {
            fs::create_dir_all(list.parent().unwrap()).unwrap();
            fs::write(&list, "").unwrap();
        }
        let (old, new) = (old.path().display(), new.path().display());
        let v1 = format!("32 30 0:28 / {old} rw - cgroup cgroup rw,cpu,cpuacct\n");
        let v2 = format!("31 30 0:27 / {new} rw - cgroup2 cgroup2 rw\n");
        let memberships = "12:memory:/elsewhere\n4:cpu,cpuacct:/services/sm\n0::/sm\n";
        let list = |mounts: &str| Hierarchies::parse(mounts).own_list(memberships);
        assert_eq!(list(&v1), Some(format!("{old}/services/sm/cgroup.procs").into()));
        assert_eq!(list(&v2), Some(format!("{new}/sm/cgroup.procs").into()));
        assert_eq!(list(&format!("{v1}{v2}")), Some(format!("{old}/services/sm/cgroup.procs").into()));
        assert_eq!(Hierarchies::parse(&v1).own_list("4:cpu,cpuacct:/gone\nnonsense\n"), None);
    }

    #[test]
    fn a_host_with_v2_has_one_folder() {
        let text = "31 30 0:27 / /sys/fs/cgroup rw shared:9 - cgroup2 cgroup2 rw,nsdelegate\n";
        let paths = Hierarchies::parse(text).paths("/aos/x");
        assert!(paths.unified);
        assert_eq!(paths.memory, paths.pids);
        assert_eq!(paths.all, [PathBuf::from("/sys/fs/cgroup/aos/x")]);
    }
}
