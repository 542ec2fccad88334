//! The status as somebody would write it who only ever meets one peer: derived, exact, with texts for whatever
//! has no fixed words. The same members as ours.
#![allow(
    dead_code,
    clippy::struct_field_names,
    reason = "decoded, not looked at; names are those of the wire"
)]

use std::collections::BTreeMap;

use serde::Deserialize;

#[derive(Deserialize)]
pub(super) struct Frame {
    header: Header,
    data: UnitStatus,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Header {
    version: u32,
    system_id: String,
    created_at: Option<String>,
    txn: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct UnitStatus {
    message_type: String,
    correlation_id: Option<String>,
    is_delta_info: bool,
    unit_config: Option<Vec<UnitConfig>>,
    nodes: Option<Vec<Node>>,
    items: Option<Vec<Item>>,
    instances: Option<Vec<Instances>>,
    subjects: Option<Vec<Identity>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Identity {
    id: Option<String>,
    #[serde(rename = "type")]
    kind: Option<Kind>,
    codename: Option<String>,
    title: Option<String>,
    description: Option<String>,
    urn: Option<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "lowercase")]
enum Kind {
    Component,
    Service,
    Layer,
    Subject,
    Oem,
    Sp,
    Node,
    Runtime,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct ErrorInfo {
    aos_code: i32,
    exit_code: i32,
    message: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct UnitConfig {
    version: Option<String>,
    state: ConfigState,
    error_info: Option<ErrorInfo>,
}

#[derive(Deserialize)]
#[serde(rename_all = "lowercase")]
enum ConfigState {
    Absent,
    Installed,
    Failed,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Node {
    identity: Identity,
    node_group_subject: Identity,
    max_dmips: u64,
    physical_ram: Option<u64>,
    total_ram: u64,
    os_info: Os,
    cpus: Option<Vec<Cpu>>,
    attrs: Option<BTreeMap<String, String>>,
    partitions: Option<Vec<Partition>>,
    runtimes: Option<Vec<Runtime>>,
    resources: Option<Vec<Resource>>,
    is_connected: bool,
    state: NodeState,
    error_info: Option<ErrorInfo>,
}

#[derive(Deserialize)]
#[serde(rename_all = "lowercase")]
enum NodeState {
    Unprovisioned,
    Provisioned,
    Paused,
    Error,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Os {
    os: String,
    version: Option<String>,
    features: Option<Vec<String>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Arch {
    architecture: String,
    variant: Option<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Cpu {
    model_name: Option<String>,
    total_num_cores: Option<u64>,
    total_num_threads: Option<u64>,
    arch_info: Arch,
    max_dmips: Option<u64>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Partition {
    name: String,
    types: Vec<String>,
    path: Option<String>,
    total_size: u64,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Runtime {
    identity: Identity,
    runtime_type: String,
    arch_info: Arch,
    os_info: Os,
    max_dmips: Option<u64>,
    allowed_dmips: Option<u64>,
    total_ram: Option<u64>,
    allowed_ram: Option<u64>,
    max_instances: u64,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Resource {
    name: String,
    shared_count: u64,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Item {
    item: Identity,
    version: String,
    state: ItemState,
    error_info: Option<ErrorInfo>,
}

#[derive(Deserialize)]
#[serde(rename_all = "lowercase")]
enum ItemState {
    Unknown,
    Downloading,
    Pending,
    Installing,
    Installed,
    Removing,
    Removed,
    Failed,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Instances {
    item: Identity,
    subject: Identity,
    version: String,
    instances: Vec<Instance>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Instance {
    node: Identity,
    runtime: Identity,
    instance: u64,
    state_checksum: Option<String>,
    state: InstanceState,
    error_info: Option<ErrorInfo>,
}

#[derive(Deserialize)]
#[serde(rename_all = "lowercase")]
enum InstanceState {
    Activating,
    Active,
    Inactive,
    Failed,
}
