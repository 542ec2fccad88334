//! A cloud on free ports, clients with real certificates, and a scripted Unit.

#![allow(dead_code, reason = "each test file uses its part")]

pub mod client;
pub mod operator;
pub mod schema;
pub mod unit;

use std::path::{Path, PathBuf};
use std::time::Duration;

use aos_cloud::{Cloud, Endpoints, RunOptions, UnitCertificates, UnitLimits};
use aos_logging::Level;
use aos_supervise::Shutdown;
use tokio::task::JoinHandle;

/// No step of a test takes longer.
pub const LIMIT: Duration = Duration::from_secs(20);

/// A cloud in this process.
pub struct TestCloud {
    dir: tempfile::TempDir,
    running: Option<(Shutdown, JoinHandle<anyhow::Result<()>>)>,
    endpoints: Endpoints,
}

pub fn options(data: &Path) -> RunOptions {
    RunOptions {
        data: data.to_owned(),
        listen_units: "127.0.0.1:0".to_owned(),
        listen_api: "127.0.0.1:0".to_owned(),
        listen_blobs: "127.0.0.1:0".to_owned(),
        public_host: vec!["localhost".to_owned()],
        listen_metrics: Some("127.0.0.1:0".to_owned()),
        log_level: Level::Info,
        workers: 2,
        drain_time: 0,
        certificates: UnitCertificates::default(),
        limits: UnitLimits::default(),
    }
}

impl TestCloud {
    pub async fn start() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let (running, endpoints) = start(&dir.path().join("data")).await;
        Self { dir, running: Some(running), endpoints }
    }

    /// Stops in order and starts again on the same data and ports.
    pub async fn restart(&mut self) {
        self.stop().await;
        let before = self.endpoints.clone();
        let (running, endpoints) = start(&self.data()).await;
        let where_units_look = |it: &Endpoints| (it.units.clone(), it.api.clone(), it.blobs.clone());
        assert_eq!(
            where_units_look(&endpoints),
            where_units_look(&before),
            "a restarted cloud is where it was"
        );
        self.running = Some(running);
    }

    pub async fn stop(&mut self) {
        if let Some((shutdown, task)) = self.running.take() {
            shutdown.trigger();
            tokio::time::timeout(LIMIT, task).await.unwrap().unwrap().unwrap();
        }
    }

    pub fn data(&self) -> PathBuf {
        self.dir.path().join("data")
    }

    pub fn endpoints(&self) -> &Endpoints {
        &self.endpoints
    }
}

async fn start(data: &Path) -> ((Shutdown, JoinHandle<anyhow::Result<()>>), Endpoints) {
    let shutdown = Shutdown::new();
    let cloud = Cloud::start(&options(data), shutdown.clone()).await.unwrap();
    let endpoints = cloud.endpoints().clone();
    let task = tokio::spawn(cloud.run(Duration::from_secs(2)));
    ((shutdown, task), endpoints)
}

impl Drop for TestCloud {
    fn drop(&mut self) {
        if let Some((shutdown, _)) = &self.running {
            shutdown.trigger();
        }
    }
}
