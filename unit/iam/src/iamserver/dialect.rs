//! The streams of nodes in all generations.
//!
//! Inside, requests and answers have the form of the newest generation. An older one carries what it knows;
//! a request that it does not know is answered here in the node's place.

use aos_status::{AosCode, ErrorInfo};
use aos_tls::ConnectionPeer;
use aos_unit_api::iamanager::v6::iam_incoming_messages::IamIncomingMessage as ToV6;
use aos_unit_api::iamanager::v6::iam_outgoing_messages::IamOutgoingMessage as FromV6;
use aos_unit_api::iamanager::v7::iam_incoming_messages::IamIncomingMessage as ToNode;
use aos_unit_api::iamanager::v7::iam_outgoing_messages::IamOutgoingMessage as Message;
use aos_unit_api::iamanager::{v5, v6, v7};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};

use super::convert::{NodeError, node_from_wire};
use super::public::Public;
use super::{failed, generation5};
use crate::Error;
use crate::currentnode::NodeInfo;
use crate::nodemanager::{NodeStream, Shown, Side, ToNode as Order};

const STREAM_QUEUE: usize = 16;

/// What a node said.
pub enum Heard {
    /// Nothing that we know.
    Nothing,
    /// What it is.
    Node(Box<NodeInfo>),
    /// An answer.
    Answer(Box<Message>),
}

/// How a generation writes the messages of a node's stream.
pub trait Dialect: Send + 'static {
    /// From the node to us.
    type FromNode: Send;
    /// From us to the node.
    type ToNode: Send;

    /// Understands a message.
    fn heard(message: Self::FromNode) -> Result<Heard, NodeError>;

    /// Writes a request; fails with the answer that takes the place of the node's where the generation does not
    /// know the request.
    fn said(request: ToNode) -> Result<Self::ToNode, Box<Message>>;
}

/// Generation 5.
pub struct V5;
/// Generation 6.
pub struct V6;
/// Generation 7.
pub struct V7;

impl Dialect for V7 {
    type FromNode = v7::IamOutgoingMessages;
    type ToNode = v7::IamIncomingMessages;

    fn heard(message: v7::IamOutgoingMessages) -> Result<Heard, NodeError> {
        heard(message.iam_outgoing_message)
    }

    fn said(request: ToNode) -> Result<v7::IamIncomingMessages, Box<Message>> {
        Ok(v7::IamIncomingMessages { iam_incoming_message: Some(request) })
    }
}

impl Dialect for V6 {
    type FromNode = v6::IamOutgoingMessages;
    type ToNode = v6::IamIncomingMessages;

    fn heard(message: v6::IamOutgoingMessages) -> Result<Heard, NodeError> {
        heard(message.iam_outgoing_message.map(answer_from_v6))
    }

    fn said(request: ToNode) -> Result<v6::IamIncomingMessages, Box<Message>> {
        Ok(v6::IamIncomingMessages { iam_incoming_message: Some(request_to_v6(request)?) })
    }
}

impl Dialect for V5 {
    type FromNode = v5::IamOutgoingMessages;
    type ToNode = v6::IamIncomingMessages;

    fn heard(message: v5::IamOutgoingMessages) -> Result<Heard, NodeError> {
        heard(message.iam_outgoing_message.map(generation5::message_from_node))
    }

    fn said(request: ToNode) -> Result<v6::IamIncomingMessages, Box<Message>> {
        V6::said(request)
    }
}

fn heard(message: Option<Message>) -> Result<Heard, NodeError> {
    Ok(match message {
        None => Heard::Nothing,
        Some(Message::NodeInfo(info)) => Heard::Node(Box::new(node_from_wire(info)?)),
        Some(answer) => Heard::Answer(Box::new(answer)),
    })
}

/// A request as generations 5 and 6 write it.
fn request_to_v6(request: ToNode) -> Result<ToV6, Box<Message>> {
    Ok(match request {
        ToNode::StartProvisioningRequest(request) => ToV6::StartProvisioningRequest(request),
        ToNode::GetCertTypesRequest(request) => ToV6::GetCertTypesRequest(request),
        ToNode::FinishProvisioningRequest(request) => ToV6::FinishProvisioningRequest(request),
        ToNode::DeprovisionRequest(request) => ToV6::DeprovisionRequest(request),
        ToNode::PauseNodeRequest(request) => ToV6::PauseNodeRequest(request),
        ToNode::ResumeNodeRequest(request) => ToV6::ResumeNodeRequest(request),
        ToNode::CreateKeyRequest(request) => ToV6::CreateKeyRequest(request),
        ToNode::ApplyCertRequest(request) => ToV6::ApplyCertRequest(request),
        ToNode::UpdateRootCertsRequest(request) => {
            let info =
                ErrorInfo::new(AosCode::NotSupported, "the node's generation takes no root certificates");
            return Err(Box::new(Message::UpdateRootCertsResponse(v7::UpdateRootCertsResponse {
                node_id: request.node_id,
                error: Some(info.into()),
            })));
        }
    })
}

/// A request from a main node that speaks generation 6.
pub fn request_from_v6(request: ToV6) -> ToNode {
    match request {
        ToV6::StartProvisioningRequest(request) => ToNode::StartProvisioningRequest(request),
        ToV6::GetCertTypesRequest(request) => ToNode::GetCertTypesRequest(request),
        ToV6::FinishProvisioningRequest(request) => ToNode::FinishProvisioningRequest(request),
        ToV6::DeprovisionRequest(request) => ToNode::DeprovisionRequest(request),
        ToV6::PauseNodeRequest(request) => ToNode::PauseNodeRequest(request),
        ToV6::ResumeNodeRequest(request) => ToNode::ResumeNodeRequest(request),
        ToV6::CreateKeyRequest(request) => ToNode::CreateKeyRequest(request),
        ToV6::ApplyCertRequest(request) => ToNode::ApplyCertRequest(request),
    }
}

fn answer_from_v6(message: FromV6) -> Message {
    match message {
        FromV6::NodeInfo(info) => Message::NodeInfo(info),
        FromV6::StartProvisioningResponse(answer) => Message::StartProvisioningResponse(answer),
        FromV6::CertTypesResponse(answer) => Message::CertTypesResponse(answer),
        FromV6::FinishProvisioningResponse(answer) => Message::FinishProvisioningResponse(answer),
        FromV6::DeprovisionResponse(answer) => Message::DeprovisionResponse(answer),
        FromV6::PauseNodeResponse(answer) => Message::PauseNodeResponse(answer),
        FromV6::ResumeNodeResponse(answer) => Message::ResumeNodeResponse(answer),
        FromV6::CreateKeyResponse(answer) => Message::CreateKeyResponse(answer),
        FromV6::ApplyCertResponse(answer) => Message::ApplyCertResponse(answer),
    }
}

/// An answer for a main node that speaks generation 6; `None` where it cannot have asked.
pub fn answer_to_v6(message: Message) -> Option<FromV6> {
    Some(match message {
        Message::NodeInfo(info) => FromV6::NodeInfo(info),
        Message::StartProvisioningResponse(answer) => FromV6::StartProvisioningResponse(answer),
        Message::CertTypesResponse(answer) => FromV6::CertTypesResponse(answer),
        Message::FinishProvisioningResponse(answer) => FromV6::FinishProvisioningResponse(answer),
        Message::DeprovisionResponse(answer) => FromV6::DeprovisionResponse(answer),
        Message::PauseNodeResponse(answer) => FromV6::PauseNodeResponse(answer),
        Message::ResumeNodeResponse(answer) => FromV6::ResumeNodeResponse(answer),
        Message::CreateKeyResponse(answer) => FromV6::CreateKeyResponse(answer),
        Message::ApplyCertResponse(answer) => FromV6::ApplyCertResponse(answer),
        Message::UpdateRootCertsResponse(_) => return None,
    })
}

/// What a node's stream gets from us.
pub type Requests<D> = ReceiverStream<Result<<D as Dialect>::ToNode, Status>>;

/// Takes a node's stream.
pub async fn register<D: Dialect>(
    public: &Public,
    request: Request<Streaming<D::FromNode>>,
) -> Result<Response<Requests<D>>, Status> {
    let stopping = || Status::cancelled("the node controller is stopping");
    let (api, side) = (public.api(), public.side());
    if let (Side::Protected, Some(access)) = (side, &api.access) {
        access.check("RegisterNode", request.extensions().get::<ConnectionPeer>())?;
    }
    let shown = aos_tls::peer_of(&request).map(shown);
    let inbound = request.into_inner();
    if api.stop.is_triggered() {
        return Err(stopping());
    }
    let opened = public.nodes()?.open_stream(side, shown).await;
    let (stream, requests) = opened.map_err(|error| match error {
        Error::Stopping => stopping(),
        other => failed(&other),
    })?;
    let (out, answers) = mpsc::channel(STREAM_QUEUE);
    let stop = api.stop.clone();
    tokio::spawn(async move {
        tokio::select! {
            () = carry::<D>(inbound, stream, requests, &out) => {}
            () = out.closed() => {}
            () = stop.wait() => {
                let _ = out.try_send(Err(stopping()));
            }
        }
    });
    Ok(Response::new(ReceiverStream::new(answers)))
}

fn shown(peer: &aos_tls::PeerIdentity) -> Shown {
    let end = peer.not_after.duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    Shown { serial: peer.serial.clone(), not_after: i64::try_from(end.as_secs()).unwrap_or(i64::MAX) }
}

/// Carries messages between a node's stream and the node manager until either ends.
async fn carry<D: Dialect>(
    mut inbound: Streaming<D::FromNode>,
    stream: NodeStream,
    mut requests: mpsc::Receiver<Order>,
    out: &mpsc::Sender<Result<D::ToNode, Status>>,
) {
    loop {
        let message = tokio::select! {
            message = inbound.message() => match message {
                Ok(Some(message)) => match D::heard(message) {
                    Ok(Heard::Nothing) => continue,
                    Ok(Heard::Node(info)) => {
                        stream.described(*info).await;
                        continue;
                    }
                    Ok(Heard::Answer(answer)) => {
                        stream.answered(*answer).await;
                        continue;
                    }
                    Err(error) => Err(Status::internal(aos_logging::with_causes(&error))),
                },
                Ok(None) => return,
                Err(status) => {
                    tracing::debug!("a node's stream broke: {}", status.message());
                    return;
                }
            },
            request = requests.recv() => match request {
                Some(Ok(request)) => match D::said(request) {
                    Ok(message) => Ok(message),
                    Err(answer) => {
                        stream.answered(*answer).await;
                        continue;
                    }
                },
                Some(Err(end)) => Err(Status::internal(aos_logging::with_causes(&end))),
                None => return,
            },
        };
        let last = message.is_err();
        if out.send(message).await.is_err() || last {
            return;
        }
    }
}
