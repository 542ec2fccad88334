//! An open link: frames in both directions until it ends.

use std::time::{Duration, Instant};

use aos_cloud_protocol::is_enveloped;
use aos_logging::with_causes;
use futures_util::{SinkExt, StreamExt};
use tokio::io::AsyncReadExt;
use tokio::sync::oneshot;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::error::{Error as WsError, ProtocolError};
use tokio_tungstenite::tungstenite::protocol::CloseFrame;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;

use super::Event;
use super::connector::Socket;
use super::mail::{Mail, Step};
use super::task::Task;

/// Time for a frame to leave.
const SEND_TIME: Duration = Duration::from_secs(30);
/// Time for a polite end.
const CLOSE_TIME: Duration = Duration::from_millis(500);
/// Time for the Unit to say what it is.
const GREETING_TIME: Duration = Duration::from_secs(10);

/// How a link ended.
#[derive(Debug)]
pub(super) enum End {
    Stopped,
    NewIdentity,
    /// The cloud goes away on purpose: it takes its Units elsewhere, or is about to come back.
    Away(String),
    Lost(String),
}

/// Why a link is given up while something is sent or received.
#[derive(Debug, thiserror::Error)]
enum Broken {
    #[error("the Unit is stopping")]
    Stopping,
    #[error("the cloud is silent")]
    Silent,
    #[error("the cloud takes no data")]
    Stuck,
    #[error("{}", with_causes(.0))]
    Socket(#[source] Box<WsError>),
}

impl From<Broken> for End {
    fn from(broken: Broken) -> Self {
        match broken {
            Broken::Stopping => Self::Stopped,
            broken => Self::Lost(broken.to_string()),
        }
    }
}

/// True when the cloud sent what WebSocket forbids, or too much; a link that just ended is no violation.
fn violates(error: &WsError) -> bool {
    match error {
        WsError::Protocol(error) => *error != ProtocolError::ResetWithoutClosingHandshake,
        WsError::Capacity(_) | WsError::Utf8(_) => true,
        _ => false,
    }
}

/// Says why we leave. The peer may be gone or read nothing, so this takes its time at most.
pub(super) async fn close(socket: &mut Socket, end: &End) {
    let (code, reason) = match end {
        End::Lost(reason) if reason.starts_with(TOO_BIG) => (CloseCode::Size, TOO_BIG),
        End::Lost(_) | End::Away(_) => return,
        End::Stopped | End::NewIdentity => (CloseCode::Normal, ""),
    };
    let frame = CloseFrame { code, reason: reason.into() };
    let farewell = async {
        let _ = socket.close(Some(frame)).await;
        if code == CloseCode::Size {
            // The rest of the message is on its way. A connection that is closed with unread data is reset, and
            // then the peer may never read why.
            let mut rest = [0; 4096];
            while socket.get_mut().read(&mut rest).await.is_ok_and(|length| length > 0) {}
        }
    };
    let _ = tokio::time::timeout(CLOSE_TIME, farewell).await;
}

const TOO_BIG: &str = "message too big";

impl Task {
    /// Serves the link until it ends by itself.
    pub(super) async fn serve(&mut self, socket: &mut Socket, mail: &mut Mail, leaf: Option<&[u8]>) -> End {
        // Before the question, so that its receiver sees it while he looks at what is due.
        self.connected.send_replace(true);
        let (ask, answer) = oneshot::channel();
        if self.events.send(Event::Connected(ask)).await.is_err() {
            return End::Stopped;
        }
        let greeting = tokio::time::timeout(GREETING_TIME, answer).await.ok().and_then(Result::ok);
        let steps = mail.connected(greeting);
        if let Err(broken) = self.perform(steps, socket).await {
            return broken.into();
        }
        let mut leaving: Option<Instant> = None;
        loop {
            self.publish(mail);
            if leaving.is_some_and(|at| mail.is_settled() || at <= Instant::now()) {
                return End::NewIdentity;
            }
            let wake = leaving.into_iter().chain(mail.deadline()).min();
            let steps = tokio::select! {
                () = sleep_until(wake) => mail.tick(),
                Ok(()) = self.identity.changed() => {
                    if self.has_other_identity(leaf) {
                        leaving.get_or_insert_with(|| Instant::now() + self.times.settle);
                    }
                    continue;
                }
                told = self.inbox.next() => match told {
                    Some(told) => mail.told(told),
                    None => return End::Stopped,
                },
                frame = socket.next() => match self.received(frame, mail).await {
                    Ok(steps) => steps,
                    Err(end) => return end,
                },
            };
            if let Err(broken) = self.perform(steps, socket).await {
                return broken.into();
            }
        }
    }

    async fn received(
        &mut self,
        frame: Option<Result<Message, WsError>>,
        mail: &mut Mail,
    ) -> Result<Vec<Step>, End> {
        let closed = "closed by the cloud";
        let bytes = match frame {
            None => return Err(End::Lost(closed.to_owned())),
            Some(Err(error)) => {
                if violates(&error) {
                    mail.violated();
                    self.publish(mail);
                }
                return Err(End::Lost(match error {
                    WsError::Capacity(error) => format!("{TOO_BIG}: {error}"),
                    error => with_causes(&error),
                }));
            }
            Some(Ok(Message::Binary(bytes))) => bytes,
            Some(Ok(Message::Text(text))) => bytes::Bytes::from(text),
            Some(Ok(Message::Close(frame))) => {
                let why = frame.as_ref().map(|frame| format!(": {} {}", frame.code, frame.reason));
                let why = format!("{closed}{}", why.unwrap_or_default());
                let away = [CloseCode::Away, CloseCode::Restart, CloseCode::Again];
                let purpose = frame.is_some_and(|frame| away.contains(&frame.code));
                return Err(if purpose { End::Away(why) } else { End::Lost(why) });
            }
            Some(Ok(_)) => return Ok(mail.alive()),
        };
        let opened = match &mut self.opener {
            Some(opener) if is_enveloped(&bytes) => match opener.open(bytes).await {
                Ok(plain) => bytes::Bytes::from(plain),
                Err(error) => {
                    tracing::error!("{}; the frame is dropped", with_causes(&error));
                    return Ok(mail.sealed());
                }
            },
            _ => bytes,
        };
        if let Some(log) = &mut self.log {
            log.received(&opened);
        }
        Ok(mail.frame(&opened))
    }

    /// Does what the session wants; an error ends the link.
    async fn perform(&mut self, steps: Vec<Step>, socket: &mut Socket) -> Result<(), Broken> {
        for step in steps {
            match step {
                Step::Transmit(bytes) => {
                    if let Some(log) = &mut self.log {
                        log.sent(&bytes);
                    }
                    self.transmit(socket, Message::Binary(bytes)).await?;
                }
                Step::Ping => {
                    self.transmit(socket, Message::Ping(bytes::Bytes::from_static(b"unit"))).await?;
                }
                Step::Deliver(envelope) => {
                    self.events.send(Event::Message(envelope)).await.map_err(|_| Broken::Stopping)?;
                }
                Step::Reconnect => return Err(Broken::Silent),
            }
        }
        Ok(())
    }

    async fn transmit(&self, socket: &mut Socket, message: Message) -> Result<(), Broken> {
        match tokio::time::timeout(SEND_TIME.min(self.times.dead), socket.send(message)).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(error)) => Err(Broken::Socket(Box::new(error))),
            Err(_) => Err(Broken::Stuck),
        }
    }
}

async fn sleep_until(wake: Option<Instant>) {
    match wake {
        Some(wake) => tokio::time::sleep_until(wake.into()).await,
        None => std::future::pending().await,
    }
}
