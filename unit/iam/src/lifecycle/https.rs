//! One HTTPS exchange: a JSON body there, a JSON body back. One connection each; at most 30 s.

use std::net::IpAddr;
use std::time::Duration;

use aos_recovery_protocol::{MAX_BODY, Refusal};
use aos_tls::{HostCheck, IdentitySlot, Roots, TimeBasis};
use http_body_util::{BodyExt, Full, Limited};
use hyper_util::rt::TokioIo;
use serde::Serialize;
use serde::de::DeserializeOwned;
use url::{Host, Url};

use crate::Error;

const EXCHANGE_TIME: Duration = Duration::from_secs(30);

/// Sends `body` to `path` of the server and reads its answer. The server is verified against `roots` at the
/// time of `basis`; its name as well, except on this very host.
pub async fn post<A: DeserializeOwned>(
    server: &Url,
    path: &str,
    body: &impl Serialize,
    roots: &Roots,
    basis: TimeBasis,
) -> Result<A, Error> {
    let exchange = exchange(server, path, body, roots, basis);
    let late = |_| Error::Timeout(format!("{server} did not answer in time"));
    let answer = tokio::time::timeout(EXCHANGE_TIME, exchange).await.map_err(late)??;
    serde_json::from_slice(&answer).map_err(|error| {
        // The complaint may quote what was read.
        let why: String = error.to_string().chars().take(200).collect();
        Error::Failed(format!("the answer of {server} makes no sense: {why}"))
    })
}

async fn exchange(
    server: &Url,
    path: &str,
    body: &impl Serialize,
    roots: &Roots,
    basis: TimeBasis,
) -> Result<hyper::body::Bytes, Error> {
    let failed = |doing: &str, why: &dyn std::error::Error| {
        Error::Failed(format!("cannot {doing} {server}: {}", aos_logging::with_causes(why)))
    };
    let (host, local) = match server.host() {
        Some(Host::Domain(name)) => (name.to_owned(), name == "localhost"),
        Some(Host::Ipv4(address)) => (address.to_string(), IpAddr::V4(address).is_loopback()),
        Some(Host::Ipv6(address)) => (address.to_string(), IpAddr::V6(address).is_loopback()),
        None => return Err(Error::InvalidArgument(format!("'{server}' names no host"))),
    };
    let port = server.port_or_known_default().unwrap_or(aos_recovery_protocol::DEFAULT_PORT);
    let check = if local { HostCheck::ChainOnly } else { HostCheck::Verify };
    let config = aos_tls::client_config_at(basis, roots.clone(), IdentitySlot::new(), check)
        .map_err(|error| failed("prepare a connection to", &error))?;
    let stream = aos_tls::connect_tcp_tls(&host, port, config, &host)
        .await
        .map_err(|error| failed("connect to", &error))?;
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
        .await
        .map_err(|error| failed("speak with", &error))?;
    let mut connection = std::pin::pin!(connection);
    let text = serde_json::to_vec(body).map_err(|error| failed("write a request for", &error))?;
    let request = http::Request::post(path)
        .header("host", format!("{host}:{port}"))
        .header("content-type", "application/json")
        .header("connection", "close")
        .body(Full::new(hyper::body::Bytes::from(text)))
        .map_err(|error| failed("write a request for", &error))?;
    let work = async {
        let response =
            sender.send_request(request).await.map_err(|error| failed("send a request to", &error))?;
        let status = response.status();
        let body = Limited::new(response.into_body(), MAX_BODY).collect().await;
        let body = body.map_err(|error| failed("read the answer of", error.as_ref()))?.to_bytes();
        if status.is_success() {
            return Ok(body);
        }
        let refusal: Refusal = serde_json::from_slice(&body).unwrap_or_default();
        let why: String = refusal.message.chars().filter(|c| !c.is_control()).take(200).collect();
        Err(Error::Failed(format!("{server} answered {status}: {why}")))
    };
    let mut work = std::pin::pin!(work);
    tokio::select! {
        result = &mut work => result,
        ended = &mut connection => {
            ended.map_err(|error| failed("speak with", &error))?;
            work.await
        }
    }
}
