//! The WebSocket upgrade and the socket of a session.
//!
//! The upgrade is made by hand: upstream Units compare the whole value of `Connection`, and closing after an
//! oversized frame needs the raw stream, or the reset caused by unread bytes would overtake our close frame.

use std::time::Duration;

use aos_cloud_protocol::MAX_FRAME;
use axum::body::Body;
use axum::extract::{Request, State};
use axum::response::{IntoResponse as _, Response};
use bytes::Bytes;
use futures_util::{SinkExt as _, StreamExt as _};
use http::header::{CONNECTION, SEC_WEBSOCKET_ACCEPT, SEC_WEBSOCKET_KEY, SEC_WEBSOCKET_VERSION, UPGRADE};
use http::{HeaderMap, HeaderName, StatusCode};
use hyper::upgrade::Upgraded;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;
use tokio_tungstenite::tungstenite::protocol::{CloseFrame, Role, WebSocketConfig};
use tokio_tungstenite::tungstenite::{Error, Message};

use crate::Gateway;
use crate::admission::Admitted;

const BUFFER: usize = 4 * 1024;
const MAX_WRITE_BUFFER: usize = 2 * MAX_FRAME;
/// A Unit that does not take a frame in this time is gone.
const SEND_TIME: Duration = Duration::from_secs(20);
/// Time to say goodbye: a Unit in the middle of a long frame must have sent it before it sees our close.
const CLOSE_TIME: Duration = Duration::from_secs(3);
/// The same when the cloud stops.
const AWAY_TIME: Duration = Duration::from_millis(500);

pub(crate) async fn upgrade(
    State(gateway): State<Gateway>,
    admitted: Admitted,
    mut request: Request,
) -> Response {
    if gateway.inner.stop.is_triggered() {
        return (StatusCode::SERVICE_UNAVAILABLE, "the cloud is stopping").into_response();
    }
    let Some(accept) = accept_key(request.headers()) else {
        return (StatusCode::BAD_REQUEST, "this is no WebSocket upgrade of version 13").into_response();
    };
    let upgraded = hyper::upgrade::on(&mut request);
    let sessions = gateway.inner.sessions.clone();
    sessions.spawn(async move {
        match upgraded.await {
            Ok(upgraded) => {
                let mut config = WebSocketConfig::default();
                config.read_buffer_size = BUFFER;
                config.write_buffer_size = BUFFER;
                config.max_write_buffer_size = MAX_WRITE_BUFFER;
                config.max_frame_size = Some(MAX_FRAME);
                config.max_message_size = Some(MAX_FRAME);
                let stream = TokioIo::new(upgraded);
                let socket = WebSocketStream::from_raw_socket(stream, Role::Server, Some(config)).await;
                crate::session::run(&gateway, admitted, Socket { socket }).await;
            }
            Err(error) => tracing::info!(unit = admitted.system_id.as_str(), "no upgrade: {error}"),
        }
    });
    let answer = Response::builder()
        .status(StatusCode::SWITCHING_PROTOCOLS)
        .header(CONNECTION, "Upgrade")
        .header(UPGRADE, "websocket")
        .header(SEC_WEBSOCKET_ACCEPT, accept)
        .body(Body::empty());
    answer.unwrap_or_else(|_| StatusCode::BAD_REQUEST.into_response())
}

/// The key that proves that we understood the upgrade; nothing when it is none.
fn accept_key(headers: &HeaderMap) -> Option<String> {
    let text = |name: HeaderName| headers.get(name).and_then(|value| value.to_str().ok());
    let upgrades = text(CONNECTION)?.split(',').any(|word| word.trim().eq_ignore_ascii_case("upgrade"));
    let web_socket = text(UPGRADE)?.eq_ignore_ascii_case("websocket");
    let version = text(SEC_WEBSOCKET_VERSION)? == "13";
    let key = headers.get(SEC_WEBSOCKET_KEY)?;
    (upgrades && web_socket && version).then(|| derive_accept_key(key.as_bytes()))
}

/// Why a session ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum End {
    /// The Unit closed it, or the connection is lost.
    Peer(String),
    /// We close it, with this code and reason.
    Ours(CloseCode, &'static str),
}

/// What arrived.
pub(crate) enum Arrived {
    Frame(Bytes),
    Control,
}

pub(crate) struct Socket {
    socket: WebSocketStream<TokioIo<Upgraded>>,
}

impl Socket {
    /// The next frame. Cancel safe.
    pub(crate) async fn receive(&mut self) -> Result<Arrived, End> {
        match self.socket.next().await {
            None => Err(End::Peer("connection lost".to_owned())),
            Some(Ok(Message::Binary(bytes))) => Ok(Arrived::Frame(bytes)),
            Some(Ok(Message::Text(text))) => Ok(Arrived::Frame(text.into())),
            Some(Ok(Message::Ping(_) | Message::Pong(_) | Message::Frame(_))) => Ok(Arrived::Control),
            Some(Ok(Message::Close(frame))) => {
                let code = frame.map_or(CloseCode::Status, |frame| frame.code);
                Err(End::Peer(format!("closed with {code}")))
            }
            Some(Err(Error::Capacity(_))) => {
                Err(End::Ours(CloseCode::Size, "a message may have 16 MiB at most"))
            }
            Some(Err(Error::Protocol(error))) => {
                tracing::warn!("WebSocket protocol violated: {error}");
                Err(End::Ours(CloseCode::Protocol, "WebSocket protocol violated"))
            }
            Some(Err(error)) => Err(End::Peer(error.to_string())),
        }
    }

    pub(crate) async fn send(&mut self, bytes: Bytes) -> Result<(), End> {
        self.put(Message::Binary(bytes)).await
    }

    pub(crate) async fn ping(&mut self) -> Result<(), End> {
        self.put(Message::Ping(Bytes::from_static(b"aos"))).await
    }

    async fn put(&mut self, message: Message) -> Result<(), End> {
        match tokio::time::timeout(SEND_TIME, self.socket.send(message)).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(error)) => Err(End::Peer(error.to_string())),
            Err(_) => Err(End::Peer("the Unit takes no data".to_owned())),
        }
    }

    /// Closes with a code and waits shortly for the Unit to hang up.
    pub(crate) async fn close(mut self, code: CloseCode, reason: &'static str) {
        let time = if code == CloseCode::Away { AWAY_TIME } else { CLOSE_TIME };
        let goodbye = async {
            let frame = CloseFrame { code, reason: reason.into() };
            if self.socket.send(Message::Close(Some(frame))).await.is_err() {
                return;
            }
            let stream = self.socket.get_mut();
            let mut rest = [0; BUFFER];
            // Whatever the Unit still sends is thrown away.
            while matches!(stream.read(&mut rest).await, Ok(1..)) {}
            // The connection is dropped next; an error changes nothing.
            let _ = stream.shutdown().await;
        };
        // A Unit that does not hang up is cut off.
        let _ = tokio::time::timeout(time, goodbye).await;
    }
}
