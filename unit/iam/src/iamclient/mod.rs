//! A secondary node's link to the main node's Identity and Access Manager.
//!
//! We open the stream, describe this node and carry out what the main node asks, one request after the
//! other. In provisioning mode plain text is tried, then TLS without a certificate of our own, in turn:
//! the main node may be provisioned already or not. In normal mode it is mutual TLS. The link is opened
//! again for ever; a newer certificate of ours opens it again after a pause, in which the main node may
//! renew its own.

use std::sync::Arc;
use std::time::Duration;

use aos_supervise::Shutdown;
use aos_tls::{HostCheck, IdentitySlot, Roots, TlsError};
use aos_unit_api::iamanager::v6::iam_public_nodes_service_client::IamPublicNodesServiceClient as Client6;
use aos_unit_api::iamanager::v7::iam_incoming_messages::IamIncomingMessage as Request;
use aos_unit_api::iamanager::v7::iam_outgoing_messages::IamOutgoingMessage as Message;
use aos_unit_api::iamanager::v7::iam_public_nodes_service_client::IamPublicNodesServiceClient as Client7;
use aos_unit_api::iamanager::{v6, v7};
use futures_util::{Stream, StreamExt};
use rustls::ClientConfig;
use tokio::sync::{mpsc, watch};
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::Channel;
use tonic::{Code, Status};

use crate::Error;
use crate::certhandler::CertHandler;
use crate::config::Checked;
use crate::currentnode::NodeInfo;
use crate::iamserver::{answer_to_v6, node_to_wire, request_from_v6};
use crate::provisionmanager::ProvisionManager;

mod requests;

const QUEUE: usize = 8;
/// Pause between attempts when the configuration says nothing.
const RECONNECT: Duration = Duration::from_secs(3);
/// From a newer own certificate to the new link.
const RENEWAL_PAUSE: Duration = Duration::from_secs(10);

/// How the main node is spoken to.
#[derive(Debug, Clone)]
enum Credentials {
    /// Without TLS.
    Plain,
    /// With TLS.
    Tls(Arc<ClientConfig>),
}

impl Credentials {
    fn channel(&self, address: &str) -> Result<Channel, TlsError> {
        match self {
            Self::Plain => aos_tls::plain_grpc_channel(address),
            Self::Tls(config) => aos_tls::grpc_channel(address, config),
        }
    }
}

/// The link's task.
pub struct Task {
    address: String,
    /// Tried in turn, at least one.
    credentials: Vec<Credentials>,
    reconnect: Duration,
    /// Certificates, and the type we show; `None` where we show none.
    renewal: Option<(CertHandler, String)>,
    own: watch::Receiver<NodeInfo>,
    provisioning: ProvisionManager,
}

/// The link of a secondary node; `None` on a main node and without the main node's addresses. `slot` is
/// what we show in normal mode.
pub fn open(
    config: &Checked,
    certs: &CertHandler,
    own: &watch::Receiver<NodeInfo>,
    provisioning: &ProvisionManager,
    slot: Option<IdentitySlot>,
) -> Result<Option<Task>, Error> {
    let raw = &config.raw;
    let (public, protected) = (&raw.main_iam_public_server_url, &raw.main_iam_protected_server_url);
    if config.node.is_main() || public.is_empty() || protected.is_empty() {
        return Ok(None);
    }
    let tls = |slot| {
        Roots::from_file(&raw.ca_cert)
            .and_then(|roots| aos_tls::client_config_hot(roots, slot, HostCheck::ChainOnly))
            .map(Credentials::Tls)
    };
    let normal = slot.is_some();
    let credentials = match slot {
        Some(slot) => vec![tls(slot).map_err(|source| Error::Tls {
            doing: "prepare the link to the main node".into(),
            source: Box::new(source),
        })?],
        // Without a root certificate a node can still join a main node that is not provisioned.
        None => std::iter::once(Credentials::Plain).chain(tls(IdentitySlot::new()).ok()).collect(),
    };
    Ok(Some(Task {
        address: if normal { protected.clone() } else { public.clone() },
        credentials,
        reconnect: raw.node_reconnect_interval.as_ref().map_or(RECONNECT, |text| text.0),
        renewal: normal.then(|| (certs.clone(), raw.cert_storage.clone())),
        own: own.clone(),
        provisioning: provisioning.clone(),
    }))
}

impl Task {
    /// Keeps the link until `stop`.
    pub async fn run(self, stop: Shutdown) -> Result<(), Error> {
        let mut last_failure = String::new();
        for credentials in self.credentials.iter().cycle() {
            tokio::select! {
                ended = self.link(credentials) => match ended.map_err(|end| aos_logging::with_causes(&end)) {
                    Ok(()) => {
                        tracing::info!("link to the main node ended");
                        last_failure.clear();
                    }
                    // An absent main node is not worth a line every few seconds.
                    Err(reason) if reason == last_failure => tracing::debug!("no link: {reason}"),
                    Err(reason) => {
                        tracing::warn!("no link to the main node at {}: {reason}", self.address);
                        last_failure = reason;
                    }
                },
                () = renewed(self.renewal.as_ref()) => tracing::info!("linking again with the new certificate"),
                () = stop.wait() => return Ok(()),
            }
            tokio::select! {
                () = tokio::time::sleep(self.reconnect) => {}
                () = stop.wait() => return Ok(()),
            }
        }
        Ok(())
    }

    /// One link, from its begin to its end.
    async fn link(&self, credentials: &Credentials) -> Result<(), LinkEnd> {
        let channel = credentials.channel(&self.address)?;
        match self.link_with_newest(channel.clone()).await {
            Err(LinkEnd::Status(status)) if status.code() == Code::Unimplemented => {
                tracing::debug!("the main node does not know the newest generation");
                self.link_with_older(channel).await
            }
            other => other,
        }
    }

    async fn link_with_newest(&self, channel: Channel) -> Result<(), LinkEnd> {
        let (out, messages) = mpsc::channel(QUEUE);
        send(&out, self.description()).await?;
        let messages = ReceiverStream::new(messages)
            .map(|message| v7::IamOutgoingMessages { iam_outgoing_message: Some(message) });
        // The main node's answer may begin only with its first request, so this has no deadline.
        let requests = Client7::new(channel).register_node(messages).await?.into_inner();
        self.serve(requests.map(|message| Ok(message?.iam_incoming_message)), &out).await
    }

    async fn link_with_older(&self, channel: Channel) -> Result<(), LinkEnd> {
        let (out, messages) = mpsc::channel(QUEUE);
        send(&out, self.description()).await?;
        let messages = ReceiverStream::new(messages)
            .map(|message| v6::IamOutgoingMessages { iam_outgoing_message: answer_to_v6(message) });
        let requests = Client6::new(channel).register_node(messages).await?.into_inner();
        let requests = requests.map(|message| Ok(message?.iam_incoming_message.map(request_from_v6)));
        self.serve(requests, &out).await
    }

    async fn serve(
        &self,
        requests: impl Stream<Item = Result<Option<Request>, Status>>,
        out: &mpsc::Sender<Message>,
    ) -> Result<(), LinkEnd> {
        tracing::info!("linked to the main node at {}", self.address);
        let mut requests = std::pin::pin!(requests);
        while let Some(request) = requests.next().await {
            let Some(request) = request? else { return Err(LinkEnd::UnknownRequest) };
            let answer = requests::carry_out(&self.provisioning, request).await;
            if matches!(answer, Message::PauseNodeResponse(_) | Message::ResumeNodeResponse(_)) {
                send(out, self.description()).await?;
            }
            send(out, answer).await?;
        }
        Ok(())
    }

    fn description(&self) -> Message {
        Message::NodeInfo(node_to_wire(&self.own.borrow()))
    }
}

async fn send(out: &mpsc::Sender<Message>, message: Message) -> Result<(), LinkEnd> {
    out.send(message).await.map_err(|_| LinkEnd::Broken)
}

/// Why a link could not be opened or ended.
#[derive(Debug, thiserror::Error)]
enum LinkEnd {
    #[error(transparent)]
    Tls(#[from] TlsError),
    #[error("{}", .0.message())]
    Status(Box<Status>),
    #[error("the main node sent an unknown request")]
    UnknownRequest,
    #[error("the stream is broken")]
    Broken,
}

impl From<Status> for LinkEnd {
    fn from(status: Status) -> Self {
        Self::Status(Box::new(status))
    }
}

/// Ends a while after the newest certificate of our type has become another one.
async fn renewed(renewal: Option<&(CertHandler, String)>) {
    let Some((certs, cert_type)) = renewal else { return std::future::pending().await };
    let mut watch = certs.watch();
    let shown = watch.borrow_and_update().latest(cert_type).cloned();
    while watch.changed().await.is_ok() {
        if watch.borrow_and_update().latest(cert_type) != shown.as_ref() {
            tokio::time::sleep(RENEWAL_PAUSE).await;
            return;
        }
    }
    std::future::pending::<()>().await;
}
