//! gRPC `SMService`: registration streams and places of blobs.

use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::sync::atomic::{AtomicU64, Ordering};

use aos_content_store::Store;
use aos_ids::{Digest, NodeId};
use aos_tls::ConnectionPeer;
use aos_unit_api::servicemanager::v5::sm_service_server::SmService;
use aos_unit_api::servicemanager::v5::{
    BlobsInfos, BlobsInfosRequest, ConnectionEnum, ConnectionStatus, SmIncomingMessages, SmOutgoingMessages,
    sm_incoming_messages::SmIncomingMessage,
};
use tokio::sync::{mpsc, oneshot, watch};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};

use super::registry::{FromStream, Outgoing};
use crate::fileserver;

/// Messages that may wait for a slow node before its stream is dropped.
const OUTGOING: usize = 64;
/// Digests in one question.
const MAX_DIGESTS: usize = 64;

/// Where blobs are for whom. The node on this host reads the store itself.
#[derive(Debug, Clone)]
pub struct Blobs {
    /// Verified blobs.
    pub store: Store,
    /// Where other nodes get them; `None` when nothing is served.
    pub server: Option<fileserver::Address>,
    /// The node on this host, as soon as it is known.
    pub main_node: watch::Receiver<Option<NodeId>>,
}

impl Blobs {
    fn url(&self, digest: &str, here: bool) -> Result<String, Status> {
        let wanted: Digest = digest.parse().map_err(|error| Status::internal(format!("{error}")))?;
        if !self.store.has(&wanted) {
            return Err(Status::internal(format!("blob {wanted} not found")));
        }
        if !here {
            let none = || Status::failed_precondition("no blobs for other nodes: fileServerUrl is not set");
            return Ok(self.server.as_ref().ok_or_else(none)?.url(&wanted));
        }
        let path = std::path::absolute(self.store.path(&wanted))
            .map_err(|error| Status::internal(format!("blob {wanted} has no path: {error}")))?;
        Ok(format!("file://{}", path.display()))
    }
}

/// True for addresses of this host: only those can be bound to.
fn is_here(address: IpAddr) -> bool {
    address.is_loopback() || UdpSocket::bind((address, 0)).is_ok()
}

/// The message that tells whether the cloud is connected.
pub(super) fn connection_status(connected: bool) -> SmIncomingMessage {
    let status = if connected { ConnectionEnum::Connected } else { ConnectionEnum::Disconnected };
    SmIncomingMessage::ConnectionStatus(ConnectionStatus { cloud_status: status.into() })
}

/// The service.
pub struct Service {
    streams: mpsc::Sender<FromStream>,
    blobs: Blobs,
    cloud: watch::Receiver<bool>,
    next: AtomicU64,
}

impl Service {
    /// True when the peer of a connection is the node on this host. Where nobody has said which node it is, the
    /// address tells; else not, because a tunnel makes a distant one look near.
    async fn is_near(&self, peer: Option<SocketAddr>) -> bool {
        let Some(peer) = peer else { return false };
        let (sender, node) = oneshot::channel();
        let asked = self.streams.send(FromStream::WhoIs(peer, sender)).await.is_ok();
        let node = if asked { node.await.ok().flatten() } else { None };
        let main = self.blobs.main_node.borrow().clone();
        match (node, main) {
            (Some(node), Some(main)) => node == main,
            _ => is_here(peer.ip()),
        }
    }

    pub(super) fn new(streams: mpsc::Sender<FromStream>, blobs: Blobs, cloud: watch::Receiver<bool>) -> Self {
        Self { streams, blobs, cloud, next: AtomicU64::new(0) }
    }
}

#[tonic::async_trait]
impl SmService for Service {
    type RegisterSMStream = ReceiverStream<Result<SmIncomingMessages, Status>>;

    async fn register_sm(
        &self,
        request: Request<Streaming<SmOutgoingMessages>>,
    ) -> Result<Response<Self::RegisterSMStream>, Status> {
        let (sender, receiver) = mpsc::channel(OUTGOING);
        let connected = *self.cloud.borrow();
        let first = SmIncomingMessages { sm_incoming_message: Some(connection_status(connected)) };
        sender.send(Ok(first)).await.map_err(|_| Status::cancelled("stream closed"))?;
        let id = self.next.fetch_add(1, Ordering::Relaxed);
        let streams = self.streams.clone();
        let peer = request.extensions().get::<ConnectionPeer>().map(|peer| peer.address);
        let outgoing = Outgoing { sender, told: connected, peer };
        if streams.send(FromStream::Opened(id, outgoing)).await.is_err() {
            return Err(Status::unavailable("the Communication Manager is stopping"));
        }
        let mut incoming = request.into_inner();
        tokio::spawn(async move {
            loop {
                let message = match incoming.message().await {
                    Ok(Some(message)) => message.sm_outgoing_message,
                    Ok(None) => break,
                    Err(status) => {
                        tracing::debug!("stream of a Service Manager ended: {}", status.message());
                        break;
                    }
                };
                // An unknown kind of message is none of ours to judge.
                let Some(message) = message else { continue };
                if streams.send(FromStream::Message(id, Box::new(message))).await.is_err() {
                    return;
                }
            }
            let _ = streams.send(FromStream::Closed(id)).await;
        });
        Ok(Response::new(ReceiverStream::new(receiver)))
    }

    async fn get_blobs_infos(
        &self,
        request: Request<BlobsInfosRequest>,
    ) -> Result<Response<BlobsInfos>, Status> {
        let peer = request.extensions().get::<ConnectionPeer>().map(|peer| peer.address);
        let digests = request.into_inner().digests;
        if digests.len() > MAX_DIGESTS {
            return Err(Status::invalid_argument(format!("at most {MAX_DIGESTS} digests may be asked for")));
        }
        let here = self.is_near(peer).await;
        let urls = digests.iter().map(|digest| self.blobs.url(digest, here)).collect::<Result<_, _>>()?;
        Ok(Response::new(BlobsInfos { urls }))
    }
}
