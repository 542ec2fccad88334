//! The WebSocket of a session.
//!
//! Between frames a socket holds no buffers: bytes are read through the stack into a message that grows as
//! they come. A message of more than 64 KiB needs a share of the memory that all sessions have for such;
//! until there is one, nothing more of it is read. Whatever a Unit does not send or take in time ends the
//! connection.

use std::future::poll_fn;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use aos_cloud_listener::ServerConnection;
use aos_cloud_metrics::{Closed, Metrics};
use aos_cloud_protocol::MAX_FRAME;
use aos_cloud_websocket::{Event, Frame, Reader, Role, close_code, close_payload, encode};
use tokio::io::{AsyncRead as _, AsyncReadExt as _, AsyncWriteExt as _, ReadBuf};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::settings::Settings;

/// Bytes read at once.
const CHUNK: usize = 8 * 1024;
/// Longest message that needs no share of the memory for large ones; also the unit of shares.
pub(crate) const SHARE: usize = 64 * 1024;
/// Time to wait for a share. Longer, and the Unit is asked to come back later.
const SHARE_TIME: Duration = Duration::from_secs(30);
/// Time to say goodbye: a Unit in the middle of a long frame must have sent it before it sees our close.
const CLOSE_TIME: Duration = Duration::from_secs(3);
/// The same when the cloud stops.
const AWAY_TIME: Duration = Duration::from_millis(500);
const PING: &[u8] = b"aos";

/// Why a session ends.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum End {
    /// The connection is gone, or not worth a goodbye.
    Gone(Closed, String),
    /// We close it, with this code and reason.
    Ours(Closed, u16, &'static str),
}

/// What arrived.
pub(crate) enum Arrived {
    /// A whole message, and its share of the memory for large ones.
    Message(Vec<u8>, Option<OwnedSemaphorePermit>),
    /// To be answered with [`Socket::pong`] before anything else.
    Ping(Vec<u8>),
    /// A sign of life.
    Pong,
    /// A part of a message.
    Progress,
}

pub(crate) struct Socket {
    stream: ServerConnection,
    reader: Reader,
    /// Read and not yet looked at; mostly nothing.
    rest: Vec<u8>,
    /// When the message under way began.
    since: Option<Instant>,
    share: Option<OwnedSemaphorePermit>,
    shares: Arc<Semaphore>,
    /// Since when the message under way has waited for its share.
    waiting: Option<Instant>,
}

enum Step {
    Event(Event),
    Progress,
}

impl Socket {
    /// Takes over an upgraded connection; `read` are bytes that came with the request.
    pub(crate) fn new(stream: ServerConnection, read: &[u8], shares: Arc<Semaphore>) -> Self {
        let reader = Reader::new(Role::Server, MAX_FRAME);
        Self { stream, reader, rest: read.to_vec(), since: None, share: None, shares, waiting: None }
    }

    /// When the message under way must be complete.
    pub(crate) fn deadline(&self, settings: &Settings) -> Option<Instant> {
        self.since.map(|since| since + settings.time_for(self.reader.announced()))
    }

    /// What comes next. Cancel safe.
    pub(crate) async fn receive(&mut self) -> Result<Arrived, End> {
        if self.reader.announced() > SHARE {
            Box::pin(self.take_share()).await?;
        }
        let step = poll_fn(|cx| self.poll_step(cx)).await?;
        self.since = if self.reader.is_idle() { None } else { self.since.or_else(|| Some(Instant::now())) };
        Ok(match step {
            Step::Progress => Arrived::Progress,
            Step::Event(Event::Message(message)) => Arrived::Message(message, self.share.take()),
            Step::Event(Event::Ping(content)) => Arrived::Ping(content),
            Step::Event(Event::Pong) => Arrived::Pong,
            Step::Event(Event::Close(code)) => {
                let code = code.map_or_else(|| "no code".to_owned(), |code| code.to_string());
                return Err(End::Gone(Closed::Peer, format!("closed with {code}")));
            }
        })
    }

    /// Waits for the memory of a large message under way.
    async fn take_share(&mut self) -> Result<(), End> {
        let announced = self.reader.announced();
        let held = self.share.as_ref().map_or(0, OwnedSemaphorePermit::num_permits);
        if announced <= SHARE.max(held * SHARE) {
            return Ok(());
        }
        let missing = u32::try_from(announced.div_ceil(SHARE) - held).unwrap_or(u32::MAX);
        // The wait may be interrupted and go on.
        let waiting = *self.waiting.get_or_insert_with(Instant::now);
        let more = Arc::clone(&self.shares).acquire_many_owned(missing);
        match tokio::time::timeout_at((waiting + SHARE_TIME).into(), more).await {
            Ok(Ok(more)) => {
                match &mut self.share {
                    Some(share) => share.merge(more),
                    none => *none = Some(more),
                }
                self.waiting = None;
                // Waiting was not the Unit's fault.
                self.since = Some(Instant::now());
                Ok(())
            }
            _ => Err(End::Ours(Closed::Slow, close_code::LATER, "no memory for long messages now")),
        }
    }

    fn poll_step(&mut self, cx: &mut Context<'_>) -> Poll<Result<Step, End>> {
        if !self.rest.is_empty() {
            let read = std::mem::take(&mut self.rest);
            return Poll::Ready(self.parse(&read));
        }
        let mut chunk = [0; CHUNK];
        let mut buffer = ReadBuf::new(&mut chunk);
        let read = ready!(Pin::new(&mut self.stream).poll_read(cx, &mut buffer));
        Poll::Ready(match read {
            Err(error) => Err(End::Gone(Closed::Lost, error.to_string())),
            Ok(()) if buffer.filled().is_empty() => {
                Err(End::Gone(Closed::Lost, "connection lost".to_owned()))
            }
            Ok(()) => self.parse(buffer.filled()),
        })
    }

    fn parse(&mut self, read: &[u8]) -> Result<Step, End> {
        let mut input = read;
        let event = self.reader.read(&mut input).map_err(|violation| {
            let (why, text) = match violation.close_code() {
                close_code::SIZE => (Closed::Oversize, "a message may have 16 MiB at most"),
                close_code::CONTENT => (Closed::Protocol, "text that is not UTF-8"),
                _ => (Closed::Protocol, "WebSocket protocol violated"),
            };
            tracing::info!("WebSocket violated: {violation}");
            End::Ours(why, violation.close_code(), text)
        })?;
        self.rest = input.to_vec();
        Ok(event.map_or(Step::Progress, Step::Event))
    }

    /// Sends a message.
    pub(crate) async fn send(
        &mut self,
        message: &[u8],
        settings: &Settings,
        metrics: &Metrics,
    ) -> Result<(), End> {
        self.put(Frame::Binary(message), settings, metrics).await
    }

    pub(crate) async fn ping(&mut self, settings: &Settings, metrics: &Metrics) -> Result<(), End> {
        self.put(Frame::Ping(PING), settings, metrics).await
    }

    /// Answers a ping.
    pub(crate) async fn pong(
        &mut self,
        content: &[u8],
        settings: &Settings,
        metrics: &Metrics,
    ) -> Result<(), End> {
        self.put(Frame::Pong(content), settings, metrics).await
    }

    async fn put(&mut self, frame: Frame<'_>, settings: &Settings, metrics: &Metrics) -> Result<(), End> {
        let bytes = encode(frame, None);
        metrics.bytes_out(bytes.len());
        let write = async {
            self.stream.write_all(&bytes).await?;
            self.stream.flush().await
        };
        match tokio::time::timeout(settings.time_for(bytes.len()), write).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(error)) => Err(End::Gone(Closed::Lost, error.to_string())),
            Err(_) => Err(End::Gone(Closed::Slow, "the Unit takes no data".to_owned())),
        }
    }

    /// Closes with a code and waits shortly for the Unit to hang up.
    pub(crate) async fn close(mut self, code: u16, reason: &'static str) {
        let time = if code == close_code::AWAY { AWAY_TIME } else { CLOSE_TIME };
        let goodbye = async {
            let frame = encode(Frame::Close(&close_payload(code, reason)), None);
            if self.stream.write_all(&frame).await.is_err() || self.stream.flush().await.is_err() {
                return;
            }
            let mut rest = vec![0; CHUNK];
            // Whatever the Unit still sends is thrown away: the reset caused by unread bytes would overtake
            // our close frame.
            while matches!(self.stream.read(&mut rest).await, Ok(1..)) {}
            // The connection is dropped next; an error changes nothing.
            let _ = self.stream.shutdown().await;
        };
        // A Unit that does not hang up is cut off.
        let _ = tokio::time::timeout(time, goodbye).await;
    }

    /// Answers the Unit's close with ours, as far as it takes it at once.
    pub(crate) async fn hang_up(mut self) {
        let goodbye = async {
            let frame = encode(Frame::Close(&close_payload(close_code::NORMAL, "")), None);
            // The Unit may be gone already.
            let _ = self.stream.write_all(&frame).await;
            let _ = self.stream.shutdown().await;
        };
        let _ = tokio::time::timeout(AWAY_TIME, goodbye).await;
    }
}
