//! The two gRPC servers and which service is where.
//!
//! In normal mode the public server is TLS and the protected one mutual TLS; in provisioning mode both
//! are plain text, because there are no certificates yet. A service that is absent answers
//! UNIMPLEMENTED. The protected server offers all that the public one does.

use std::sync::Arc;

use aos_supervise::Shutdown;
use aos_tls::Incoming;
use aos_unit_api::iamanager::v6::iam_certificate_service_server::IamCertificateServiceServer;
use aos_unit_api::iamanager::v6::iam_nodes_service_server::IamNodesServiceServer;
use aos_unit_api::iamanager::v6::iam_permissions_service_server::IamPermissionsServiceServer;
use aos_unit_api::iamanager::v6::iam_provisioning_service_server::IamProvisioningServiceServer;
use aos_unit_api::iamanager::v6::iam_public_cert_service_server::IamPublicCertServiceServer;
use aos_unit_api::iamanager::v6::iam_public_current_node_service_server::IamPublicCurrentNodeServiceServer;
use aos_unit_api::iamanager::v6::iam_public_identity_service_server::IamPublicIdentityServiceServer;
use aos_unit_api::iamanager::v6::iam_public_nodes_service_server::IamPublicNodesServiceServer;
use aos_unit_api::iamanager::v6::iam_public_permissions_service_server::IamPublicPermissionsServiceServer;
use aos_unit_api::iamanager::version::iam_version_service_server::IamVersionServiceServer;
use tokio::sync::{Semaphore, watch};
use tonic::Status;
use tonic::transport::server::Router;

use crate::Error;
use crate::certhandler::CertHandler;
use crate::currentnode::NodeInfo;
use crate::identhandler::Identity;
use crate::nodemanager::{NodeManager, Side};
use crate::permhandler::PermHandler;
use crate::provisionmanager::ProvisionManager;

mod convert;
mod protected;
mod public;
mod streams;

pub use convert::node_to_wire;
pub use public::cert_to_wire;

use protected::Protected;
use public::Public;

/// Subscriptions of certificates at the same time, over both servers.
pub const MAX_CERT_SUBSCRIPTIONS: usize = 24;
/// Longest message taken, bytes.
const MAX_MESSAGE: usize = 256 * 1024;

/// What the services stand on.
#[derive(Clone)]
pub struct Api {
    /// Certificates.
    pub certs: CertHandler,
    /// This node; never marked as seen, so that it tells whether anything changed since the start.
    pub own: watch::Receiver<NodeInfo>,
    /// The Unit's identity; main node only.
    pub identity: Option<Arc<Identity>>,
    /// All nodes; main node only.
    pub nodes: Option<NodeManager>,
    /// Orders about this node.
    pub provisioning: ProvisionManager,
    /// Permissions of instances, where enabled.
    pub permissions: Option<PermHandler>,
    /// Room for subscriptions of certificates.
    pub subscriptions: Arc<Semaphore>,
    /// Ends the streams of the server.
    pub stop: Shutdown,
}

impl Api {
    fn identity(&self) -> Result<&Identity, Status> {
        self.identity
            .as_deref()
            .ok_or_else(|| Status::unavailable("this node does not know the Unit's identity"))
    }

    fn permissions(&self) -> Result<&PermHandler, Status> {
        self.permissions.as_ref().ok_or_else(|| Status::unimplemented("permissions are not enabled"))
    }
}

/// An error as peers expect it, whatever its kind.
fn failed(error: &Error) -> Status {
    Status::internal(crate::error::chain(error))
}

/// Serves until `api.stop`.
pub async fn serve(api: Api, side: Side, incoming: Incoming) -> Result<(), Error> {
    let stop = api.stop.clone();
    let router = public_services(&api, side);
    let router = match side {
        Side::Public => router,
        Side::Protected => protected_services(router, &api),
    };
    router
        .serve_with_incoming_shutdown(incoming.into_stream(), stop.wait())
        .await
        .map_err(|error| Error::Failed(format!("server ended: {}", crate::error::chain(&error))))
}

fn public_services(api: &Api, side: Side) -> Router {
    let public = || Public::new(api.clone(), side);
    let main = api.nodes.is_some();
    aos_tls::grpc_server()
        .add_service(IamVersionServiceServer::new(public()).max_decoding_message_size(MAX_MESSAGE))
        .add_service(IamPublicCurrentNodeServiceServer::new(public()).max_decoding_message_size(MAX_MESSAGE))
        .add_service(IamPublicCertServiceServer::new(public()).max_decoding_message_size(MAX_MESSAGE))
        .add_optional_service(
            api.permissions.is_some().then(|| {
                IamPublicPermissionsServiceServer::new(public()).max_decoding_message_size(MAX_MESSAGE)
            }),
        )
        .add_optional_service(
            (main && api.identity.is_some()).then(|| {
                IamPublicIdentityServiceServer::new(public()).max_decoding_message_size(MAX_MESSAGE)
            }),
        )
        .add_optional_service(
            main.then(|| IamPublicNodesServiceServer::new(public()).max_decoding_message_size(MAX_MESSAGE)),
        )
}

fn protected_services(router: Router, api: &Api) -> Router {
    let protected = || Protected::new(api.clone());
    let main = api.nodes.is_some();
    router
        .add_optional_service(
            api.permissions.is_some().then(|| {
                IamPermissionsServiceServer::new(protected()).max_decoding_message_size(MAX_MESSAGE)
            }),
        )
        .add_optional_service(
            main.then(|| {
                IamCertificateServiceServer::new(protected()).max_decoding_message_size(MAX_MESSAGE)
            }),
        )
        .add_optional_service(
            main.then(|| {
                IamProvisioningServiceServer::new(protected()).max_decoding_message_size(MAX_MESSAGE)
            }),
        )
        .add_optional_service(
            main.then(|| IamNodesServiceServer::new(protected()).max_decoding_message_size(MAX_MESSAGE)),
        )
}
