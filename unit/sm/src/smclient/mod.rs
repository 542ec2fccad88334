//! The connection to the Communication Manager: one stream for messages both ways, unary calls beside it.
//!
//! Connect, register, talk, reconnect, for ever. The pause before another attempt is short after a connection
//! that held and doubles up to the configured one, so that nodes that start together find each other soon. The first message of every stream is
//! this node's description, the second the status of all instances. What changes while there is no stream
//! need not be kept: the status list of the next connection holds it. Of the other messages the newest
//! alerts are kept (up to the queue's length), monitoring and logs are dropped.

mod calls;
mod messages;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use aos_backoff::Backoff;
use aos_unit_api::servicemanager::v5 as wire;
use tokio::sync::{mpsc, watch};
use tokio_stream::wrappers::ReceiverStream;
use tonic::Streaming;
use tonic::transport::Channel;
use wire::sm_incoming_messages::SmIncomingMessage as Incoming;
use wire::sm_outgoing_messages::SmOutgoingMessage as Wire;
use wire::sm_service_client::SmServiceClient;

use crate::Error;
use crate::iamclient::CertificateSource;
use crate::launcher::{Command, Status};
use crate::logprovider::{LogProvider, Request};
use crate::monitoring::Monitoring;
use crate::networkmanager::NetworkManager;
use crate::nodeconfig::NodeConfigFile;

pub use calls::CmCalls;

/// Messages that may wait for the stream.
const QUEUE: usize = 64;
/// First pause between attempts.
const FIRST_PAUSE: Duration = Duration::from_millis(50);
/// Time to open the stream.
const OPEN_TIME: Duration = Duration::from_secs(15);
/// Largest message accepted, bytes.
const MAX_MESSAGE: usize = 16 * 1024 * 1024;

/// Messages of other modules to CM.
#[derive(Debug)]
pub enum Outgoing {
    /// Statuses that changed.
    Instances(Vec<Status>),
    /// All statuses.
    AllInstances(Vec<Status>),
    /// Anything else, as it is.
    Message(Wire),
}

/// Where CM is and who we are to it.
#[derive(Clone)]
pub enum Dial {
    /// With our certificate.
    Secure {
        /// Address, `host:port`.
        url: String,
        /// Root certificates.
        ca_cert: PathBuf,
        /// Our certificate.
        certificate: CertificateSource,
    },
    /// Without encryption, for tests of this crate's users.
    Plain {
        /// Address, `host:port`.
        url: String,
    },
}

/// What the client works with.
pub struct SmClient {
    /// How to connect.
    pub dial: Dial,
    /// Longest pause between attempts.
    pub pause: Duration,
    /// First message of every stream.
    pub info: wire::SmInfo,
    /// The present channel, for [`CmCalls`].
    pub channel: watch::Sender<Option<Channel>>,
    /// Messages of other modules.
    pub outgoing: mpsc::Receiver<Outgoing>,
    /// Alerts; taken only while the stream stands, they wait elsewhere.
    pub alerts: mpsc::Receiver<wire::Alert>,
    /// The launcher.
    pub launcher: mpsc::Sender<Command>,
    /// Networks.
    pub networks: NetworkManager,
    /// Node configuration.
    pub node_config: NodeConfigFile,
    /// Load figures.
    pub monitoring: Monitoring,
    /// Logs.
    pub logs: LogProvider,
    /// Messages of our own.
    pub queue: mpsc::Sender<Outgoing>,
    /// True while a stream stands; for the local status.
    pub connected: watch::Sender<bool>,
}

impl SmClient {
    /// The queue for messages to CM.
    pub fn queue() -> (mpsc::Sender<Outgoing>, mpsc::Receiver<Outgoing>) {
        mpsc::channel(QUEUE)
    }

    /// Connects for ever.
    pub async fn run(mut self) {
        let mut noted = false;
        let mut backoff = Backoff::new(FIRST_PAUSE.min(self.pause), self.pause, 0.0);
        loop {
            let began = Instant::now();
            match self.session(&mut noted).await {
                Ok(()) => tracing::warn!("the connection to CM has ended"),
                Err(error) if !noted => {
                    noted = true;
                    tracing::warn!("no connection to CM, trying again: {}", error.info().message);
                }
                Err(error) => tracing::debug!("no connection to CM: {}", error.info().message),
            }
            self.channel.send_replace(None);
            if self.connected.send_replace(false) {
                if began.elapsed() >= self.pause {
                    backoff.reset();
                }
                let _ = self.launcher.send(Command::Cloud(false)).await;
            }
            self.wait(backoff.next(0.0)).await;
        }
    }

    /// The pause between attempts. Other modules must not be held up by a full queue meanwhile.
    async fn wait(&mut self, pause: Duration) {
        let until = tokio::time::Instant::now() + pause;
        while let Ok(Some(_)) = tokio::time::timeout_at(until, self.outgoing.recv()).await {}
        tokio::time::sleep_until(until).await;
    }

    /// A fresh channel; waits for our certificate when IAM has not given it yet.
    async fn channel(&self) -> Result<(Channel, Option<CertificateSource>), Error> {
        match &self.dial {
            Dial::Plain { url } => {
                let tls = |source| Error::Tls { peer: "CM".to_owned(), source };
                Ok((aos_tls::plain_grpc_channel(url).map_err(tls)?, None))
            }
            Dial::Secure { url, ca_cert, certificate } => {
                let tls = |source| Error::Tls { peer: "CM".to_owned(), source };
                let mut certificate = certificate.clone();
                let key = loop {
                    match certificate.present() {
                        Some(key) => break key,
                        None => certificate.changed().await,
                    }
                };
                let roots = aos_tls::roots_from_pem_file(ca_cert).map_err(tls)?;
                let config =
                    aos_tls::client_config(roots, Some(key), aos_tls::HostCheck::ChainOnly).map_err(tls)?;
                Ok((aos_tls::grpc_channel(url, &config).map_err(tls)?, Some(certificate)))
            }
        }
    }

    async fn session(&mut self, noted: &mut bool) -> Result<(), Error> {
        let (channel, mut certificate) = self.channel().await?;
        let _ = self.launcher.send(Command::Announce).await;
        let all = self.statuses().await?;
        let (sender, receiver) = mpsc::channel(16);
        for message in [Wire::SmInfo(self.info.clone()), messages::all_instances(&all)] {
            let _ = sender.send(wrap(message)).await;
        }
        let mut client = SmServiceClient::new(channel.clone()).max_decoding_message_size(MAX_MESSAGE);
        let opened = tokio::time::timeout(OPEN_TIME, client.register_sm(ReceiverStream::new(receiver))).await;
        let call = "RegisterSM";
        let failed = |status| Error::Call { call, source: Box::new(status) };
        let mut stream = opened
            .map_err(|_| failed(tonic::Status::deadline_exceeded("no answer in time")))?
            .map_err(failed)?
            .into_inner();
        tracing::info!("connected to CM");
        *noted = false;
        self.channel.send_replace(Some(channel));
        self.connected.send_replace(true);
        self.sync_networks().await;
        let _ = self.launcher.send(Command::CmConnected).await;
        self.talk(&mut stream, &sender, &mut certificate).await
    }

    /// Everything queued before the launcher's list is older than the list.
    async fn statuses(&mut self) -> Result<Vec<Status>, Error> {
        let mut kept = Vec::new();
        let all = loop {
            match self.outgoing.recv().await.ok_or(Error::Ended("the launcher"))? {
                Outgoing::AllInstances(all) => break all,
                Outgoing::Message(alert @ Wire::Alert(_)) => kept.push(alert),
                Outgoing::Instances(_) | Outgoing::Message(_) => {}
            }
        };
        for alert in kept {
            let _ = self.queue.try_send(Outgoing::Message(alert));
        }
        Ok(all)
    }

    async fn sync_networks(&self) {
        let calls = CmCalls::new(self.channel.subscribe());
        if let Err(error) = calls.sync_networks(&self.info.node_id, self.networks.state()).await {
            tracing::warn!("networks are not synchronised: {}", error.info().message);
        }
    }

    async fn talk(
        &mut self,
        stream: &mut Streaming<wire::SmIncomingMessages>,
        sender: &mpsc::Sender<wire::SmOutgoingMessages>,
        certificate: &mut Option<CertificateSource>,
    ) -> Result<(), Error> {
        loop {
            let renewed = async {
                match certificate {
                    Some(certificate) => certificate.changed().await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                message = stream.message() => match message {
                    Ok(Some(message)) => self.handle(message).await,
                    Ok(None) => return Ok(()),
                    Err(status) => return Err(Error::Call { call: "RegisterSM", source: Box::new(status) }),
                },
                Some(message) = self.outgoing.recv() => {
                    let message = match message {
                        Outgoing::Instances(statuses) => messages::instances(&statuses),
                        Outgoing::AllInstances(statuses) => messages::all_instances(&statuses),
                        Outgoing::Message(message) => message,
                    };
                    if sender.send(wrap(message)).await.is_err() {
                        return Ok(());
                    }
                }
                Some(alert) = self.alerts.recv() => {
                    if sender.send(wrap(Wire::Alert(alert))).await.is_err() {
                        return Ok(());
                    }
                }
                () = renewed => {
                    tracing::info!("our certificate has changed, connecting anew");
                    return Ok(());
                }
            }
        }
    }

    fn answer_logs(&self, request: impl Into<Request>) {
        tokio::spawn(self.logs.clone().answer(request.into(), self.queue.clone()));
    }

    /// One message; what is wrong with it concerns no other.
    async fn handle(&mut self, message: wire::SmIncomingMessages) {
        let Some(message) = message.sm_incoming_message else { return };
        let answer = match message {
            Incoming::UpdateInstances(update) => {
                let (start, stop, refused) = messages::update(update);
                for status in refused {
                    tracing::warn!("an instance of CM's request is refused: {status}");
                }
                let _ = self.launcher.send(Command::Update { start, stop }).await;
                return;
            }
            Incoming::ConnectionStatus(status) => {
                let connected = status.cloud_status() == wire::ConnectionEnum::Connected;
                let _ = self.launcher.send(Command::Cloud(connected)).await;
                return;
            }
            Incoming::GetNodeConfigStatus(_) => self.node_config.status(),
            Incoming::CheckNodeConfig(check) => self.node_config.check(&check.node_config, &check.version),
            Incoming::SetNodeConfig(set) => {
                let answer = self.node_config.set(&set.node_config, &set.version);
                self.monitoring.rules_changed();
                answer
            }
            Incoming::GetAverageMonitoring(_) => return self.monitoring.average(),
            Incoming::SystemLogRequest(request) => return self.answer_logs(request),
            Incoming::InstanceLogRequest(request) => return self.answer_logs(request),
            Incoming::InstanceCrashLogRequest(request) => return self.answer_logs(request),
        };
        // The queue is ours to empty; waiting for room in it here would be waiting for ourselves.
        if self.queue.try_send(Outgoing::Message(answer)).is_err() {
            tracing::warn!("an answer to CM is dropped: too many messages wait");
        }
    }
}

fn wrap(message: Wire) -> wire::SmOutgoingMessages {
    wire::SmOutgoingMessages { sm_outgoing_message: Some(message) }
}

/// A channel shared by the calls of all modules.
pub fn shared_channel() -> (watch::Sender<Option<Channel>>, CmCalls) {
    let (sender, receiver) = watch::channel(None);
    (sender, CmCalls::new(receiver))
}

/// The key of a certificate as TLS wants it.
pub type CertifiedKey = Arc<rustls::sign::CertifiedKey>;
