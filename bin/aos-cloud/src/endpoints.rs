//! Where the cloud listens, as `endpoints.json` tells scripts and the next start.

use std::net::SocketAddr;
use std::path::Path;

use anyhow::Context as _;
use serde_json::{Value, json};

const MAX_FILE: u64 = 64 * 1024;

/// Addresses of a running cloud.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Endpoints {
    /// Discovery and WebSocket, `host:port`.
    pub units: String,
    /// REST API, `host:port`.
    pub api: String,
    /// Blob downloads, `host:port`.
    pub blobs: String,
    /// Metrics, `address:port`, when they are told.
    pub metrics: Option<String>,
    /// Service discovery address in the certificates of Units.
    pub discovery_url: String,
}

impl Endpoints {
    /// Stores them, so that a reader sees all or nothing.
    pub(crate) fn write(&self, path: &Path) -> anyhow::Result<()> {
        let text = json!({
            "pid": std::process::id(),
            "units": self.units,
            "api": self.api,
            "blobs": self.blobs,
            "metrics": self.metrics,
            "discovery_url": self.discovery_url,
        });
        aos_durable::write_atomic(path, format!("{text:#}\n").as_bytes(), 0o644)?;
        Ok(())
    }
}

/// The addresses of the last run; nothing when there was none or its file is damaged.
pub(crate) fn last(path: &Path) -> Value {
    let bytes = aos_durable::read_bounded(path, MAX_FILE).ok().flatten();
    bytes.and_then(|bytes| serde_json::from_slice(&bytes).ok()).unwrap_or_default()
}

/// `asked`, or with port 0 the port that `key` had in the last run: addresses in the certificates of Units
/// stay good.
pub(crate) fn with_last_port(asked: &str, last: &Value, key: &str) -> Option<String> {
    let host = asked.strip_suffix(":0")?;
    let (_, port) = last.get(key)?.as_str()?.rsplit_once(':')?;
    Some(format!("{host}:{port}"))
}

/// Where a local client reaches a listener.
pub(crate) fn reachable(local: SocketAddr, domain: &str) -> String {
    if local.ip().is_unspecified() { authority(domain, local.port()) } else { local.to_string() }
}

/// `host:port` of a URL.
pub(crate) fn authority(host: &str, port: u16) -> String {
    if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") }
}

/// Creates the data folder.
pub(crate) fn prepare(data: &Path) -> anyhow::Result<()> {
    aos_durable::create_dir(data, 0o700).with_context(|| format!("cannot use {}", data.display()))
}
