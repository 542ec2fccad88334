//! The Communication Manager's side, played by the test.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use aos_unit_api::common::v2;
use aos_unit_api::servicemanager::v5 as wire;
use tokio::sync::mpsc;
use tokio_stream::wrappers::{ReceiverStream, TcpListenerStream};
use tokio_stream::{Stream, StreamExt};
use tonic::{Request, Response, Status, Streaming};
use wire::network_service_server::{NetworkService, NetworkServiceServer};
use wire::sm_incoming_messages::SmIncomingMessage as ToSm;
use wire::sm_outgoing_messages::SmOutgoingMessage as FromSm;
use wire::sm_service_server::{SmService, SmServiceServer};

const LONG: Duration = Duration::from_secs(40);

#[derive(Default)]
struct State {
    messages: Vec<FromSm>,
    /// Name of every call, in order; a stream counts as `RegisterSM`.
    calls: Vec<String>,
    statuses: BTreeMap<u64, wire::InstanceStatus>,
    to_sm: Option<mpsc::Sender<Result<wire::SmIncomingMessages, Status>>>,
    hidden: BTreeSet<String>,
    next_address: u8,
}

/// Handle of the played CM.
#[derive(Clone)]
pub struct Cm {
    state: Arc<Mutex<State>>,
    blobs: PathBuf,
    pub url: String,
}

impl Cm {
    /// Serves on a free port; blobs lie in `blobs` under their hex digest.
    pub async fn start(blobs: PathBuf) -> Self {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = listener.local_addr().unwrap().to_string();
        let cm = Self { state: Arc::default(), blobs, url };
        cm.serve(listener);
        cm
    }

    fn serve(&self, listener: tokio::net::TcpListener) {
        let server = tonic::transport::Server::builder()
            .add_service(SmServiceServer::new(self.clone()))
            .add_service(NetworkServiceServer::new(self.clone()));
        tokio::spawn(server.serve_with_incoming(TcpListenerStream::new(listener)));
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Makes a blob unknown.
    pub fn hide(&self, digest: &str) {
        self.state().hidden.insert(digest.to_owned());
    }

    /// Makes a blob known again.
    pub fn show(&self, digest: &str) {
        self.state().hidden.remove(digest);
    }

    /// Ends the present stream.
    pub fn hang_up(&self) {
        self.state().to_sm = None;
    }

    pub fn calls(&self) -> Vec<String> {
        self.state().calls.clone()
    }

    pub fn count(&self, call: &str) -> usize {
        self.state().calls.iter().filter(|name| *name == call).count()
    }

    pub fn messages(&self) -> Vec<FromSm> {
        self.state().messages.clone()
    }

    pub fn clear(&self) {
        let mut state = self.state();
        state.messages.clear();
        state.calls.clear();
    }

    /// States reported for an instance, in order, without repetitions.
    pub fn history(&self, instance: u64) -> Vec<(String, i32)> {
        let mut states: Vec<(String, i32)> = Vec::new();
        for message in &self.state().messages {
            let list = match message {
                FromSm::UpdateInstancesStatus(update) => &update.instances,
                FromSm::NodeInstancesStatus(list) => &list.instances,
                _ => continue,
            };
            for status in list.iter().filter(|s| s.instance.as_ref().is_some_and(|i| i.instance == instance))
            {
                let entry = (status.state.clone(), status.error.as_ref().map_or(0, |error| error.exit_code));
                if states.last() != Some(&entry) {
                    states.push(entry);
                }
            }
        }
        states
    }

    pub async fn send(&self, message: ToSm) {
        let stream = wait_for("a stream", || self.state().to_sm.clone()).await;
        stream.send(Ok(wire::SmIncomingMessages { sm_incoming_message: Some(message) })).await.unwrap();
    }

    pub async fn update(&self, start: Vec<wire::InstanceInfo>, stop: Vec<u64>) {
        let stop_instances = stop.into_iter().map(ident).collect();
        self.send(ToSm::UpdateInstances(wire::UpdateInstances { start_instances: start, stop_instances }))
            .await;
    }

    /// Waits until the newest status of an instance fits.
    pub async fn wait_status(
        &self,
        instance: u64,
        fits: impl Fn(&wire::InstanceStatus) -> bool,
    ) -> wire::InstanceStatus {
        let what = format!("status of {instance}");
        wait_for(&what, || self.state().statuses.get(&instance).filter(|status| fits(status)).cloned()).await
    }

    pub async fn wait_state(&self, instance: u64, state: &str) -> wire::InstanceStatus {
        self.wait_status(instance, |status| status.state == state).await
    }

    /// Waits for the answer to something.
    pub async fn wait_message<T>(&self, pick: impl Fn(&FromSm) -> Option<T>) -> T {
        wait_for("a message", || self.state().messages.iter().rev().find_map(&pick)).await
    }

    pub async fn wait_connected(&self) {
        wait_for("a connection", || self.state().to_sm.as_ref().map(|_| ())).await;
    }
}

/// Polls until there is a value; the test fails when there is none in time.
pub async fn wait_for<T>(what: &str, mut probe: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + LONG;
    loop {
        if let Some(value) = probe() {
            return value;
        }
        assert!(Instant::now() < deadline, "waited too long for {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

pub fn ident(instance: u64) -> v2::InstanceIdent {
    v2::InstanceIdent { item_id: "item".into(), subject_id: "subject".into(), instance, ..Default::default() }
}

#[tonic::async_trait]
impl SmService for Cm {
    type RegisterSMStream = Pin<Box<dyn Stream<Item = Result<wire::SmIncomingMessages, Status>> + Send>>;

    async fn register_sm(
        &self,
        request: Request<Streaming<wire::SmOutgoingMessages>>,
    ) -> Result<Response<Self::RegisterSMStream>, Status> {
        let mut incoming = request.into_inner();
        let (to_sm, from_test) = mpsc::channel(16);
        {
            let mut state = self.state();
            state.calls.push("RegisterSM".into());
            state.to_sm = Some(to_sm);
        }
        let cm = self.clone();
        tokio::spawn(async move {
            while let Some(Ok(message)) = incoming.next().await {
                let Some(message) = message.sm_outgoing_message else { continue };
                let mut state = cm.state();
                match &message {
                    FromSm::NodeInstancesStatus(list) => {
                        state.statuses.clear();
                        state.statuses.extend(
                            list.instances.iter().map(|s| (s.instance.as_ref().unwrap().instance, s.clone())),
                        );
                    }
                    FromSm::UpdateInstancesStatus(list) => {
                        state.statuses.extend(
                            list.instances.iter().map(|s| (s.instance.as_ref().unwrap().instance, s.clone())),
                        );
                    }
                    _ => {}
                }
                state.messages.push(message);
            }
            cm.state().to_sm = None;
        });
        Ok(Response::new(Box::pin(ReceiverStream::new(from_test))))
    }

    async fn get_blobs_infos(
        &self,
        request: Request<wire::BlobsInfosRequest>,
    ) -> Result<Response<wire::BlobsInfos>, Status> {
        let mut urls = Vec::new();
        for digest in request.into_inner().digests {
            let mut state = self.state();
            state.calls.push(format!("blob {digest}"));
            if state.hidden.contains(&digest) {
                return Err(Status::not_found("no such blob"));
            }
            urls.push(format!("file://{}", self.blobs.join(digest.trim_start_matches("sha256:")).display()));
        }
        Ok(Response::new(wire::BlobsInfos { urls }))
    }
}

#[tonic::async_trait]
impl NetworkService for Cm {
    type SubscribeInstanceNetworkUpdatesStream =
        Pin<Box<dyn Stream<Item = Result<wire::InstanceNetworkUpdateNotification, Status>> + Send>>;

    async fn get_node_network_params(
        &self,
        _: Request<wire::GetNodeNetworkParamsRequest>,
    ) -> Result<Response<wire::GetNodeNetworkParamsResponse>, Status> {
        self.state().calls.push("GetNodeNetworkParams".into());
        let (subnet, ip) = ("172.31.0.0/16".into(), "172.31.0.1".into());
        Ok(Response::new(wire::GetNodeNetworkParamsResponse { subnet, ip, vlan_id: 100, error: None }))
    }

    async fn allocate_instance_network(
        &self,
        request: Request<wire::AllocateInstanceNetworkRequest>,
    ) -> Result<Response<wire::AllocateInstanceNetworkResponse>, Status> {
        let data = request.into_inner().service_data.unwrap_or_default();
        let mut state = self.state();
        state.calls.push(format!("AllocateInstanceNetwork {}", data.hosts.join(",")));
        state.next_address += 1;
        Ok(Response::new(wire::AllocateInstanceNetworkResponse {
            subnet: "172.31.0.0/16".into(),
            ip: format!("172.31.0.{}", state.next_address + 1),
            dns_servers: vec!["10.1.1.1".into()],
            ..Default::default()
        }))
    }

    async fn release_instance_network(
        &self,
        _: Request<wire::ReleaseInstanceNetworkRequest>,
    ) -> Result<Response<wire::ReleaseInstanceNetworkResponse>, Status> {
        self.state().calls.push("ReleaseInstanceNetwork".into());
        Ok(Response::new(Default::default()))
    }

    async fn release_node_network(
        &self,
        _: Request<wire::ReleaseNodeNetworkRequest>,
    ) -> Result<Response<wire::ReleaseNodeNetworkResponse>, Status> {
        self.state().calls.push("ReleaseNodeNetwork".into());
        Ok(Response::new(Default::default()))
    }

    async fn subscribe_instance_network_updates(
        &self,
        _: Request<wire::SubscribeInstanceNetworkUpdatesRequest>,
    ) -> Result<Response<Self::SubscribeInstanceNetworkUpdatesStream>, Status> {
        Err(Status::unimplemented("not played"))
    }

    async fn sync_network_state(
        &self,
        request: Request<wire::SyncNetworkStateRequest>,
    ) -> Result<Response<wire::SyncNetworkStateResponse>, Status> {
        self.state().calls.push(format!("SyncNetworkState {}", request.into_inner().instances.len()));
        Ok(Response::new(Default::default()))
    }
}
