//! The metrics listener: `GET /metrics` in plain HTTP, for Prometheus next door.

use std::net::SocketAddr;

use anyhow::Context as _;
use aos_cloud_metrics::{CONTENT_TYPE, Metrics};
use aos_supervise::Shutdown;
use axum::Router;
use axum::http::header::CONTENT_TYPE as HEADER;
use axum::routing::get;
use tokio::net::TcpListener;

/// A bound listener.
pub(crate) struct MetricsListener {
    listener: TcpListener,
    address: SocketAddr,
}

impl MetricsListener {
    pub(crate) async fn bind(address: &str) -> anyhow::Result<Self> {
        let listener = TcpListener::bind(address).await;
        let listener = listener.with_context(|| format!("cannot listen for metrics on {address}"))?;
        let address = listener.local_addr().context("cannot tell the address of the metrics")?;
        Ok(Self { listener, address })
    }

    pub(crate) fn local_addr(&self) -> SocketAddr {
        self.address
    }

    /// Answers until `stop`; scrapes under way are cut off then.
    pub(crate) async fn serve(self, metrics: Metrics, stop: Shutdown) {
        let answer = move || async move { ([(HEADER, CONTENT_TYPE)], metrics.render()) };
        let routes = Router::new().route("/metrics", get(answer));
        tokio::select! {
            ended = axum::serve(self.listener, routes) => {
                if let Err(error) = ended {
                    tracing::error!("metrics are not told any more: {error}");
                }
            }
            () = stop.wait() => {}
        }
    }
}
