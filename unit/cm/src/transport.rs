//! Connections to the cloud by URL: TCP, and TLS for `https` and `wss`. Trust is `caCert` only.

use std::pin::pin;

use aos_tls::{DialedStream, IdentitySlot, Roots, TlsError};
use url::{Host, Url};

/// Why no connection stands.
#[derive(Debug, thiserror::Error)]
pub enum DialError {
    /// The URL has no host, or a scheme that is none of http, https, ws, wss.
    #[error("'{0}' is no URL that can be connected to")]
    Url(String),
    /// Nobody answers there, or not as it should.
    #[error(transparent)]
    Connect(#[from] aos_tls::DialError),
}

/// Makes connections with one set of roots and one identity.
#[derive(Clone)]
pub struct Dialer(aos_tls::Dialer);

impl Dialer {
    /// Connections that present what `identity` holds; an empty slot presents nothing.
    pub fn new(roots: &Roots, identity: &IdentitySlot) -> Result<Self, TlsError> {
        aos_tls::Dialer::new(roots.clone(), identity).map(Self)
    }

    /// Connects to the host of `url`.
    pub async fn dial(&self, url: &Url) -> Result<DialedStream, DialError> {
        let wrong = || DialError::Url(url.as_str().chars().take(200).collect());
        let secure = match url.scheme() {
            "https" | "wss" => true,
            "http" | "ws" => false,
            _ => return Err(wrong()),
        };
        let host = match url.host().ok_or_else(wrong)? {
            Host::Domain(name) => name.to_owned(),
            Host::Ipv4(address) => address.to_string(),
            Host::Ipv6(address) => address.to_string(),
        };
        let port = url.port_or_known_default().unwrap_or(if secure { 443 } else { 80 });
        let stream = if secure {
            self.0.connect(&host, port).await
        } else {
            aos_tls::connect_plain(&host, port).await
        };
        Ok(stream?)
    }
}

/// Does `work` over an HTTP connection, which lives only while it is polled too. What broke the connection is told
/// rather than what that did to the work.
pub async fn over<T, E: From<hyper::Error>>(
    connection: impl Future<Output = hyper::Result<()>>,
    work: impl Future<Output = Result<T, E>>,
) -> Result<T, E> {
    let (mut connection, mut work) = (pin!(connection), pin!(work));
    tokio::select! {
        result = &mut work => result,
        ended = &mut connection => {
            ended?;
            work.await
        }
    }
}
