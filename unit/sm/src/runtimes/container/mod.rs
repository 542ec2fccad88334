//! The container runtime: bundles, and an OCI runtime's command (crun or runc) driven through the keeper.
//!
//! A bundle (`<runtimeDir>/<instance ID>`) holds what was started (`instance.json`), the specification, the
//! mounted root and the process's identity. It is made anew for every start and removed after every stop, so
//! after a crash of ours it tells what runs.

mod rootfs;
mod spec;

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

use aos_keep::process;
use aos_keep::protocol::{Log, Start};
use rustix::event::{PollFd, PollFlags, poll};
use rustix::fs::Timespec;
use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use serde::{Deserialize, Serialize};

use futures_util::future::BoxFuture;

use super::cgroup::{CgroupPaths, Hierarchies};
use super::data::Data;
use super::keeper::{Keeper, Known};
use super::{Alive, Grace, Runtime, StartJob};
use crate::Error;
use crate::config::ContainerConfig;
use crate::instance::InstanceInfo;

pub use spec::NodeFigures;

/// Time a runtime command or a killed process may take.
const COMMAND_LIMIT: Duration = Duration::from_secs(30);
const MAX_MESSAGE: usize = 4096;

/// One container runtime of this node.
pub struct ContainerRuntime {
    config: ContainerConfig,
    node: NodeFigures,
    keeper: Keeper,
    hierarchies: Hierarchies,
}

#[derive(Serialize, Deserialize, Clone, Copy)]
struct Identity {
    pid: i32,
    start_time: u64,
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
        Ok(Self { config, node, keeper, hierarchies: Hierarchies::find()? })
    }

    fn bundle(&self, id: &str) -> PathBuf {
        self.config.runtime_dir.join(id)
    }

    async fn try_start(&self, id: &str, job: &StartJob) -> Result<i32, Error> {
        let StartJob { info, image, attached, network, data, secret } = job;
        let network = network.as_ref().ok_or_else(|| Error::NotFound("a network".to_owned()))?;
        let bundle = self.bundle(id);
        aos_durable::create_dir(&bundle, 0o700)?;
        write_json(&bundle.join("instance.json"), "an instance", info)?;
        let rootfs = bundle.join("rootfs");
        let input = spec::Input {
            info,
            image,
            attached,
            rootfs: &rootfs,
            namespace: &network.namespace,
            state: data.state.clone(),
            storage: data.storage.clone(),
            secret: secret.as_ref(),
            cgroups_path: format!("{}/{id}", self.config.cgroup_parent),
            node: self.node,
        };
        write_json(&bundle.join("config.json"), "a container specification", &spec::build(&input)?)?;
        let thin = bundle.join("mounts");
        rootfs::make_mount_points(&thin, &spec::mounts(&input)?, &network.hosts, &network.resolv)?;
        rootfs::mount_overlay(&rootfs, &thin, &image.layers)?;
        let text = |path: &Path| path.to_string_lossy().into_owned();
        let messages = bundle.join("runtime.log");
        let pid_file = bundle.join("pid");
        let mut argv = vec![text(&self.config.executable), "--root".into(), text(&self.config.state_root)];
        argv.extend(["--log".into(), text(&messages), "run".into(), "--detach".into()]);
        argv.extend(["--bundle".into(), text(&bundle), "--pid-file".into(), text(&pid_file), id.to_owned()]);
        let log = Log { path: self.log_path(id), max_bytes: self.config.log_max_bytes };
        let env = vec!["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin".to_owned()];
        let started = self.keeper.start(Start { id: id.to_owned(), argv, pid_file, log, env }).await?;
        match started {
            Ok((pid, start_time)) => {
                write_json(&bundle.join("process.json"), "a process", &Identity { pid, start_time })?;
                Ok(pid)
            }
            Err(status) => Err(Error::Runtime {
                action: format!("starting container {id}"),
                status,
                message: last_message(&messages),
            }),
        }
    }

    /// Removes what is left of a container, dead or alive.
    async fn clean(&self, id: &str) -> Result<(), Error> {
        let bundle = self.bundle(id);
        if self.config.state_root.join(id).exists() {
            let (status, _) = self.command(&["delete", "--force", id]).await?;
            if self.config.state_root.join(id).exists() {
                let message = format!("{} is still there", self.config.state_root.join(id).display());
                return Err(Error::Runtime { action: format!("removing container {id}"), status, message });
            }
        }
        rootfs::unmount(&bundle.join("rootfs"));
        match fs::remove_dir_all(&bundle) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                Err(Error::file("remove bundle", bundle)(error))
            }
            _ => Ok(()),
        }
    }

    /// The process of a container that is meant to run: from our own note, or else from the OCI runtime, which
    /// knows it even when we died before writing the note.
    async fn identity(&self, id: &str) -> Option<Identity> {
        let noted = aos_durable::read_bounded(&self.bundle(id).join("process.json"), 4096).ok().flatten();
        if let Some(identity) = noted.and_then(|text| serde_json::from_slice::<Identity>(&text).ok()) {
            return Some(identity);
        }
        if !self.config.state_root.join(id).exists() {
            return None;
        }
        let (status, output) = self.command(&["state", id]).await.ok()?;
        let state: serde_json::Value = serde_json::from_slice(&output).ok()?;
        let running =
            status == 0 && state.get("status").is_some_and(|word| word == "running" || word == "created");
        let pid = i32::try_from(state.get("pid")?.as_i64()?).ok()?;
        let start_time = process::start_time(pid)?;
        (running && pid > 1).then_some(Identity { pid, start_time })
    }

    async fn command(&self, arguments: &[&str]) -> Result<(i32, Vec<u8>), Error> {
        let program = &self.config.executable;
        let mut command = tokio::process::Command::new(program);
        command.arg("--root").arg(&self.config.state_root).args(arguments);
        command.stdin(Stdio::null()).stderr(Stdio::null()).kill_on_drop(true);
        for name in aos_supervise::NOTIFY_VARIABLES {
            command.env_remove(name);
        }
        let failed = || Error::system(format!("run {} {}", program.display(), arguments.join(" ")));
        let output = tokio::time::timeout(COMMAND_LIMIT, command.output())
            .await
            .map_err(|_| failed()(std::io::Error::from(std::io::ErrorKind::TimedOut)))?
            .map_err(failed())?;
        Ok((output.status.code().unwrap_or(-1), output.stdout))
    }

    async fn attach_one(&self, id: &str, wanted: bool, known: &Known) -> Result<Option<Alive>, Error> {
        let bundle = self.bundle(id);
        let info = aos_durable::read_bounded(&bundle.join("instance.json"), 1024 * 1024)?
            .and_then(|text| serde_json::from_slice::<InstanceInfo>(&text).ok());
        let watched = known.watched.get(id).map(|w| Identity { pid: w.pid, start_time: w.start_time });
        let identity = match watched {
            Some(identity) => Some(identity),
            None => self.identity(id).await,
        };
        let running = identity.filter(|it| process::is_running(it.pid, it.start_time));
        if let (true, Some(info), Some(it)) = (wanted, info, running) {
            write_json(&bundle.join("process.json"), "a process", &it)?;
            if watched.is_some() || self.keeper.adopt(id.to_owned(), it.pid, it.start_time).await? {
                tracing::info!("{} runs as process {}, taken up", info.ident, it.pid);
                return Ok(Some(Alive { info, pid: it.pid }));
            }
        }
        tracing::info!("removing what is left of container {id}");
        if let Some(it) = running {
            end(it.pid, it.start_time, self.config.stop_grace).await?;
        }
        self.clean(id).await?;
        Ok(None)
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
            if let Some(Identity { pid, start_time }) = self.identity(id).await {
                self.keeper.stopping(id).await;
                let grace = match grace {
                    Grace::Configured => self.config.stop_grace,
                    Grace::Of(time) => time,
                };
                end(pid, start_time, grace).await?;
            }
            self.clean(id).await
        })
    }

    fn attach<'a>(&'a self, wanted: &'a BTreeSet<String>, known: &'a Known) -> BoxFuture<'a, Vec<Alive>> {
        Box::pin(async move {
            let mut alive = Vec::new();
            let mut ids: BTreeSet<String> = known.watched.keys().cloned().collect();
            for folder in [&self.config.runtime_dir, &self.config.state_root] {
                let entries = fs::read_dir(folder).into_iter().flatten().flatten();
                ids.extend(entries.filter_map(|entry| entry.file_name().into_string().ok()));
            }
            for id in ids.into_iter().filter(|name| uuid::Uuid::try_parse(name).is_ok()) {
                match self.attach_one(&id, wanted.contains(&id), known).await {
                    Ok(Some(found)) => alive.push(found),
                    Ok(None) => {}
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
        Box::pin(async move {
            let mut arguments = vec!["exec", id];
            arguments.extend(argv.iter().map(String::as_str));
            let running = self.command(&arguments);
            let done = tokio::time::timeout(limit, running).await;
            let late = || Error::system(format!("run {} in {id}", argv.first().map_or("", String::as_str)));
            done.map_err(|_| late()(io::Error::from(io::ErrorKind::TimedOut)))?.map(|(status, _)| status)
        })
    }

    fn places(&self, info: &InstanceInfo) -> Result<Data, Error> {
        Data::places(&self.config.state_dir, &self.config.storage_dir, info)
    }

    fn cgroups(&self, id: &str) -> CgroupPaths {
        self.hierarchies.paths(&format!("{}/{id}", self.config.cgroup_parent))
    }

    fn log_path(&self, id: &str) -> PathBuf {
        self.config.log_dir.join(format!("{id}.log"))
    }

    fn remove_log(&self, id: &str) -> Result<(), Error> {
        for path in aos_keep::files_of(&self.log_path(id)) {
            aos_durable::remove_durably(&path)?;
        }
        Ok(())
    }
}

/// Ends a process gently, then not; returns when it is gone.
async fn end(pid: i32, start_time: u64, grace: Duration) -> Result<(), Error> {
    let ending = tokio::task::spawn_blocking(move || end_blocking(pid, start_time, grace));
    let ended = ending.await.map_err(|_| Error::Ended("ending a process"))?;
    ended.map_err(Error::system(format!("end process {pid}")))
}

fn end_blocking(pid: i32, start_time: u64, grace: Duration) -> io::Result<()> {
    let Some(number) = Pid::from_raw(pid) else { return Ok(()) };
    let handle = match pidfd_open(number, PidfdFlags::empty()) {
        Err(Errno::SRCH) => return Ok(()),
        other => other?,
    };
    // The handle is on whatever has the number now; the start time tells whether that is ours.
    if !process::is_running(pid, start_time) {
        return Ok(());
    }
    for (signal, patience) in [(Signal::TERM, grace), (Signal::KILL, COMMAND_LIMIT)] {
        match pidfd_send_signal(&handle, signal) {
            Err(Errno::SRCH) => return Ok(()),
            other => other?,
        }
        if has_ended(&handle, patience)? {
            return Ok(());
        }
    }
    Err(io::ErrorKind::TimedOut.into())
}

fn has_ended(handle: &OwnedFd, patience: Duration) -> io::Result<bool> {
    let deadline = Instant::now() + patience;
    loop {
        let rest = deadline.saturating_duration_since(Instant::now());
        let rest = Timespec::try_from(rest).map_err(|_| io::ErrorKind::InvalidInput)?;
        match poll(&mut [PollFd::new(handle, PollFlags::IN)], Some(&rest)) {
            Err(Errno::INTR) => {}
            other => return Ok(other? > 0),
        }
    }
}

fn write_json(path: &Path, what: &'static str, value: &impl Serialize) -> Result<(), Error> {
    let text = serde_json::to_vec(value).map_err(|source| Error::Encode { what, source })?;
    Ok(aos_durable::write_atomic(path, &text, 0o600)?)
}

fn last_message(path: &Path) -> String {
    let text = fs::read(path).unwrap_or_default();
    let tail = text.get(text.len().saturating_sub(MAX_MESSAGE)..).unwrap_or_default();
    let text = String::from_utf8_lossy(tail);
    text.lines().rfind(|line| !line.trim().is_empty()).unwrap_or("no message").trim().to_owned()
}
