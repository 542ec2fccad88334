//! `aosrecovery.v1`: what a node whose certificates have ended may ask of the main node, on both servers.

use aos_unit_api::aosrecovery::v1::node_recovery_service_server::NodeRecoveryService;
use aos_unit_api::aosrecovery::v1::{
    GetCertificatesRequest, GetCertificatesResponse, GetChallengeRequest, GetChallengeResponse,
    IssuedCertificate, RefusedCertificate,
};
use tonic::{Request, Response, Status, async_trait};

use crate::Error;
use crate::lifecycle::{Asked, Gate};

/// The service.
#[derive(Clone)]
pub struct Recovery(pub Gate);

fn status(error: &Error) -> Status {
    let text = aos_logging::with_causes(error);
    match error {
        Error::InvalidArgument(_) => Status::invalid_argument(text),
        Error::Refused(_) => Status::permission_denied(text),
        Error::TooMany(_) => Status::resource_exhausted(text),
        Error::Stopping => Status::unavailable(text),
        _ => Status::internal(text),
    }
}

#[async_trait]
impl NodeRecoveryService for Recovery {
    async fn get_challenge(
        &self,
        request: Request<GetChallengeRequest>,
    ) -> Result<Response<GetChallengeResponse>, Status> {
        let challenge = self.0.challenge(&request.get_ref().node_id).map_err(|error| status(&error))?;
        Ok(Response::new(GetChallengeResponse { challenge }))
    }

    async fn get_certificates(
        &self,
        request: Request<GetCertificatesRequest>,
    ) -> Result<Response<GetCertificatesResponse>, Status> {
        let request = request.into_inner();
        let asked = Asked {
            node: request.node_id,
            challenge: request.challenge,
            chain: request.chain.into_iter().map(Into::into).collect(),
            signature: request.signature,
            requests: request.requests.into_iter().map(|one| (one.r#type, one.csr)).collect(),
        };
        let given = self.0.certificates(asked).await.map_err(|error| status(&error))?;
        let issued = |one: aos_recovery_protocol::CertificateOf| IssuedCertificate {
            r#type: one.cert_type,
            chain: one.certificate_chain,
        };
        let refused = |one: aos_recovery_protocol::RefusedOf| RefusedCertificate {
            r#type: one.cert_type,
            reason: one.reason,
        };
        Ok(Response::new(GetCertificatesResponse {
            certificates: given.certificates.into_iter().map(issued).collect(),
            refused: given.refused.into_iter().map(refused).collect(),
        }))
    }
}
