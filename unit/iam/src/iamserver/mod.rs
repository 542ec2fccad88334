//! The two gRPC servers and which service is where.
//!
//! In normal mode the public server is TLS and the protected one mutual TLS; in provisioning mode both
//! are plain text, because there are no certificates yet. A service that is absent answers
//! UNIMPLEMENTED. The protected server offers all that the public one does. Generations 5, 6 and 7 are
//! served side by side: 6 is implemented, the others translate.

use aos_supervise::Shutdown;
use aos_unit_api::aosrecovery::v1::node_recovery_service_server::NodeRecoveryServiceServer;
use aos_unit_api::iamanager::version::iam_version_service_server::IamVersionServiceServer;
use aos_unit_api::iamanager::{v5, v6, v7};
use std::sync::Arc;
use tokio::sync::{Semaphore, watch};
use tonic::Status;
use tonic::service::interceptor::InterceptedService;
use tonic::transport::server::Router;

use crate::Error;
use crate::certhandler::CertHandler;
use crate::currentnode::NodeInfo;
use crate::identhandler::IdentHandler;
use crate::lifecycle::Gate;
use crate::nodemanager::{NodeManager, Side};
use crate::permhandler::PermHandler;
use crate::provisionmanager::ProvisionManager;

pub mod access;
mod convert;
mod dialect;
mod generation5;
mod generation7;
mod listener;
mod protected;
mod public;
mod recovery;
mod streams;

pub use access::Access;
pub use convert::node_to_wire;
pub use dialect::{answer_to_v6, request_from_v6};
pub use listener::Listener;
pub use public::cert_to_wire;

use access::Guard;
use protected::Protected;
use public::Public;

/// Subscriptions of certificates at the same time, over both servers.
pub const MAX_CERT_SUBSCRIPTIONS: usize = 24;
/// Generation that is told to clients unless the configuration says another.
pub const API_VERSION: u64 = 7;
/// Longest message taken, bytes.
const MAX_MESSAGE: usize = 256 * 1024;

/// What the services stand on.
#[derive(Clone)]
pub struct Api {
    /// Generation told to clients that ask.
    pub version: u64,
    /// Certificates.
    pub certs: CertHandler,
    /// This node; never marked as seen, so that it tells whether anything changed since the start.
    pub own: watch::Receiver<NodeInfo>,
    /// The Unit's identity; main node only.
    pub identity: Option<IdentHandler>,
    /// All nodes; main node only.
    pub nodes: Option<NodeManager>,
    /// Orders about this node.
    pub provisioning: ProvisionManager,
    /// Permissions of instances, where enabled.
    pub permissions: Option<PermHandler>,
    /// Who may call protected services; `None`: every holder of a certificate.
    pub access: Option<Access>,
    /// What nodes may ask whose certificates have ended; main node only, where the cloud can be asked.
    pub recovery: Option<Gate>,
    /// Room for subscriptions of certificates.
    pub subscriptions: Arc<Semaphore>,
    /// Ends the streams of the server.
    pub stop: Shutdown,
}

impl Api {
    fn identity(&self) -> Result<&IdentHandler, Status> {
        self.identity
            .as_ref()
            .ok_or_else(|| Status::unavailable("this node does not know the Unit's identity"))
    }

    fn permissions(&self) -> Result<&PermHandler, Status> {
        self.permissions.as_ref().ok_or_else(|| Status::unimplemented("permissions are not enabled"))
    }
}

/// An error as peers expect it, whatever its kind.
fn failed(error: &Error) -> Status {
    Status::internal(aos_logging::with_causes(error))
}

/// Serves until `api.stop`.
pub async fn serve(api: Api, side: Side, listener: Listener) -> Result<(), Error> {
    let stop = api.stop.clone();
    let router = public_services(&api, side);
    let router = match side {
        Side::Public => router,
        Side::Protected => protected_services(router, &api),
    };
    let served = match listener {
        Listener::Tcp(incoming) => {
            router.serve_with_incoming_shutdown(incoming.into_stream(), stop.wait()).await
        }
        Listener::Unix(incoming) => {
            router.serve_with_incoming_shutdown(incoming.into_stream(), stop.wait()).await
        }
    };
    served.map_err(|error| Error::Failed(format!("server ended: {}", aos_logging::with_causes(&error))))
}

/// A service of one generation, with our bound on messages.
macro_rules! service {
    ($generation:ident, $module:ident, $server:ident, $service:expr) => {
        $generation::$module::$server::new($service).max_decoding_message_size(MAX_MESSAGE)
    };
}

fn public_services(api: &Api, side: Side) -> Router {
    let public = || Public::new(api.clone(), side);
    let main = api.nodes.is_some();
    let identity = main && api.identity.is_some();
    let permissions = api.permissions.is_some();
    macro_rules! of {
        ($generation:ident, $module:ident, $server:ident) => {
            service!($generation, $module, $server, public())
        };
        (if $present:expr, $generation:ident, $module:ident, $server:ident) => {
            $present.then(|| service!($generation, $module, $server, public()))
        };
    }
    aos_tls::grpc_server()
        .add_service(IamVersionServiceServer::new(public()).max_decoding_message_size(MAX_MESSAGE))
        .add_optional_service(api.recovery.clone().map(|gate| {
            NodeRecoveryServiceServer::new(recovery::Recovery(gate)).max_decoding_message_size(MAX_MESSAGE)
        }))
        .add_service(of!(v5, iam_public_service_server, IamPublicServiceServer))
        .add_service(of!(v6, iam_public_current_node_service_server, IamPublicCurrentNodeServiceServer))
        .add_service(of!(v7, iam_public_current_node_service_server, IamPublicCurrentNodeServiceServer))
        .add_service(of!(v6, iam_public_cert_service_server, IamPublicCertServiceServer))
        .add_service(of!(v7, iam_public_cert_service_server, IamPublicCertServiceServer))
        .add_optional_service(
            of!(if permissions, v5, iam_public_permissions_service_server, IamPublicPermissionsServiceServer),
        )
        .add_optional_service(
            of!(if permissions, v6, iam_public_permissions_service_server, IamPublicPermissionsServiceServer),
        )
        .add_optional_service(
            of!(if permissions, v7, iam_public_permissions_service_server, IamPublicPermissionsServiceServer),
        )
        .add_optional_service(
            of!(if identity, v5, iam_public_identity_service_server, IamPublicIdentityServiceServer),
        )
        .add_optional_service(
            of!(if identity, v6, iam_public_identity_service_server, IamPublicIdentityServiceServer),
        )
        .add_optional_service(
            of!(if identity, v7, iam_public_identity_service_server, IamPublicIdentityServiceServer),
        )
        .add_optional_service(of!(if main, v5, iam_public_nodes_service_server, IamPublicNodesServiceServer))
        .add_optional_service(of!(if main, v6, iam_public_nodes_service_server, IamPublicNodesServiceServer))
        .add_optional_service(of!(if main, v7, iam_public_nodes_service_server, IamPublicNodesServiceServer))
}

fn protected_services(router: Router, api: &Api) -> Router {
    let protected = || Protected::new(api.clone());
    let guard = |service| Guard::new(service, api.access.clone());
    let main = api.nodes.is_some();
    let permissions = api.permissions.is_some();
    macro_rules! of {
        (if $present:expr, $name:literal, $generation:ident, $module:ident, $server:ident) => {
            $present.then(|| {
                InterceptedService::new(service!($generation, $module, $server, protected()), guard($name))
            })
        };
    }
    macro_rules! generation {
        ($router:expr, $generation:ident) => {
            $router
                .add_optional_service(of!(
                    if permissions, "IAMPermissionsService", $generation,
                    iam_permissions_service_server, IamPermissionsServiceServer
                ))
                .add_optional_service(of!(
                    if main, "IAMCertificateService", $generation,
                    iam_certificate_service_server, IamCertificateServiceServer
                ))
                .add_optional_service(of!(
                    if main, "IAMProvisioningService", $generation,
                    iam_provisioning_service_server, IamProvisioningServiceServer
                ))
                .add_optional_service(of!(
                    if main, "IAMNodesService", $generation,
                    iam_nodes_service_server, IamNodesServiceServer
                ))
        };
    }
    generation!(generation!(generation!(router, v5), v6), v7)
}
