//! Link to the cloud: one task that connects, keeps the message session and reconnects.
//!
//! The rules of acknowledging and repeating are those of `aos-cloud-session`. A received message is
//! acknowledged when its receiver says so, which is after it is kept. While there is no link the task sleeps:
//! until the next attempt, until a new certificate, or until something is to be queued.

mod connector;
mod discovery;
mod log;
mod mail;
pub mod outbox;
mod pause;
mod questions;
mod sealed;
mod serving;
mod state;
mod task;

use std::sync::Arc;
use std::time::Duration;

use aos_cloud_protocol::{BlobInfo, Body, Envelope, UnitStatus};
use aos_cloud_session::DropReason;
use aos_iam_link::IamLink;
use aos_ids::{Digest, SystemId, Txn};
use aos_tls::{IdentitySlot, Roots};
use rusqlite::Connection;
use tokio::sync::{mpsc, oneshot, watch};

use self::connector::Connector;
use self::log::MessageLog;
use self::mail::Times;
use self::sealed::Opener;
pub use self::state::CloudState;
pub use self::task::Task;
use crate::config::Config;
use crate::database::StoreError;
use crate::transport::Dialer;

/// Commands that may wait.
const COMMANDS: usize = 256;
/// Messages that may wait for their receiver; the link is not read meanwhile.
const EVENTS: usize = 64;
/// A link that lived this long was a good one.
const GOOD_LINK: Duration = Duration::from_mins(1);
/// How long a new certificate waits for acknowledgements.
const SETTLE_TIME: Duration = Duration::from_secs(10);

/// What the cloud link is told.
#[derive(Debug)]
pub enum Command {
    /// Queue a message, with the exchange it belongs to.
    Send(Box<Body>, Option<String>),
    /// The same, and tell what became of it.
    Deliver(Box<Body>, Option<String>, oneshot::Sender<Result<(), DropReason>>),
    /// Ask where a blob is.
    BlobUrls(Digest, oneshot::Sender<Result<BlobInfo, BlobUrlError>>),
}

/// What the cloud link is told and must not miss. Their number is bounded by the outbox, and by the messages
/// of the cloud that may be undecided.
#[derive(Debug)]
pub enum Durable {
    /// Send a message that is in the outbox.
    Send(Box<Envelope>),
    /// A delivered message is kept.
    Accepted(Txn),
}

/// What the task is told, of either kind.
enum Told {
    Command(Command),
    Durable(Durable),
}

/// Both ways to the task.
struct Inbox {
    commands: mpsc::Receiver<Command>,
    durable: mpsc::UnboundedReceiver<Durable>,
}

impl Inbox {
    /// The next of them, nothing when nobody is left to tell anything.
    async fn next(&mut self) -> Option<Told> {
        tokio::select! {
            biased;
            durable = self.durable.recv() => durable.map(Told::Durable),
            command = self.commands.recv() => command.map(Told::Command),
        }
    }
}

/// What is known from earlier runs.
#[derive(Debug, Default)]
pub struct Stored {
    /// Messages that the cloud has not acknowledged, oldest first.
    pub outbox: Vec<Envelope>,
    /// Transactions of the cloud that have taken effect, oldest first.
    pub remembered: Vec<Txn>,
}

impl Stored {
    /// Reads both.
    pub fn load(db: &Connection) -> Result<Self, StoreError> {
        Ok(Self { outbox: outbox::load(db)?, remembered: outbox::remembered(db)? })
    }
}

/// Why the cloud did not say where a blob is.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BlobUrlError {
    /// No link now.
    #[error("the cloud is not connected")]
    Offline,
    /// No answer in time.
    #[error("the cloud did not answer in time")]
    Timeout,
    /// The cloud does not have it.
    #[error("the cloud does not have blob {0}")]
    NotFound(Digest),
}

/// What the cloud link says.
#[derive(Debug)]
pub enum Event {
    /// A link stands; the answer is the first message on it.
    Connected(oneshot::Sender<UnitStatus>),
    /// The link is gone.
    Disconnected,
    /// A message; to be answered with [`Command::Accepted`].
    Message(Box<Envelope>),
    /// A message that could be read but means nothing, in words. It has been acknowledged.
    Refused(String),
    /// Kept messages that the cloud has acknowledged: they need not be kept any more.
    Acknowledged(Vec<Txn>),
    /// A message that the cloud does not acknowledge, in words. It stays kept.
    Parked(String),
    /// A delta of the status was given up: the cloud's picture is wrong until it gets a full one.
    StatusLost,
}

/// Way to the task.
#[derive(Debug, Clone)]
pub struct Communication {
    commands: mpsc::Sender<Command>,
    durable: mpsc::UnboundedSender<Durable>,
    connected: watch::Receiver<bool>,
    state: watch::Receiver<CloudState>,
}

impl Communication {
    /// Queues a message; false when the task's own queue is full.
    pub fn send(&self, body: Body, correlation_id: Option<String>) -> bool {
        self.commands.try_send(Command::Send(Box::new(body), correlation_id)).is_ok()
    }

    /// Queues a message and waits until the cloud has acknowledged it, however long there is no link; an error
    /// is why it was given up. Never ends when the task is gone.
    pub async fn deliver(&self, body: Body, correlation_id: Option<String>) -> Result<(), DropReason> {
        let (sender, outcome) = oneshot::channel();
        let command = Command::Deliver(Box::new(body), correlation_id, sender);
        if self.commands.send(command).await.is_ok()
            && let Ok(outcome) = outcome.await
        {
            return outcome;
        }
        // This process stops: nothing is known of the message, and nothing must be made of that.
        std::future::pending().await
    }

    /// Sends a message that was put into the outbox. Its row goes when the cloud has acknowledged it.
    pub fn send_kept(&self, envelope: Envelope) {
        // A task that is gone finds it in the outbox when it starts again.
        let _ = self.durable.send(Durable::Send(Box::new(envelope)));
    }

    /// Says that a message of the cloud is kept.
    pub fn accepted(&self, txn: Txn) {
        let _ = self.durable.send(Durable::Accepted(txn));
    }

    /// Asks where a blob is.
    pub async fn blob_urls(&self, digest: Digest) -> Result<BlobInfo, BlobUrlError> {
        let (sender, receiver) = oneshot::channel();
        self.commands.send(Command::BlobUrls(digest, sender)).await.map_err(|_| BlobUrlError::Offline)?;
        receiver.await.map_err(|_| BlobUrlError::Offline)?
    }

    /// Whether a link stands.
    pub fn connected(&self) -> watch::Receiver<bool> {
        self.connected.clone()
    }

    /// State of the link.
    pub fn state(&self) -> CloudState {
        self.state.borrow().clone()
    }
}

/// What the task needs from IAM.
pub struct Sources {
    /// Roots of the cloud.
    pub roots: Roots,
    /// Certificate and key of type `online`, for handshakes.
    pub slot: IdentitySlot,
    /// The same, to see changes.
    pub identity: watch::Receiver<Option<Arc<aos_token::Identity>>>,
    /// Identity of the Unit, once known.
    pub system_id: watch::Receiver<Option<SystemId>>,
    /// Keys of enveloped frames.
    pub iam: IamLink,
}

/// Makes the task and the way to it.
pub fn open(
    config: &Config,
    sources: Sources,
    stored: Stored,
) -> Result<(Communication, mpsc::Receiver<Event>, Task), aos_tls::TlsError> {
    let (commands, command_receiver) = mpsc::channel(COMMANDS);
    let (durable, durable_receiver) = mpsc::unbounded_channel();
    let (events, event_receiver) = mpsc::channel(EVENTS);
    let (connected, connected_receiver) = watch::channel(false);
    let (state, state_receiver) = watch::channel(CloudState::new());
    let configured = discovery::Configured {
        overriding: config.override_service_discovery_url.clone(),
        fallback: config.service_discovery_url.clone(),
    };
    let task = Task {
        inbox: Inbox { commands: command_receiver, durable: durable_receiver },
        stored,
        events,
        connected,
        state,
        system_id: sources.system_id,
        identity: sources.identity,
        times: Times {
            wait: config.cloud_response_wait_timeout,
            ping: config.cloud_ping_interval,
            dead: config.cloud_dead_timeout,
            good: GOOD_LINK,
            settle: SETTLE_TIME,
        },
        opener: config.open_enveloped_messages.then(|| Opener::new(sources.iam)),
        log: config.cloud_message_log.clone().map(MessageLog::new),
        connector: Connector::new(Dialer::new(&sources.roots, &sources.slot)?, configured),
    };
    let way = Communication { commands, durable, connected: connected_receiver, state: state_receiver };
    Ok((way, event_receiver, task))
}

#[cfg(test)]
#[path = "link_tests/mod.rs"]
mod tests;
