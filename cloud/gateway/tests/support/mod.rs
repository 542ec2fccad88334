//! A gateway with its listener, a store and Units, and handlers that a test holds in its hand.

#![allow(dead_code, reason = "each test file uses its part")]

use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use aos_cloud_broker::{Answer, Broker, Inbound, Outcome};
use aos_cloud_gateway::{Gateway, Settings};
use aos_cloud_handlers::{Addresses, Flows};
use aos_cloud_listener::{Limits, Listener};
use aos_cloud_metrics::Metrics;
use aos_cloud_pki::{Domain, Pki};
use aos_cloud_protocol::{Body, MessageType};
use aos_cloud_store::{Store, now_micros};
use aos_sim::{Fleet, Target, Unit, full_status};
use aos_supervise::Shutdown;
use aos_tls::{ClientAuth, server_config};
use rustls::RootCertStore;
use rustls::sign::CertifiedKey;
use tokio::sync::mpsc;

/// No step of a test takes longer.
pub const LIMIT: Duration = Duration::from_secs(30);

pub struct World {
    pub gateway: Gateway,
    pub store: Store,
    pub fleet: Fleet,
    pub target: Target,
    /// Messages of Units, for the test to handle.
    pub messages: mpsc::Receiver<Inbound>,
    stop: Shutdown,
    _dir: tempfile::TempDir,
}

pub fn limits() -> Limits {
    Limits {
        handshakes: 64,
        handshakes_per_address: 64,
        connections: 1024,
        handshake_time: Duration::from_secs(10),
        ..Limits::default()
    }
}

impl World {
    pub async fn start(units: usize, settings: Settings) -> Self {
        Self::start_with(units, settings, limits(), 256, LIMIT).await
    }

    pub async fn start_with(
        units: usize,
        settings: Settings,
        limits: Limits,
        queue: usize,
        header_time: Duration,
    ) -> Self {
        let dir = tempfile::tempdir().unwrap();
        Fleet::prepare(dir.path(), units).await.unwrap();
        let fleet = Fleet::open(dir.path()).unwrap();
        let pki = Arc::new(pki(dir.path()));
        let store = Store::open(&dir.path().join("cloud.db")).unwrap();
        let listener = listen(&pki, limits).await.with_header_time(header_time);
        let target = Target { host: "127.0.0.1".to_owned(), port: listener.local_addr().port() };
        let addresses = Addresses {
            blobs: "https://localhost:1".to_owned(),
            discovery: "https://localhost:1/".to_owned(),
        };
        let flows = Flows::new(store.clone(), Arc::clone(&pki), addresses);
        let mut broker = Broker::new();
        let messages = broker.route(MessageType::ALL, queue);
        let metrics = Metrics::new();
        metrics.show_listener(listener.counts());
        let url = format!("wss://localhost:{}/ws/v7/", target.port);
        let gateway = Gateway::new(store.clone(), flows, broker, &pki, url, settings, metrics);
        let stop = Shutdown::new();
        tokio::spawn(listener.serve(gateway.routes(), stop.clone(), Duration::ZERO));
        Self { gateway, store, fleet, target, messages, stop, _dir: dir }
    }

    /// Connects Unit `number`; its full status waits for a handler.
    pub async fn connect(&self, number: usize) -> Unit {
        let identity = self.fleet.identity(number).unwrap();
        Unit::connect(&self.target, identity, full_status(1).unwrap()).await.unwrap()
    }

    /// Takes the messages over: each is done at once.
    pub fn handle_all(&mut self) {
        self.handle(|_| vec![]);
    }

    /// Takes the messages over: each is done at once, with these answers.
    pub fn handle(&mut self, answers: impl Fn(&Body) -> Vec<Answer> + Send + 'static) {
        let mut messages = std::mem::replace(&mut self.messages, mpsc::channel(1).1);
        tokio::spawn(async move {
            while let Some(inbound) = messages.recv().await {
                let (_, envelope, finish) = inbound.into_parts();
                finish.tell(Outcome::Done(answers(&envelope.body)));
            }
        });
    }

    /// All values of the metrics by series.
    pub fn metrics(&self) -> HashMap<String, f64> {
        let text = self.gateway.metrics().render();
        let lines = text.lines().filter(|line| !line.starts_with('#'));
        lines
            .filter_map(|line| line.rsplit_once(' '))
            .map(|(name, value)| (name.to_owned(), value.parse().unwrap()))
            .collect()
    }

    pub fn metric(&self, series: &str) -> f64 {
        self.metrics()[series]
    }

    /// Waits until a series has at least this value.
    pub async fn metric_reaches(&self, series: &str, value: f64) {
        until(series, || self.metric(series) >= value).await;
    }
}

impl Drop for World {
    fn drop(&mut self) {
        self.stop.trigger();
    }
}

/// Waits for a condition.
pub async fn until(what: &str, condition: impl Fn() -> bool) {
    let wait = async {
        while !condition() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(LIMIT, wait).await.unwrap_or_else(|_| panic!("{what}"));
}

fn pki(data: &Path) -> Pki {
    let hosts = ["localhost", "127.0.0.1", "::1"].map(str::to_owned);
    Pki::open(&data.join("pki"), &hosts, now_micros() / 1_000_000).unwrap()
}

async fn listen(pki: &Pki, limits: Limits) -> Listener {
    let server = pki.server_certificate(now_micros() / 1_000_000).unwrap();
    let key = aos_tls::provider().key_provider.load_private_key(server.key).unwrap();
    let mut anchors = RootCertStore::empty();
    anchors.add(pki.client_anchor(Domain::Units).clone()).unwrap();
    let identity = Arc::new(CertifiedKey::new(server.chain, key));
    let config = server_config(identity, ClientAuth::Required(Arc::new(anchors))).unwrap();
    Listener::bind("units", "127.0.0.1:0", &config, limits).await.unwrap()
}
