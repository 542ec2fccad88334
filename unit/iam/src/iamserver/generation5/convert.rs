//! Between generations 5 and 6. Into generation 5 what it has no room for is left out.

use aos_unit_api::common::{v1, v2};
use aos_unit_api::iamanager::v5::iam_outgoing_messages::IamOutgoingMessage as FromNode;
use aos_unit_api::iamanager::v7::iam_outgoing_messages::IamOutgoingMessage as Message;
use aos_unit_api::iamanager::{v5, v6};

pub(super) fn error_to_v5(error: Option<v2::ErrorInfo>) -> Option<v1::ErrorInfo> {
    error.map(|error| v1::ErrorInfo {
        aos_code: error.aos_code,
        exit_code: error.exit_code,
        message: error.message,
    })
}

fn error_from_v5(error: Option<v1::ErrorInfo>) -> Option<v2::ErrorInfo> {
    error.map(|error| v2::ErrorInfo {
        aos_code: error.aos_code,
        exit_code: error.exit_code,
        message: error.message,
    })
}

/// Two texts, the second only if there is one.
fn joined(first: String, separator: char, second: &str) -> String {
    if second.is_empty() { first } else { format!("{first}{separator}{second}") }
}

pub(super) fn node_to_v5(node: v6::NodeInfo) -> v5::NodeInfo {
    let os = node.os_info.unwrap_or_default();
    v5::NodeInfo {
        node_id: node.node_id,
        node_type: node.node_type,
        name: node.title,
        status: node.state,
        os_type: joined(os.os, ' ', &os.version),
        cpus: node
            .cpus
            .into_iter()
            .map(|cpu| {
                let arch = cpu.arch_info.unwrap_or_default();
                v5::CpuInfo {
                    model_name: cpu.model_name,
                    num_cores: cpu.num_cores,
                    num_threads: cpu.num_threads,
                    arch: joined(arch.architecture.clone(), '/', &arch.variant),
                    arch_family: arch.architecture,
                    max_dmips: cpu.max_dmips,
                }
            })
            .collect(),
        max_dmips: node.max_dmips,
        total_ram: node.total_ram,
        partitions: node.partitions,
        attrs: node.attrs,
        error: error_to_v5(node.error),
    }
}

fn node_from_v5(node: v5::NodeInfo) -> v6::NodeInfo {
    // The operating system of a node of this generation is a name, or a name and a version.
    let (os, version) = node.os_type.split_once(' ').unwrap_or((&node.os_type, ""));
    v6::NodeInfo {
        node_id: node.node_id,
        node_type: node.node_type,
        title: node.name,
        max_dmips: node.max_dmips,
        total_ram: node.total_ram,
        physical_ram: 0,
        os_info: Some(v2::OsInfo { os: os.to_owned(), version: version.to_owned(), features: Vec::new() }),
        cpus: node
            .cpus
            .into_iter()
            .map(|cpu| {
                let (architecture, variant) = cpu.arch.split_once('/').unwrap_or((&cpu.arch, ""));
                v6::CpuInfo {
                    arch_info: Some(v2::ArchInfo {
                        architecture: architecture.to_owned(),
                        variant: variant.to_owned(),
                    }),
                    model_name: cpu.model_name,
                    num_cores: cpu.num_cores,
                    num_threads: cpu.num_threads,
                    max_dmips: cpu.max_dmips,
                }
            })
            .collect(),
        partitions: node.partitions,
        attrs: node.attrs,
        state: node.status,
        error: error_from_v5(node.error),
    }
}

/// What a node of generation 5 says, in the newest form.
pub fn message_from_node(message: FromNode) -> Message {
    match message {
        FromNode::NodeInfo(node) => Message::NodeInfo(node_from_v5(node)),
        FromNode::StartProvisioningResponse(answer) => {
            Message::StartProvisioningResponse(v6::StartProvisioningResponse {
                error: error_from_v5(answer.error),
            })
        }
        FromNode::CertTypesResponse(answer) => Message::CertTypesResponse(answer),
        FromNode::FinishProvisioningResponse(answer) => {
            Message::FinishProvisioningResponse(v6::FinishProvisioningResponse {
                error: error_from_v5(answer.error),
            })
        }
        FromNode::DeprovisionResponse(answer) => {
            Message::DeprovisionResponse(v6::DeprovisionResponse { error: error_from_v5(answer.error) })
        }
        FromNode::PauseNodeResponse(answer) => {
            Message::PauseNodeResponse(v6::PauseNodeResponse { error: error_from_v5(answer.error) })
        }
        FromNode::ResumeNodeResponse(answer) => {
            Message::ResumeNodeResponse(v6::ResumeNodeResponse { error: error_from_v5(answer.error) })
        }
        FromNode::CreateKeyResponse(answer) => Message::CreateKeyResponse(v6::CreateKeyResponse {
            node_id: answer.node_id,
            r#type: answer.r#type,
            csr: answer.csr,
            error: error_from_v5(answer.error),
        }),
        FromNode::ApplyCertResponse(answer) => Message::ApplyCertResponse(v6::ApplyCertResponse {
            node_id: answer.node_id,
            cert_info: Some(v6::CertInfo {
                r#type: answer.r#type,
                cert_url: answer.cert_url,
                serial: answer.serial.into_bytes(),
                ..v6::CertInfo::default()
            }),
            error: error_from_v5(answer.error),
        }),
    }
}

pub(super) fn cert_to_v5(cert: v6::CertInfo) -> v5::CertInfo {
    v5::CertInfo { r#type: cert.r#type, cert_url: cert.cert_url, key_url: cert.key_url }
}

pub(super) fn system_to_v5(system: v6::SystemInfo) -> v5::SystemInfo {
    v5::SystemInfo {
        system_id: system.system_id,
        unit_model: joined(system.unit_model, ';', &system.version),
    }
}

pub(super) fn instance_from_v5(instance: Option<v1::InstanceIdent>) -> Option<v2::InstanceIdent> {
    instance.map(|instance| v2::InstanceIdent {
        item_id: instance.service_id,
        subject_id: instance.subject_id,
        instance: instance.instance,
        ..v2::InstanceIdent::default()
    })
}

pub(super) fn permissions_to_v5(answer: v6::PermissionsResponse) -> v5::PermissionsResponse {
    v5::PermissionsResponse {
        instance: answer.instance.map(|instance| v1::InstanceIdent {
            service_id: instance.item_id,
            subject_id: instance.subject_id,
            instance: instance.instance,
        }),
        permissions: answer.permissions,
    }
}

pub(super) fn applied_to_v5(answer: v6::ApplyCertResponse) -> v5::ApplyCertResponse {
    let cert = answer.cert_info.unwrap_or_default();
    v5::ApplyCertResponse {
        node_id: answer.node_id,
        r#type: cert.r#type,
        cert_url: cert.cert_url,
        serial: String::from_utf8_lossy(&cert.serial).into_owned(),
        error: error_to_v5(answer.error),
    }
}

pub(super) fn created_to_v5(answer: v6::CreateKeyResponse) -> v5::CreateKeyResponse {
    v5::CreateKeyResponse {
        node_id: answer.node_id,
        r#type: answer.r#type,
        csr: answer.csr,
        error: error_to_v5(answer.error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    // Zephyr nodes speak this generation through a message proxy.
    #[test]
    fn a_node_keeps_what_both_generations_know() {
        let node = v6::NodeInfo {
            node_id: "node".into(),
            node_type: "type".into(),
            title: "title".into(),
            max_dmips: 1,
            total_ram: 2,
            physical_ram: 0,
            os_info: Some(v2::OsInfo { os: "linux".into(), version: "6.1".into(), features: Vec::new() }),
            cpus: vec![v6::CpuInfo {
                model_name: "cpu".into(),
                num_cores: 4,
                num_threads: 8,
                arch_info: Some(v2::ArchInfo { architecture: "arm64".into(), variant: "v8".into() }),
                max_dmips: 3,
            }],
            partitions: vec![v6::PartitionInfo { name: "store".into(), ..Default::default() }],
            attrs: vec![v6::NodeAttribute { name: "MainNode".into(), value: String::new() }],
            state: "paused".into(),
            error: Some(v2::ErrorInfo { aos_code: 1, exit_code: 2, message: "bad".into() }),
        };
        let old = node_to_v5(node.clone());
        assert_eq!((&*old.os_type, &*old.status, &*old.name), ("linux 6.1", "paused", "title"));
        assert_eq!((&*old.cpus[0].arch, &*old.cpus[0].arch_family), ("arm64/v8", "arm64"));
        assert_eq!(node_from_v5(old), node);
        let bare = v5::NodeInfo { os_type: "zephyr".into(), ..Default::default() };
        assert_eq!(node_to_v5(node_from_v5(bare.clone())), bare);
        let system = v6::SystemInfo { unit_model: "m".into(), version: "1".into(), ..Default::default() };
        assert_eq!(system_to_v5(system).unit_model, "m;1");
    }
}
