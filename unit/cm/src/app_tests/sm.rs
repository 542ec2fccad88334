//! A scripted Service Manager over real gRPC: it runs whatever it is told and says so.

use std::collections::BTreeMap;
use std::sync::Arc;

use aos_tls::HostCheck;
use aos_unit_api::common::v2;
use aos_unit_api::servicemanager::v5::alert::AlertItem;
use aos_unit_api::servicemanager::v5::sm_incoming_messages::SmIncomingMessage;
use aos_unit_api::servicemanager::v5::sm_outgoing_messages::SmOutgoingMessage;
use aos_unit_api::servicemanager::v5::sm_service_client::SmServiceClient;
use aos_unit_api::servicemanager::v5::{
    Alert, BlobsInfosRequest, InstanceStatus, NodeInstancesStatus, RuntimeInfo, SmIncomingMessages, SmInfo,
    SmOutgoingMessages, SystemAlert, UpdateInstances,
};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::Channel;

use super::pki::Pki;

pub struct Sm {
    config: Arc<rustls::ClientConfig>,
    address: String,
    channel: Channel,
    /// What runs: kept over restarts of either side.
    pub running: BTreeMap<String, InstanceStatus>,
    sender: Option<mpsc::Sender<SmOutgoingMessages>>,
    incoming: Option<tonic::Streaming<SmIncomingMessages>>,
    /// Updates received so far.
    pub updates: Vec<UpdateInstances>,
}

impl Sm {
    pub fn new(pki: &Pki, cm: &str) -> Self {
        let config =
            aos_tls::client_config(pki.roots(), Some(pki.identity("sm")), HostCheck::ChainOnly).unwrap();
        let channel = aos_tls::grpc_channel(cm, &config).unwrap();
        Self {
            config,
            address: cm.to_owned(),
            channel,
            running: BTreeMap::new(),
            sender: None,
            incoming: None,
            updates: vec![],
        }
    }

    /// Registers, trying until the server is there, and tells what runs.
    pub async fn connect(&mut self) {
        loop {
            // The crash of the program in the same process leaves its old connections behind.
            self.channel = aos_tls::grpc_channel(&self.address, &self.config).unwrap();
            let (sender, receiver) = mpsc::channel(8);
            let mut client = SmServiceClient::new(self.channel.clone());
            if let Ok(stream) = client.register_sm(ReceiverStream::new(receiver)).await {
                (self.sender, self.incoming) = (Some(sender), Some(stream.into_inner()));
                break;
            }
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
        let first = self.next().await;
        assert!(matches!(first, SmIncomingMessage::ConnectionStatus(_)), "{first:?}");
        let runtime = RuntimeInfo {
            runtime_id: "crun-main".into(),
            r#type: "crun".into(),
            arch_info: Some(v2::ArchInfo { architecture: "x86_64".into(), variant: String::new() }),
            os_info: Some(v2::OsInfo { os: "linux".into(), ..v2::OsInfo::default() }),
            ..RuntimeInfo::default()
        };
        let info = SmInfo { node_id: "main".into(), runtimes: vec![runtime], resources: vec![] };
        self.send(SmOutgoingMessage::SmInfo(info)).await;
        self.report().await;
    }

    pub async fn send(&self, message: SmOutgoingMessage) {
        let message = SmOutgoingMessages { sm_outgoing_message: Some(message) };
        self.sender.as_ref().unwrap().send(message).await.unwrap();
    }

    pub async fn alert(&self, message: &str) {
        let item = AlertItem::SystemAlert(SystemAlert { message: message.to_owned() });
        self.send(SmOutgoingMessage::Alert(Alert { timestamp: None, alert_item: Some(item) })).await;
    }

    /// Ends the stream.
    pub fn disconnect(&mut self) {
        (self.sender, self.incoming) = (None, None);
    }

    pub async fn report(&self) {
        let instances = self.running.values().cloned().collect();
        self.send(SmOutgoingMessage::NodeInstancesStatus(NodeInstancesStatus { instances })).await;
    }

    pub async fn next(&mut self) -> SmIncomingMessage {
        let message = self.incoming.as_mut().unwrap().message().await.unwrap().expect("stream is open");
        message.sm_incoming_message.unwrap()
    }

    /// True when the stream ended by the other side.
    pub async fn closed(&mut self) -> bool {
        loop {
            match self.incoming.as_mut().unwrap().message().await {
                Ok(Some(_)) => {}
                Ok(None) | Err(_) => return true,
            }
        }
    }

    /// A channel to the server, once that is there.
    pub async fn reach(&self) -> Channel {
        loop {
            let request = BlobsInfosRequest { digests: vec![] };
            if SmServiceClient::new(self.channel.clone()).get_blobs_infos(request).await.is_ok() {
                return self.channel.clone();
            }
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
    }

    /// Carries out the next update.
    pub async fn update(&mut self) -> UpdateInstances {
        loop {
            let SmIncomingMessage::UpdateInstances(update) = self.next().await else { continue };
            for stop in &update.stop_instances {
                self.running.retain(|_, known| known.instance.as_ref() != Some(stop));
            }
            for start in &update.start_instances {
                let path = self.blob(&start.manifest_digest).await;
                assert!(std::fs::metadata(path.strip_prefix("file://").unwrap()).unwrap().is_file());
                let status = InstanceStatus {
                    instance: start.instance.clone(),
                    version: start.version.clone(),
                    runtime_id: start.runtime_id.clone(),
                    manifest_digest: start.manifest_digest.clone(),
                    state: "active".into(),
                    ..InstanceStatus::default()
                };
                self.running.insert(format!("{:?} {}", start.instance, start.version), status);
            }
            self.updates.push(update.clone());
            self.report().await;
            return update;
        }
    }

    pub async fn blob(&self, digest: &str) -> String {
        let mut client = SmServiceClient::new(self.channel.clone());
        let request = BlobsInfosRequest { digests: vec![digest.to_owned()] };
        client.get_blobs_infos(request).await.unwrap().into_inner().urls.remove(0)
    }
}
