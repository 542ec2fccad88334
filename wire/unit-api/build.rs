//! Compiles the contracts in `proto/` without an external protobuf compiler.

use std::error::Error;

const CONTRACTS: [&str; 10] = [
    "aosrecovery/v1/noderecovery.proto",
    "common/v1/common.proto",
    "common/v2/common.proto",
    "communicationmanager/v3/updatescheduler.proto",
    "iamanager/v5/iamanager.proto",
    "iamanager/v6/iamanager.proto",
    "iamanager/v7/iamanager.proto",
    "iamanager/version.proto",
    "servicemanager/v5/network.proto",
    "servicemanager/v5/servicemanager.proto",
];

/// Messages that generation 7 took over from generation 6 field by field: one Rust type serves both.
const V7_SHARED_WITH_V6: [&str; 32] = [
    "PartitionInfo",
    "CPUInfo",
    "NodeAttribute",
    "NodeInfo",
    "GetCertRequest",
    "CertInfo",
    "SystemInfo",
    "Subjects",
    "PermissionsRequest",
    "PermissionsResponse",
    "NodesID",
    "GetCertTypesRequest",
    "CertTypes",
    "CreateKeyRequest",
    "CreateKeyResponse",
    "ApplyCertRequest",
    "ApplyCertResponse",
    "Permissions",
    "RegisterInstanceRequest",
    "RegisterInstanceResponse",
    "UnregisterInstanceRequest",
    "GetNodeInfoRequest",
    "PauseNodeRequest",
    "PauseNodeResponse",
    "ResumeNodeRequest",
    "ResumeNodeResponse",
    "StartProvisioningRequest",
    "StartProvisioningResponse",
    "FinishProvisioningRequest",
    "FinishProvisioningResponse",
    "DeprovisionRequest",
    "DeprovisionResponse",
];

/// The same of generation 5, which came before it.
const V5_SHARED_WITH_V6: [&str; 20] = [
    "PartitionInfo",
    "NodeAttribute",
    "GetCertRequest",
    "SubscribeCertChangedRequest",
    "Subjects",
    "PermissionsRequest",
    "NodesID",
    "GetCertTypesRequest",
    "CertTypes",
    "CreateKeyRequest",
    "ApplyCertRequest",
    "Permissions",
    "RegisterInstanceResponse",
    "GetNodeInfoRequest",
    "PauseNodeRequest",
    "ResumeNodeRequest",
    "StartProvisioningRequest",
    "FinishProvisioningRequest",
    "DeprovisionRequest",
    "IAMIncomingMessages",
];

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo:rerun-if-changed=proto");
    let descriptors = protox::compile(CONTRACTS, ["proto"])?;
    let mut config = tonic_prost_build::configure().emit_rerun_if_changed(false);
    for (generation, messages) in [("v5", &V5_SHARED_WITH_V6[..]), ("v7", &V7_SHARED_WITH_V6[..])] {
        for message in messages {
            let rust = message.replace("CPU", "Cpu").replace("ID", "Id").replace("IAM", "Iam");
            config = config.extern_path(
                format!(".iamanager.{generation}.{message}"),
                format!("crate::iamanager::v6::{rust}"),
            );
        }
    }
    config.compile_fds(descriptors)?;
    Ok(())
}
