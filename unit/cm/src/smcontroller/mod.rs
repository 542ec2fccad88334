//! SM controller: the gRPC server that the Service Managers of all nodes connect to.
//!
//! A node is named by the first `SMInfo` of its stream; the newest stream of a node wins. Questions that need
//! an answer are asked one at a time for each node, since answers carry no number, and given up after 5 s.
//! New handshakes use the newest `cm` certificate; standing streams go on.

mod network_service;
mod registry;
mod service;

use std::time::Duration;

use aos_ids::{NodeId, RuntimeId};
use aos_status::{ConfigState, ErrorInfo};
use aos_tls::{ClientAuth, IdentitySlot, Incoming, Protocol, Roots, TlsError};
use aos_unit_api::servicemanager::v5::network_service_server::NetworkServiceServer;
use aos_unit_api::servicemanager::v5::sm_service_server::SmServiceServer;
use aos_unit_api::servicemanager::v5::{
    Alert, InstantMonitoring, LogData, SmInfo, UpdateInstances, sm_incoming_messages::SmIncomingMessage,
};
use tokio::sync::{mpsc, oneshot, watch};

use crate::launcher::records::Report;
use crate::networkmanager::NetworkManager;
pub use registry::Registry;
pub use service::Blobs;

/// Time for an answer of a node.
pub const ANSWER_TIME: Duration = Duration::from_secs(5);
/// Events that may wait for the Unit's coordinator; streams wait beyond that.
const EVENTS: usize = 64;
/// Commands that may wait.
const COMMANDS: usize = 64;
/// Largest message from a Service Manager, bytes.
const MAX_MESSAGE: usize = 4 * 1024 * 1024;

/// What the nodes say.
#[derive(Debug)]
pub enum Event {
    /// A node's link stands, or its abilities changed.
    Info(NodeId, SmInfo),
    /// A node's link is gone.
    Gone(NodeId),
    /// The complete word of a node about its instances.
    AllInstances(NodeId, Vec<Report>),
    /// A word about single instances.
    SomeInstances(NodeId, Vec<Report>),
    /// An alert.
    Alert(NodeId, Alert),
    /// Samples.
    Monitoring(NodeId, InstantMonitoring),
    /// Part of logs.
    Log(NodeId, LogData),
}

/// State of a node's configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodeConfigState {
    /// Installed, absent or failed.
    pub state: ConfigState,
    /// Its version.
    pub version: String,
    /// Why it failed, or why the one asked about would.
    pub error: Option<ErrorInfo>,
}

/// What the nodes are told.
#[derive(Debug)]
pub enum Command {
    /// Stop and start instances.
    Update(NodeId, UpdateInstances),
    /// Something that is answered with the state of the node's configuration.
    NodeConfig(NodeId, SmIncomingMessage, oneshot::Sender<Result<NodeConfigState, ErrorInfo>>),
    /// Something without an answer; `Err` when the node is not connected.
    Tell(NodeId, SmIncomingMessage, oneshot::Sender<Result<(), ErrorInfo>>),
}

/// Way to the controller.
#[derive(Debug, Clone)]
pub struct SmController(mpsc::Sender<Command>);

impl SmController {
    /// Sends a command; false when the controller's queue is full or gone.
    pub fn send(&self, command: Command) -> bool {
        self.0.try_send(command).is_ok()
    }
}

/// Everything the controller works with.
pub struct Parts {
    /// Listen address.
    pub address: String,
    /// Roots that clients are verified with.
    pub roots: Roots,
    /// Our own certificate.
    pub identity: IdentitySlot,
    /// Networks.
    pub networks: NetworkManager,
    /// Where blobs are.
    pub blobs: Blobs,
    /// Whether the cloud is connected.
    pub cloud: watch::Receiver<bool>,
}

/// The server before it runs.
pub struct Server {
    incoming: Incoming,
    parts: Parts,
    streams: mpsc::Sender<registry::FromStream>,
}

impl Server {
    /// Where it listens.
    pub fn address(&self) -> std::net::SocketAddr {
        self.incoming.local_addr()
    }

    /// Serves until dropped.
    pub async fn run(self) -> Result<(), tonic::transport::Error> {
        let Self { incoming, parts, streams } = self;
        let sm = service::Service::new(streams, parts.blobs, parts.cloud);
        aos_tls::grpc_server()
            .add_service(SmServiceServer::new(sm).max_decoding_message_size(MAX_MESSAGE))
            .add_service(NetworkServiceServer::new(network_service::Service(parts.networks)))
            .serve_with_incoming(incoming.into_stream())
            .await
    }
}

/// Listens. The registry task tells events and takes commands.
pub async fn open(parts: Parts) -> Result<(SmController, mpsc::Receiver<Event>, Registry, Server), TlsError> {
    let config =
        aos_tls::server_config(parts.identity.clone(), ClientAuth::RequiredNow(parts.roots.clone()))?;
    let incoming = Incoming::bind_tls(&parts.address, &config, Protocol::Grpc).await?;
    let (command_sender, commands) = mpsc::channel(COMMANDS);
    let (event_sender, events) = mpsc::channel(EVENTS);
    let (streams, from_streams) = mpsc::channel(EVENTS);
    let registry = Registry::new(from_streams, commands, event_sender, parts.cloud.clone());
    Ok((SmController(command_sender), events, registry, Server { incoming, parts, streams }))
}

/// The runtime named in a report; an empty or wrong name is none.
pub(crate) fn runtime_id(text: &str) -> Option<RuntimeId> {
    text.parse().ok()
}
