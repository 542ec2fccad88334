//! `iamanager.v7`: generation 6 with all certificates of a type at once and with root certificates.

use aos_unit_api::iamanager::v6::iam_certificate_service_server::IamCertificateService as Certificates6;
use aos_unit_api::iamanager::v6::iam_nodes_service_server::IamNodesService as Nodes6;
use aos_unit_api::iamanager::v6::iam_permissions_service_server::IamPermissionsService as Permissions6;
use aos_unit_api::iamanager::v6::iam_provisioning_service_server::IamProvisioningService as Provisioning6;
use aos_unit_api::iamanager::v6::iam_public_cert_service_server::IamPublicCertService as PublicCert6;
use aos_unit_api::iamanager::v6::iam_public_current_node_service_server::IamPublicCurrentNodeService as CurrentNode6;
use aos_unit_api::iamanager::v6::iam_public_identity_service_server::IamPublicIdentityService as Identity6;
use aos_unit_api::iamanager::v6::iam_public_nodes_service_server::IamPublicNodesService as PublicNodes6;
use aos_unit_api::iamanager::v6::iam_public_permissions_service_server::IamPublicPermissionsService as PublicPermissions6;
use aos_unit_api::iamanager::v7::iam_certificate_service_server::IamCertificateService;
use aos_unit_api::iamanager::v7::iam_incoming_messages::IamIncomingMessage as ToNode;
use aos_unit_api::iamanager::v7::iam_nodes_service_server::IamNodesService;
use aos_unit_api::iamanager::v7::iam_outgoing_messages::IamOutgoingMessage as FromNode;
use aos_unit_api::iamanager::v7::iam_permissions_service_server::IamPermissionsService;
use aos_unit_api::iamanager::v7::iam_provisioning_service_server::IamProvisioningService;
use aos_unit_api::iamanager::v7::iam_public_cert_service_server::IamPublicCertService;
use aos_unit_api::iamanager::v7::iam_public_current_node_service_server::IamPublicCurrentNodeService;
use aos_unit_api::iamanager::v7::iam_public_identity_service_server::IamPublicIdentityService;
use aos_unit_api::iamanager::v7::iam_public_nodes_service_server::IamPublicNodesService;
use aos_unit_api::iamanager::v7::iam_public_permissions_service_server::IamPublicPermissionsService;
use aos_unit_api::iamanager::{v6, v7};
use tonic::{Request, Response, Status, Streaming, async_trait};

use super::dialect::{self, Requests, V7};
use super::failed;
use super::protected::{Protected, to_wire, wrong_kind};
use super::public::{Public, cert_to_wire};
use super::streams::{self, Answers};
use crate::Error;

type Answer<T> = Result<Response<T>, Status>;

#[async_trait]
impl IamPublicCurrentNodeService for Public {
    async fn get_current_node_info(&self, request: Request<()>) -> Answer<v6::NodeInfo> {
        CurrentNode6::get_current_node_info(self, request).await
    }

    type SubscribeCurrentNodeChangedStream = Answers<v6::NodeInfo>;

    async fn subscribe_current_node_changed(&self, request: Request<()>) -> Answer<Answers<v6::NodeInfo>> {
        CurrentNode6::subscribe_current_node_changed(self, request).await
    }
}

#[async_trait]
impl IamPublicCertService for Public {
    async fn get_cert(&self, request: Request<v6::GetCertRequest>) -> Answer<v6::CertInfo> {
        PublicCert6::get_cert(self, request).await
    }

    /// All certificates of a type, the one that stays valid longest first; a type without certificates has an
    /// empty list. With a serial number, only the certificate that has it.
    async fn get_all_certs(&self, request: Request<v6::GetCertRequest>) -> Answer<v7::CertInfoList> {
        let request = request.into_inner();
        let certificates = self.api().certs.certificates();
        if !certificates.knows(&request.r#type) {
            let reason = format!("certificate type '{}' is not known", request.r#type);
            return Err(failed(&Error::NotFound(reason)));
        }
        if !request.serial.is_empty() {
            let cert = PublicCert6::get_cert(self, Request::new(request)).await?.into_inner();
            return Ok(Response::new(v7::CertInfoList { certs: vec![cert] }));
        }
        let certs = certificates.newest_first(&request.r#type).into_iter().map(cert_to_wire).collect();
        Ok(Response::new(v7::CertInfoList { certs }))
    }

    type SubscribeCertsChangedStream = Answers<v7::CertInfoList>;

    async fn subscribe_certs_changed(
        &self,
        request: Request<v7::SubscribeCertsChangedRequest>,
    ) -> Answer<Answers<v7::CertInfoList>> {
        let cert_type = request.into_inner().r#type;
        let mut watch = self.api().certs.watch();
        let known = watch.borrow_and_update().clone();
        if !known.knows(&cert_type) {
            return Err(failed(&Error::NotFound(format!("certificate type '{cert_type}' is not known"))));
        }
        let permit = self.subscription()?;
        Ok(Response::new(streams::certificates(watch, cert_type, known, permit, self.api().stop.clone())))
    }
}

#[async_trait]
impl IamPublicIdentityService for Public {
    async fn get_system_info(&self, request: Request<()>) -> Answer<v6::SystemInfo> {
        Identity6::get_system_info(self, request).await
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
    ) -> Answer<v6::PermissionsResponse> {
        PublicPermissions6::get_permissions(self, request).await
    }
}

#[async_trait]
impl IamPublicNodesService for Public {
    async fn get_all_node_i_ds(&self, request: Request<()>) -> Answer<v6::NodesId> {
        PublicNodes6::get_all_node_i_ds(self, request).await
    }

    async fn get_node_info(&self, request: Request<v6::GetNodeInfoRequest>) -> Answer<v6::NodeInfo> {
        PublicNodes6::get_node_info(self, request).await
    }

    type SubscribeNodeChangedStream = Answers<v6::NodeInfo>;

    async fn subscribe_node_changed(&self, request: Request<()>) -> Answer<Answers<v6::NodeInfo>> {
        PublicNodes6::subscribe_node_changed(self, request).await
    }

    type RegisterNodeStream = Requests<V7>;

    async fn register_node(
        &self,
        request: Request<Streaming<v7::IamOutgoingMessages>>,
    ) -> Answer<Requests<V7>> {
        dialect::register::<V7>(self, request).await
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
    ) -> Answer<v6::StartProvisioningResponse> {
        Provisioning6::start_provisioning(self, request).await
    }

    async fn finish_provisioning(
        &self,
        request: Request<v6::FinishProvisioningRequest>,
    ) -> Answer<v6::FinishProvisioningResponse> {
        Provisioning6::finish_provisioning(self, request).await
    }

    async fn deprovision(&self, request: Request<v6::DeprovisionRequest>) -> Answer<v6::DeprovisionResponse> {
        Provisioning6::deprovision(self, request).await
    }
}

#[async_trait]
impl IamNodesService for Protected {
    async fn pause_node(&self, request: Request<v6::PauseNodeRequest>) -> Answer<v6::PauseNodeResponse> {
        Nodes6::pause_node(self, request).await
    }

    async fn resume_node(&self, request: Request<v6::ResumeNodeRequest>) -> Answer<v6::ResumeNodeResponse> {
        Nodes6::resume_node(self, request).await
    }
}

#[async_trait]
impl IamCertificateService for Protected {
    async fn create_key(&self, request: Request<v6::CreateKeyRequest>) -> Answer<v6::CreateKeyResponse> {
        Certificates6::create_key(self, request).await
    }

    async fn apply_cert(&self, request: Request<v6::ApplyCertRequest>) -> Answer<v6::ApplyCertResponse> {
        Certificates6::apply_cert(self, request).await
    }

    async fn update_root_certs(
        &self,
        request: Request<v7::UpdateRootCertsRequest>,
    ) -> Answer<v7::UpdateRootCertsResponse> {
        let request = request.into_inner();
        if self.is_local(&request.node_id) {
            let error = to_wire(self.api().provisioning.update_roots(request.root_certs).await);
            return Ok(Response::new(v7::UpdateRootCertsResponse { node_id: request.node_id, error }));
        }
        let node_id = request.node_id.clone();
        match self.remote(&node_id, ToNode::UpdateRootCertsRequest(request)).await? {
            FromNode::UpdateRootCertsResponse(answer) => {
                let error = self.settled(&node_id, answer.error, None).await;
                Ok(Response::new(v7::UpdateRootCertsResponse { error, ..answer }))
            }
            _ => Err(wrong_kind()),
        }
    }
}

#[async_trait]
impl IamPermissionsService for Protected {
    async fn register_instance(
        &self,
        request: Request<v6::RegisterInstanceRequest>,
    ) -> Answer<v6::RegisterInstanceResponse> {
        Permissions6::register_instance(self, request).await
    }

    async fn unregister_instance(&self, request: Request<v6::UnregisterInstanceRequest>) -> Answer<()> {
        Permissions6::unregister_instance(self, request).await
    }
}
