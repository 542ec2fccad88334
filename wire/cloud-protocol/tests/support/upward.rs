//! Random content that a Unit sends.

use aos_cloud_protocol::*;
use proptest::collection::{btree_map, vec};
use proptest::option;
use proptest::prelude::*;
use proptest::sample::select;

use super::parts::*;

pub fn unit_status() -> impl Strategy<Value = UnitStatus> {
    let config_state = select(vec![ConfigState::Absent, ConfigState::Installed, ConfigState::Failed]);
    let config = (option::of(text()), config_state, error())
        .prop_map(|(version, state, error_info)| UnitConfigStatus { version, state, error_info });
    let item = (identity(), text(), item_state(), error())
        .prop_map(|(item, version, state, error_info)| ItemStatus { item, version, state, error_info });
    (
        any::<bool>(),
        option::of(vec(config, 0..3)),
        option::of(vec(node_info(), 0..3)),
        option::of(vec(item, 0..3)),
        option::of(vec(instances_info(), 0..3)),
        option::of(vec(identity(), 0..3)),
    )
        .prop_map(|(is_delta_info, unit_config, nodes, items, instances, subjects)| UnitStatus {
            is_delta_info,
            unit_config,
            nodes,
            items,
            instances,
            subjects,
        })
}

pub fn node_info() -> impl Strategy<Value = NodeInfo> {
    let cpu =
        (option::of(text()), option::of(number()), option::of(number()), arch_info(), option::of(number()))
            .prop_map(|(model_name, total_num_cores, total_num_threads, arch_info, max_dmips)| CpuInfo {
                model_name,
                total_num_cores,
                total_num_threads,
                arch_info,
                max_dmips,
            });
    let partition = (word(), vec(word(), 0..3), option::of(text()), number())
        .prop_map(|(name, types, path, total_size)| PartitionInfo { name, types, path, total_size });
    let resource = (word(), number()).prop_map(|(name, shared_count)| ResourceInfo { name, shared_count });
    let capacity = (number(), option::of(1..u64::from(u32::MAX)), 1..u64::from(u32::MAX));
    let parts = (
        option::of(vec(cpu, 0..2)),
        option::of(btree_map(text(), text(), 0..3)),
        option::of(vec(partition, 0..2)),
        option::of(vec(runtime_info(), 0..2)),
        option::of(vec(resource, 0..2)),
    );
    (identity(), identity(), capacity, os_info(), parts, any::<bool>(), node_state(), error()).prop_map(
        |(identity, node_group_subject, capacity, os_info, parts, is_connected, state, error_info)| {
            let (max_dmips, physical_ram, total_ram) = capacity;
            let (cpus, attrs, partitions, runtimes, resources) = parts;
            NodeInfo {
                identity,
                node_group_subject,
                max_dmips,
                physical_ram,
                total_ram,
                os_info,
                cpus,
                attrs,
                partitions,
                runtimes,
                resources,
                is_connected,
                state,
                error_info,
            }
        },
    )
}

pub fn runtime_info() -> impl Strategy<Value = RuntimeInfo> {
    let limits = (option::of(number()), option::of(number()), option::of(number()), option::of(number()));
    (identity(), word(), arch_info(), os_info(), limits, number()).prop_map(
        |(identity, runtime_type, arch_info, os_info, limits, max_instances)| {
            let (max_dmips, allowed_dmips, total_ram, allowed_ram) = limits;
            RuntimeInfo {
                identity,
                runtime_type,
                arch_info,
                os_info,
                max_dmips,
                allowed_dmips,
                total_ram,
                allowed_ram,
                max_instances,
            }
        },
    )
}

pub fn instances_info() -> impl Strategy<Value = InstancesInfo> {
    let instance = (identity(), identity(), number(), option::of(checksum()), instance_state(), error())
        .prop_map(|(node, runtime, instance, state_checksum, state, error_info)| InstanceInfo {
            node,
            runtime,
            instance,
            state_checksum,
            state,
            error_info,
        });
    (identity(), identity(), text(), vec(instance, 0..3))
        .prop_map(|(item, subject, version, instances)| InstancesInfo { item, subject, version, instances })
}

pub fn item_state() -> impl Strategy<Value = ItemState> {
    select(vec![
        ItemState::Unknown,
        ItemState::Downloading,
        ItemState::Pending,
        ItemState::Installing,
        ItemState::Installed,
        ItemState::Removing,
        ItemState::Removed,
        ItemState::Failed,
    ])
}

pub fn instance_state() -> impl Strategy<Value = InstanceState> {
    select(vec![
        InstanceState::Activating,
        InstanceState::Active,
        InstanceState::Inactive,
        InstanceState::Failed,
    ])
}

pub fn node_state() -> impl Strategy<Value = NodeState> {
    select(vec![NodeState::Unprovisioned, NodeState::Provisioned, NodeState::Paused, NodeState::Error])
}

pub fn monitoring() -> impl Strategy<Value = MonitoringData> {
    let node_sample = (time(), any::<bool>(), node_state())
        .prop_map(|(timestamp, connected, state)| NodeStateSample { timestamp, connected, state });
    let node = (identity(), vec(node_sample, 0..3), vec(sample(), 0..3))
        .prop_map(|(node, node_states, items)| NodeMonitoring { node, node_states, items });
    let instance_sample =
        (time(), instance_state()).prop_map(|(timestamp, state)| InstanceStateSample { timestamp, state });
    let instance =
        (identity(), identity(), number(), identity(), vec(instance_sample, 0..3), vec(sample(), 0..3))
            .prop_map(|(item, subject, instance, node, item_states, items)| InstanceMonitoring {
                item,
                subject,
                instance,
                node,
                item_states,
                items,
            });
    (vec(node, 0..3), vec(instance, 0..3)).prop_map(|(nodes, instances)| MonitoringData { nodes, instances })
}

pub fn sample() -> impl Strategy<Value = Sample> {
    let partition = (word(), number()).prop_map(|(name, used_size)| PartitionUsage { name, used_size });
    (time(), number(), number(), option::of(number()), option::of(number()), vec(partition, 0..3)).prop_map(
        |(timestamp, ram, cpu, download, upload, partitions)| Sample {
            timestamp,
            ram,
            cpu,
            download,
            upload,
            partitions,
        },
    )
}

pub fn alert() -> impl Strategy<Value = Alert> {
    let download_state = select(vec![
        DownloadState::Started,
        DownloadState::Paused,
        DownloadState::Interrupted,
        DownloadState::Finished,
    ]);
    let instance = || (identity(), identity(), number());
    let progress = (digest(), option::of(text()), number(), number());
    prop_oneof![
        (time(), identity(), message())
            .prop_map(|(timestamp, node, message)| SystemAlert { timestamp, node, message })
            .prop_map(Alert::SystemAlert),
        (time(), identity(), "[A-Z]{1,5}", message()).prop_map(
            |(timestamp, node, core_component, message)| {
                Alert::CoreAlert(CoreAlert { timestamp, node, core_component, message })
            }
        ),
        (time(), instance(), identity(), word(), message()).prop_map(
            |(timestamp, (item, subject, instance), node, device_id, message)| {
                Alert::DeviceAllocateAlert(DeviceAllocateAlert {
                    timestamp,
                    item,
                    subject,
                    instance,
                    node,
                    device_id,
                    message,
                })
            }
        ),
        (time(), identity(), word(), number()).prop_map(|(timestamp, node, parameter, value)| {
            Alert::SystemQuotaAlert(SystemQuotaAlert { timestamp, node, parameter, value })
        }),
        (time(), instance(), word(), number()).prop_map(
            |(timestamp, (item, subject, instance), parameter, value)| {
                Alert::InstanceQuotaAlert(InstanceQuotaAlert {
                    timestamp,
                    item,
                    subject,
                    instance,
                    parameter,
                    value,
                })
            }
        ),
        (time(), progress, download_state, option::of(text()), error()).prop_map(
            |(timestamp, (digest, url, downloaded_bytes, total_bytes), state, reason, error_info)| {
                Alert::DownloadProgressAlert(DownloadProgressAlert {
                    timestamp,
                    digest: digest.to_string(),
                    url,
                    downloaded_bytes,
                    total_bytes,
                    state,
                    reason,
                    error_info,
                })
            }
        ),
        (time(), instance(), text(), message()).prop_map(
            |(timestamp, (item, subject, instance), version, message)| {
                Alert::UpdateItemInstanceAlert(UpdateItemInstanceAlert {
                    timestamp,
                    item,
                    subject,
                    instance,
                    version,
                    message,
                })
            }
        ),
    ]
}

pub fn message() -> impl Strategy<Value = String> {
    "[a-z ]{1,256}"
}
