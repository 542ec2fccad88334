//! The second half: enters cgroups and namespaces, gives up all privileges, becomes the service.
//!
//! Order matters: cgroups first, so that everything from here on is counted and can be found; privileges last.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::{self, Write};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;

use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, setns, unshare};
use nix::unistd::{Gid, Uid, setgid, setgroups, setsid, setuid};
use rustix::process::{Resource, Rlimit, setrlimit};
use rustix::thread::{CapabilitySet, CapabilitySets};

use crate::{Error, Order};

/// Highest capability a kernel may have.
const MAX_CAPABILITY: u32 = 63;

/// Becomes the service; what is wrong goes to the first half.
pub fn enter(path: &Path) -> Result<(), Error> {
    // The copy closes itself when the service begins; the service reads from nowhere.
    let report = rustix::io::fcntl_dupfd_cloexec(io::stdin(), 3).map_err(Error::system("keep the pipe"))?;
    let nowhere = File::open("/dev/null").map_err(Error::file("open", Path::new("/dev/null")))?;
    rustix::stdio::dup2_stdin(&nowhere).map_err(Error::system("close the standard input"))?;
    drop(nowhere);
    let error = match become_service(path) {
        Ok(never) => match never {},
        Err(error) => error,
    };
    let mut report = File::from(report);
    let _ = report.write_all(error.text().as_bytes());
    Err(error)
}

/// Becomes another command beside the service.
pub fn exec(path: &Path, pid: i32, argv: Vec<String>) -> Result<(), Error> {
    let mut order = crate::read(path)?;
    order.argv = argv;
    enter_cgroups(&order)?;
    let _ = setsid();
    for (name, flag) in [("net", CloneFlags::CLONE_NEWNET), ("mnt", CloneFlags::CLONE_NEWNS)] {
        let place = format!("/proc/{pid}/ns/{name}");
        let namespace = File::open(&place).map_err(Error::file("open", Path::new(&place)))?;
        setns(namespace, flag).map_err(Error::system("enter a namespace of the service"))?;
    }
    match become_powerless(&order).and_then(|()| replace(&order)) {
        Ok(never) => match never {},
        Err(error) => Err(error),
    }
}

fn become_service(path: &Path) -> Result<std::convert::Infallible, Error> {
    let order = crate::read(path)?;
    enter_cgroups(&order)?;
    // Signals to the keeper's group must not reach the service.
    let _ = setsid();
    if let Some(place) = &order.network {
        let namespace = File::open(place).map_err(Error::file("open", place))?;
        setns(namespace, CloneFlags::CLONE_NEWNET).map_err(Error::system("enter the network namespace"))?;
    }
    mounts(&order)?;
    become_powerless(&order)?;
    replace(&order)
}

fn enter_cgroups(order: &Order) -> Result<(), Error> {
    for folder in &order.cgroups {
        let list = folder.join("cgroup.procs");
        fs::write(&list, "0").map_err(Error::file("enter", &list))?;
    }
    Ok(())
}

/// What is mounted here nobody else sees, and what the host mounts later is seen here, too.
fn mounts(order: &Order) -> Result<(), Error> {
    unshare(CloneFlags::CLONE_NEWNS).map_err(Error::system("make a mount namespace"))?;
    let slave = MsFlags::MS_SLAVE | MsFlags::MS_REC;
    mount(None::<&str>, "/", None::<&str>, slave, None::<&str>)
        .map_err(Error::system("cut the mount namespace off"))?;
    for one in &order.mounts {
        let failed = || Error::file("mount on", &one.target);
        let safe = MsFlags::MS_NOSUID | MsFlags::MS_NODEV;
        match &one.source {
            None => {
                let options = Some(one.options.as_str());
                mount(Some("tmpfs"), &one.target, Some("tmpfs"), safe, options)
                    .map_err(|error| failed()(error.into()))?;
            }
            Some(source) => {
                let bind = MsFlags::MS_BIND | MsFlags::MS_REC;
                mount(Some(source), &one.target, None::<&str>, bind, None::<&str>)
                    .map_err(|error| failed()(error.into()))?;
                if one.read_only {
                    let flags = MsFlags::MS_BIND | MsFlags::MS_REMOUNT | MsFlags::MS_RDONLY | safe;
                    mount(None::<&str>, &one.target, None::<&str>, flags, None::<&str>)
                        .map_err(|error| failed()(error.into()))?;
                }
            }
        }
    }
    Ok(())
}

fn become_powerless(order: &Order) -> Result<(), Error> {
    let limit = |resource, value| {
        setrlimit(resource, Rlimit { current: Some(value), maximum: Some(value) })
            .map_err(Error::system("set a limit"))
    };
    limit(Resource::Nofile, order.files)?;
    limit(Resource::Core, 0)?;
    if let Some(processes) = order.processes {
        limit(Resource::Nproc, processes)?;
    }
    nix::sys::stat::umask(nix::sys::stat::Mode::from_bits_truncate(0o022));
    for number in 0..=MAX_CAPABILITY {
        let one = CapabilitySet::from_bits_retain(1 << number);
        // The kernel knows fewer than there are bits and refuses the rest.
        match rustix::thread::remove_capability_from_bounding_set(one) {
            Err(rustix::io::Errno::INVAL) => break,
            other => other.map_err(Error::system("give up capabilities for ever"))?,
        }
    }
    let groups: Vec<Gid> = order.groups.iter().copied().map(Gid::from_raw).collect();
    setgroups(&groups).map_err(Error::system("change groups"))?;
    setgid(Gid::from_raw(order.gid)).map_err(Error::system("change the group"))?;
    setuid(Uid::from_raw(order.uid)).map_err(Error::system("change the user"))?;
    let none = CapabilitySet::empty();
    let sets = CapabilitySets { effective: none, permitted: none, inheritable: none };
    rustix::thread::set_capabilities(None, sets).map_err(Error::system("give up capabilities"))?;
    rustix::thread::set_no_new_privs(true).map_err(Error::system("refuse new privileges"))
}

fn replace(order: &Order) -> Result<std::convert::Infallible, Error> {
    let (program, arguments) = order.argv.split_first().ok_or_else(|| {
        Error::system::<io::Error>("start a service without a program")(io::ErrorKind::InvalidInput.into())
    })?;
    std::env::set_current_dir(&order.folder).map_err(Error::file("go to", &order.folder))?;
    let mut command = Command::new(program);
    command.args(arguments).env_clear();
    for variable in &order.env {
        let (name, value) = variable.split_once('=').unwrap_or((variable, ""));
        command.env(OsStr::new(name), value);
    }
    Err(Error::file("run", Path::new(program))(command.exec()))
}
