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
use crate::identhandler::IdentHandler;

mod command;
mod core;
mod roots;
#[cfg(test)]
mod tests;

pub use self::core::{Order, Verdict};

use roots::RootFile;

const QUEUE: usize = 16;

enum What {
    Order(Order, String),
    RootCerts(Vec<String>),
}

struct Job {
    what: What,
    answer: oneshot::Sender<Result<(), Error>>,
}

/// The way to the provision manager.
#[derive(Debug, Clone)]
pub struct ProvisionManager {
    jobs: mpsc::Sender<Job>,
    certs: CertHandler,
    identity: Option<IdentHandler>,
}

impl ProvisionManager {
    /// Carries out an order; `password` is the tokens' security officer PIN where it matters.
    pub async fn order(&self, order: Order, password: String) -> Result<(), Error> {
        self.job(What::Order(order, password)).await
    }

    /// Takes new root certificates (PEM) for checking peers.
    pub async fn update_roots(&self, certs: Vec<String>) -> Result<(), Error> {
        self.job(What::RootCerts(certs)).await
    }

    async fn job(&self, what: What) -> Result<(), Error> {
        let (answer, result) = oneshot::channel();
        self.jobs.send(Job { what, answer }).await.map_err(|_| Error::Stopping)?;
        result.await.map_err(|_| Error::Stopping)?
    }

    /// Types that a certificate can be asked for.
    pub async fn cert_types(&self) -> Result<Vec<String>, Error> {
        self.certs.cert_types().await
    }

    /// The subject of a certificate request: as asked, else the system ID.
    pub async fn subject(&self, asked: &str) -> Result<String, Error> {
        match (asked, &self.identity) {
            ("", Some(identity)) => Ok(identity.system().await?.system_id),
            ("", None) => Err(Error::NotFound("subject can't be empty".into())),
            (subject, _) => Ok(subject.to_owned()),
        }
    }

    /// Makes a key and the request for its certificate, as PEM.
    pub async fn create_key(&self, cert_type: String, subject: &str) -> Result<String, Error> {
        self.certs.create_key(cert_type, self.subject(subject).await?).await
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
    roots: RootFile,
}

/// Makes the manager and its task.
pub fn open(
    config: &Config,
    node: CurrentNode,
    certs: CertHandler,
    identity: Option<IdentHandler>,
) -> (ProvisionManager, Task) {
    let (jobs, queue) = mpsc::channel(QUEUE);
    let commands = Commands {
        start: config.start_provisioning_cmd_args.clone(),
        disk_encryption: config.disk_encryption_cmd_args.clone(),
        finish: config.finish_provisioning_cmd_args.clone(),
        deprovision: config.deprovision_cmd_args.clone(),
    };
    let roots = RootFile::new(config.ca_cert.clone());
    let task = Task { jobs: queue, node, certs: certs.clone(), commands, roots };
    (ProvisionManager { jobs, certs, identity }, task)
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
            let name = match &job.what {
                What::Order(order, _) => order.name(),
                What::RootCerts(_) => "update of root certificates",
            };
            let result = tokio::select! {
                result = self.carry_out(job.what) => result,
                // A program that hangs must not keep us from stopping.
                () = shutdown.wait() => Err(Error::Stopping),
            };
            match &result {
                Ok(()) => tracing::info!("{name} done, node is {}", self.node.state()),
                Err(error) => tracing::error!("{name} failed: {}", aos_logging::with_causes(error)),
            }
            let _ = job.answer.send(result);
        }
    }

    async fn carry_out(&self, what: What) -> Result<(), Error> {
        let (order, password) = match what {
            What::Order(order, password) => (order, password),
            What::RootCerts(certs) => return self.roots.update(certs, self.node.state()).await,
        };
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
