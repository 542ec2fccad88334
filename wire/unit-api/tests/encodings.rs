//! Field numbers against encodings written by hand from the contract's tables.

use aos_unit_api::common::v2::{ErrorInfo, InstanceIdent, ItemType, OsInfo};
use aos_unit_api::iamanager::v6::iam_outgoing_messages::IamOutgoingMessage as Out;
use aos_unit_api::iamanager::v7::iam_incoming_messages::IamIncomingMessage as In;
use aos_unit_api::iamanager::{v5, v6, v7};
use aos_unit_api::servicemanager::v5 as sm;
use aos_unit_api::servicemanager::v5::sm_incoming_messages::SmIncomingMessage as SmIn;
use prost::Message;

/// A length-delimited field with a number below 16 and less than 128 bytes of content.
fn field(number: u8, content: &[u8]) -> Vec<u8> {
    let mut bytes = vec![(number << 3) | 2, content.len().to_le_bytes()[0]];
    bytes.extend_from_slice(content);
    bytes
}

fn ident() -> (InstanceIdent, Vec<u8>) {
    let message = InstanceIdent {
        item_id: "i".into(),
        subject_id: "s".into(),
        instance: 5,
        r#type: ItemType::Component.into(),
        preinstalled: true,
    };
    (message, [field(1, b"i"), field(2, b"s"), vec![0x18, 5, 0x20, 1, 0x28, 1]].concat())
}

#[test]
fn instance_ident() {
    let (message, bytes) = ident();
    assert_eq!(message.encode_to_vec(), bytes);
    assert_eq!(InstanceIdent::decode(bytes.as_slice()).unwrap(), message);
}

#[test]
fn cert_info_of_the_second_last_generation() {
    let message = v6::CertInfo {
        r#type: "sm".into(),
        cert_url: "c".into(),
        key_url: "k".into(),
        serial: vec![9],
        issuer: vec![8],
    };
    let bytes = [field(1, b"sm"), field(2, b"c"), field(3, b"k"), field(4, &[9]), field(5, &[8])].concat();
    assert_eq!(message.encode_to_vec(), bytes);
}

// IAM-15
#[test]
fn node_info_generations_differ_in_the_state() {
    let new = v6::NodeInfo {
        node_id: "n".into(),
        state: "paused".into(),
        os_info: Some(OsInfo { os: "linux".into(), ..OsInfo::default() }),
        total_ram: 7,
        ..v6::NodeInfo::default()
    };
    let bytes = [field(1, b"n"), vec![0x28, 7], field(7, &field(1, b"linux")), field(11, b"paused")].concat();
    assert_eq!(new.encode_to_vec(), bytes);
    let old = v5::NodeInfo { node_id: "n".into(), status: "paused".into(), ..v5::NodeInfo::default() };
    assert_eq!(old.encode_to_vec(), [field(1, b"n"), field(4, b"paused")].concat());
}

#[test]
fn iam_streams() {
    let error = Some(ErrorInfo { aos_code: 1, exit_code: 2, message: "m".into() });
    let error_bytes = [vec![0x08, 1, 0x10, 2], field(3, b"m")].concat();
    let message = v6::IamOutgoingMessages {
        iam_outgoing_message: Some(Out::ApplyCertResponse(v6::ApplyCertResponse {
            node_id: "n".into(),
            cert_info: None,
            error: error.clone(),
        })),
    };
    let bytes = field(9, &[field(1, b"n"), field(3, &error_bytes)].concat());
    assert_eq!(message.encode_to_vec(), bytes);

    let message = v7::IamIncomingMessages {
        iam_incoming_message: Some(In::UpdateRootCertsRequest(v7::UpdateRootCertsRequest {
            node_id: "n".into(),
            root_certs: vec!["a".into(), "b".into()],
        })),
    };
    let bytes = field(9, &[field(1, b"n"), field(2, b"a"), field(2, b"b")].concat());
    assert_eq!(message.encode_to_vec(), bytes);
}

#[test]
fn update_instances() {
    let (message, bytes) = ident();
    let info = sm::InstanceInfo {
        instance: Some(message.clone()),
        version: "1.0.0".into(),
        manifest_digest: "d".into(),
        owner_id: "o".into(),
        runtime_id: "r".into(),
        uid: 5000,
        gid: 1,
        priority: 2,
        storage_path: "p".into(),
        state_path: "q".into(),
        env_vars: vec![sm::EnvVarInfo { name: "a".into(), value: "b".into() }],
        monitoring_parameters: Some(sm::MonitoringParameters::default()),
    };
    let info_bytes = [
        field(1, &bytes),
        field(2, b"1.0.0"),
        field(3, b"d"),
        field(4, b"o"),
        field(5, b"r"),
        vec![0x30, 0x88, 0x27, 0x38, 1, 0x40, 2],
        field(9, b"p"),
        field(10, b"q"),
        field(11, &[field(1, b"a"), field(2, b"b")].concat()),
        field(12, &[]),
    ]
    .concat();
    assert_eq!(info.encode_to_vec(), info_bytes);
    let update = sm::UpdateInstances { start_instances: vec![info], stop_instances: vec![message] };
    let frame = sm::SmIncomingMessages { sm_incoming_message: Some(SmIn::UpdateInstances(update)) };
    let body = [field(1, &info_bytes), field(2, &bytes)].concat();
    assert_eq!(frame.encode_to_vec(), field(4, &body));
}

#[test]
fn network_allocation() {
    let message = sm::AllocateInstanceNetworkResponse {
        subnet: "s".into(),
        ip: "i".into(),
        dns_servers: vec!["d".into()],
        error: None,
        firewall_rules: vec![sm::FirewallRule {
            dst_ip: "a".into(),
            dst_port: "1".into(),
            proto: "tcp".into(),
            src_ip: "b".into(),
        }],
    };
    let rule = [field(1, b"a"), field(2, b"1"), field(3, b"tcp"), field(4, b"b")].concat();
    let bytes = [field(1, b"s"), field(2, b"i"), field(3, b"d"), field(5, &rule)].concat();
    assert_eq!(message.encode_to_vec(), bytes);
}
