//! Secrets of instances, and what an instance may do at functional servers.
//!
//! SM registers an instance and hands it the secret; the instance shows it to a functional server,
//! which asks us. Registrations outlive a restart of this program as long as the machine runs, so a
//! running instance keeps its rights; they end with the boot, because instances do too.

use std::collections::BTreeMap;

use aos_ids::InstanceIdent;
use aos_supervise::Shutdown;
use tokio::sync::{mpsc, oneshot};

use crate::Error;
use crate::database::Store;
use crate::worker::Worker;

mod core;
#[cfg(test)]
mod tests;

use core::Registry;

const QUEUE: usize = 32;
const BOOT_ID_PATH: &str = "/proc/sys/kernel/random/boot_id";

/// Functional server name -> function name -> what is allowed.
pub type Permissions = BTreeMap<String, BTreeMap<String, String>>;

/// A registered instance.
#[derive(Clone, PartialEq, Eq)]
pub struct Registration {
    /// The instance.
    pub ident: InstanceIdent,
    /// What it shows to functional servers.
    pub secret: String,
    /// What it may do.
    pub permissions: Permissions,
}

/// Without the secret, which must not reach a log.
impl std::fmt::Debug for Registration {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Registration").field("ident", &self.ident).finish_non_exhaustive()
    }
}

enum Command {
    Register(InstanceIdent, Permissions, oneshot::Sender<Result<String, Error>>),
    Unregister(InstanceIdent, oneshot::Sender<Result<(), Error>>),
    Get(String, String, oneshot::Sender<Result<Answer, Error>>),
}

type Answer = (InstanceIdent, BTreeMap<String, String>);

/// The way to the permission handler.
#[derive(Debug, Clone)]
pub struct PermHandler {
    commands: mpsc::Sender<Command>,
}

impl PermHandler {
    /// Registers an instance and returns its secret; a known instance keeps secret and permissions.
    pub async fn register(&self, ident: InstanceIdent, permissions: Permissions) -> Result<String, Error> {
        self.ask(|answer| Command::Register(ident, permissions, answer)).await
    }

    /// Forgets an instance.
    pub async fn unregister(&self, ident: InstanceIdent) -> Result<(), Error> {
        self.ask(|answer| Command::Unregister(ident, answer)).await
    }

    /// What the instance with this secret may do at `server`.
    pub async fn permissions(&self, secret: String, server: String) -> Result<Answer, Error> {
        self.ask(|answer| Command::Get(secret, server, answer)).await
    }

    async fn ask<R>(
        &self,
        command: impl FnOnce(oneshot::Sender<Result<R, Error>>) -> Command,
    ) -> Result<R, Error> {
        let (answer, result) = oneshot::channel();
        self.commands.send(command(answer)).await.map_err(|_| Error::Stopping)?;
        result.await.map_err(|_| Error::Stopping)?
    }
}

/// The permission handler's task.
pub struct Task {
    registry: Registry,
    boot_id: String,
    store: Worker<Store>,
    commands: mpsc::Receiver<Command>,
}

/// Makes the handler and its task; registrations of this boot are taken up again.
pub async fn open(store: Worker<Store>) -> Result<(PermHandler, Task), Error> {
    let boot_id = std::fs::read_to_string(BOOT_ID_PATH).map_err(|source| Error::File {
        doing: "read the boot ID from",
        path: BOOT_ID_PATH.into(),
        source,
    })?;
    let boot_id = boot_id.trim().to_owned();
    let of_boot = boot_id.clone();
    let registrations = store.call(move |store| store.registrations(&of_boot)).await?;
    let (commands, queue) = mpsc::channel(QUEUE);
    let task = Task { registry: Registry::new(registrations), boot_id, store, commands: queue };
    Ok((PermHandler { commands }, task))
}

impl Task {
    /// Answers until `shutdown`.
    pub async fn run(mut self, shutdown: Shutdown) -> Result<(), Error> {
        loop {
            let command = tokio::select! {
                command = self.commands.recv() => command,
                () = shutdown.wait() => None,
            };
            let Some(command) = command else { return Ok(()) };
            match command {
                Command::Register(ident, permissions, answer) => {
                    let _ = answer.send(self.register(ident, permissions).await);
                }
                Command::Unregister(ident, answer) => {
                    let _ = answer.send(self.unregister(ident).await);
                }
                Command::Get(secret, server, answer) => {
                    let _ = answer.send(self.registry.permissions(&secret, &server));
                }
            }
        }
    }

    async fn register(&mut self, ident: InstanceIdent, permissions: Permissions) -> Result<String, Error> {
        if let Some(secret) = self.registry.secret_of(&ident) {
            return Ok(secret.to_owned());
        }
        // A UUID from the system's random numbers; 122 bits cannot be guessed and do not repeat.
        let secret = uuid::Uuid::new_v4().to_string();
        let registration = Registration { ident, secret: secret.clone(), permissions };
        self.registry.check(&registration)?;
        let (boot_id, stored) = (self.boot_id.clone(), registration.clone());
        self.store.call(move |store| store.add_registration(&boot_id, &stored)).await?;
        self.registry.add(registration);
        Ok(secret)
    }

    async fn unregister(&mut self, ident: InstanceIdent) -> Result<(), Error> {
        self.registry.known(&ident)?;
        let stored = ident.clone();
        self.store.call(move |store| store.remove_registration(&stored)).await?;
        self.registry.remove(&ident);
        Ok(())
    }
}
