//! From nothing to an open WebSocket: discovery when there is no address left, then the addresses in turn.

use std::collections::VecDeque;
use std::time::Duration;

use aos_cloud_protocol::MAX_FRAME;
use aos_cloud_protocol::discovery::Verdict;
use aos_ids::SystemId;
use aos_tls::DialedStream;
use http::Uri;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::ClientRequestBuilder;
use tokio_tungstenite::tungstenite::error::Error as WsError;
use tokio_tungstenite::tungstenite::protocol::WebSocketConfig;
use url::Url;

use super::discovery::{self, AskError, Configured};
use crate::transport::{DialError, Dialer};

/// Bytes read from a connection at once; bigger messages grow their own buffer.
const READ_BUFFER: usize = 4 * 1024;
/// Bytes that may wait to be written.
const MAX_WRITE_BUFFER: usize = 2 * MAX_FRAME;
/// Time for the upgrade.
const UPGRADE_TIME: Duration = Duration::from_secs(30);
/// Addresses that are kept of one answer.
const MAX_ADDRESSES: usize = 8;
/// Discovery servers asked in one attempt, when each names another.
const MAX_HOPS: usize = 4;

/// An open link.
pub type Socket = WebSocketStream<DialedStream>;

/// Why no link stands.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// Discovery failed.
    #[error("discovery at {url}")]
    Discovery {
        /// Where.
        url: String,
        /// Why.
        #[source]
        source: AskError,
    },
    /// No URL to ask.
    #[error(transparent)]
    NoUrl(AskError),
    /// The cloud asks to come later.
    #[error("the cloud asks to repeat discovery later")]
    Later(Duration),
    /// The cloud refuses, or names no address.
    #[error("the cloud names no address to connect to")]
    NoAddress,
    /// The address cannot be used.
    #[error("'{0}' is no WebSocket address")]
    Address(String),
    /// No connection.
    #[error("connecting to {url}")]
    Dial {
        /// Where.
        url: String,
        /// Why.
        #[source]
        source: DialError,
    },
    /// The upgrade failed.
    #[error("opening the WebSocket {url}")]
    Upgrade {
        /// Where.
        url: String,
        /// Why.
        #[source]
        source: Box<WsError>,
    },
    /// The upgrade took too long.
    #[error("the WebSocket {0} did not open in time")]
    Timeout(String),
}

/// What is remembered between attempts.
pub struct Connector {
    dialer: Dialer,
    configured: Configured,
    redirected: VecDeque<Url>,
    addresses: VecDeque<String>,
    token: String,
    /// First delay of the back-off, as the cloud wishes.
    delay: Option<Duration>,
}

impl Connector {
    /// A connector without any address yet.
    pub fn new(dialer: Dialer, configured: Configured) -> Self {
        Self {
            dialer,
            configured,
            redirected: VecDeque::new(),
            addresses: VecDeque::new(),
            token: String::new(),
            delay: None,
        }
    }

    /// The first delay that the cloud wishes between attempts.
    pub fn delay(&self) -> Option<Duration> {
        self.delay
    }

    /// Forgets what discovery said, as after a change of the certificate.
    pub fn forget(&mut self) {
        self.addresses.clear();
        self.redirected.clear();
        self.token.clear();
        self.delay = None;
    }

    /// The address of the last link is not to be used again before the next discovery.
    pub fn leave_address(&mut self) {
        self.addresses.pop_front();
    }

    /// One attempt. An address that fails is not tried again before the next discovery; one that worked stays
    /// the first.
    pub async fn connect(
        &mut self,
        system_id: &SystemId,
        leaf: Option<&[u8]>,
    ) -> Result<(Socket, String), ConnectError> {
        if self.addresses.is_empty() {
            self.discover(system_id, leaf).await?;
        }
        let address = self.addresses.front().cloned().ok_or(ConnectError::NoAddress)?;
        match self.open(&address).await {
            Ok(socket) => Ok((socket, address)),
            Err(error) => {
                self.addresses.pop_front();
                if let ConnectError::Upgrade { source, .. } = &error
                    && matches!(source.as_ref(), WsError::Http(answer) if answer.status() == http::StatusCode::UNAUTHORIZED)
                {
                    self.forget();
                }
                Err(error)
            }
        }
    }

    async fn discover(&mut self, system_id: &SystemId, leaf: Option<&[u8]>) -> Result<(), ConnectError> {
        for _ in 0..MAX_HOPS {
            let url = match self.redirected.pop_front() {
                Some(url) => url,
                None => discovery::choose(&self.configured, leaf).map_err(ConnectError::NoUrl)?,
            };
            let response = discovery::ask(&self.dialer, &url, system_id)
                .await
                .map_err(|source| ConnectError::Discovery { url: url.to_string(), source })?;
            self.delay = response.delay();
            self.token.clone_from(&response.auth_token);
            match response.verdict() {
                Verdict::Connect(addresses) => {
                    self.addresses = addresses.into_iter().take(MAX_ADDRESSES).collect();
                    return Ok(());
                }
                Verdict::Redirect(urls) => {
                    let urls = urls.iter().filter_map(|url| Url::parse(url).ok());
                    self.redirected = urls.take(MAX_ADDRESSES).collect();
                }
                Verdict::RepeatLater(delay) => return Err(ConnectError::Later(delay)),
                Verdict::Failed => return Err(ConnectError::NoAddress),
            }
        }
        self.redirected.clear();
        Err(ConnectError::NoAddress)
    }

    async fn open(&self, address: &str) -> Result<Socket, ConnectError> {
        let wrong = || ConnectError::Address(address.chars().take(200).collect());
        let url = Url::parse(address).map_err(|_| wrong())?;
        let stream = self
            .dialer
            .dial(&url)
            .await
            .map_err(|source| ConnectError::Dial { url: address.to_owned(), source })?;
        let scheme = if matches!(url.scheme(), "https" | "wss") { "wss" } else { "ws" };
        let uri: Uri =
            format!("{scheme}{}", &url.as_str()[url.scheme().len()..]).parse().map_err(|_| wrong())?;
        let mut request = ClientRequestBuilder::new(uri);
        if !self.token.is_empty() {
            request = request.with_header("Authorization", format!("Bearer {}", self.token));
        }
        let config = WebSocketConfig::default()
            .read_buffer_size(READ_BUFFER)
            .write_buffer_size(0)
            .max_write_buffer_size(MAX_WRITE_BUFFER)
            .max_message_size(Some(MAX_FRAME))
            .max_frame_size(Some(MAX_FRAME));
        let upgrade = tokio_tungstenite::client_async_with_config(request, stream, Some(config));
        match tokio::time::timeout(UPGRADE_TIME, upgrade).await {
            Ok(Ok((socket, _))) => Ok(socket),
            Ok(Err(source)) => {
                Err(ConnectError::Upgrade { url: address.to_owned(), source: Box::new(source) })
            }
            Err(_) => Err(ConnectError::Timeout(address.to_owned())),
        }
    }
}
