//! `iamanager.v5`: every call is the one of generation 6 with its messages translated.

use std::pin::Pin;

use aos_unit_api::iamanager::v5::iam_certificate_service_server::IamCertificateService;
use aos_unit_api::iamanager::v5::iam_nodes_service_server::IamNodesService;
use aos_unit_api::iamanager::v5::iam_permissions_service_server::IamPermissionsService;
use aos_unit_api::iamanager::v5::iam_provisioning_service_server::IamProvisioningService;
use aos_unit_api::iamanager::v5::iam_public_identity_service_server::IamPublicIdentityService;
use aos_unit_api::iamanager::v5::iam_public_nodes_service_server::IamPublicNodesService;
use aos_unit_api::iamanager::v5::iam_public_permissions_service_server::IamPublicPermissionsService;
use aos_unit_api::iamanager::v5::iam_public_service_server::IamPublicService;
use aos_unit_api::iamanager::v6::iam_certificate_service_server::IamCertificateService as Certificates6;
use aos_unit_api::iamanager::v6::iam_nodes_service_server::IamNodesService as Nodes6;
use aos_unit_api::iamanager::v6::iam_permissions_service_server::IamPermissionsService as Permissions6;
use aos_unit_api::iamanager::v6::iam_provisioning_service_server::IamProvisioningService as Provisioning6;
use aos_unit_api::iamanager::v6::iam_public_cert_service_server::IamPublicCertService as PublicCert6;
use aos_unit_api::iamanager::v6::iam_public_current_node_service_server::IamPublicCurrentNodeService as CurrentNode6;
use aos_unit_api::iamanager::v6::iam_public_identity_service_server::IamPublicIdentityService as Identity6;
use aos_unit_api::iamanager::v6::iam_public_nodes_service_server::IamPublicNodesService as PublicNodes6;
use aos_unit_api::iamanager::v6::iam_public_permissions_service_server::IamPublicPermissionsService as PublicPermissions6;
use aos_unit_api::iamanager::{v5, v6};
use futures_util::{Stream, StreamExt};
use tonic::{Request, Response, Status, Streaming, async_trait};

use super::dialect::{self, Requests, V5};
use super::protected::Protected;
use super::public::Public;
use super::streams::Answers;

mod convert;

pub use convert::message_from_node;

use convert::{
    applied_to_v5, cert_to_v5, created_to_v5, error_to_v5, instance_from_v5, node_to_v5, permissions_to_v5,
    system_to_v5,
};

type Answer<T> = Result<Response<T>, Status>;

fn translated<A: 'static, B: 'static>(
    answers: Response<Answers<A>>,
    translate: fn(A) -> B,
) -> Response<Answers<B>> {
    answers.map(|answers| -> Pin<Box<dyn Stream<Item = Result<B, Status>> + Send>> {
        Box::pin(answers.map(move |answer| answer.map(translate)))
    })
}

#[async_trait]
impl IamPublicService for Public {
    async fn get_node_info(&self, request: Request<()>) -> Answer<v5::NodeInfo> {
        Ok(CurrentNode6::get_current_node_info(self, request).await?.map(node_to_v5))
    }

    async fn get_cert(&self, request: Request<v6::GetCertRequest>) -> Answer<v5::CertInfo> {
        Ok(PublicCert6::get_cert(self, request).await?.map(cert_to_v5))
    }

    type SubscribeCertChangedStream = Answers<v5::CertInfo>;

    async fn subscribe_cert_changed(
        &self,
        request: Request<v6::SubscribeCertChangedRequest>,
    ) -> Answer<Answers<v5::CertInfo>> {
        Ok(translated(PublicCert6::subscribe_cert_changed(self, request).await?, cert_to_v5))
    }
}

#[async_trait]
impl IamPublicIdentityService for Public {
    async fn get_system_info(&self, request: Request<()>) -> Answer<v5::SystemInfo> {
        Ok(Identity6::get_system_info(self, request).await?.map(system_to_v5))
    }

    async fn get_subjects(&self, request: Request<()>) -> Answer<v6::Subjects> {
        Identity6::get_subjects(self, request).await
    }

    type SubscribeSubjectsChangedStream = Answers<v6::Subjects>;

    async fn subscribe_subjects_changed(&self, request: Request<()>) -> Answer<Answers<v6::Subjects>> {
        Identity6::subscribe_subjects_changed(self, request).await
    }
}

#[async_trait]
impl IamPublicPermissionsService for Public {
    async fn get_permissions(
        &self,
        request: Request<v6::PermissionsRequest>,
    ) -> Answer<v5::PermissionsResponse> {
        Ok(PublicPermissions6::get_permissions(self, request).await?.map(permissions_to_v5))
    }
}

#[async_trait]
impl IamPublicNodesService for Public {
    async fn get_all_node_i_ds(&self, request: Request<()>) -> Answer<v6::NodesId> {
        PublicNodes6::get_all_node_i_ds(self, request).await
    }

    async fn get_node_info(&self, request: Request<v6::GetNodeInfoRequest>) -> Answer<v5::NodeInfo> {
        Ok(PublicNodes6::get_node_info(self, request).await?.map(node_to_v5))
    }

    type SubscribeNodeChangedStream = Answers<v5::NodeInfo>;

    async fn subscribe_node_changed(&self, request: Request<()>) -> Answer<Answers<v5::NodeInfo>> {
        Ok(translated(PublicNodes6::subscribe_node_changed(self, request).await?, node_to_v5))
    }

    type RegisterNodeStream = Requests<V5>;

    async fn register_node(
        &self,
        request: Request<Streaming<v5::IamOutgoingMessages>>,
    ) -> Answer<Requests<V5>> {
        dialect::register::<V5>(self, request).await
    }
}

#[async_trait]
impl IamProvisioningService for Protected {
    async fn get_cert_types(&self, request: Request<v6::GetCertTypesRequest>) -> Answer<v6::CertTypes> {
        Provisioning6::get_cert_types(self, request).await
    }

    async fn start_provisioning(
        &self,
        request: Request<v6::StartProvisioningRequest>,
    ) -> Answer<v5::StartProvisioningResponse> {
        let answer = Provisioning6::start_provisioning(self, request).await?;
        Ok(answer.map(|answer| v5::StartProvisioningResponse { error: error_to_v5(answer.error) }))
    }

    async fn finish_provisioning(
        &self,
        request: Request<v6::FinishProvisioningRequest>,
    ) -> Answer<v5::FinishProvisioningResponse> {
        let answer = Provisioning6::finish_provisioning(self, request).await?;
        Ok(answer.map(|answer| v5::FinishProvisioningResponse { error: error_to_v5(answer.error) }))
    }

    async fn deprovision(&self, request: Request<v6::DeprovisionRequest>) -> Answer<v5::DeprovisionResponse> {
        let answer = Provisioning6::deprovision(self, request).await?;
        Ok(answer.map(|answer| v5::DeprovisionResponse { error: error_to_v5(answer.error) }))
    }
}

#[async_trait]
impl IamNodesService for Protected {
    async fn pause_node(&self, request: Request<v6::PauseNodeRequest>) -> Answer<v5::PauseNodeResponse> {
        let answer = Nodes6::pause_node(self, request).await?;
        Ok(answer.map(|answer| v5::PauseNodeResponse { error: error_to_v5(answer.error) }))
    }

    async fn resume_node(&self, request: Request<v6::ResumeNodeRequest>) -> Answer<v5::ResumeNodeResponse> {
        let answer = Nodes6::resume_node(self, request).await?;
        Ok(answer.map(|answer| v5::ResumeNodeResponse { error: error_to_v5(answer.error) }))
    }
}

#[async_trait]
impl IamCertificateService for Protected {
    async fn create_key(&self, request: Request<v6::CreateKeyRequest>) -> Answer<v5::CreateKeyResponse> {
        Ok(Certificates6::create_key(self, request).await?.map(created_to_v5))
    }

    async fn apply_cert(&self, request: Request<v6::ApplyCertRequest>) -> Answer<v5::ApplyCertResponse> {
        Ok(Certificates6::apply_cert(self, request).await?.map(applied_to_v5))
    }
}

#[async_trait]
impl IamPermissionsService for Protected {
    async fn register_instance(
        &self,
        request: Request<v5::RegisterInstanceRequest>,
    ) -> Answer<v6::RegisterInstanceResponse> {
        let request = request.map(|request| v6::RegisterInstanceRequest {
            instance: instance_from_v5(request.instance),
            permissions: request.permissions,
        });
        Permissions6::register_instance(self, request).await
    }

    async fn unregister_instance(&self, request: Request<v5::UnregisterInstanceRequest>) -> Answer<()> {
        let request = request
            .map(|request| v6::UnregisterInstanceRequest { instance: instance_from_v5(request.instance) });
        Permissions6::unregister_instance(self, request).await
    }
}
