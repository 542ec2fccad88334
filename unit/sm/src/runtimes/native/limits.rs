//! The cgroups of a native service: made, and limited as its item says.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use aos_item_format::Quotas;

use crate::runtimes::CgroupPaths;
use crate::runtimes::container::{NodeFigures, cpu_quota};

const CPU_PERIOD: u64 = 100_000;

/// Makes the cgroups and sets the limits; answers the folders the process has to enter.
pub fn make(paths: &CgroupPaths, quotas: &Quotas, node: &NodeFigures) -> io::Result<Vec<PathBuf>> {
    let cpu = quotas.cpu_dmips_limit.and_then(|limit| cpu_quota(limit, node));
    let folders = if paths.unified { unified(paths)? } else { separate(paths)? };
    let set = |folder: &Option<PathBuf>, name: &str, value: String| match folder {
        Some(folder) => fs::write(folder.join(name), value),
        None => Err(io::Error::new(io::ErrorKind::Unsupported, format!("there is no {name} here"))),
    };
    if let Some(limit) = quotas.ram_limit {
        let name = if paths.unified { "memory.max" } else { "memory.limit_in_bytes" };
        set(&paths.memory, name, limit.to_string())?;
        // Where swap is counted it is no way around the limit; elsewhere there is nothing to set.
        let _ = if paths.unified {
            set(&paths.memory, "memory.swap.max", "0".to_owned())
        } else {
            set(&paths.memory, "memory.memsw.limit_in_bytes", limit.to_string())
        };
    }
    if let Some(limit) = quotas.pids_limit {
        set(&paths.pids, "pids.max", limit.to_string())?;
    }
    if let Some(quota) = cpu {
        if paths.unified {
            set(&paths.cpu, "cpu.max", format!("{quota} {CPU_PERIOD}"))?;
        } else {
            set(&paths.cpu, "cpu.cfs_period_us", CPU_PERIOD.to_string())?;
            set(&paths.cpu, "cpu.cfs_quota_us", quota.to_string())?;
        }
    }
    Ok(folders)
}

fn separate(paths: &CgroupPaths) -> io::Result<Vec<PathBuf>> {
    let mut folders: Vec<PathBuf> = Vec::new();
    let wanted = [&paths.memory, &paths.cpu, &paths.cpuacct, &paths.pids, &paths.freezer];
    for folder in wanted.into_iter().flatten().filter(|folder| !folder.as_os_str().is_empty()) {
        fs::create_dir_all(folder)?;
        if !folders.contains(folder) {
            folders.push(folder.clone());
        }
    }
    Ok(folders)
}

/// Controllers have to be passed on from the top, one level after the other.
fn unified(paths: &CgroupPaths) -> io::Result<Vec<PathBuf>> {
    let Some(folder) = &paths.memory else { return Ok(Vec::new()) };
    fs::create_dir_all(folder)?;
    let mut above: Vec<&Path> = folder.ancestors().skip(1).collect();
    above.reverse();
    for level in above {
        let list = level.join("cgroup.subtree_control");
        if list.exists() {
            for controller in ["+cpu", "+memory", "+pids"] {
                // A controller the kernel lacks is missed when a limit needs it, and only then.
                let _ = fs::write(&list, controller);
            }
        }
    }
    Ok(vec![folder.clone()])
}

#[cfg(test)]
mod tests {
    use super::*;

    const NODE: NodeFigures =
        NodeFigures { cores: 2, max_dmips: 10_000, max_files: 1024, cgroup_namespaces: true };

    fn quotas() -> Quotas {
        Quotas {
            cpu_dmips_limit: Some(2500),
            ram_limit: Some(1 << 20),
            pids_limit: Some(7),
            ..Quotas::default()
        }
    }

    // Where a controller is missing a limit that needs it is refused, not forgotten.
    #[test]
    fn a_limit_that_cannot_be_set_is_an_error() {
        let folder = tempfile::tempdir().unwrap();
        let memory = Some(folder.path().join("memory/x"));
        let paths = CgroupPaths { memory, ..CgroupPaths::default() };
        let error = make(&paths, &quotas(), &NODE).unwrap_err();
        assert!(error.to_string().contains("pids.max"), "{error}");
        assert!(make(&paths, &Quotas::default(), &NODE).is_ok());
    }

    #[test]
    fn both_versions_get_their_own_files() {
        let folder = tempfile::tempdir().unwrap();
        let place = |name: &str| Some(folder.path().join(name).join("x"));
        let v1 = CgroupPaths {
            memory: place("memory"),
            cpu: place("cpu"),
            cpuacct: place("cpu"),
            pids: place("pids"),
            ..CgroupPaths::default()
        };
        assert_eq!(make(&v1, &quotas(), &NODE).unwrap().len(), 3);
        let read = |name: &str| fs::read_to_string(folder.path().join(name)).unwrap();
        assert_eq!(read("memory/x/memory.limit_in_bytes"), "1048576");
        assert_eq!(read("cpu/x/cpu.cfs_quota_us"), "50000");
        assert_eq!(read("pids/x/pids.max"), "7");
        let one = place("v2");
        let v2 = CgroupPaths {
            unified: true,
            memory: one.clone(),
            cpu: one.clone(),
            cpuacct: one.clone(),
            pids: one,
            ..CgroupPaths::default()
        };
        assert_eq!(make(&v2, &quotas(), &NODE).unwrap().len(), 1);
        assert_eq!(read("v2/x/memory.max"), "1048576");
        assert_eq!(read("v2/x/cpu.max"), "50000 100000");
    }
}
