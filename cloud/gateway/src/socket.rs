//! The WebSocket upgrade and the socket of a session.

use std::time::Duration;

use aos_cloud_protocol::MAX_FRAME;
use axum::extract::State;
use axum::extract::ws::{CloseFrame, Message, WebSocket, WebSocketUpgrade, close_code};
use axum::response::{IntoResponse as _, Response};
use bytes::Bytes;
use http::StatusCode;
use tokio_tungstenite::tungstenite;

use crate::Gateway;
use crate::admission::Admitted;

const BUFFER: usize = 4 * 1024;
const MAX_WRITE_BUFFER: usize = 2 * MAX_FRAME;
/// A Unit that does not take a frame in this time is gone.
const SEND_TIME: Duration = Duration::from_secs(20);
/// Time to say goodbye.
const CLOSE_TIME: Duration = Duration::from_millis(500);

pub(crate) async fn upgrade(
    State(gateway): State<Gateway>,
    admitted: Admitted,
    upgrade: WebSocketUpgrade,
) -> Response {
    if gateway.inner.stop.is_triggered() {
        return (StatusCode::SERVICE_UNAVAILABLE, "the cloud is stopping").into_response();
    }
    let token = gateway.inner.sessions.token();
    upgrade
        .read_buffer_size(BUFFER)
        .write_buffer_size(BUFFER)
        .max_write_buffer_size(MAX_WRITE_BUFFER)
        .max_frame_size(MAX_FRAME)
        .max_message_size(MAX_FRAME)
        .on_upgrade(move |socket| async move {
            let _token = token;
            crate::session::run(&gateway, admitted, Socket { socket }).await;
        })
}

/// Why a session ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum End {
    /// The Unit closed it, or the connection is lost.
    Peer(String),
    /// We close it, with this code and reason.
    Ours(u16, &'static str),
}

/// What arrived.
pub(crate) enum Arrived {
    Frame(Bytes),
    Control,
}

pub(crate) struct Socket {
    socket: WebSocket,
}

impl Socket {
    /// The next frame. Cancel safe.
    pub(crate) async fn receive(&mut self) -> Result<Arrived, End> {
        match self.socket.recv().await {
            None => Err(End::Peer("connection lost".to_owned())),
            Some(Ok(Message::Binary(bytes))) => Ok(Arrived::Frame(bytes)),
            Some(Ok(Message::Text(text))) => Ok(Arrived::Frame(text.into())),
            Some(Ok(Message::Ping(_) | Message::Pong(_))) => Ok(Arrived::Control),
            Some(Ok(Message::Close(frame))) => {
                let code = frame.map_or(close_code::STATUS, |frame| frame.code);
                Err(End::Peer(format!("closed with {code}")))
            }
            Some(Err(error)) => Err(failure(error)),
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

    /// Closes with a code and waits shortly for the Unit's own close.
    pub(crate) async fn close(mut self, code: u16, reason: &'static str) {
        let goodbye = async {
            let frame = CloseFrame { code, reason: reason.into() };
            if self.socket.send(Message::Close(Some(frame))).await.is_ok() {
                while let Some(Ok(_)) = self.socket.recv().await {}
            }
        };
        // A Unit that does not answer is cut off.
        let _ = tokio::time::timeout(CLOSE_TIME, goodbye).await;
    }
}

fn failure(error: axum::Error) -> End {
    let error = error.into_inner();
    match error.downcast_ref::<tungstenite::Error>() {
        Some(tungstenite::Error::Capacity(_)) => {
            End::Ours(close_code::SIZE, "a frame may have 16 MiB at most")
        }
        Some(tungstenite::Error::Protocol(_)) => {
            tracing::warn!("WebSocket protocol violated: {error}");
            End::Ours(close_code::PROTOCOL, "WebSocket protocol violated")
        }
        _ => End::Peer(error.to_string()),
    }
}
