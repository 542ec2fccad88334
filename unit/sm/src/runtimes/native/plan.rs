//! What the helper is told about a native service: a pure function of what is known about it, apart from a look
//! at the item's files.

use std::path::{Component, Path, PathBuf};

use aos_native::{Mount, Order};

use crate::Error;
use crate::runtimes::StartJob;
use crate::runtimes::container::environment;

/// Names in the bundle.
pub const STORAGE: &str = "storage";
/// The state file.
pub const STATE: &str = "state.dat";
/// Content of `/etc/hosts`.
pub const HOSTS: &str = "hosts";
/// Content of `/etc/resolv.conf`.
pub const RESOLV: &str = "resolv.conf";
/// Most open files when the item says nothing.
const DEFAULT_FILES: u64 = 1024;

/// The order for the helper.
pub fn order(job: &StartJob, bundle: &Path, cgroups: Vec<PathBuf>, max_files: u64) -> Result<Order, Error> {
    let StartJob { info, image, attached, network, secret, data } = job;
    if info.uid == 0 {
        return Err(Error::invalid(info.ident.to_string(), "a native service cannot run as root"));
    }
    let files = bundle.join("rootfs");
    let mut argv = image.config.config.arguments();
    let program = argv
        .first_mut()
        .ok_or_else(|| Error::invalid(format!("image of {}", info.ident), "it names no process to run"))?;
    *program = found(&files, program);
    let mut mounts = Vec::new();
    let mut bind = |target: PathBuf, source: PathBuf, read_only| {
        mounts.push(Mount { target, source: Some(source), options: String::new(), read_only });
    };
    let mut env = vec![format!("AOS_ITEM_DIR={}", files.display()), format!("HOME={}", files.display())];
    if let Some(storage) = &data.storage {
        bind(bundle.join(STORAGE), storage.clone(), false);
        env.push(format!("AOS_STORAGE_DIR={}", bundle.join(STORAGE).display()));
        env.push(format!("HOME={}", bundle.join(STORAGE).display()));
    }
    if let Some(state) = &data.state {
        bind(bundle.join(STATE), state.clone(), false);
        env.push(format!("AOS_STATE_FILE={}", bundle.join(STATE).display()));
    }
    if network.is_some() {
        for (name, place) in [(HOSTS, "/etc/hosts"), (RESOLV, "/etc/resolv.conf")] {
            // Without the file on the host nobody here looks for it.
            if Path::new(place).exists() {
                bind(PathBuf::from(place), bundle.join(name), true);
            }
        }
    }
    for mount in &attached.mounts {
        if !matches!(mount.kind.as_str(), "" | "bind") {
            return Err(Error::NotSupported(format!("a mount of type {} for a native service", mount.kind)));
        }
        let read_only = mount.options.iter().any(|option| option == "ro");
        bind(PathBuf::from(&mount.destination), PathBuf::from(&mount.source), read_only);
    }
    if let Some(size) = image.item.quotas.tmp_limit {
        let options = format!("mode=1777,size={size}");
        mounts.push(Mount { target: PathBuf::from("/tmp"), source: None, options, read_only: false });
    }
    env.extend(environment(info, image, attached, secret.as_ref()));
    Ok(Order {
        cgroups,
        network: network.as_ref().map(|network| network.namespace.clone()),
        mounts,
        files: image.item.quotas.no_file_limit.unwrap_or(DEFAULT_FILES).min(max_files),
        processes: image.item.quotas.pids_limit,
        uid: info.uid,
        gid: info.gid,
        groups: attached.groups.clone(),
        folder: inside(&files, &image.config.config.working_dir),
        argv,
        env,
    })
}

/// A path of the image, below its folder whatever it says.
fn inside(files: &Path, path: &str) -> PathBuf {
    let parts = Path::new(path).components().filter(|part| matches!(part, Component::Normal(_)));
    parts.fold(files.to_owned(), |whole, part| whole.join(part))
}

/// The item's own program goes before one of the host with the same path.
fn found(files: &Path, program: &str) -> String {
    let own = inside(files, program);
    if program.starts_with('/') && own.exists() {
        own.to_string_lossy().into_owned()
    } else {
        program.to_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn programs_of_the_item_go_before_those_of_the_host() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::create_dir(folder.path().join("bin")).unwrap();
        std::fs::write(folder.path().join("bin/own"), "").unwrap();
        let own = folder.path().join("bin/own").to_string_lossy().into_owned();
        assert_eq!(found(folder.path(), "/bin/own"), own);
        assert_eq!(found(folder.path(), "/../bin/own"), own, "a path does not leave the item");
        assert_eq!(found(folder.path(), "/bin/sh"), "/bin/sh");
        assert_eq!(found(folder.path(), "sh"), "sh");
        assert_eq!(inside(folder.path(), "/a/../../b"), folder.path().join("a/b"));
        assert_eq!(inside(folder.path(), ""), folder.path());
    }
}
