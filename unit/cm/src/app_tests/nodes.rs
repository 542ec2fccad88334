//! Nodes of the Unit: streams, configuration, networks.

use aos_cloud_protocol::{AosIdentity, Body, DesiredStatus, NodeConfig, UnitConfig};
use aos_status::ConfigState;
use aos_unit_api::common::v2::InstanceIdent;
use aos_unit_api::servicemanager::v5::instance_network_update_notification::Update;
use aos_unit_api::servicemanager::v5::network_service_client::NetworkServiceClient;
use aos_unit_api::servicemanager::v5::sm_incoming_messages::SmIncomingMessage;
use aos_unit_api::servicemanager::v5::sm_outgoing_messages::SmOutgoingMessage;
use aos_unit_api::servicemanager::v5::{
    AllocateInstanceNetworkRequest, GetNodeNetworkParamsRequest, NodeConfigStatus,
    ReleaseInstanceNetworkRequest, SubscribeInstanceNetworkUpdatesRequest, UpdateItemNetworkParams,
};

use super::sm::Sm;
use super::*;

// CM-09, CM-31: a Unit configuration is checked and set on the node, kept, and set again when it connects.
#[tokio::test]
async fn a_unit_configuration_reaches_the_node() {
    in_time!(async {
        let mut world = World::new().await;
        world.cloud.connected().await;
        world.sm.connect().await;
        world.until(|document| document["nodes"][0]["connected"] == true).await;
        let labels = Some(vec!["front".to_owned()]);
        let node = NodeConfig {
            node_group_subject: AosIdentity::by_codename("gateway"),
            labels,
            priority: 5,
            ..NodeConfig::default()
        };
        let config = UnitConfig { version: "1.2.0".into(), format_version: "7".into(), nodes: vec![node] };
        let wish = DesiredStatus { unit_config: Some(config), ..DesiredStatus::default() };
        world.cloud.send(Body::DesiredStatus(wish.clone())).await;
        let mut asked = Vec::new();
        let answering = async {
            while asked.len() < 3 {
                asked.push(answer_config(&mut world.sm).await);
            }
        };
        let installed = |status: &aos_cloud_protocol::UnitStatus| {
            status.unit_config.iter().flatten().any(|one| one.state == ConfigState::Installed)
        };
        let ((), status) = tokio::join!(answering, world.cloud.status(installed));
        assert_eq!(status.unit_config.unwrap()[0].version.as_deref(), Some("1.2.0"));
        assert_eq!(asked.iter().map(|(what, _)| *what).collect::<Vec<_>>(), ["get", "check", "set"]);
        assert!(asked[2].1.contains("front"), "{}", asked[2].1);

        world.kill().await;
        world.start();
        world.cloud.connected().await;
        world.sm.connect().await;
        assert_eq!(answer_config(&mut world.sm).await.0, "get");
        assert_eq!(answer_config(&mut world.sm).await.0, "set");
        let txn = world.cloud.send(Body::DesiredStatus(wish)).await;
        world.cloud.acknowledged(&txn).await;
        assert_eq!(world.document().await["update"]["appliedDesired"], 1, "the same again is no update");
    });
}

/// Answers the next question about the node's configuration; tells which and with what.
async fn answer_config(sm: &mut Sm) -> (&'static str, String) {
    loop {
        let (what, text, version) = match sm.next().await {
            SmIncomingMessage::GetNodeConfigStatus(_) => ("get", String::new(), String::new()),
            SmIncomingMessage::CheckNodeConfig(check) => ("check", check.node_config, check.version),
            SmIncomingMessage::SetNodeConfig(set) => ("set", set.node_config, set.version),
            _ => continue,
        };
        let status = NodeConfigStatus { state: "installed".into(), version, error: None };
        sm.send(SmOutgoingMessage::NodeConfigStatus(status)).await;
        return (what, text);
    }
}

// The newest stream of a node wins; the node is gone with it, not with the old one.
#[tokio::test]
async fn the_newest_stream_wins() {
    in_time!(async {
        let mut world = World::new().await;
        world.sm.connect().await;
        let mut second = Sm::new(&world.pki, &format!("localhost:{}", world.port));
        second.connect().await;
        assert!(world.sm.closed().await);
        world.until(|document| document["nodes"][0]["connected"] == true).await;
        drop(second);
        world.until(|document| document["nodes"][0]["connected"] == false).await;
        world.sm.connect().await;
        world.until(|document| document["nodes"][0]["connected"] == true).await;
    });
}

// CM-30, CM-52: addresses and rules over the wire, and a rule that comes later.
#[tokio::test]
async fn networks_over_the_wire() {
    in_time!(async {
        let world = World::new().await;
        let mut client = NetworkServiceClient::new(world.sm.reach().await);
        let subscription = SubscribeInstanceNetworkUpdatesRequest { node_id: "main".into() };
        let mut updates = client.subscribe_instance_network_updates(subscription).await.unwrap().into_inner();
        let ident = |item: &str| InstanceIdent {
            item_id: item.into(),
            subject_id: "s".into(),
            ..InstanceIdent::default()
        };
        let ask = |item: &str, network: &str, data: UpdateItemNetworkParams| AllocateInstanceNetworkRequest {
            instance: Some(ident(item)),
            network_id: network.into(),
            node_id: "main".into(),
            service_data: Some(data),
        };
        let early =
            client.allocate_instance_network(ask("a", "one", UpdateItemNetworkParams::default())).await;
        assert_eq!(early.unwrap().into_inner().error.unwrap().message, "network not found");
        for network in ["one", "two"] {
            let request = GetNodeNetworkParamsRequest { network_id: network.into(), node_id: "main".into() };
            let params = client.get_node_network_params(request).await.unwrap().into_inner();
            assert!(params.error.is_none() && (1..=4094).contains(&params.vlan_id));
        }
        let wants =
            UpdateItemNetworkParams { allowed_connections: vec!["b/80".into()], ..Default::default() };
        let first = client.allocate_instance_network(ask("a", "one", wants)).await.unwrap().into_inner();
        assert!(first.firewall_rules.is_empty());
        let offers = UpdateItemNetworkParams { exposed_ports: vec!["80".into()], ..Default::default() };
        let second = client.allocate_instance_network(ask("b", "two", offers)).await.unwrap().into_inner();
        let Some(Update::PendingFirewallUpdate(update)) = updates.message().await.unwrap().unwrap().update
        else {
            panic!("a rule update is expected")
        };
        assert_eq!(update.instance, Some(ident("a")));
        assert_eq!(
            (update.firewall_rules[0].dst_ip.as_str(), update.firewall_rules[0].src_ip.as_str()),
            (second.ip.as_str(), first.ip.as_str())
        );
        let release = ReleaseInstanceNetworkRequest { instance: Some(ident("b")), node_id: "main".into() };
        assert!(client.release_instance_network(release).await.unwrap().into_inner().error.is_none());
        assert!(updates.message().await.unwrap().is_some(), "the rule is taken back");
    });
}
