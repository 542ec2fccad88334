//! The connection to the Communication Manager: one stream for messages both ways, unary calls beside it.
//!
//! Connect, register, talk, reconnect, for ever; between two connections lies the configured pause, whatever
//! ended the first. The first message of every stream is this node's description, the second the status of
//! all instances, then the networks are synchronised, then CM's messages are read.
//!
//! Nobody waits for CM: what other modules send is taken at once and waits in [`outbox`], so that a slow CM or
//! none at all holds nothing up. Load figures and changes of statuses are not kept without a connection, since
//! the next one begins with all statuses; answers are, up to a bound. Alerts and logs wait with those who make
//! them until they can go out. A message handed to a stream that breaks in this moment is lost.

mod calls;
mod messages;
mod outbox;
mod refused;
mod talk;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use aos_unit_api::servicemanager::v5 as wire;
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::Channel;
use wire::sm_outgoing_messages::SmOutgoingMessage as Wire;
use wire::sm_service_client::SmServiceClient;

use crate::Error;
use crate::iamclient::CertificateSource;
use crate::launcher::{Command, Status};
use crate::logprovider::LogProvider;
use crate::monitoring::Monitoring;
use crate::networkmanager::NetworkManager;
use crate::nodeconfig::NodeConfigFile;

pub use calls::{CmCalls, NetworkUpdates};
use outbox::Outbox;
use talk::Talk;

pub use refused::Refused;

/// Messages that may wait for the stream.
const QUEUE: usize = 64;
/// Parts of logs that may wait for the stream; they are large.
const LOG_QUEUE: usize = 2;
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
    /// With TLS.
    Secure {
        /// Address, `host:port`.
        url: String,
        /// Root certificates.
        ca_cert: PathBuf,
        /// Our certificate; without one CM has to take whoever comes, which is for development only.
        certificate: Option<CertificateSource>,
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
    /// Pause between two connections.
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
    /// True while a stream stands; for the local status.
    pub connected: watch::Sender<bool>,
    /// What CM wants and cannot be read.
    pub refused: Refused,
}

impl SmClient {
    /// The queue for messages to CM.
    pub fn queue() -> (mpsc::Sender<Outgoing>, mpsc::Receiver<Outgoing>) {
        mpsc::channel(QUEUE)
    }

    /// Connects for ever.
    pub async fn run(mut self) {
        let mut noted = false;
        let mut outbox = Outbox::default();
        let (log_queue, mut logs) = mpsc::channel(LOG_QUEUE);
        loop {
            match self.session(&mut noted, &mut outbox, &log_queue, &mut logs).await {
                Ok(()) => tracing::warn!("the connection to CM has ended"),
                Err(error) if !noted => {
                    noted = true;
                    tracing::warn!("no connection to CM, trying again: {}", error.info().message);
                }
                Err(error) => tracing::debug!("no connection to CM: {}", error.info().message),
            }
            self.channel.send_replace(None);
            if self.connected.send_replace(false) {
                // Without CM there is no cloud, whatever CM said last.
                let _ = self.launcher.send(Command::Cloud(false)).await;
            }
            take_for(self.pause, &mut self.outgoing, &mut outbox).await;
        }
    }

    /// A fresh channel; waits for our certificate when IAM has not given it yet.
    async fn channel(&self) -> Result<(Channel, Option<CertificateSource>), Error> {
        let tls = |source| Error::Tls { peer: "CM".to_owned(), source };
        match &self.dial {
            Dial::Plain { url } => Ok((aos_tls::plain_grpc_channel(url).map_err(tls)?, None)),
            Dial::Secure { url, ca_cert, certificate } => {
                let mut certificate = certificate.clone();
                let key = match &mut certificate {
                    Some(certificate) => Some(certificate.wait().await),
                    None => None,
                };
                let roots = aos_tls::roots_from_pem_file(ca_cert).map_err(tls)?;
                let config =
                    aos_tls::client_config(roots, key, aos_tls::HostCheck::ChainOnly).map_err(tls)?;
                Ok((aos_tls::grpc_channel(url, &config).map_err(tls)?, certificate))
            }
        }
    }

    async fn session(
        &mut self,
        noted: &mut bool,
        outbox: &mut Outbox,
        log_queue: &mpsc::Sender<Outgoing>,
        logs: &mut mpsc::Receiver<Outgoing>,
    ) -> Result<(), Error> {
        let (channel, certificate) = self.channel().await?;
        let _ = self.launcher.send(Command::Announce).await;
        let all = self.statuses(outbox).await?;
        let (sender, receiver) = mpsc::channel(2);
        for message in [Wire::SmInfo(self.info.clone()), messages::all_instances(&all)] {
            let _ = sender.send(wrap(self.refused.completed(message))).await;
        }
        let mut client = SmServiceClient::new(channel.clone()).max_decoding_message_size(MAX_MESSAGE);
        let opening = async {
            tokio::time::timeout(OPEN_TIME, client.register_sm(ReceiverStream::new(receiver))).await
        };
        let opened = take_while(opening, &mut self.outgoing, outbox).await;
        let call = "RegisterSM";
        let failed = |status| Error::Call { call, source: Box::new(status) };
        let stream = opened
            .map_err(|_| failed(tonic::Status::deadline_exceeded("no answer in time")))?
            .map_err(failed)?
            .into_inner();
        tracing::info!("connected to CM");
        *noted = false;
        self.channel.send_replace(Some(channel));
        self.connected.send_replace(true);
        Talk { client: self, stream, sender, certificate, outbox, log_queue, logs }.run().await
    }

    /// Everything queued before the launcher's list is older than the list.
    async fn statuses(&mut self, outbox: &mut Outbox) -> Result<Vec<Status>, Error> {
        loop {
            match self.outgoing.recv().await.ok_or(Error::Ended("the launcher"))? {
                Outgoing::AllInstances(all) => {
                    outbox.begin();
                    return Ok(all);
                }
                message => outbox.push(to_wire(message)),
            }
        }
    }
}

/// Takes what other modules send for exactly this time.
async fn take_for(time: Duration, outgoing: &mut mpsc::Receiver<Outgoing>, outbox: &mut Outbox) {
    let until = Instant::now() + time;
    take_while(tokio::time::sleep_until(until), outgoing, outbox).await;
}

/// Takes what other modules send until `end` is there.
async fn take_while<T>(
    end: impl Future<Output = T>,
    outgoing: &mut mpsc::Receiver<Outgoing>,
    outbox: &mut Outbox,
) -> T {
    let mut end = std::pin::pin!(end);
    loop {
        tokio::select! {
            result = &mut end => return result,
            Some(message) = outgoing.recv() => outbox.push(to_wire(message)),
        }
    }
}

fn to_wire(message: Outgoing) -> Wire {
    match message {
        Outgoing::Instances(statuses) => messages::instances(&statuses),
        Outgoing::AllInstances(statuses) => messages::all_instances(&statuses),
        Outgoing::Message(message) => message,
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

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(version: usize) -> Outgoing {
        Outgoing::Message(Wire::NodeConfigStatus(wire::NodeConfigStatus {
            version: version.to_string(),
            ..Default::default()
        }))
    }

    // SM-20, SM-23, SM-24, SM-75, SM-78
    #[tokio::test(start_paused = true)]
    async fn the_pause_is_as_configured_and_nobody_waits_for_its_end() {
        let (sender, mut outgoing) = mpsc::channel(2);
        let mut outbox = Outbox::default();
        let began = Instant::now();
        let senders = async {
            for number in 0..200 {
                tokio::time::sleep(Duration::from_millis(3)).await;
                sender.send(answer(number)).await.unwrap();
            }
            began.elapsed()
        };
        let pause = Duration::from_millis(1234);
        let (sent_after, ()) = tokio::join!(senders, take_for(pause, &mut outgoing, &mut outbox));
        assert_eq!(began.elapsed(), pause);
        assert_eq!(sent_after, Duration::from_millis(600), "a sender has waited");
        let kept = std::iter::from_fn(|| outbox.pop()).count();
        assert_eq!(kept, 65, "64 answers and the word about those that are lost");
    }

    /// Source files of this crate but tests, each with what it says.
    fn sources(folder: &std::path::Path, found: &mut Vec<(String, String)>) {
        for entry in std::fs::read_dir(folder).unwrap().flatten() {
            let path = entry.path();
            let name = path.to_str().unwrap().to_owned();
            if path.is_dir() {
                sources(&path, found);
            } else if !name.contains("tests") && path.extension().is_some_and(|kind| kind == "rs") {
                let text = std::fs::read_to_string(&path).unwrap();
                found.push((name, text.split("#[cfg(test)]").next().unwrap_or_default().to_owned()));
            }
        }
    }

    // SM-71, SM-81: only this module speaks with CM and only `iamclient` with IAM; of the others none names a gRPC
    // client, and nobody names the service of the proxy.
    #[test]
    fn nobody_else_knows_of_grpc() {
        let mut found = Vec::new();
        sources(&std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("src"), &mut found);
        let speaks = |text: &str| text.contains("tonic::") || text.contains("_client::");
        let mut speakers: Vec<&str> =
            found.iter().filter(|(_, text)| speaks(text)).map(|(name, _)| name.as_str()).collect();
        speakers.retain(|name| !name.contains("/smclient/"));
        speakers.sort_unstable();
        // What went wrong with a call is kept in the error.
        let [error, iam] = speakers.as_slice() else { panic!("{speakers:?}") };
        assert!(error.ends_with("src/error.rs") && iam.ends_with("src/iamclient.rs"), "{speakers:?}");
        let clients = |text: &str| text.matches("_service_client::").count();
        let cm: usize =
            found.iter().filter(|(name, _)| name.contains("/smclient/")).map(|(_, t)| clients(t)).sum();
        assert!(cm >= 2, "the search finds what it looks for");
        let proxy = found.iter().find(|(_, text)| text.to_ascii_lowercase().contains("proxyservice"));
        assert_eq!(proxy.map(|(name, _)| name), None);
    }
}
