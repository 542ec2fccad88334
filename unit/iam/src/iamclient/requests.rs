//! What the main node may ask of this node, and the matching answers.

use aos_status::{AosCode, ErrorInfo};
use aos_unit_api::iamanager::v6::{
    ApplyCertRequest, ApplyCertResponse, CertInfo, CertTypes, CreateKeyRequest, CreateKeyResponse,
    DeprovisionResponse, FinishProvisioningResponse, PauseNodeResponse, ResumeNodeResponse,
    StartProvisioningResponse,
};
use aos_unit_api::iamanager::v7::iam_incoming_messages::IamIncomingMessage as Request;
use aos_unit_api::iamanager::v7::iam_outgoing_messages::IamOutgoingMessage as Answer;

use aos_unit_api::iamanager::v7::UpdateRootCertsResponse;

use crate::Error;
use crate::iamserver::cert_to_wire;
use crate::provisionmanager::{Order, ProvisionManager};

type WireError = aos_unit_api::common::v2::ErrorInfo;

/// Carries a request out; failures are part of the answer.
pub(super) async fn carry_out(manager: &ProvisionManager, request: Request) -> Answer {
    let order = async |order, password| {
        let result: Result<(), Error> = manager.order(order, password).await;
        result.err().map(|error| WireError::from(error.info()))
    };
    match request {
        Request::StartProvisioningRequest(request) => {
            let error = order(Order::StartProvisioning, request.password).await;
            Answer::StartProvisioningResponse(StartProvisioningResponse { error })
        }
        Request::FinishProvisioningRequest(request) => {
            let error = order(Order::FinishProvisioning, request.password).await;
            Answer::FinishProvisioningResponse(FinishProvisioningResponse { error })
        }
        Request::DeprovisionRequest(request) => {
            let error = order(Order::Deprovision, request.password).await;
            Answer::DeprovisionResponse(DeprovisionResponse { error })
        }
        Request::PauseNodeRequest(_) => {
            let error = order(Order::Pause, String::new()).await;
            Answer::PauseNodeResponse(PauseNodeResponse { error })
        }
        Request::ResumeNodeRequest(_) => {
            let error = order(Order::Resume, String::new()).await;
            Answer::ResumeNodeResponse(ResumeNodeResponse { error })
        }
        Request::GetCertTypesRequest(_) => {
            let types = manager.cert_types().await.unwrap_or_else(|error| {
                // This answer has no room for an error.
                tracing::error!("certificate types are not known: {}", aos_logging::with_causes(&error));
                Vec::new()
            });
            Answer::CertTypesResponse(CertTypes { types })
        }
        Request::CreateKeyRequest(request) => Answer::CreateKeyResponse(create_key(manager, request).await),
        Request::ApplyCertRequest(request) => Answer::ApplyCertResponse(apply_cert(manager, request).await),
        Request::UpdateRootCertsRequest(request) => {
            let updated = manager.update_roots(request.root_certs).await;
            let error = updated.err().map(|error| WireError::from(error.info()));
            Answer::UpdateRootCertsResponse(UpdateRootCertsResponse { node_id: request.node_id, error })
        }
    }
}

async fn create_key(manager: &ProvisionManager, request: CreateKeyRequest) -> CreateKeyResponse {
    let made = match manager.subject(&request.subject).await {
        Ok(subject) => {
            manager.create_key(request.r#type.clone(), &subject).await.map_err(|error| error.info())
        }
        Err(error) => Err(ErrorInfo::new(AosCode::InvalidArgument, error.to_string())),
    };
    let (csr, error) = match made {
        Ok(csr) => (csr, None),
        Err(info) => (String::new(), Some(info.into())),
    };
    CreateKeyResponse { node_id: request.node_id, r#type: request.r#type, csr, error }
}

async fn apply_cert(manager: &ProvisionManager, request: ApplyCertRequest) -> ApplyCertResponse {
    let (cert_info, error) = match manager.apply_cert(request.r#type.clone(), request.cert).await {
        Ok(record) => (cert_to_wire(&record), None),
        Err(error) => (CertInfo { r#type: request.r#type, ..CertInfo::default() }, Some(error.info().into())),
    };
    ApplyCertResponse { node_id: request.node_id, cert_info: Some(cert_info), error }
}
