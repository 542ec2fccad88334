//! gRPC channels and servers with the settings all components share, and the bare TLS connection below.
//!
//! Keepalive is the pattern of all peers on a Unit: clients ping every 10 s, also without calls, and give
//! up after 3 s; servers answer pings however early. Windows are small: no message of ours is large.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use http::Uri;
use hyper_util::rt::TokioIo;
use rustls::ClientConfig;
use rustls_pki_types::ServerName;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tonic::transport::{Channel, Endpoint, Server};

use crate::TlsError;

/// Flow control window of a stream and of a connection, bytes.
const WINDOW: u32 = 64 * 1024;
/// Time for TCP connection and handshake together.
const CONNECT_TIME: Duration = Duration::from_secs(10);
/// Requests that may wait in a channel.
const CHANNEL_QUEUE: usize = 16;

/// Client side of a TLS connection.
pub type ClientTlsStream = tokio_rustls::client::TlsStream<TcpStream>;

/// Connects and shakes hands, at most 10 s. `server_name` is the name to verify and to send, without port.
pub async fn connect_tcp_tls(
    host: &str,
    port: u16,
    config: Arc<ClientConfig>,
    server_name: &str,
) -> Result<ClientTlsStream, TlsError> {
    let name = name_of(server_name)?;
    let address = format!("{host}:{port}");
    match tokio::time::timeout(CONNECT_TIME, connect(host.to_owned(), port, config, name)).await {
        Ok(Ok(stream)) => Ok(stream),
        Ok(Err(source)) => Err(TlsError::Connect { address, source }),
        Err(_) => Err(TlsError::ConnectTimeout { address, seconds: CONNECT_TIME.as_secs() }),
    }
}

async fn connect(
    host: String,
    port: u16,
    config: Arc<ClientConfig>,
    name: ServerName<'static>,
) -> io::Result<ClientTlsStream> {
    let stream = connect_tcp(host, port).await?;
    TlsConnector::from(config).connect(name, stream).await
}

async fn connect_tcp(host: String, port: u16) -> io::Result<TcpStream> {
    let stream = TcpStream::connect((host.as_str(), port)).await?;
    stream.set_nodelay(true)?;
    Ok(stream)
}

/// A channel to `host:port` or `unix:/path` over TLS. It connects with the first call and again whenever a call finds it
/// broken; a connection that does not stand within 10 s fails the call.
pub fn grpc_channel(address: &str, config: &Arc<ClientConfig>) -> Result<Channel, TlsError> {
    if let Some(path) = crate::unix_path(address) {
        return Ok(crate::unix::channel(path, Some(config), &endpoint("https", "localhost")?));
    }
    let (host, port) = split(address)?;
    let name = name_of(&host)?;
    let mut config = ClientConfig::clone(config);
    config.alpn_protocols = vec![b"h2".to_vec()];
    let config = Arc::new(config);
    let connector = tower::service_fn(move |_: Uri| {
        let connecting = connect(host.clone(), port, Arc::clone(&config), name.clone());
        async move { connecting.await.map(TokioIo::new) }
    });
    Ok(endpoint("https", address)?.connect_with_connector_lazy(connector))
}

/// A channel to `host:port` or `unix:/path` without TLS: provisioning mode and tests.
pub fn plain_grpc_channel(address: &str) -> Result<Channel, TlsError> {
    if let Some(path) = crate::unix_path(address) {
        return Ok(crate::unix::channel(path, None, &endpoint("http", "localhost")?));
    }
    let (host, port) = split(address)?;
    let connector = tower::service_fn(move |_: Uri| {
        let connecting = connect_tcp(host.clone(), port);
        async move { connecting.await.map(TokioIo::new) }
    });
    Ok(endpoint("http", address)?.connect_with_connector_lazy(connector))
}

/// A gRPC server with the shared settings; add services and `serve_with_incoming(incoming.into_stream())`.
pub fn grpc_server() -> Server {
    Server::builder()
        .initial_stream_window_size(WINDOW)
        .initial_connection_window_size(WINDOW)
        .max_concurrent_streams(64)
        .http2_keepalive_interval(Some(Duration::from_secs(30)))
        .http2_keepalive_timeout(Some(Duration::from_secs(10)))
        .http2_max_header_list_size(16 * 1024)
}

fn endpoint(scheme: &str, address: &str) -> Result<Endpoint, TlsError> {
    let wrong = || TlsError::Address { address: address.to_owned() };
    let origin: Uri = format!("{scheme}://{address}").parse().map_err(|_| wrong())?;
    Ok(Endpoint::from_shared(format!("http://{address}"))
        .map_err(|_| wrong())?
        .origin(origin)
        .connect_timeout(CONNECT_TIME)
        .initial_stream_window_size(WINDOW)
        .initial_connection_window_size(WINDOW)
        .buffer_size(CHANNEL_QUEUE)
        .http2_keep_alive_interval(Duration::from_secs(10))
        .keep_alive_timeout(Duration::from_secs(3))
        .keep_alive_while_idle(true))
}

/// Splits `host:port`; an IPv6 host stands in brackets.
fn split(address: &str) -> Result<(String, u16), TlsError> {
    let wrong = || TlsError::Address { address: address.to_owned() };
    let (host, port) = address.rsplit_once(':').ok_or_else(wrong)?;
    let host = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
    if host.is_empty() {
        return Err(wrong());
    }
    Ok((host.to_owned(), port.parse().map_err(|_| wrong())?))
}

fn name_of(host: &str) -> Result<ServerName<'static>, TlsError> {
    ServerName::try_from(host.to_owned()).map_err(|_| TlsError::HostName { name: host.to_owned() })
}
