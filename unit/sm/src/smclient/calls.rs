//! The unary calls to the Communication Manager: blob locations and networks.
//!
//! They use the channel of the present connection; without one they fail at once. No call waits longer than
//! `CALL_TIME`, and none holds anything another module waits for.

use std::time::Duration;

use aos_ids::{Digest, InstanceIdent};
use aos_status::ErrorInfo;
use aos_unit_api::common::v2;
use aos_unit_api::convert::error_from_wire;
use aos_unit_api::servicemanager::v5 as wire;
use tokio::sync::watch;
use tonic::transport::Channel;
use wire::network_service_client::NetworkServiceClient;
use wire::sm_service_client::SmServiceClient;

use crate::Error;
use crate::networkmanager::{InstanceNetwork, NodeNetwork, Wishes};

/// Rule lists CM sends.
pub type NetworkUpdates = tonic::Streaming<wire::InstanceNetworkUpdateNotification>;

const CALL_TIME: Duration = Duration::from_secs(15);

/// Calls to CM on whatever connection there is.
#[derive(Clone)]
pub struct CmCalls {
    channel: watch::Receiver<Option<Channel>>,
}

impl CmCalls {
    /// Calls on the channel that `channel` holds.
    pub fn new(channel: watch::Receiver<Option<Channel>>) -> Self {
        Self { channel }
    }

    fn channel(&self, call: &'static str) -> Result<Channel, Error> {
        self.channel.borrow().clone().ok_or(Error::NotConnected { call })
    }

    /// Where a blob can be read, best first.
    pub async fn blob_urls(&self, digest: &Digest) -> Result<Vec<String>, Error> {
        let call = "GetBlobsInfos";
        let mut client = SmServiceClient::new(self.channel(call)?);
        let request = wire::BlobsInfosRequest { digests: vec![digest.to_string()] };
        let mut urls = within(call, client.get_blobs_infos(request)).await?.urls;
        urls.retain(|url| !url.is_empty());
        if urls.is_empty() { Err(Error::NotFound(format!("blob {digest}"))) } else { Ok(urls) }
    }

    /// The network of an owner on this node.
    pub async fn node_network(&self, network: &str, node: &str) -> Result<NodeNetwork, Error> {
        let call = "GetNodeNetworkParams";
        let mut client = NetworkServiceClient::new(self.channel(call)?);
        let request =
            wire::GetNodeNetworkParamsRequest { network_id: network.to_owned(), node_id: node.to_owned() };
        let answer = within(call, client.get_node_network_params(request)).await?;
        check(call, answer.error)?;
        Ok(NodeNetwork { subnet: answer.subnet, ip: answer.ip, vlan: answer.vlan_id })
    }

    /// The network of an instance.
    pub async fn instance_network(
        &self,
        ident: &InstanceIdent,
        network: &str,
        node: &str,
        hosts: Vec<String>,
        wishes: &Wishes,
    ) -> Result<InstanceNetwork, Error> {
        let call = "AllocateInstanceNetwork";
        let mut client = NetworkServiceClient::new(self.channel(call)?);
        let request = wire::AllocateInstanceNetworkRequest {
            instance: Some(ident.into()),
            network_id: network.to_owned(),
            node_id: node.to_owned(),
            service_data: Some(wire::UpdateItemNetworkParams {
                hosts,
                allowed_connections: wishes.allowed_connections.clone(),
                exposed_ports: wishes.exposed_ports.clone(),
            }),
        };
        let answer = within(call, client.allocate_instance_network(request)).await?;
        check(call, answer.error)?;
        Ok(InstanceNetwork {
            ident: ident.clone(),
            network: network.to_owned(),
            subnet: answer.subnet,
            ip: answer.ip,
            dns: answer.dns_servers,
            wishes: wishes.clone(),
            rules: answer
                .firewall_rules
                .into_iter()
                .map(|r| [r.dst_ip, r.dst_port, r.proto, r.src_ip])
                .collect(),
        })
    }

    /// Gives the network of an instance back.
    pub async fn release_instance(&self, ident: &InstanceIdent, node: &str) -> Result<(), Error> {
        let call = "ReleaseInstanceNetwork";
        let mut client = NetworkServiceClient::new(self.channel(call)?);
        let request =
            wire::ReleaseInstanceNetworkRequest { instance: Some(ident.into()), node_id: node.to_owned() };
        check(call, within(call, client.release_instance_network(request)).await?.error)
    }

    /// Gives the network of an owner on this node back.
    pub async fn release_node_network(&self, network: &str, node: &str) -> Result<(), Error> {
        let call = "ReleaseNodeNetwork";
        let mut client = NetworkServiceClient::new(self.channel(call)?);
        let request =
            wire::ReleaseNodeNetworkRequest { network_id: network.to_owned(), node_id: node.to_owned() };
        check(call, within(call, client.release_node_network(request)).await?.error)
    }

    /// The stream of new firewall rules for instances of this node.
    pub async fn network_updates(&self, node: &str) -> Result<NetworkUpdates, Error> {
        let call = "SubscribeInstanceNetworkUpdates";
        let mut client = NetworkServiceClient::new(self.channel(call)?);
        let request = wire::SubscribeInstanceNetworkUpdatesRequest { node_id: node.to_owned() };
        within(call, client.subscribe_instance_network_updates(request)).await
    }

    /// Tells CM which networks are in use.
    pub async fn sync_networks(
        &self,
        node: &str,
        instances: Vec<wire::InstanceNetworkStateInfo>,
    ) -> Result<(), Error> {
        let call = "SyncNetworkState";
        let mut client = NetworkServiceClient::new(self.channel(call)?);
        let request = wire::SyncNetworkStateRequest { node_id: node.to_owned(), instances };
        check(call, within(call, client.sync_network_state(request)).await?.error)
    }
}

async fn within<T>(
    call: &'static str,
    answer: impl Future<Output = Result<tonic::Response<T>, tonic::Status>>,
) -> Result<T, Error> {
    let status = match tokio::time::timeout(CALL_TIME, answer).await {
        Ok(Ok(answer)) => return Ok(answer.into_inner()),
        Ok(Err(status)) => status,
        Err(_) => tonic::Status::deadline_exceeded("no answer in time"),
    };
    Err(Error::Call { call, source: Box::new(status) })
}

fn check(call: &'static str, error: Option<v2::ErrorInfo>) -> Result<(), Error> {
    match error_from_wire::<v2::ErrorInfo>(error) {
        Some(info) => Err(Error::Answer {
            call,
            info: ErrorInfo { message: info.message.chars().take(200).collect(), ..info },
        }),
        None => Ok(()),
    }
}
