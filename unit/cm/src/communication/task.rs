//! The task of the cloud link.

use std::sync::Arc;
use std::time::{Duration, Instant};

use aos_backoff::Backoff;
use aos_cloud_protocol::{Body, Envelope, RequestBlobUrls};
use aos_cloud_session::{Action, Config as SessionConfig, Event as Input, Now, Rejection, Session};
use aos_ids::{SystemId, Txn};
use aos_supervise::Shutdown;
use futures_util::{SinkExt, StreamExt};
use tokio::sync::{mpsc, oneshot, watch};
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::error::Error as WsError;
use tokio_tungstenite::tungstenite::protocol::CloseFrame;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;

use super::connector::{ConnectError, Connector, Socket};
use super::log::MessageLog;
use super::questions::Questions;
use super::{BlobUrlError, CloudState, Command, Durable, Event, Inbox, Stored, Told, now_text, outbox};

/// Shortest and longest time between attempts.
const BACKOFF: (Duration, Duration) = (Duration::from_secs(1), Duration::from_mins(10));
/// Share of a delay that is taken away at random.
const JITTER: f64 = 0.2;
/// A link that lived this long was a good one: attempts start anew.
const GOOD_LINK: Duration = Duration::from_mins(1);
/// Time for a frame to leave.
const SEND_TIME: Duration = Duration::from_secs(30);
/// Time for a polite end.
const CLOSE_TIME: Duration = Duration::from_millis(500);
/// Time for the Unit to say what it is.
const GREETING_TIME: Duration = Duration::from_secs(10);

/// The task.
pub struct Task {
    pub(super) inbox: Inbox,
    pub(super) stored: Stored,
    pub(super) acknowledged: Vec<Txn>,
    pub(super) events: mpsc::Sender<Event>,
    pub(super) connected: watch::Sender<bool>,
    pub(super) state: watch::Sender<CloudState>,
    pub(super) system_id: watch::Receiver<Option<SystemId>>,
    pub(super) identity: watch::Receiver<Option<Arc<aos_token::Identity>>>,
    pub(super) wait: Duration,
    pub(super) questions: Questions,
    pub(super) log: Option<MessageLog>,
    pub(super) connector: Connector,
}

fn now() -> Now {
    Now { instant: Instant::now(), wall: jiff::Timestamp::now() }
}

/// An error with all its causes.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(inner) = cause {
        let part = inner.to_string();
        if !text.contains(&part) {
            text = format!("{text}: {part}");
        }
        cause = inner.source();
    }
    text
}

/// How a link ended.
enum End {
    Stopped,
    NewIdentity,
    Lost(String),
}

impl Task {
    /// Runs until told to stop.
    pub async fn run(mut self, stop: Shutdown) {
        let Some((system_id, mut session)) = self.wait_for_identity(&stop).await else { return };
        let fresh = |connector: &Connector| {
            Backoff::new(connector.delay().unwrap_or(BACKOFF.0).max(BACKOFF.0), BACKOFF.1, JITTER)
        };
        let mut backoff = fresh(&self.connector);
        loop {
            let identity = self.identity.borrow_and_update().clone();
            let leaf = identity.as_ref().and_then(|identity| identity.leaf()).map(|leaf| leaf.to_vec());
            self.change_state(|state| state.state = "connecting");
            let pause = match self.connect(&system_id, leaf.as_deref(), &mut session, &stop).await {
                None => return,
                Some(Ok((socket, url))) => {
                    let started = Instant::now();
                    tracing::info!("connected to {url}");
                    self.change_state(|state| {
                        (state.state, state.url, state.last_error) = ("connected", Some(url), None);
                    });
                    let end = self.serve(socket, &system_id, &mut session, leaf.as_deref(), &stop).await;
                    self.disconnected(&mut session).await;
                    match end {
                        End::Stopped => return,
                        End::NewIdentity => {
                            tracing::info!("new online certificate: connecting anew");
                            self.connector.forget();
                            backoff = fresh(&self.connector);
                            continue;
                        }
                        End::Lost(reason) => {
                            tracing::warn!("link to the cloud lost: {reason}");
                            self.change_state(|state| state.last_error = Some(reason));
                            if started.elapsed() >= GOOD_LINK {
                                backoff = fresh(&self.connector);
                                continue;
                            }
                            backoff.next(aos_backoff::random_fraction())
                        }
                    }
                }
                Some(Err(error)) => {
                    let reason = chain(&error);
                    tracing::warn!("no link to the cloud: {reason}");
                    self.change_state(|state| state.last_error = Some(reason));
                    match error {
                        ConnectError::Later(delay) => delay,
                        _ => backoff.next(aos_backoff::random_fraction()),
                    }
                }
            };
            tracing::debug!("next attempt in {} ms", pause.as_millis());
            if !self.sleep(pause, leaf.as_deref(), &mut session, &stop).await {
                return;
            }
        }
    }

    fn change_state(&self, change: impl FnOnce(&mut CloudState)) {
        self.state.send_modify(|state| {
            let before = state.state;
            change(state);
            if state.state != before {
                state.since = now_text();
            }
        });
    }

    /// Waits for the Unit's identity and its `online` certificate; messages wait with us.
    async fn wait_for_identity(&mut self, stop: &Shutdown) -> Option<(SystemId, Session)> {
        loop {
            let id = self.system_id.borrow_and_update().clone().filter(|_| self.identity.borrow().is_some());
            if let Some(id) = id {
                return Some((id.clone(), self.session(id)));
            }
            tokio::select! {
                () = stop.wait() => return None,
                Ok(()) = self.system_id.changed() => {}
                Ok(()) = self.identity.changed() => {}
            }
        }
    }

    /// A session that knows what earlier runs left.
    fn session(&mut self, system_id: SystemId) -> Session {
        let stored = std::mem::take(&mut self.stored);
        let config = SessionConfig {
            ack_timeout: self.wait,
            remembered: outbox::REMEMBERED as usize,
            ..SessionConfig::unit(system_id.clone())
        };
        let mut session = Session::new(config, stored.remembered);
        for envelope in stored.outbox {
            if envelope.header.system_id == system_id {
                session.on(now(), Input::send(envelope));
            } else {
                tracing::warn!("a message of another identity of this Unit is not sent");
                self.acknowledged.push(envelope.header.txn);
            }
        }
        session
    }

    async fn connect(
        &mut self,
        system_id: &SystemId,
        leaf: Option<&[u8]>,
        session: &mut Session,
        stop: &Shutdown,
    ) -> Option<Result<(Socket, String), ConnectError>> {
        let Self { connector, inbox, state, .. } = self;
        let mut attempt = std::pin::pin!(connector.connect(system_id, leaf));
        loop {
            tokio::select! {
                () = stop.wait() => return None,
                result = &mut attempt => return Some(result),
                told = inbox.next() => queue_offline(told?, system_id, session, state),
            }
        }
    }

    /// Sleeps before the next attempt, less when a new certificate comes; false when told to stop.
    async fn sleep(
        &mut self,
        pause: Duration,
        leaf: Option<&[u8]>,
        session: &mut Session,
        stop: &Shutdown,
    ) -> bool {
        let Some(system_id) = self.system_id.borrow().clone() else { return true };
        let mut timer = std::pin::pin!(tokio::time::sleep(pause));
        loop {
            tokio::select! {
                () = stop.wait() => return false,
                () = &mut timer => return true,
                Ok(()) = self.identity.changed() => {
                    if self.has_other_identity(leaf) {
                        self.connector.forget();
                        return true;
                    }
                }
                told = self.inbox.next() => match told {
                    Some(told) => queue_offline(told, &system_id, session, &self.state),
                    None => return false,
                },
            }
        }
    }

    fn has_other_identity(&mut self, leaf: Option<&[u8]>) -> bool {
        let identity = self.identity.borrow_and_update();
        identity.as_ref().is_some_and(|identity| identity.leaf().map(AsRef::as_ref) != leaf)
    }

    async fn disconnected(&mut self, session: &mut Session) {
        session.on(now(), Input::Disconnected);
        self.questions.fail_all();
        if *self.connected.borrow() {
            self.connected.send_replace(false);
            let _ = self.events.send(Event::Disconnected).await;
        }
        self.change_state(|state| state.state = "connecting");
    }

    async fn serve(
        &mut self,
        mut socket: Socket,
        system_id: &SystemId,
        session: &mut Session,
        leaf: Option<&[u8]>,
        stop: &Shutdown,
    ) -> End {
        let (ask, answer) = oneshot::channel();
        if self.events.send(Event::Connected(ask)).await.is_err() {
            return End::Stopped;
        }
        let greeting = tokio::select! {
            () = stop.wait() => return End::Stopped,
            greeting = tokio::time::timeout(GREETING_TIME, answer) => greeting,
        };
        let greeting = match greeting {
            Ok(Ok(status)) => {
                Some(Envelope::new(system_id.clone(), jiff::Timestamp::now(), Body::UnitStatus(status)))
            }
            Ok(Err(_)) | Err(_) => None,
        };
        self.connected.send_replace(true);
        let actions = session.on(now(), Input::connected(greeting));
        if let Err(reason) = self.perform(actions, &mut socket, session).await {
            return End::Lost(reason.to_string());
        }
        let end = loop {
            self.change_state(|state| state.queued = session.outstanding());
            let wake = session.next_deadline().into_iter().chain(self.questions.deadline()).min();
            let actions = tokio::select! {
                () = stop.wait() => break End::Stopped,
                () = sleep_until(wake) => {
                    self.questions.expire();
                    session.on(now(), Input::Tick)
                }
                Ok(()) = self.identity.changed() => {
                    if self.has_other_identity(leaf) {
                        break End::NewIdentity;
                    }
                    continue;
                }
                told = self.inbox.next() => match told {
                    Some(Told::Command(command)) => self.command(command, system_id, session),
                    Some(Told::Durable(durable)) => session.on(now(), input(durable)),
                    None => break End::Stopped,
                },
                frame = socket.next() => match frame {
                    None => break End::Lost("closed by the cloud".to_owned()),
                    Some(Err(WsError::Capacity(error))) => {
                        let frame = CloseFrame { code: CloseCode::Size, reason: "message too big".into() };
                        let _ = tokio::time::timeout(CLOSE_TIME, socket.close(Some(frame))).await;
                        break End::Lost(format!("message too big: {error}"));
                    }
                    Some(Err(error)) => break End::Lost(chain(&error)),
                    Some(Ok(Message::Binary(bytes))) => self.frame(&bytes, session),
                    Some(Ok(Message::Text(text))) => self.frame(text.as_bytes(), session),
                    Some(Ok(Message::Close(frame))) => {
                        let why = frame.map_or_else(String::new, |frame| format!(": {} {}", frame.code, frame.reason));
                        break End::Lost(format!("closed by the cloud{why}"));
                    }
                    Some(Ok(_)) => session.on(now(), Input::PeerAlive),
                },
            };
            if let Err(reason) = self.perform(actions, &mut socket, session).await {
                break End::Lost(reason.to_string());
            }
        };
        if !matches!(end, End::Lost(_)) {
            let frame = CloseFrame { code: CloseCode::Normal, reason: "".into() };
            let _ = tokio::time::timeout(CLOSE_TIME, socket.close(Some(frame))).await;
        }
        end
    }

    fn frame(&mut self, bytes: &[u8], session: &mut Session) -> Vec<Action> {
        if let Some(log) = &mut self.log {
            log.received(bytes);
        }
        session.on(now(), Input::Frame(bytes))
    }

    fn command(&mut self, command: Command, system_id: &SystemId, session: &mut Session) -> Vec<Action> {
        match command {
            Command::Send(body, correlation) => {
                session.on(now(), Input::send(envelope(system_id, *body, correlation)))
            }
            Command::BlobUrls(digest, answer) => {
                let exchange = self.questions.ask(digest, answer);
                let body = Body::RequestBlobUrls(RequestBlobUrls { digests: vec![digest] });
                session.on(now(), Input::send(envelope(system_id, body, Some(exchange))))
            }
        }
    }

    /// Does what the session wants; an error ends the link.
    async fn perform(
        &mut self,
        actions: Vec<Action>,
        socket: &mut Socket,
        session: &mut Session,
    ) -> Result<(), Broken> {
        let mut actions = std::collections::VecDeque::from(actions);
        while let Some(action) = actions.pop_front() {
            match action {
                Action::Transmit(bytes) => {
                    if let Some(log) = &mut self.log {
                        log.sent(&bytes);
                    }
                    transmit(socket, Message::Binary(bytes)).await?;
                }
                Action::Ping => transmit(socket, Message::Ping(bytes::Bytes::from_static(b"unit"))).await?,
                Action::Deliver(envelope) => {
                    if let Body::BlobUrls(urls) = envelope.body {
                        self.questions.answered(envelope.correlation_id.as_deref(), urls.items);
                        actions.extend(session.on(now(), Input::Accepted(envelope.header.txn)));
                    } else if self.events.send(Event::Message(envelope)).await.is_err() {
                        return Err(Broken::Stopping);
                    }
                }
                Action::Acknowledged(about) => {
                    let _ = self.events.send(Event::Acknowledged(vec![about.txn])).await;
                }
                Action::Parked(about, reason) => {
                    tracing::error!("message {} {} waits for another try: {reason}", about.kind, about.txn);
                }
                Action::Dropped(about, reason) => {
                    tracing::warn!("message {} {} given up: {reason}", about.kind, about.txn);
                }
                Action::Rejected(what @ Rejection::Invalid(_)) => {
                    tracing::error!("{what}; acknowledged");
                    // The report is a courtesy: a flood of bad messages must not hold up the good ones.
                    let _ = self.events.try_send(Event::Refused(what.to_string()));
                }
                Action::Rejected(what) => tracing::error!("{what}"),
                Action::Reconnect => return Err(Broken::Silent),
            }
        }
        Ok(())
    }
}

fn envelope(system_id: &SystemId, body: Body, correlation: Option<String>) -> Envelope {
    let envelope = Envelope::new(system_id.clone(), jiff::Timestamp::now(), body);
    Envelope { correlation_id: correlation, ..envelope }
}

fn input(durable: Durable) -> Input<'static> {
    match durable {
        Durable::Send(envelope) => Input::send(*envelope),
        Durable::Accepted(txn) => Input::Accepted(txn),
    }
}

/// What can be done without a link: messages wait in the session.
fn queue_offline(told: Told, system_id: &SystemId, session: &mut Session, state: &watch::Sender<CloudState>) {
    let input = match told {
        Told::Durable(durable) => input(durable),
        Told::Command(Command::Send(body, correlation)) => {
            Input::send(envelope(system_id, *body, correlation))
        }
        Told::Command(Command::BlobUrls(_, answer)) => {
            let _ = answer.send(Err(BlobUrlError::Offline));
            return;
        }
    };
    for action in session.on(now(), input) {
        if let Action::Dropped(about, reason) = action {
            tracing::warn!("message {} {} given up: {reason}", about.kind, about.txn);
        }
    }
    state.send_modify(|state| state.queued = session.outstanding());
}

/// Why a link is given up while something is sent.
#[derive(Debug, thiserror::Error)]
enum Broken {
    #[error("stopping")]
    Stopping,
    #[error("the cloud is silent")]
    Silent,
    #[error("the cloud takes no data")]
    Stuck,
    #[error("{}", chain(.0))]
    Socket(#[source] Box<WsError>),
}

async fn transmit(socket: &mut Socket, message: Message) -> Result<(), Broken> {
    match tokio::time::timeout(SEND_TIME, socket.send(message)).await {
        Ok(Ok(())) => Ok(()),
        Ok(Err(error)) => Err(Broken::Socket(Box::new(error))),
        Err(_) => Err(Broken::Stuck),
    }
}

async fn sleep_until(wake: Option<Instant>) {
    match wake {
        Some(wake) => tokio::time::sleep_until(wake.into()).await,
        None => std::future::pending().await,
    }
}
