//! What has to be done from inside an instance's network namespace before its container starts.
//!
//! A container in a user namespace has no rights over its network namespace, which we have made. So it can
//! neither mount the kernel's view of it (`/sys`) nor set its parameters; both happen here, on a short-lived
//! thread that enters the namespace and ends there.

use std::fs::{self, File};
use std::io;
use std::path::{Component, Path, PathBuf};

use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, setns};

use crate::Error;

/// Mounts the view at `sysfs` and sets the network parameters; blocking for a moment.
pub fn prepare<'a>(
    namespace: &Path,
    sysfs: &Path,
    sysctl: impl Iterator<Item = (&'a String, &'a String)>,
) -> Result<(), Error> {
    let mut parameters = Vec::new();
    for (name, value) in sysctl {
        parameters.push((parameter(name)?, value.clone()));
    }
    let space = File::open(namespace)
        .map_err(|_| Error::NotFound(format!("network namespace {}", namespace.display())))?;
    fs::create_dir_all(sysfs).map_err(Error::file("make folder", sysfs))?;
    let target = sysfs.to_owned();
    let work = move || -> Result<(), Error> {
        setns(space, CloneFlags::CLONE_NEWNET).map_err(Error::system("enter the network namespace"))?;
        let flags = MsFlags::MS_RDONLY | MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
        mount(Some("sysfs"), &target, Some("sysfs"), flags, None::<&str>)
            .map_err(Error::system(format!("mount sysfs at {}", target.display())))?;
        for (path, value) in parameters {
            fs::write(&path, value).map_err(Error::file("set kernel parameter", path))?;
        }
        Ok(())
    };
    let thread = std::thread::Builder::new().name("netns".to_owned()).spawn(work);
    let thread = thread.map_err(Error::system("start a thread"))?;
    thread.join().map_err(|_| Error::system("prepare a network namespace")(io::Error::other("it broke")))?
}

/// File of a network parameter, `net.a.b` or `net/a/b`.
fn parameter(name: &str) -> Result<PathBuf, Error> {
    let relative = if name.contains('/') { name.to_owned() } else { name.replace('.', "/") };
    let path = Path::new(&relative);
    if path.starts_with("net") && path.components().all(|part| matches!(part, Component::Normal(_))) {
        return Ok(Path::new("/proc/sys").join(path));
    }
    Err(Error::invalid(format!("kernel parameter '{}'", name.escape_debug()), "it is none of the network"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_parameters_of_the_network_are_set() {
        let path = |name| parameter(name).ok();
        assert_eq!(path("net.core.somaxconn"), Some("/proc/sys/net/core/somaxconn".into()));
        assert_eq!(
            path("net/ipv4/conf/eth0.1/rp_filter"),
            Some("/proc/sys/net/ipv4/conf/eth0.1/rp_filter".into())
        );
        for bad in
            ["kernel.core_pattern", "net/../kernel/core_pattern", "net.../kernel", "/net/x", "netx.a", ""]
        {
            assert_eq!(path(bad), None, "{bad}");
        }
    }
}
