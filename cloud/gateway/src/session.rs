//! One session: a task that owns its socket and the protocol core of its connection.

use std::collections::VecDeque;
use std::pin::Pin;
use std::time::{Duration, Instant};

use aos_cloud_broker::{DispatchError, OVERLOAD_PAUSE, Origin, Outcome};
use aos_cloud_fleet::{Delivery, Step};
use aos_cloud_protocol::{Body, Envelope, MessageType};
use aos_cloud_session::{Action, Config, DropReason, Event, Now, Rejection, Session};
use aos_cloud_store::{UnitSignal, now_micros};
use aos_ids::Txn;
use futures_util::StreamExt as _;
use futures_util::stream::FuturesUnordered;
use jiff::Timestamp;
use tokio::sync::watch;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;

use crate::Gateway;
use crate::admission::Admitted;
use crate::desired::{self, Current};
use crate::error::{GatewayError, full_text};
use crate::socket::{Arrived, End, Socket};

const PING: Duration = Duration::from_secs(25);
/// Three pings without any sign of life.
const DEAD_AFTER: Duration = Duration::from_secs(80);
const MAX_HANDLED: usize = 32;
const MAX_HANDLED_BYTES: usize = 32 * 1024 * 1024;

/// A message that a handler has.
struct Handled {
    txn: Txn,
    bytes: usize,
    full_status: bool,
    outcome: Option<Outcome>,
}

type Pending = FuturesUnordered<Pin<Box<dyn Future<Output = Handled> + Send>>>;

struct Running<'a> {
    gateway: &'a Gateway,
    socket: Socket,
    core: Session,
    origin: Origin,
    not_after: i64,
    signal: watch::Receiver<UnitSignal>,
    target: i64,
    pending: Pending,
    pending_bytes: usize,
    /// Length of the frame that came last.
    frame_bytes: usize,
    delivery: Delivery,
    current: Current,
    /// Transaction and revision of the desired status sent last.
    sent: Option<(Txn, i64)>,
}

/// Serves a Unit until its connection ends.
pub(crate) async fn run(gateway: &Gateway, admitted: Admitted, socket: Socket) {
    let (unit_id, system_id) = (admitted.unit.id.clone(), admitted.system_id.clone());
    let unit = system_id.as_str();
    let store = &gateway.inner.store;
    let session = match store.open_session(&unit_id).await {
        Ok(session) => session,
        Err(error) => {
            tracing::warn!(unit, "session refused: {}", full_text(&error));
            return socket.close(CloseCode::Policy, "the Unit is not provisioned").await;
        }
    };
    tracing::info!(unit, session, "session opened");
    match serve(gateway, admitted, session, socket).await {
        Ok(()) => tracing::info!(unit, session, "session ended"),
        Err(error) => tracing::error!(unit, session, "session failed: {}", full_text(&error)),
    }
    if let Err(error) = store.close_session(&unit_id, session).await {
        tracing::error!(unit, session, "cannot note the end of the session: {}", full_text(&error));
    }
}

async fn serve(
    gateway: &Gateway,
    admitted: Admitted,
    session: i64,
    socket: Socket,
) -> Result<(), GatewayError> {
    let inner = &gateway.inner;
    let unit_id = admitted.unit.id;
    let signal = inner.store.watch_unit(&unit_id).await?;
    let target = signal.borrow().target;
    let current = desired::renew(&inner.store, &unit_id, &inner.signing).await?;
    let mut config = Config::cloud(admitted.system_id.clone());
    config.ping_interval = PING;
    config.dead_after = DEAD_AFTER;
    config.undecided = MAX_HANDLED;
    let mut running = Running {
        gateway,
        socket,
        core: Session::new(config, inner.memory.take(&unit_id)),
        origin: Origin { unit_id, system_id: admitted.system_id, session },
        not_after: admitted.not_after,
        signal,
        target,
        pending: FuturesUnordered::new(),
        pending_bytes: 0,
        frame_bytes: 0,
        delivery: Delivery::default(),
        current,
        sent: None,
    };
    let end = running.run().await;
    inner.memory.keep(&running.origin.unit_id, running.core.remembered());
    let unit = running.origin.system_id.as_str();
    match end? {
        End::Peer(reason) => tracing::info!(unit, "{reason}"),
        End::Ours(code, reason) => {
            tracing::info!(unit, "closing with {code}: {reason}");
            running.socket.close(code, reason).await;
        }
    }
    Ok(())
}

fn now() -> Now {
    Now { instant: Instant::now(), wall: Timestamp::now() }
}

impl Running<'_> {
    /// Runs until the session ends; an error means that the cloud itself failed.
    async fn run(&mut self) -> Result<End, GatewayError> {
        // What happened between opening the session and watching the Unit raises no signal.
        let mut step = self.signalled().await?;
        if step.is_none() {
            step = self.feed(Event::connected(None)).await?;
        }
        if step.is_none() {
            step = self.offer_desired().await?;
        }
        let stop = self.gateway.inner.stop.clone();
        loop {
            if let Some(end) = step {
                return Ok(end);
            }
            let deadline = self.core.next_deadline().unwrap_or_else(|| Instant::now() + PING);
            let room = self.pending.len() < MAX_HANDLED && self.pending_bytes < MAX_HANDLED_BYTES;
            step = tokio::select! {
                () = stop.wait() => Some(End::Ours(CloseCode::Away, "the cloud is stopping")),
                changed = self.signal.changed() => {
                    if changed.is_err() {
                        return Ok(End::Ours(CloseCode::Away, "the cloud is stopping"));
                    }
                    self.signalled().await?
                }
                Some(handled) = self.pending.next(), if !self.pending.is_empty() => {
                    self.handled(handled).await?
                }
                arrived = self.socket.receive(), if room => match arrived {
                    Ok(Arrived::Frame(frame)) => {
                        self.frame_bytes = frame.len();
                        self.feed(Event::Frame(&frame)).await?
                    }
                    Ok(Arrived::Control) => self.feed(Event::PeerAlive).await?,
                    Err(end) => Some(end),
                },
                () = tokio::time::sleep_until(deadline.into()) => self.tick().await?,
            };
        }
    }

    async fn tick(&mut self) -> Result<Option<End>, GatewayError> {
        if now_micros() / 1_000_000 > self.not_after {
            return Ok(Some(End::Ours(CloseCode::Policy, "the certificate has expired")));
        }
        self.feed(Event::Tick).await
    }

    /// Gives an event to the core and does what it wants.
    async fn feed(&mut self, event: Event<'_>) -> Result<Option<End>, GatewayError> {
        let mut actions: VecDeque<Action> = self.core.on(now(), event).into();
        while let Some(action) = actions.pop_front() {
            let sent = match action {
                Action::Transmit(bytes) => self.socket.send(bytes).await,
                Action::Ping => self.socket.ping().await,
                Action::Reconnect => Err(End::Peer("no sign of life".to_owned())),
                Action::Deliver(envelope) => {
                    actions.extend(self.deliver(*envelope));
                    Ok(())
                }
                Action::Acknowledged(about) => {
                    self.acknowledged(&about.txn).await?;
                    Ok(())
                }
                Action::Parked(about, reason) => {
                    tracing::error!(unit = self.unit(), "{} {} waits: {reason}", about.kind, about.txn);
                    Ok(())
                }
                Action::Dropped(about, reason) => {
                    self.dropped(about.kind, &about.txn, reason);
                    Ok(())
                }
                Action::Rejected(rejection) => self.rejected(&rejection),
            };
            if let Err(end) = sent {
                return Ok(Some(end));
            }
        }
        Ok(None)
    }

    fn unit(&self) -> &str {
        self.origin.system_id.as_str()
    }

    /// Hands a message to its handler; returns what the core wants when there is none for it now.
    fn deliver(&mut self, envelope: Envelope) -> Vec<Action> {
        let txn = envelope.header.txn.clone();
        let full_status = matches!(&envelope.body, Body::UnitStatus(status) if !status.is_delta_info);
        // Close enough for a bound: the memory of a message follows the length of its frame.
        let bytes = self.frame_bytes;
        match self.gateway.inner.broker.dispatch(self.origin.clone(), envelope) {
            Ok(outcome) => {
                self.pending_bytes += bytes;
                self.pending.push(Box::pin(async move {
                    Handled { txn, bytes, full_status, outcome: outcome.await.ok() }
                }));
                vec![]
            }
            Err(error @ DispatchError::NoRoute(_)) => {
                tracing::warn!(unit = self.unit(), "{error}");
                self.core.on(now(), Event::Accepted(txn))
            }
            Err(error) => {
                tracing::warn!(unit = self.unit(), "{error}");
                self.core.on(now(), Event::Refused { txn, retry_after: OVERLOAD_PAUSE })
            }
        }
    }

    async fn handled(&mut self, handled: Handled) -> Result<Option<End>, GatewayError> {
        self.pending_bytes = self.pending_bytes.saturating_sub(handled.bytes);
        let answers = match handled.outcome {
            Some(Outcome::Done(answers)) => answers,
            Some(Outcome::Later(retry_after)) => {
                return self.feed(Event::Refused { txn: handled.txn, retry_after }).await;
            }
            None => {
                let refused = Event::Refused { txn: handled.txn, retry_after: OVERLOAD_PAUSE };
                return self.feed(refused).await;
            }
        };
        if let Some(end) = self.feed(Event::Accepted(handled.txn)).await? {
            return Ok(Some(end));
        }
        for answer in answers {
            let mut envelope = Envelope::new(self.origin.system_id.clone(), Timestamp::now(), answer.body);
            envelope.correlation_id = answer.correlation_id;
            if let Some(end) = self.feed(Event::send(envelope)).await? {
                return Ok(Some(end));
            }
        }
        if handled.full_status && self.delivery.waits_for_full_status() {
            return self.compare().await;
        }
        Ok(None)
    }

    /// The Unit has told its full state: does it still know its target?
    async fn compare(&mut self) -> Result<Option<End>, GatewayError> {
        let store = &self.gateway.inner.store;
        let found = desired::compare_stored(store, &self.origin.unit_id, &self.current.status).await?;
        let row = &self.current.row;
        match self.delivery.on_full_status(row.revision, row.acked_at.is_some(), found) {
            Step::Wait => Ok(None),
            Step::Send => {
                tracing::info!(unit = self.unit(), "the Unit differs from its target, which is sent again");
                self.send_desired().await
            }
        }
    }

    async fn signalled(&mut self) -> Result<Option<End>, GatewayError> {
        let signal = *self.signal.borrow_and_update();
        if !signal.admitted {
            return Ok(Some(End::Ours(CloseCode::Policy, "the Unit was deprovisioned")));
        }
        if signal.session != self.origin.session {
            return Ok(Some(End::Ours(CloseCode::Policy, "a newer session has replaced this one")));
        }
        if signal.target == self.target {
            return Ok(None);
        }
        self.target = signal.target;
        let inner = &self.gateway.inner;
        self.current = desired::renew(&inner.store, &self.origin.unit_id, &inner.signing).await?;
        self.offer_desired().await
    }

    async fn offer_desired(&mut self) -> Result<Option<End>, GatewayError> {
        let row = &self.current.row;
        match self.delivery.on_desired(row.revision, row.acked_at.is_some()) {
            Step::Wait => Ok(None),
            Step::Send => self.send_desired().await,
        }
    }

    async fn send_desired(&mut self) -> Result<Option<End>, GatewayError> {
        let revision = self.current.row.revision;
        let body = Body::DesiredStatus(self.current.status.clone());
        let envelope = Envelope::new(self.origin.system_id.clone(), Timestamp::now(), body);
        self.sent = Some((envelope.header.txn.clone(), revision));
        tracing::info!(unit = self.unit(), revision, "sending the desired status");
        // Noted before it leaves: the time shown is never later than the Unit's first reaction.
        self.gateway.inner.store.desired_sent(&self.origin.unit_id, revision).await?;
        self.feed(Event::send(envelope)).await
    }

    async fn acknowledged(&mut self, txn: &Txn) -> Result<(), GatewayError> {
        let Some((_, revision)) = self.sent.take_if(|(sent, _)| sent == txn) else { return Ok(()) };
        self.gateway.inner.store.desired_acked(&self.origin.unit_id, revision).await?;
        if self.current.row.revision == revision {
            self.current.row.acked_at = Some(now_micros());
        }
        Ok(())
    }

    fn dropped(&self, kind: MessageType, txn: &Txn, reason: DropReason) {
        let unit = self.unit();
        if reason == DropReason::Superseded {
            tracing::debug!(unit, "{kind} {txn}: {reason}");
        } else {
            // On a live link this means that the Unit cannot read the message; more tries do not help.
            tracing::error!(unit, "{kind} {txn} is given up: {reason}");
        }
    }

    fn rejected(&self, rejection: &Rejection) -> Result<(), End> {
        tracing::warn!(unit = self.unit(), "{rejection}");
        match rejection {
            Rejection::ForeignSystemId { .. } => {
                Err(End::Ours(CloseCode::Policy, "a message names another Unit"))
            }
            _ => Ok(()),
        }
    }
}
