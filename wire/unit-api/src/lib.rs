//! gRPC contracts between the components of a Unit, and with provisioning clients.
//!
//! Generated from `proto/`, whose package, method and field names and numbers are fixed by the peers on the
//! wire: components of other make speak them too. Several generations live side by side because the package
//! is part of every method's path. No behaviour lives here but [`convert`], which checks identifiers and
//! errors where they enter the Unit.

pub mod convert;

/// Types shared by the other packages.
pub mod common {
    /// First generation: items are called services.
    #[allow(missing_docs, clippy::all, clippy::pedantic)]
    pub mod v1 {
        tonic::include_proto!("common.v1");
    }
    /// Second generation.
    #[allow(missing_docs, clippy::all, clippy::pedantic)]
    pub mod v2 {
        tonic::include_proto!("common.v2");
    }
}

/// Services of the Identity and Access Manager.
pub mod iamanager {
    /// Tells the generation that a peer speaks.
    #[allow(missing_docs, clippy::all, clippy::pedantic)]
    pub mod version {
        tonic::include_proto!("iamanager");
    }
    /// Spoken by older provisioning clients and nodes behind a message proxy. What did not change in the next
    /// generation is the same type.
    #[allow(missing_docs, clippy::all, clippy::pedantic)]
    pub mod v5 {
        pub use super::v6::{
            ApplyCertRequest, CertTypes, CreateKeyRequest, DeprovisionRequest, FinishProvisioningRequest,
            GetCertRequest, GetCertTypesRequest, GetNodeInfoRequest, IamIncomingMessages, NodeAttribute,
            NodesId, PartitionInfo, PauseNodeRequest, Permissions, PermissionsRequest,
            RegisterInstanceResponse, ResumeNodeRequest, StartProvisioningRequest, Subjects,
            SubscribeCertChangedRequest,
        };

        tonic::include_proto!("iamanager.v5");
    }
    /// Spoken between the components of a Unit.
    #[allow(missing_docs, clippy::all, clippy::pedantic)]
    pub mod v6 {
        tonic::include_proto!("iamanager.v6");
    }
    /// Spoken by the newest provisioning clients. What did not change since the generation before is the
    /// same type.
    #[allow(missing_docs, clippy::all, clippy::pedantic)]
    pub mod v7 {
        pub use super::v6::{
            ApplyCertRequest, ApplyCertResponse, CertInfo, CertTypes, CpuInfo, CreateKeyRequest,
            CreateKeyResponse, DeprovisionRequest, DeprovisionResponse, FinishProvisioningRequest,
            FinishProvisioningResponse, GetCertRequest, GetCertTypesRequest, GetNodeInfoRequest,
            NodeAttribute, NodeInfo, NodesId, PartitionInfo, PauseNodeRequest, PauseNodeResponse,
            Permissions, PermissionsRequest, PermissionsResponse, RegisterInstanceRequest,
            RegisterInstanceResponse, ResumeNodeRequest, ResumeNodeResponse, StartProvisioningRequest,
            StartProvisioningResponse, Subjects, SystemInfo, UnregisterInstanceRequest,
        };

        tonic::include_proto!("iamanager.v7");
    }
}

/// Our own addition: what a node whose certificates have ended may ask of the main node.
pub mod aosrecovery {
    /// The only generation.
    #[allow(missing_docs, clippy::all, clippy::pedantic)]
    pub mod v1 {
        tonic::include_proto!("aosrecovery.v1");
    }
}

/// Services between Communication Manager and Service Managers.
pub mod servicemanager {
    /// Registration streams, blob addresses and instance networks.
    #[allow(missing_docs, clippy::all, clippy::pedantic)]
    pub mod v5 {
        tonic::include_proto!("servicemanager.v5");
    }
}

/// Services of the Communication Manager for local applications.
pub mod communicationmanager {
    /// Consent to updates.
    #[allow(missing_docs, clippy::all, clippy::pedantic)]
    pub mod v3 {
        tonic::include_proto!("communicationmanager.v3");
    }
}
