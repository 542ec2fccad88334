//! One virtual Unit: a connection and its session.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use aos_cloud_protocol::discovery::{Request, Response};
use aos_cloud_protocol::{Body, Envelope, MessageType, VERSION};
use aos_cloud_session::{Action, Config, Event, Now, Session};
use aos_cloud_websocket::{Event as Frames, Frame, Reader, Role, close_code, close_payload, encode};
use aos_ids::Txn;
use aos_tls::{ClientTlsStream, connect_tcp_tls};
use jiff::Timestamp;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use crate::error::SimError;
use crate::fleet::Identity;

const CHUNK: usize = 8 * 1024;
const MAX_HEAD: usize = 16 * 1024;
const MAX_ANSWER: u64 = 64 * 1024;
const LIMIT: usize = 16 * 1024 * 1024;
/// Bytes that make every frame's mask. The network is loopback, and nobody is to be deceived.
const MASK: [u8; 4] = [0x5a, 0xa5, 0x3c, 0xc3];
const STEP_TIME: Duration = Duration::from_secs(30);

/// Where a cloud listens for Units.
#[derive(Debug, Clone)]
pub struct Target {
    /// Host or address.
    pub host: String,
    /// Port.
    pub port: u16,
}

/// A connected Unit.
pub struct Unit {
    stream: ClientTlsStream,
    reader: Reader,
    core: Session,
    identity: Identity,
    rest: Vec<u8>,
    arrived: VecDeque<Envelope>,
    acknowledged: Vec<Txn>,
    closed: Option<u16>,
}

fn now() -> Now {
    Now { instant: Instant::now(), wall: Timestamp::now() }
}

impl Target {
    /// A TLS connection.
    pub async fn open(&self, identity: &Identity) -> Result<ClientTlsStream, SimError> {
        let open = connect_tcp_tls(&self.host, self.port, Arc::clone(&identity.config), "localhost");
        Ok(tokio::time::timeout(STEP_TIME, open).await.map_err(|_| SimError::Late("TLS"))??)
    }

    /// A TLS handshake and nothing more. Returns when the server has hung up, which it does after reading
    /// our goodbye: then it has done its part. Whether it accepted us, only the server can tell.
    pub async fn shake_hands(&self, identity: &Identity) -> Result<(), SimError> {
        let mut stream = self.open(identity).await?;
        stream.shutdown().await.map_err(SimError::Connection)?;
        let wait = tokio::time::timeout(STEP_TIME, stream.read(&mut [0; 64])).await;
        // The server ends the connection without a goodbye of its own, which reads as an error or as the end.
        wait.map(|_| ()).map_err(|_| SimError::Late("the end of the connection"))
    }

    /// Service discovery.
    pub async fn discover(&self, identity: &Identity) -> Result<Response, SimError> {
        let mut stream = self.open(identity).await?;
        let request = Request {
            version: VERSION,
            system_id: identity.system_id.clone(),
            supported_protocols: vec!["wss".to_owned()],
        };
        let body = request.to_json();
        let head = format!(
            "POST /sd/v7/ HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Length: {}\r\n\r\n",
            body.len()
        );
        let mut answer = Vec::new();
        let exchange = async {
            stream.write_all(&[head.as_bytes(), &body].concat()).await?;
            stream.flush().await?;
            (&mut stream).take(MAX_ANSWER).read_to_end(&mut answer).await
        };
        tokio::time::timeout(STEP_TIME, exchange)
            .await
            .map_err(|_| SimError::Late("discovery"))?
            .map_err(SimError::Connection)?;
        let text = String::from_utf8_lossy(&answer);
        let (head, body) = text.split_once("\r\n\r\n").unwrap_or((&text, ""));
        if !head.starts_with("HTTP/1.1 200") {
            let line = head.lines().next().unwrap_or_default();
            return Err(SimError::Unexpected(format!("answers discovery with '{line}'")));
        }
        Response::read(body.as_bytes()).map_err(|error| SimError::Unexpected(error.to_string()))
    }
}

impl Unit {
    /// Connects; the session has sent `greeting`.
    pub async fn connect(target: &Target, identity: Identity, greeting: Body) -> Result<Self, SimError> {
        let stream = target.open(&identity).await?;
        Self::connect_over(stream, identity, greeting).await
    }

    /// The same over a connection that is there already.
    pub async fn connect_over(
        mut stream: ClientTlsStream,
        identity: Identity,
        greeting: Body,
    ) -> Result<Self, SimError> {
        let rest = tokio::time::timeout(STEP_TIME, upgrade(&mut stream))
            .await
            .map_err(|_| SimError::Late("upgrade"))??;
        let mut config = Config::unit(identity.system_id.clone());
        config.remembered = 16;
        let mut unit = Self {
            stream,
            reader: Reader::new(Role::Client, LIMIT),
            core: Session::new(config, []),
            identity,
            rest,
            arrived: VecDeque::new(),
            acknowledged: Vec::new(),
            closed: None,
        };
        let envelope = Envelope::new(unit.identity.system_id.clone(), Timestamp::now(), greeting);
        unit.feed(Event::connected(Some(envelope))).await?;
        Ok(unit)
    }

    /// Waits until the cloud has acknowledged everything and sent a desired status.
    pub async fn settle(&mut self) -> Result<(), SimError> {
        let settle = async {
            let mut desired = false;
            while !desired || self.core.outstanding() > 0 {
                self.step().await?;
                desired |=
                    self.arrived.drain(..).any(|message| matches!(message.body, Body::DesiredStatus(_)));
            }
            self.acknowledged.clear();
            Ok(())
        };
        tokio::time::timeout(STEP_TIME, settle).await.map_err(|_| SimError::Late("desired status"))?
    }

    /// Sends a message and waits for its acknowledgement. Returns how long that took.
    pub async fn send(&mut self, body: Body) -> Result<Duration, SimError> {
        let since = Instant::now();
        let txn = self.post(body).await?;
        let wait = async {
            while !self.acknowledged.contains(&txn) {
                self.step().await?;
            }
            Ok::<_, SimError>(())
        };
        tokio::time::timeout(STEP_TIME, wait).await.map_err(|_| SimError::Late("acknowledgement"))??;
        self.acknowledged.clear();
        self.arrived.clear();
        Ok(since.elapsed())
    }

    /// Sends a message without waiting.
    pub async fn post(&mut self, body: Body) -> Result<Txn, SimError> {
        let envelope = Envelope::new(self.identity.system_id.clone(), Timestamp::now(), body);
        let txn = envelope.header.txn.clone();
        self.feed(Event::send(envelope)).await?;
        Ok(txn)
    }

    /// Sends a message past the session: nobody waits for its acknowledgement, and no window holds it back.
    pub async fn force(&mut self, body: Body) -> Result<(), SimError> {
        let envelope = Envelope::new(self.identity.system_id.clone(), Timestamp::now(), body);
        let message = aos_cloud_protocol::write(&envelope)
            .map_err(|error| SimError::Unexpected(format!("takes no such message: {error}")))?;
        self.write(Frame::Binary(&message)).await
    }

    /// Sends a frame of any content.
    pub async fn raw(&mut self, content: &[u8]) -> Result<(), SimError> {
        self.write(Frame::Binary(content)).await
    }

    /// Sends bytes that are no frame, or part of one.
    pub async fn bytes(&mut self, bytes: &[u8]) -> Result<(), SimError> {
        let write = async {
            self.stream.write_all(bytes).await?;
            self.stream.flush().await
        };
        write.await.map_err(SimError::Connection)
    }

    /// Transactions of ours that were acknowledged since the last call.
    pub fn acknowledged(&mut self) -> Vec<Txn> {
        std::mem::take(&mut self.acknowledged)
    }

    /// Waits for a message of this kind; others that come meanwhile are forgotten.
    pub async fn expect(&mut self, kind: MessageType) -> Result<Envelope, SimError> {
        let wait = async {
            loop {
                while let Some(message) = self.arrived.pop_front() {
                    if message.body.message_type() == kind {
                        return Ok(message);
                    }
                }
                self.step().await?;
            }
        };
        tokio::time::timeout(STEP_TIME, wait).await.map_err(|_| SimError::Late("message"))?
    }

    /// The code that the cloud closed with.
    pub fn closed(&self) -> Option<u16> {
        self.closed
    }

    /// Who it is.
    pub fn identity(&self) -> &Identity {
        &self.identity
    }

    /// Waits for something of the cloud and reacts. An error when the connection has ended. Cancel safe as
    /// far as nothing is lost: what was read is kept.
    pub async fn step(&mut self) -> Result<(), SimError> {
        if self.rest.is_empty() {
            let mut chunk = [0; CHUNK];
            let deadline = self.core.next_deadline().unwrap_or_else(|| Instant::now() + STEP_TIME);
            let read = tokio::time::timeout_at(deadline.into(), self.stream.read(&mut chunk)).await;
            match read {
                Err(_) => return self.feed(Event::Tick).await,
                Ok(Ok(0)) => return Err(SimError::Unexpected("hung up".to_owned())),
                Ok(Ok(length)) => self.rest.extend_from_slice(chunk.get(..length).unwrap_or_default()),
                Ok(Err(error)) => return Err(SimError::Connection(error)),
            }
        }
        let read = std::mem::take(&mut self.rest);
        let mut input = read.as_slice();
        while let Some(event) =
            self.reader.read(&mut input).map_err(|error| SimError::Unexpected(format!("sends {error}")))?
        {
            match event {
                Frames::Message(message) => self.feed(Event::Frame(&message)).await?,
                Frames::Ping(content) => {
                    self.write(Frame::Pong(&content)).await?;
                    self.feed(Event::PeerAlive).await?;
                }
                Frames::Pong => self.feed(Event::PeerAlive).await?,
                Frames::Close(code) => {
                    self.closed = Some(code.unwrap_or(0));
                    let _ = self.write(Frame::Close(&close_payload(close_code::NORMAL, ""))).await;
                    let _ = self.stream.shutdown().await;
                    return Err(SimError::Unexpected(format!("closed with {code:?}")));
                }
            }
        }
        Ok(())
    }

    async fn feed(&mut self, event: Event<'_>) -> Result<(), SimError> {
        let mut actions: VecDeque<Action> = self.core.on(now(), event).into();
        while let Some(action) = actions.pop_front() {
            match action {
                Action::Transmit(bytes) => self.write(Frame::Binary(&bytes)).await?,
                Action::Ping => self.write(Frame::Ping(b"sim")).await?,
                Action::Deliver(envelope) => {
                    actions.extend(self.core.on(now(), Event::Accepted(envelope.header.txn.clone())));
                    self.arrived.push_back(*envelope);
                }
                Action::Acknowledged(about) => self.acknowledged.push(about.txn),
                Action::Reconnect => return Err(SimError::Late("sign of life")),
                Action::Parked(about, reason) | Action::Dropped(about, reason) => {
                    return Err(SimError::Unexpected(format!("{} is given up: {reason}", about.kind)));
                }
                Action::Rejected(rejection) => return Err(SimError::Unexpected(rejection.to_string())),
            }
        }
        Ok(())
    }

    async fn write(&mut self, frame: Frame<'_>) -> Result<(), SimError> {
        let bytes = encode(frame, Some(MASK));
        let write = async {
            self.stream.write_all(&bytes).await?;
            self.stream.flush().await
        };
        let done = tokio::time::timeout(STEP_TIME, write).await;
        done.map_err(|_| SimError::Late("room to send"))?.map_err(SimError::Connection)
    }
}

/// The WebSocket upgrade; returns what came behind the answer.
async fn upgrade(stream: &mut ClientTlsStream) -> Result<Vec<u8>, SimError> {
    let request = "GET /ws/v7/ HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
                   Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\
                   Authorization: Bearer \r\n\r\n";
    stream.write_all(request.as_bytes()).await.map_err(SimError::Connection)?;
    // Without it the request may stay in the TLS layer, when this task has had its share of time.
    stream.flush().await.map_err(SimError::Connection)?;
    let mut answer = Vec::new();
    loop {
        if let Some(end) = answer.windows(4).position(|four| four == b"\r\n\r\n") {
            let rest = answer.split_off(end + 4);
            let head = String::from_utf8_lossy(&answer);
            let line = head.lines().next().unwrap_or_default().to_owned();
            if line.starts_with("HTTP/1.1 101") {
                return Ok(rest);
            }
            return Err(SimError::Unexpected(format!("refuses the upgrade with '{line}'")));
        }
        let mut chunk = [0; 1024];
        let length = stream.read(&mut chunk).await.map_err(SimError::Connection)?;
        if length == 0 || answer.len() > MAX_HEAD {
            return Err(SimError::Unexpected("does not answer the upgrade".to_owned()));
        }
        answer.extend_from_slice(chunk.get(..length).unwrap_or_default());
    }
}
