//! Orders about this node: provisioning, certificates, state.
//!
//! One task carries orders out one after the other and is the only writer of the node's state. An order
//! that has begun is finished even when the client has gone.

use aos_supervise::Shutdown;
use tokio::sync::{mpsc, oneshot};

use crate::Error;
use crate::certhandler::{CertHandler, CertRecord};
use crate::config::Config;
use crate::currentnode::CurrentNode;

mod command;
mod core;
#[cfg(test)]
mod tests;

pub use self::core::{Order, Verdict};

const QUEUE: usize = 16;

struct Job {
    order: Order,
    password: String,
    answer: oneshot::Sender<Result<(), Error>>,
}

/// The way to the provision manager.
#[derive(Debug, Clone)]
pub struct ProvisionManager {
    jobs: mpsc::Sender<Job>,
    certs: CertHandler,
    system_id: Option<String>,
}

impl ProvisionManager {
    /// Carries out an order; `password` is the tokens' security officer PIN where it matters.
    pub async fn order(&self, order: Order, password: String) -> Result<(), Error> {
        let (answer, result) = oneshot::channel();
        self.jobs.send(Job { order, password, answer }).await.map_err(|_| Error::Stopping)?;
        result.await.map_err(|_| Error::Stopping)?
    }

    /// Types that a certificate can be asked for.
    pub async fn cert_types(&self) -> Result<Vec<String>, Error> {
        self.certs.cert_types().await
    }

    /// The subject of a certificate request: as asked, else the system ID.
    pub fn subject(&self, asked: &str) -> Result<String, Error> {
        match (asked, &self.system_id) {
            ("", Some(system_id)) => Ok(system_id.clone()),
            ("", None) => Err(Error::NotFound("subject can't be empty".into())),
            (subject, _) => Ok(subject.to_owned()),
        }
    }

    /// Makes a key and the request for its certificate, as PEM.
    pub async fn create_key(&self, cert_type: String, subject: &str) -> Result<String, Error> {
        self.certs.create_key(cert_type, self.subject(subject)?).await
    }

    /// Stores an issued certificate, PEM chain with the leaf first and a root.
    pub async fn apply_cert(&self, cert_type: String, pem: String) -> Result<CertRecord, Error> {
        self.certs.apply_cert(cert_type, pem).await
    }
}

/// Programs run at provisioning steps.
#[derive(Debug, Clone, Default)]
struct Commands {
    start: Vec<String>,
    disk_encryption: Vec<String>,
    finish: Vec<String>,
    deprovision: Vec<String>,
}

/// The provision manager's task.
pub struct Task {
    jobs: mpsc::Receiver<Job>,
    node: CurrentNode,
    certs: CertHandler,
    commands: Commands,
}

/// Makes the manager and its task.
pub fn open(
    config: &Config,
    node: CurrentNode,
    certs: CertHandler,
    system_id: Option<String>,
) -> (ProvisionManager, Task) {
    let (jobs, queue) = mpsc::channel(QUEUE);
    let commands = Commands {
        start: config.start_provisioning_cmd_args.clone(),
        disk_encryption: config.disk_encryption_cmd_args.clone(),
        finish: config.finish_provisioning_cmd_args.clone(),
        deprovision: config.deprovision_cmd_args.clone(),
    };
    let task = Task { jobs: queue, node, certs: certs.clone(), commands };
    (ProvisionManager { jobs, certs, system_id }, task)
}

impl Task {
    /// Works until `shutdown`.
    pub async fn run(mut self, shutdown: Shutdown) -> Result<(), Error> {
        loop {
            let job = tokio::select! {
                job = self.jobs.recv() => job,
                () = shutdown.wait() => None,
            };
            let Some(job) = job else { return Ok(()) };
            let result = tokio::select! {
                result = self.carry_out(job.order, job.password) => result,
                // A program that hangs must not keep us from stopping.
                () = shutdown.wait() => Err(Error::Stopping),
            };
            match &result {
                Ok(()) => tracing::info!("{} done, node is {}", job.order.name(), self.node.state()),
                Err(error) => tracing::error!("{} failed: {}", job.order.name(), crate::error::chain(error)),
            }
            let _ = job.answer.send(result);
        }
    }

    async fn carry_out(&self, order: Order, password: String) -> Result<(), Error> {
        let Verdict::Do(state) = order.check(self.node.state())? else { return Ok(()) };
        match order {
            Order::StartProvisioning => {
                command::run(&self.commands.start).await?;
                self.certs.set_owners(password).await?;
                command::run(&self.commands.disk_encryption).await?;
            }
            Order::FinishProvisioning => command::run(&self.commands.finish).await?,
            Order::Deprovision => command::run(&self.commands.deprovision).await?,
            Order::Pause | Order::Resume => {}
        }
        self.node.set_state(state)
    }
}
