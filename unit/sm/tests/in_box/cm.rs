//! The Communication Manager's side, played by the test.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use aos_tls::{Incoming, ListenerCounts, Protocol, grpc_server, peer_of};
use aos_unit_api::common::v2;
use aos_unit_api::servicemanager::v5 as wire;
use rustls::ServerConfig;
use tokio::sync::mpsc;
use tokio_stream::wrappers::{ReceiverStream, TcpListenerStream};
use tokio_stream::{Stream, StreamExt};
use tonic::{Request, Response, Status, Streaming};
use tower::util::MapRequestLayer;
use wire::network_service_server::{NetworkService, NetworkServiceServer};
use wire::sm_incoming_messages::SmIncomingMessage as ToSm;
use wire::sm_outgoing_messages::SmOutgoingMessage as FromSm;
use wire::sm_service_server::{SmService, SmServiceServer};

pub use crate::boxed::{PATIENCE, patience};

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
    /// Networks in the order they were asked for.
    networks: Vec<String>,
    addresses: BTreeMap<(String, u64), String>,
    /// Rules of instances by number.
    rules: BTreeMap<u64, Vec<wire::FirewallRule>>,
    updates: Option<mpsc::Sender<Result<wire::InstanceNetworkUpdateNotification, Status>>>,
    /// What the last comparison of networks listed.
    synced: Vec<wire::InstanceNetworkStateInfo>,
    /// Calls that find nobody.
    deaf: BTreeSet<String>,
    /// Calls that get no answer yet.
    held: BTreeSet<String>,
    /// Names in the certificates of those who opened streams; empty for who showed none.
    peers: Vec<String>,
    /// Paths of all requests, as they are on the wire.
    paths: BTreeSet<String>,
    /// Streams, the first kinds of messages on them and comparisons of networks, with their times.
    sequence: Vec<(Instant, &'static str)>,
}

impl State {
    /// Second number of a network's addresses: 31 for the first, then downwards.
    fn network(&mut self, id: &str) -> usize {
        let place = self.networks.iter().position(|known| known == id).unwrap_or_else(|| {
            self.networks.push(id.to_owned());
            self.networks.len() - 1
        });
        31 - place
    }

    fn hear(&self, call: &str) -> Result<(), Status> {
        if self.deaf.contains(call) { Err(Status::unavailable("nobody is there")) } else { Ok(()) }
    }
}

/// Handle of the played CM.
#[derive(Clone)]
pub struct Cm {
    state: Arc<Mutex<State>>,
    blobs: PathBuf,
    counts: Option<Arc<ListenerCounts>>,
    pub url: String,
}

impl Cm {
    /// The same, over TLS.
    pub async fn start_secure(blobs: PathBuf, tls: &Arc<ServerConfig>) -> Self {
        let incoming = Incoming::bind_tls("127.0.0.1:0", tls, Protocol::Grpc).await.unwrap();
        let (url, counts) = (incoming.local_addr().to_string(), Some(incoming.counts()));
        let cm = Self { state: Arc::default(), blobs, url, counts };
        let server = grpc_server()
            .add_service(SmServiceServer::new(cm.clone()))
            .add_service(NetworkServiceServer::new(cm.clone()));
        tokio::spawn(server.serve_with_incoming(incoming.into_stream()));
        cm
    }

    /// Serves on a free port; blobs lie in `blobs` under their hex digest.
    pub async fn start(blobs: PathBuf) -> Self {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = listener.local_addr().unwrap().to_string();
        let cm = Self { state: Arc::default(), blobs, url, counts: None };
        cm.serve(listener);
        cm
    }

    fn serve(&self, listener: tokio::net::TcpListener) {
        let state = Arc::clone(&self.state);
        let note = move |request: tonic::codegen::http::Request<tonic::body::Body>| {
            let path = request.uri().path().to_owned();
            state.lock().unwrap_or_else(PoisonError::into_inner).paths.insert(path);
            request
        };
        let server = tonic::transport::Server::builder()
            .layer(MapRequestLayer::new(note))
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

    /// Calls of this name fail from now on, or do not any more.
    pub fn deaf(&self, call: &str, deaf: bool) {
        let mut state = self.state();
        if deaf {
            state.deaf.insert(call.to_owned());
        } else {
            state.deaf.remove(call);
        }
    }

    /// Calls of this name get no answer until they are let go.
    pub fn hold(&self, call: &str, held: bool) {
        let mut state = self.state();
        if held {
            state.held.insert(call.to_owned());
        } else {
            state.held.remove(call);
        }
    }

    async fn held(&self, call: &str) {
        while self.state().held.contains(call) {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    /// What came in which order, and when.
    pub fn sequence(&self) -> Vec<(Instant, &'static str)> {
        self.state().sequence.clone()
    }

    /// Rules the next allocation of an instance is answered with.
    pub fn set_rules(&self, instance: u64, rules: Vec<wire::FirewallRule>) {
        self.state().rules.insert(instance, rules);
    }

    /// The address the next allocation of an instance is answered with.
    pub fn give_address(&self, network: &str, instance: u64, address: &str) {
        self.state().addresses.insert((network.to_owned(), instance), address.to_owned());
    }

    /// Sends rules to whoever subscribed.
    pub async fn push_rules(&self, instance: u64, rules: Vec<wire::FirewallRule>) {
        let stream = wait_for("a subscription", || self.state().updates.clone()).await;
        let update = wire::PendingFirewallUpdate { instance: Some(ident(instance)), firewall_rules: rules };
        let update = wire::instance_network_update_notification::Update::PendingFirewallUpdate(update);
        let notification = wire::InstanceNetworkUpdateNotification { update: Some(update) };
        stream.send(Ok(notification)).await.unwrap();
    }

    /// Ends the present subscription.
    pub fn end_subscription(&self) {
        self.state().updates = None;
    }

    /// What the last comparison of networks listed.
    pub fn synced(&self) -> Vec<wire::InstanceNetworkStateInfo> {
        self.state().synced.clone()
    }

    /// Paths of all requests so far, as they are on the wire.
    pub fn paths(&self) -> BTreeSet<String> {
        self.state().paths.clone()
    }

    /// Names in the certificates of those who opened streams; empty for who showed none.
    pub fn peers(&self) -> Vec<String> {
        self.state().peers.clone()
    }

    /// Connections that TLS has refused.
    pub fn refusals(&self) -> u64 {
        self.counts.iter().flat_map(|counts| counts.failures()).map(|(_, count)| count).sum()
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
    let deadline = Instant::now() + LONG * patience();
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
        let peer = peer_of(&request).and_then(|peer| peer.common_name.clone()).unwrap_or_default();
        let mut incoming = request.into_inner();
        let (to_sm, from_test) = mpsc::channel(16);
        {
            let mut state = self.state();
            state.sequence.push((Instant::now(), "RegisterSM"));
            state.hear("RegisterSM")?;
            state.calls.push("RegisterSM".into());
            state.peers.push(peer);
            state.to_sm = Some(to_sm);
        }
        let cm = self.clone();
        tokio::spawn(async move {
            while let Some(Ok(message)) = incoming.next().await {
                let Some(message) = message.sm_outgoing_message else { continue };
                let mut state = cm.state();
                match &message {
                    FromSm::SmInfo(_) => state.sequence.push((Instant::now(), "SmInfo")),
                    FromSm::NodeInstancesStatus(list) => {
                        state.sequence.push((Instant::now(), "NodeInstancesStatus"));
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
        self.held("GetBlobsInfos").await;
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
        request: Request<wire::GetNodeNetworkParamsRequest>,
    ) -> Result<Response<wire::GetNodeNetworkParamsResponse>, Status> {
        let mut state = self.state();
        state.calls.push("GetNodeNetworkParams".into());
        let second = state.network(&request.into_inner().network_id);
        let (subnet, ip) = (format!("172.{second}.0.0/16"), format!("172.{second}.0.1"));
        let vlan_id = 131 - second as u64;
        Ok(Response::new(wire::GetNodeNetworkParamsResponse { subnet, ip, vlan_id, error: None }))
    }

    async fn allocate_instance_network(
        &self,
        request: Request<wire::AllocateInstanceNetworkRequest>,
    ) -> Result<Response<wire::AllocateInstanceNetworkResponse>, Status> {
        let request = request.into_inner();
        let data = request.service_data.unwrap_or_default();
        self.held("AllocateInstanceNetwork").await;
        let mut state = self.state();
        state.hear("AllocateInstanceNetwork")?;
        state.calls.push(format!("AllocateInstanceNetwork {}", data.hosts.join(",")));
        let second = state.network(&request.network_id);
        let instance = request.instance.unwrap_or_default().instance;
        let key = (request.network_id, instance);
        let known = state.addresses.get(&key).cloned();
        let ip = known.unwrap_or_else(|| {
            state.next_address += 1;
            format!("172.{second}.0.{}", state.next_address + 1)
        });
        state.addresses.insert(key, ip.clone());
        Ok(Response::new(wire::AllocateInstanceNetworkResponse {
            subnet: format!("172.{second}.0.0/16"),
            ip,
            dns_servers: vec!["10.1.1.1".into()],
            firewall_rules: state.rules.get(&instance).cloned().unwrap_or_default(),
            error: None,
        }))
    }

    async fn release_instance_network(
        &self,
        request: Request<wire::ReleaseInstanceNetworkRequest>,
    ) -> Result<Response<wire::ReleaseInstanceNetworkResponse>, Status> {
        let mut state = self.state();
        state.hear("ReleaseInstanceNetwork")?;
        let instance = request.into_inner().instance.unwrap_or_default().instance;
        state.addresses.retain(|(_, known), _| *known != instance);
        state.calls.push("ReleaseInstanceNetwork".into());
        Ok(Response::new(Default::default()))
    }

    async fn release_node_network(
        &self,
        _: Request<wire::ReleaseNodeNetworkRequest>,
    ) -> Result<Response<wire::ReleaseNodeNetworkResponse>, Status> {
        let mut state = self.state();
        state.hear("ReleaseNodeNetwork")?;
        state.calls.push("ReleaseNodeNetwork".into());
        Ok(Response::new(Default::default()))
    }

    async fn subscribe_instance_network_updates(
        &self,
        _: Request<wire::SubscribeInstanceNetworkUpdatesRequest>,
    ) -> Result<Response<Self::SubscribeInstanceNetworkUpdatesStream>, Status> {
        let (updates, stream) = mpsc::channel(16);
        self.state().updates = Some(updates);
        Ok(Response::new(Box::pin(ReceiverStream::new(stream))))
    }

    async fn sync_network_state(
        &self,
        request: Request<wire::SyncNetworkStateRequest>,
    ) -> Result<Response<wire::SyncNetworkStateResponse>, Status> {
        let instances = request.into_inner().instances;
        self.state().sequence.push((Instant::now(), "SyncNetworkState"));
        self.held("SyncNetworkState").await;
        let mut state = self.state();
        state.calls.push(format!("SyncNetworkState {}", instances.len()));
        state.synced = instances;
        Ok(Response::new(Default::default()))
    }
}
