//! The native runtime: a process without container, with its own user, limits, mounts and, if the
//! configuration says so, network.
//!
//! A bundle (`<runtimeDir>/<instance ID>`) holds what was started (`instance.json`), the order for the helper
//! (`order.json`, see `aos-native`), the item's files (`rootfs`, read-only) and places for storage and state.
//! The process is a child of the keeper like that of a container, and ends with everything in its cgroups.

mod limits;
mod plan;

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use aos_keep::process;
use aos_keep::protocol::{Log, Start};
use futures_util::future::BoxFuture;
use rustix::process::{Pid, Signal, kill_process_group};

use super::cgroup::{CgroupPaths, Hierarchies};
use super::container::{NodeFigures, bundle, rootfs};
use super::data::Data;
use super::home::{Home, Identity};
use super::keeper::{Keeper, Known};
use super::{Alive, Grace, Runtime, StartJob};
use crate::Error;
use crate::config::NativeConfig;
use crate::instance::InstanceInfo;

/// One native runtime of this node.
pub struct NativeRuntime {
    config: NativeConfig,
    node: NodeFigures,
    home: Home,
    /// The program that knows `native`.
    program: PathBuf,
}

impl NativeRuntime {
    /// Prepares the folders; `program` is the executable that knows `native`.
    pub fn open(
        config: NativeConfig,
        node: NodeFigures,
        keeper: Keeper,
        program: PathBuf,
    ) -> Result<Self, Error> {
        for (folder, mode) in [
            (&config.runtime_dir, 0o711),
            (&config.log_dir, 0o700),
            (&config.state_dir, 0o755),
            (&config.storage_dir, 0o755),
        ] {
            aos_durable::create_dir(folder, mode)?;
        }
        // Services have to get to their files through it, but not to see what else is there.
        let mode = fs::Permissions::from_mode(0o711);
        fs::set_permissions(&config.runtime_dir, mode)
            .map_err(Error::file("open the way into", &config.runtime_dir))?;
        for folder in config.runtime_dir.ancestors().filter(|folder| !folder.as_os_str().is_empty()) {
            let mode = fs::metadata(folder).map_err(Error::file("look at", folder))?.permissions().mode();
            if mode & 0o001 == 0 {
                let reason = format!("{} is closed to services, which have to pass it", folder.display());
                return Err(Error::invalid("folder of the native runtime", reason));
            }
        }
        let home = Home {
            bundles: config.runtime_dir.clone(),
            logs: config.log_dir.clone(),
            cgroup_parent: config.cgroup_parent.clone(),
            stop_grace: config.stop_grace,
            keeper,
            hierarchies: Hierarchies::find()?,
        };
        Ok(Self { config, node, home, program })
    }

    async fn try_start(&self, id: &str, job: &StartJob) -> Result<i32, Error> {
        let folder = self.home.bundle(id);
        self.make_bundle(id, &folder, job)?;
        let text = |path: &Path| path.to_string_lossy().into_owned();
        let pid_file = folder.join("pid");
        let argv = vec![
            text(&self.program),
            "native".into(),
            "start".into(),
            text(&folder.join("order.json")),
            text(&pid_file),
        ];
        let log = Log { path: self.log_path(id), max_bytes: self.config.log_max_bytes };
        let reason = pid_file.with_extension("error");
        let started = self.home.keeper.start(Start { id: id.to_owned(), argv, pid_file, log, env: vec![] });
        match started.await? {
            Ok((pid, start_time)) => {
                self.home.note(id, Identity { pid, start_time })?;
                Ok(pid)
            }
            Err(status) => Err(Error::Runtime {
                action: format!("starting process {id}"),
                status,
                message: bundle::last_message(&reason),
            }),
        }
    }

    fn make_bundle(&self, id: &str, folder: &Path, job: &StartJob) -> Result<(), Error> {
        let layers = job.image.trees()?;
        bundle::make_folder(folder, true)?;
        bundle::write(&folder.join("instance.json"), "an instance", &job.info)?;
        let (thin, files) = (folder.join("empty"), folder.join("rootfs"));
        bundle::make_folder(&thin, true)?;
        // The root of the item's files is this folder's; services look into it.
        fs::set_permissions(&thin, fs::Permissions::from_mode(0o755)).map_err(Error::file("open", &thin))?;
        rootfs::mount_overlay(&files, &thin, layers)?;
        let cgroups = limits::make(&self.cgroups(id), &job.image.item.quotas, &self.node)
            .map_err(Error::system(format!("set the limits of {id}")))?;
        let order = plan::order(job, folder, cgroups, self.node.max_files)?;
        for place in [folder.join(plan::STORAGE), folder.join(plan::STATE)] {
            let Some(mount) = order.mounts.iter().find(|mount| mount.target == place) else { continue };
            let made = match &mount.source {
                Some(source) if source.is_dir() => fs::create_dir(&place),
                _ => fs::write(&place, ""),
            };
            made.map_err(Error::file("make", &place))?;
        }
        if let Some(network) = &job.network {
            for (name, content) in [(plan::HOSTS, &network.hosts), (plan::RESOLV, &network.resolv)] {
                let place = folder.join(name);
                fs::write(&place, content).map_err(Error::file("write", &place))?;
                fs::set_permissions(&place, fs::Permissions::from_mode(0o644))
                    .map_err(Error::file("open", &place))?;
            }
        }
        bundle::write(&folder.join("order.json"), "an order", &order)
    }

    /// The process that is meant to run. The helper's own note counts when we died before writing ours, as
    /// long as that process is in the instance's cgroup.
    fn identity(&self, id: &str) -> Option<Identity> {
        self.home.noted(id).or_else(|| {
            let pid: i32 = fs::read_to_string(self.home.bundle(id).join("pid")).ok()?.trim().parse().ok()?;
            let groups = self.cgroups(id);
            let is_member = |group: &PathBuf| {
                let text = fs::read_to_string(group.join("cgroup.procs")).unwrap_or_default();
                text.lines().any(|line| line.parse() == Ok(pid))
            };
            let start_time = process::start_time(pid).filter(|_| groups.all.iter().any(is_member))?;
            Some(Identity { pid, start_time })
        })
    }

    async fn clean(&self, id: &str) -> Result<(), Error> {
        self.home.remove_cgroups(id).await?;
        let folder = self.home.bundle(id);
        rootfs::unmount(&folder.join("rootfs"));
        bundle::remove(&folder)
    }

    async fn attach_one(&self, id: &str, wanted: bool, known: &Known) -> Result<Option<Alive>, Error> {
        let watched = self.home.wake(id, known);
        let found = watched.or_else(|| self.identity(id));
        let alive = self.home.take_up(id, wanted, found, watched.is_some()).await?;
        if alive.is_none() {
            self.clean(id).await?;
        }
        Ok(alive)
    }

    async fn try_exec(&self, id: &str, argv: &[String], limit: Duration) -> Result<i32, Error> {
        let Some(Identity { pid, .. }) = self.identity(id) else {
            return Err(Error::NotFound(format!("process of {id}")));
        };
        let failed = || Error::system(format!("run a command beside {id}"));
        let mut command = tokio::process::Command::new(&self.program);
        command.args(["native", "exec"]).arg(self.home.bundle(id).join("order.json")).arg(pid.to_string());
        command.args(argv).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        command.kill_on_drop(true);
        let mut child = command.spawn().map_err(failed())?;
        let number = child.id().and_then(|id| Pid::from_raw(id.cast_signed()));
        let ended = tokio::time::timeout(limit, child.wait()).await;
        if ended.is_err()
            && let Some(group) = number
        {
            // It leads a group of its own; what it started ends with it.
            let _ = kill_process_group(group, Signal::KILL);
        }
        let status = ended.map_err(|_| failed()(std::io::Error::from(std::io::ErrorKind::TimedOut)))?;
        let status = status.map_err(failed())?;
        Ok(status.code().unwrap_or_else(|| 128 + status.signal().unwrap_or(0)))
    }
}

impl Runtime for NativeRuntime {
    fn start<'a>(&'a self, job: &'a StartJob) -> BoxFuture<'a, Result<i32, Error>> {
        Box::pin(async move {
            let id = job.info.id();
            self.clean(&id).await?;
            let result = self.try_start(&id, job).await;
            if result.is_err()
                && let Err(error) = self.clean(&id).await
            {
                tracing::warn!("cannot clean up after a failed start of {id}: {}", error.info().message);
            }
            result
        })
    }

    fn stop<'a>(&'a self, id: &'a str, grace: Grace) -> BoxFuture<'a, Result<(), Error>> {
        Box::pin(async move {
            if let Some(identity) = self.identity(id) {
                self.home.stop(id, identity, grace).await?;
            }
            self.clean(id).await
        })
    }

    fn attach<'a>(&'a self, wanted: &'a BTreeSet<String>, known: &'a Known) -> BoxFuture<'a, Vec<Alive>> {
        Box::pin(async move {
            let mut alive = Vec::new();
            for id in self.home.present(known, None) {
                match self.attach_one(&id, wanted.contains(&id), known).await {
                    Ok(found) => alive.extend(found),
                    Err(error) => tracing::error!("cannot take up or remove {id}: {}", error.info().message),
                }
            }
            alive
        })
    }

    fn exec<'a>(
        &'a self,
        id: &'a str,
        argv: &'a [String],
        limit: Duration,
    ) -> BoxFuture<'a, Result<i32, Error>> {
        Box::pin(self.try_exec(id, argv, limit))
    }

    fn has_networks(&self) -> bool {
        self.config.own_network
    }

    fn places(&self, info: &InstanceInfo) -> Result<Data, Error> {
        Data::places(&self.config.state_dir, &self.config.storage_dir, info)
    }

    fn cgroups(&self, id: &str) -> CgroupPaths {
        self.home.cgroups(id)
    }

    fn log_path(&self, id: &str) -> PathBuf {
        self.home.log_path(id)
    }

    fn remove_log(&self, id: &str) -> Result<(), Error> {
        self.home.remove_log(id)
    }
}
