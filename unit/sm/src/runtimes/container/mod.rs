//! The container runtime: bundles, and an OCI runtime's command (crun or runc) driven through the keeper.
//!
//! A bundle (`<runtimeDir>/<instance ID>`) holds what was started (`instance.json`), the specification, the
//! mounted root and the process's identity. It is made anew for every start and removed after every stop, so
//! after a crash of ours it tells what runs. What a command of the OCI runtime leaves behind when it fails or
//! hangs is removed without it.

pub(super) mod bundle;
mod command;
pub(super) mod ending;
mod hostbase;
mod idmap;
mod inside;
mod mounts;
pub(super) mod rootfs;
mod seccomp;
mod spec;

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::pin::pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use aos_keep::process;
use aos_keep::protocol::{Log, Start};
use futures_util::future::BoxFuture;
use serde_json::Value;

use super::cgroup::{CgroupPaths, Hierarchies};
use super::data::Data;
use super::home::{Home, Identity};
use super::keeper::{Keeper, Known};
use super::{Alive, Grace, Runtime, StartJob};
use crate::Error;
use crate::config::{ContainerConfig, SeccompChoice};
use crate::instance::InstanceInfo;
use command::Done;
use hostbase::HostBase;
use idmap::IdMap;

pub use spec::NodeFigures;
pub(super) use spec::{cpu_quota, environment};

/// Time a command of the OCI runtime may take before we do without it.
const COMMAND_LIMIT: Duration = Duration::from_secs(10);
const PATH: &str = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// One container runtime of this node.
pub struct ContainerRuntime {
    config: ContainerConfig,
    node: NodeFigures,
    home: Home,
    /// Number of the next command inside an instance.
    commands: AtomicU64,
}

impl ContainerRuntime {
    /// Prepares the folders.
    pub fn open(config: ContainerConfig, node: NodeFigures, keeper: Keeper) -> Result<Self, Error> {
        for folder in [&config.runtime_dir, &config.log_dir, &config.state_root] {
            aos_durable::create_dir(folder, 0o700)?;
        }
        for folder in [&config.state_dir, &config.storage_dir] {
            aos_durable::create_dir(folder, 0o755)?;
        }
        if config.user_namespaces {
            bundle::open_way(&config.runtime_dir)?;
        }
        let home = Home {
            bundles: config.runtime_dir.clone(),
            logs: config.log_dir.clone(),
            cgroup_parent: config.cgroup_parent.clone(),
            stop_grace: config.stop_grace,
            keeper,
            hierarchies: Hierarchies::find()?,
        };
        Ok(Self { config, node, home, commands: AtomicU64::new(0) })
    }

    async fn try_start(&self, id: &str, job: &StartJob) -> Result<i32, Error> {
        let folder = self.home.bundle(id);
        self.make_bundle(id, &folder, job)?;
        let text = |path: &Path| path.to_string_lossy().into_owned();
        let messages = folder.join("runtime.log");
        let pid_file = folder.join("pid");
        let mut argv = vec![text(&self.config.executable), "--root".into(), text(&self.config.state_root)];
        argv.extend(["--log".into(), text(&messages), "run".into(), "--detach".into()]);
        argv.extend(["--bundle".into(), text(&folder), "--pid-file".into(), text(&pid_file), id.to_owned()]);
        let log = Log { path: self.log_path(id), max_bytes: self.config.log_max_bytes };
        let log_path = log.path.clone();
        bundle::give_log(&log_path, job.info.gid)?;
        let env = vec![PATH.to_owned()];
        let started = self.home.keeper.start(Start { id: id.to_owned(), argv, pid_file, log, env }).await?;
        match started {
            Ok((pid, start_time)) => {
                self.home.note(id, Identity { pid, start_time })?;
                // The runtime gives standard output to the instance's user.
                bundle::give_log(&log_path, job.info.gid)?;
                Ok(pid)
            }
            Err(status) => Err(Error::Runtime {
                action: format!("starting container {id}"),
                status,
                message: bundle::last_message(&messages),
            }),
        }
    }

    /// Writes and mounts everything the OCI runtime is given.
    fn make_bundle(&self, id: &str, folder: &Path, job: &StartJob) -> Result<(), Error> {
        let StartJob { info, image, attached, network, data, secret, .. } = job;
        let mut layers = image.trees()?.to_vec();
        let network = network.as_ref().ok_or_else(|| Error::NotFound("a network".to_owned()))?;
        if !network.namespace.exists() {
            return Err(Error::NotFound(format!("network namespace {}", network.namespace.display())));
        }
        bundle::make_folder(folder, self.config.user_namespaces)?;
        bundle::write(&folder.join("instance.json"), "an instance", info)?;
        let (rootfs, sysfs) = (folder.join("rootfs"), folder.join("sys"));
        let map = self.config.user_namespaces.then(|| IdMap::of(info, &attached.groups)).transpose()?;
        if map.is_some() {
            let sysctl = image.item.sysctl.iter().filter(|(name, _)| spec::is_of_network(name));
            inside::prepare(&network.namespace, &sysfs, sysctl)?;
        }
        let shown = mounts::host_files(&layers, |path| path.symlink_metadata().is_ok());
        let seccomp = self.seccomp()?;
        let input = spec::Input {
            info,
            image,
            attached,
            rootfs: &rootfs,
            namespace: &network.namespace,
            state: data.state.clone(),
            storage: data.storage.clone(),
            secret: secret.as_ref(),
            cgroups_path: self.home.cgroups_path(id),
            node: self.node,
            host_files: &shown,
            users: map.as_ref().map(|map| spec::Users { map, sysfs: &sysfs }),
            seccomp: seccomp.as_ref(),
            default_pids: self.config.default_pids_limit,
        };
        bundle::write(&folder.join("config.json"), "a container specification", &spec::build(&input)?)?;
        let thin = folder.join("mounts");
        rootfs::make_mount_points(&thin, &mounts::mounts(&input)?, &network.hosts, &network.resolv)?;
        let binds = self.config.host_binds.as_ref().filter(|_| image.item.base_layer_is_node_rootfs);
        let base = binds
            .map(|names| HostBase::make(Path::new("/"), names, &layers, &thin, folder.join("links")))
            .transpose()?;
        if let Some(base) = &base {
            layers.insert(0, base.links.clone());
        }
        rootfs::mount_overlay(&rootfs, &thin, &layers)?;
        base.map_or(Ok(()), |base| base.mount(&rootfs, &thin))
    }

    fn seccomp(&self) -> Result<Option<Value>, Error> {
        match &self.config.seccomp {
            SeccompChoice::Unconfined => Ok(None),
            SeccompChoice::Default => Ok(seccomp::profile(std::env::consts::ARCH)),
            SeccompChoice::File(path) => bundle::read(path).map(Some).ok_or_else(|| {
                Error::invalid(path.display().to_string(), "it holds no profile of system calls")
            }),
        }
    }

    /// Removes what is left of a container, dead or alive: first through the OCI runtime, then by hand.
    async fn clean(&self, id: &str) -> Result<(), Error> {
        let state = self.config.state_root.join(id);
        if state.exists() {
            let removed = self.command(&["delete", "--force", id], COMMAND_LIMIT).await;
            match removed {
                Ok(Done { status: 0, .. }) => {}
                Ok(Done { errors, .. }) => {
                    tracing::warn!("the runtime cannot delete {id}: {}", bundle::last_line(&errors));
                }
                Err(error) => tracing::warn!("cannot remove {id} as usual: {}", error.info().message),
            }
        }
        let folder = self.home.bundle(id);
        self.home.remove_cgroups(id).await?;
        bundle::remove(&state)?;
        rootfs::unmount(&folder.join("rootfs"));
        rootfs::unmount(&folder.join("sys"));
        bundle::remove(&folder)
    }

    /// The process of a container that is meant to run: from our own note, or else from the OCI runtime, which
    /// knows it even when we died before writing the note.
    async fn identity(&self, id: &str) -> Option<Identity> {
        if let Some(identity) = self.home.noted(id) {
            return Some(identity);
        }
        if !self.config.state_root.join(id).exists() {
            return None;
        }
        let done = self.command(&["state", id], COMMAND_LIMIT).await.ok()?;
        let state: Value = serde_json::from_slice(&done.output).ok()?;
        let running = done.status == 0
            && state.get("status").is_some_and(|word| word == "running" || word == "created");
        let pid = i32::try_from(state.get("pid")?.as_i64()?).ok()?;
        let start_time = process::start_time(pid)?;
        (running && pid > 1).then_some(Identity { pid, start_time })
    }

    async fn attach_one(&self, id: &str, wanted: bool, known: &Known) -> Result<Option<Alive>, Error> {
        let watched = self.home.wake(id, known);
        let found = match watched {
            Some(identity) => Some(identity),
            None => self.identity(id).await,
        };
        let alive = self.home.take_up(id, wanted, found, watched.is_some()).await?;
        if alive.is_none() {
            self.clean(id).await?;
        }
        Ok(alive)
    }

    async fn try_exec(&self, id: &str, argv: &[String], limit: Duration) -> Result<i32, Error> {
        let folder = self.home.bundle(id);
        let spec: Option<Value> = bundle::read(&folder.join("config.json"));
        let mut process = spec
            .and_then(|mut spec| spec.get_mut("process").map(Value::take))
            .ok_or_else(|| Error::NotFound(format!("container {id}")))?;
        if let Some(fields) = process.as_object_mut() {
            fields.insert("args".into(), argv.into());
        }
        let number = self.commands.fetch_add(1, Ordering::Relaxed);
        let (file, pid_file) =
            (folder.join(format!("exec{number}.json")), folder.join(format!("exec{number}.pid")));
        bundle::write(&file, "a command", &process)?;
        let (shown, noted) = (file.to_string_lossy(), pid_file.to_string_lossy());
        let words = ["exec", "--process", &shown, "--pid-file", &noted, id];
        let mut running = pin!(self.command(&words, limit + COMMAND_LIMIT));
        let done = match tokio::time::timeout(limit, &mut running).await {
            Ok(Ok(Done { status, errors, .. })) if !pid_file.exists() => Err(Error::Runtime {
                action: format!("running a command in container {id}"),
                status,
                message: bundle::last_line(&errors),
            }),
            Ok(done) => done.map(|done| done.status),
            Err(_) => {
                // First the process inside: its end makes the runtime's command end, which collects it.
                let pid = fs::read_to_string(&pid_file).ok().and_then(|text| text.trim().parse().ok());
                ending::kill_member(pid, &self.cgroups(id));
                let _ = running.await;
                let late = io::Error::from(io::ErrorKind::TimedOut);
                Err(Error::system(format!("run {} in {id}", argv.first().map_or("", String::as_str)))(late))
            }
        };
        for path in [&file, &pid_file] {
            let _ = fs::remove_file(path);
        }
        done
    }
}

impl Runtime for ContainerRuntime {
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
            if let Some(identity) = self.identity(id).await {
                self.home.stop(id, identity, grace).await?;
            }
            self.clean(id).await
        })
    }

    fn attach<'a>(&'a self, wanted: &'a BTreeSet<String>, known: &'a Known) -> BoxFuture<'a, Vec<Alive>> {
        Box::pin(async move {
            let mut alive = Vec::new();
            for id in self.home.present(known, Some(&self.config.state_root)) {
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
        true
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
