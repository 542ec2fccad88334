//! Questions that everybody on the Unit may ask.

use aos_unit_api::convert::instance;
use aos_unit_api::iamanager::v6::iam_outgoing_messages::IamOutgoingMessage;
use aos_unit_api::iamanager::v6::iam_public_cert_service_server::IamPublicCertService;
use aos_unit_api::iamanager::v6::iam_public_current_node_service_server::IamPublicCurrentNodeService;
use aos_unit_api::iamanager::v6::iam_public_identity_service_server::IamPublicIdentityService;
use aos_unit_api::iamanager::v6::iam_public_nodes_service_server::IamPublicNodesService;
use aos_unit_api::iamanager::v6::iam_public_permissions_service_server::IamPublicPermissionsService;
use aos_unit_api::iamanager::v6::{self, IamIncomingMessages, IamOutgoingMessages};
use aos_unit_api::iamanager::version::ApiVersion;
use aos_unit_api::iamanager::version::iam_version_service_server::IamVersionService;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming, async_trait};

use super::convert::{node_from_wire, node_to_wire};
use super::streams::{self, Answers};
use super::{Api, failed};
use crate::Error;
use crate::certhandler::CertRecord;
use crate::nodemanager::{NodeManager, NodeStream, Side, ToNode};

/// Generation of the services.
const API_VERSION: u64 = 6;
const STREAM_QUEUE: usize = 16;

/// The public services, as one server offers them.
#[derive(Clone)]
pub struct Public {
    api: Api,
    side: Side,
}

impl Public {
    /// The services for the server on `side`.
    pub fn new(api: Api, side: Side) -> Self {
        Self { api, side }
    }

    fn nodes(&self) -> Result<&NodeManager, Status> {
        self.api.nodes.as_ref().ok_or_else(|| Status::unimplemented("only the main node knows the nodes"))
    }
}

/// A certificate on the wire.
pub fn cert_to_wire(record: &CertRecord) -> v6::CertInfo {
    v6::CertInfo {
        r#type: record.cert_type.clone(),
        cert_url: record.cert_url.clone(),
        key_url: record.key_url.clone(),
        // Peers expect the text of the number in this field of bytes.
        serial: hex::encode(&record.serial).into_bytes(),
        issuer: record.issuer.clone(),
    }
}

#[async_trait]
impl IamVersionService for Public {
    async fn get_api_version(&self, _: Request<()>) -> Result<Response<ApiVersion>, Status> {
        Ok(Response::new(ApiVersion { version: API_VERSION }))
    }
}

#[async_trait]
impl IamPublicCurrentNodeService for Public {
    async fn get_current_node_info(&self, _: Request<()>) -> Result<Response<v6::NodeInfo>, Status> {
        Ok(Response::new(node_to_wire(&self.api.own.borrow())))
    }

    type SubscribeCurrentNodeChangedStream = Answers<v6::NodeInfo>;

    async fn subscribe_current_node_changed(
        &self,
        _: Request<()>,
    ) -> Result<Response<Answers<v6::NodeInfo>>, Status> {
        Ok(Response::new(streams::own_node(self.api.own.clone(), self.api.stop.clone())))
    }
}

#[async_trait]
impl IamPublicCertService for Public {
    async fn get_cert(&self, request: Request<v6::GetCertRequest>) -> Result<Response<v6::CertInfo>, Status> {
        let request = request.into_inner();
        let certificates = self.api.certs.certificates();
        let known = certificates.knows(&request.r#type);
        let found = if request.serial.is_empty() {
            certificates.latest(&request.r#type)
        } else {
            let serial = hex::decode(&request.serial).map_err(|error| {
                Status::internal(format!("serial number is no hexadecimal text: {error}"))
            })?;
            certificates.find(&request.issuer, &serial).filter(|_| known)
        };
        let record = found.ok_or_else(|| {
            failed(&Error::NotFound(format!("no such certificate of type '{}'", request.r#type)))
        })?;
        Ok(Response::new(v6::CertInfo { r#type: request.r#type, ..cert_to_wire(record) }))
    }

    type SubscribeCertChangedStream = Answers<v6::CertInfo>;

    async fn subscribe_cert_changed(
        &self,
        request: Request<v6::SubscribeCertChangedRequest>,
    ) -> Result<Response<Answers<v6::CertInfo>>, Status> {
        let cert_type = request.into_inner().r#type;
        let mut watch = self.api.certs.watch();
        let known = watch.borrow_and_update().latest(&cert_type).cloned();
        let known = known.ok_or_else(|| {
            failed(&Error::NotFound(format!("there is no certificate of type '{cert_type}' to follow")))
        })?;
        let permit = self
            .api
            .subscriptions
            .clone()
            .try_acquire_owned()
            .map_err(|_| failed(&Error::TooMany("too many subscriptions of certificates".into())))?;
        Ok(Response::new(streams::certificate(watch, known, permit, self.api.stop.clone())))
    }
}

#[async_trait]
impl IamPublicPermissionsService for Public {
    async fn get_permissions(
        &self,
        request: Request<v6::PermissionsRequest>,
    ) -> Result<Response<v6::PermissionsResponse>, Status> {
        let request = request.into_inner();
        let handler = self.api.permissions()?;
        let (ident, functions) = handler
            .permissions(request.secret, request.functional_server_id)
            .await
            .map_err(|error| failed(&error))?;
        Ok(Response::new(v6::PermissionsResponse {
            instance: Some((&ident).into()),
            permissions: Some(v6::Permissions { permissions: functions.into_iter().collect() }),
        }))
    }
}

#[async_trait]
impl IamPublicIdentityService for Public {
    async fn get_system_info(&self, _: Request<()>) -> Result<Response<v6::SystemInfo>, Status> {
        let identity = self.api.identity()?;
        Ok(Response::new(v6::SystemInfo {
            system_id: identity.system_id.clone(),
            unit_model: identity.unit_model.clone(),
            version: identity.version.clone(),
        }))
    }

    async fn get_subjects(&self, _: Request<()>) -> Result<Response<v6::Subjects>, Status> {
        Ok(Response::new(v6::Subjects { subjects: self.api.identity()?.subjects.clone() }))
    }

    type SubscribeSubjectsChangedStream = Answers<v6::Subjects>;

    async fn subscribe_subjects_changed(
        &self,
        _: Request<()>,
    ) -> Result<Response<Answers<v6::Subjects>>, Status> {
        self.api.identity()?;
        Ok(Response::new(streams::silent(self.api.stop.clone())))
    }
}

#[async_trait]
impl IamPublicNodesService for Public {
    async fn get_all_node_i_ds(&self, _: Request<()>) -> Result<Response<v6::NodesId>, Status> {
        Ok(Response::new(v6::NodesId { ids: self.nodes()?.nodes().ids() }))
    }

    async fn get_node_info(
        &self,
        request: Request<v6::GetNodeInfoRequest>,
    ) -> Result<Response<v6::NodeInfo>, Status> {
        let nodes = self.nodes()?.nodes();
        let entry = nodes.get(&request.get_ref().node_id).map_err(|error| failed(&error))?;
        Ok(Response::new(node_to_wire(&entry.info)))
    }

    type SubscribeNodeChangedStream = Answers<v6::NodeInfo>;

    async fn subscribe_node_changed(
        &self,
        _: Request<()>,
    ) -> Result<Response<Answers<v6::NodeInfo>>, Status> {
        Ok(Response::new(streams::nodes(self.nodes()?.watch(), self.api.stop.clone())))
    }

    type RegisterNodeStream = ReceiverStream<Result<IamIncomingMessages, Status>>;

    async fn register_node(
        &self,
        request: Request<Streaming<IamOutgoingMessages>>,
    ) -> Result<Response<Self::RegisterNodeStream>, Status> {
        if self.api.stop.is_triggered() {
            return Err(Status::cancelled("the node controller is stopping"));
        }
        let opened = self.nodes()?.open_stream(self.side).await;
        let (stream, requests) = opened.map_err(|error| match error {
            Error::Stopping => Status::cancelled("the node controller is stopping"),
            other => failed(&other),
        })?;
        let (out, answers) = mpsc::channel(STREAM_QUEUE);
        let stop = self.api.stop.clone();
        let inbound = request.into_inner();
        tokio::spawn(async move {
            tokio::select! {
                () = node_stream(inbound, stream, requests, &out) => {}
                () = out.closed() => {}
                () = stop.wait() => {
                    let _ = out.try_send(Err(Status::cancelled("the node controller is stopping")));
                }
            }
        });
        Ok(Response::new(ReceiverStream::new(answers)))
    }
}

/// Carries messages between a node's stream and the node manager until either ends.
async fn node_stream(
    mut inbound: Streaming<IamOutgoingMessages>,
    stream: NodeStream,
    mut requests: mpsc::Receiver<ToNode>,
    out: &mpsc::Sender<Result<IamIncomingMessages, Status>>,
) {
    loop {
        let answer = tokio::select! {
            message = inbound.message() => match message {
                Ok(Some(message)) => match message.iam_outgoing_message {
                    Some(IamOutgoingMessage::NodeInfo(info)) => match node_from_wire(info) {
                        Ok(info) => {
                            stream.described(info).await;
                            continue;
                        }
                        Err(error) => Err(Status::internal(crate::error::chain(&error))),
                    },
                    Some(message) => {
                        stream.answered(message).await;
                        continue;
                    }
                    None => continue,
                },
                Ok(None) => return,
                Err(status) => {
                    tracing::debug!("a node's stream broke: {}", status.message());
                    return;
                }
            },
            request = requests.recv() => match request {
                Some(Ok(request)) => Ok(IamIncomingMessages { iam_incoming_message: Some(request) }),
                Some(Err(reason)) => Err(Status::internal(reason)),
                None => return,
            },
        };
        let last = answer.is_err();
        if out.send(answer).await.is_err() || last {
            return;
        }
    }
}

/// The instance in a request.
pub fn instance_of(
    wire: Option<aos_unit_api::common::v2::InstanceIdent>,
) -> Result<aos_ids::InstanceIdent, Status> {
    instance(wire).map_err(|error| Status::internal(crate::error::chain(&error)))
}
