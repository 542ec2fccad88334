//! Descriptions of nodes in the form of the cloud protocol.

use aos_cloud_protocol as wire;
use aos_item_format::Platform;
use aos_unit_api::common::v2;
use aos_unit_api::iamanager::v6;

pub(super) fn text(value: &str) -> Option<String> {
    (!value.is_empty()).then(|| value.to_owned())
}

pub(super) fn os_info(os: Option<&v2::OsInfo>) -> wire::OsInfo {
    let os = os.cloned().unwrap_or_default();
    wire::OsInfo {
        os: if os.os.is_empty() { "linux".to_owned() } else { os.os },
        version: text(&os.version),
        features: (!os.features.is_empty()).then_some(os.features),
    }
}

pub(super) fn arch_info(arch: Option<&v2::ArchInfo>) -> wire::ArchInfo {
    let arch = arch.cloned().unwrap_or_default();
    wire::ArchInfo { architecture: arch.architecture, variant: text(&arch.variant) }
}

pub(super) fn platform(arch: Option<&v2::ArchInfo>, os: Option<&v2::OsInfo>) -> Platform {
    let (arch, os) = (arch.cloned().unwrap_or_default(), os.cloned().unwrap_or_default());
    Platform {
        architecture: arch.architecture,
        variant: arch.variant,
        os: os.os,
        os_version: os.version,
        os_features: os.features,
    }
}

pub(super) fn cpu(cpu: &v6::CpuInfo) -> wire::CpuInfo {
    wire::CpuInfo {
        model_name: text(&cpu.model_name),
        total_num_cores: Some(cpu.num_cores),
        total_num_threads: Some(cpu.num_threads),
        arch_info: arch_info(cpu.arch_info.as_ref()),
        max_dmips: Some(cpu.max_dmips),
    }
}

pub(super) fn partition(partition: &v6::PartitionInfo) -> wire::PartitionInfo {
    wire::PartitionInfo {
        name: partition.name.clone(),
        types: partition.types.clone(),
        path: text(&partition.path),
        total_size: partition.total_size,
    }
}

pub(super) fn runtime(runtime: &aos_unit_api::servicemanager::v5::RuntimeInfo) -> wire::RuntimeInfo {
    let given = |amount: u64| (amount > 0).then_some(amount);
    wire::RuntimeInfo {
        identity: wire::AosIdentity::by_codename(&runtime.runtime_id),
        runtime_type: runtime.r#type.clone(),
        arch_info: arch_info(runtime.arch_info.as_ref()),
        os_info: os_info(runtime.os_info.as_ref()),
        max_dmips: given(runtime.max_dmips),
        allowed_dmips: given(runtime.allowed_dmips),
        total_ram: given(runtime.total_ram),
        allowed_ram: given(runtime.allowed_ram),
        max_instances: runtime.max_instances,
    }
}
