//! gRPC `NetworkService`: translation between the wire and the network manager. Failures travel in `error`.

use std::pin::Pin;

use aos_ids::{NodeId, OwnerId};
use aos_status::{AosCode, ErrorInfo};
use aos_unit_api::convert::{error_to_wire, instance};
use aos_unit_api::servicemanager::v5::network_service_server::NetworkService;
use aos_unit_api::servicemanager::v5::{
    AllocateInstanceNetworkRequest, AllocateInstanceNetworkResponse, FirewallRule,
    GetNodeNetworkParamsRequest, GetNodeNetworkParamsResponse, InstanceNetworkUpdateNotification,
    PendingFirewallUpdate, ReleaseInstanceNetworkRequest, ReleaseInstanceNetworkResponse,
    ReleaseNodeNetworkRequest, ReleaseNodeNetworkResponse, SubscribeInstanceNetworkUpdatesRequest,
    SyncNetworkStateRequest, SyncNetworkStateResponse, instance_network_update_notification::Update,
};
use futures_util::{Stream, StreamExt};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status};

use crate::networkmanager::NetworkManager;
use crate::networkmanager::Request as Ask;
use crate::networkmanager::core::{Notice, Rule, Wanted};

/// The service.
pub struct Service(pub NetworkManager);

type Updates = Pin<Box<dyn Stream<Item = Result<InstanceNetworkUpdateNotification, Status>> + Send>>;

fn bad(error: &impl std::error::Error) -> ErrorInfo {
    ErrorInfo::new(AosCode::InvalidArgument, error.to_string())
}

fn owner_and_node(owner: &str, node: &str) -> Result<(OwnerId, NodeId), ErrorInfo> {
    Ok((owner.parse().map_err(|error| bad(&error))?, node.parse().map_err(|error| bad(&error))?))
}

fn rules_to_wire(rules: Vec<Rule>) -> Vec<FirewallRule> {
    let rule = |rule: Rule| FirewallRule {
        dst_ip: rule.dst_ip.to_string(),
        dst_port: rule.dst_port,
        proto: rule.proto,
        src_ip: rule.src_ip.to_string(),
    };
    rules.into_iter().map(rule).collect()
}

/// Rules with unreadable addresses are none of ours, so they are left out and ours are told again.
fn rules_from_wire(rules: Vec<FirewallRule>) -> Vec<Rule> {
    let rule = |rule: FirewallRule| {
        Some(Rule {
            dst_ip: rule.dst_ip.parse().ok()?,
            dst_port: rule.dst_port,
            proto: rule.proto,
            src_ip: rule.src_ip.parse().ok()?,
        })
    };
    rules.into_iter().filter_map(rule).collect()
}

#[tonic::async_trait]
impl NetworkService for Service {
    type SubscribeInstanceNetworkUpdatesStream = Updates;

    async fn get_node_network_params(
        &self,
        request: Request<GetNodeNetworkParamsRequest>,
    ) -> Result<Response<GetNodeNetworkParamsResponse>, Status> {
        let request = request.into_inner();
        let work = async {
            let (owner, node) = owner_and_node(&request.network_id, &request.node_id)?;
            self.0.ask(|to| Ask::Node(owner, node, to)).await?
        };
        Ok(Response::new(match work.await {
            Ok(params) => GetNodeNetworkParamsResponse {
                subnet: params.subnet.to_string(),
                ip: params.ip.to_string(),
                vlan_id: params.vlan.into(),
                error: None,
            },
            Err(error) => {
                GetNodeNetworkParamsResponse { error: error_to_wire(Some(error)), ..Default::default() }
            }
        }))
    }

    async fn allocate_instance_network(
        &self,
        request: Request<AllocateInstanceNetworkRequest>,
    ) -> Result<Response<AllocateInstanceNetworkResponse>, Status> {
        let request = request.into_inner();
        let work = async {
            let ident = instance(request.instance).map_err(|error| bad(&error))?;
            let (owner, node) = owner_and_node(&request.network_id, &request.node_id)?;
            let data = request.service_data.unwrap_or_default();
            let wanted =
                Wanted { hosts: data.hosts, allowed: data.allowed_connections, ports: data.exposed_ports };
            self.0.ask(|to| Ask::Allocate(ident, owner, node, wanted, to)).await?
        };
        Ok(Response::new(match work.await {
            Ok((params, dns)) => AllocateInstanceNetworkResponse {
                subnet: params.subnet.to_string(),
                ip: params.ip.to_string(),
                dns_servers: Some(dns).into_iter().filter(|dns| !dns.is_empty()).collect(),
                error: None,
                firewall_rules: rules_to_wire(params.rules),
            },
            Err(error) => {
                AllocateInstanceNetworkResponse { error: error_to_wire(Some(error)), ..Default::default() }
            }
        }))
    }

    async fn release_instance_network(
        &self,
        request: Request<ReleaseInstanceNetworkRequest>,
    ) -> Result<Response<ReleaseInstanceNetworkResponse>, Status> {
        let request = request.into_inner();
        let work = async {
            let ident = instance(request.instance).map_err(|error| bad(&error))?;
            let node: NodeId = request.node_id.parse().map_err(|error| bad(&error))?;
            self.0.ask(|to| Ask::Release(ident, node, to)).await?
        };
        Ok(Response::new(ReleaseInstanceNetworkResponse { error: error_to_wire(work.await.err()) }))
    }

    async fn release_node_network(
        &self,
        request: Request<ReleaseNodeNetworkRequest>,
    ) -> Result<Response<ReleaseNodeNetworkResponse>, Status> {
        let request = request.into_inner();
        let work = async {
            let (owner, node) = owner_and_node(&request.network_id, &request.node_id)?;
            self.0.ask(|to| Ask::ReleaseNode(owner, node, to)).await?
        };
        Ok(Response::new(ReleaseNodeNetworkResponse { error: error_to_wire(work.await.err()) }))
    }

    async fn subscribe_instance_network_updates(
        &self,
        request: Request<SubscribeInstanceNetworkUpdatesRequest>,
    ) -> Result<Response<Updates>, Status> {
        let node: NodeId = request
            .into_inner()
            .node_id
            .parse()
            .map_err(|_| Status::invalid_argument("node_id is no node"))?;
        let updates = self.0.ask(|to| Ask::Subscribe(node, to)).await;
        let updates = updates.map_err(|error| Status::unavailable(error.message))?;
        let updates = ReceiverStream::new(updates).map(|notice: Notice| {
            let update = PendingFirewallUpdate {
                instance: Some(notice.instance.into()),
                firewall_rules: rules_to_wire(notice.rules),
            };
            Ok(InstanceNetworkUpdateNotification { update: Some(Update::PendingFirewallUpdate(update)) })
        });
        Ok(Response::new(Box::pin(updates)))
    }

    async fn sync_network_state(
        &self,
        request: Request<SyncNetworkStateRequest>,
    ) -> Result<Response<SyncNetworkStateResponse>, Status> {
        let request = request.into_inner();
        let work = async {
            let node: NodeId = request.node_id.parse().map_err(|error| bad(&error))?;
            let present = request
                .instances
                .into_iter()
                .map(|state| Ok((instance(state.instance)?, rules_from_wire(state.firewall_rules))))
                .collect::<Result<_, aos_unit_api::convert::InstanceError>>()
                .map_err(|error| bad(&error))?;
            self.0.ask(|to| Ask::Sync(node, present, to)).await?
        };
        Ok(Response::new(SyncNetworkStateResponse { error: error_to_wire(work.await.err()) }))
    }
}
