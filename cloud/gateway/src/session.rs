//! One session: a task that owns its socket and the protocol core of its connection.
//!
//! It is idle nearly always, so everything that is needed only while something happens is boxed or dropped:
//! an idle task holds its socket, the core and a few numbers.

mod inbound;
mod outbound;

use std::collections::VecDeque;
use std::pin::Pin;
use std::time::{Duration, Instant};

use aos_cloud_broker::Origin;
use aos_cloud_fleet::Delivery;
use aos_cloud_metrics::{Closed, Refused};
use aos_cloud_protocol::Direction;
use aos_cloud_session::{Action, Config, Event, Now, Session};
use aos_cloud_store::{Store, UnitSignal, now_micros};
use aos_cloud_websocket::close_code;
use aos_ids::Txn;
use futures_util::StreamExt as _;
use futures_util::stream::FuturesUnordered;
use hyper::upgrade::OnUpgrade;
use jiff::Timestamp;
use tokio::sync::watch;

use crate::Gateway;
use crate::admission::Admitted;
use crate::error::GatewayError;
use crate::leaving::{Leaving, Phase};
use crate::rate::{Rate, Verdict};
use crate::sealing::Sealer;
use crate::socket::{Arrived, End, Socket};
use inbound::Pending;

const PING: Duration = Duration::from_secs(25);
/// Three pings without any sign of life.
const DEAD_AFTER: Duration = Duration::from_secs(80);
const MAX_HANDLED: usize = 32;
const MAX_HANDLED_BYTES: usize = 32 * 1024 * 1024;
/// Accepted transactions that a session remembers itself; the store knows the last 1024.
const REMEMBERED: usize = 64;

struct Running {
    gateway: Gateway,
    socket: Socket,
    core: Session,
    origin: Origin,
    not_after: i64,
    /// Serial number of the certificate shown.
    serial: Box<str>,
    signal: watch::Receiver<UnitSignal>,
    phase: watch::Receiver<Phase>,
    target: i64,
    rate: Rate,
    pending: Pending,
    pending_bytes: usize,
    /// Messages that wait for room at their handler. Nothing more is read until they have it.
    stalled: usize,
    /// The message that came last.
    frame: inbound::Frame,
    delivery: Delivery,
    /// Transaction and revision of the desired status sent last.
    sent: Option<(Txn, i64)>,
    /// Number of the newest outbox row that the core has.
    outbox: i64,
    /// Transactions of outbox rows that the core has.
    kept: Vec<Txn>,
    sealer: Option<Box<Sealer>>,
    /// When an operator was told last of something refused.
    told: Option<Instant>,
    /// Ends by then at the latest, because the Unit has to leave.
    leaves: Option<Instant>,
}

/// Serves a Unit until its connection ends. Only what runs all the time is part of the task itself.
pub(crate) async fn run(gateway: Gateway, admitted: Box<Admitted>, upgraded: OnUpgrade) {
    let Some(mut running) = Box::pin(connect(gateway, admitted, upgraded)).await else { return };
    let served = running.serve().await;
    Box::pin(running.finish(served)).await;
}

/// Opens the session on an upgraded connection.
async fn connect(gateway: Gateway, admitted: Box<Admitted>, upgraded: OnUpgrade) -> Option<Box<Running>> {
    let unit = admitted.system_id.as_str();
    let socket = crate::upgrade::connected(&gateway, &admitted.system_id, upgraded).await?;
    let session = match gateway.inner.store.open_session(&admitted.unit.id).await {
        Ok(session) => session,
        Err(error) => {
            gateway.inner.metrics.refused(Refused::Admission);
            tracing::warn!(unit, "session refused: {}", aos_logging::with_causes(&error));
            socket.close(close_code::POLICY, "the Unit is not provisioned").await;
            return None;
        }
    };
    tracing::info!(unit, session, "session opened");
    gateway.inner.metrics.session_opened();
    let (metrics, store) = (gateway.inner.metrics.clone(), gateway.inner.store.clone());
    match open(&gateway, &admitted, session, socket).await {
        Ok(running) => Some(running),
        Err(error) => {
            tracing::error!(unit, session, "session failed: {}", aos_logging::with_causes(&error));
            metrics.session_closed(Closed::Failed);
            note_end(&store, &admitted.unit.id, session, unit).await;
            None
        }
    }
}

async fn note_end(store: &Store, unit_id: &str, session: i64, unit: &str) {
    if let Err(error) = store.close_session(unit_id, session).await {
        tracing::error!(
            unit,
            session,
            "cannot note the end of the session: {}",
            aos_logging::with_causes(&error)
        );
    }
}

async fn open(
    gateway: &Gateway,
    admitted: &Admitted,
    session: i64,
    socket: Socket,
) -> Result<Box<Running>, GatewayError> {
    let inner = &gateway.inner;
    let unit_id = admitted.unit.id.clone();
    let signal = inner.store.watch_unit(&unit_id).await?;
    let mut config = Config::cloud(admitted.system_id.clone());
    config.ping_interval = PING;
    config.dead_after = DEAD_AFTER;
    config.undecided = MAX_HANDLED;
    config.remembered = REMEMBERED;
    // The Unit can show this certificate, so those it replaces are not needed any more.
    inner.store.certificate_used(&unit_id, &admitted.serial).await?;
    let now = Instant::now();
    let target = signal.borrow().target;
    Ok(Box::new(Running {
        gateway: gateway.clone(),
        socket,
        core: Session::new(config, []),
        origin: Origin { unit_id, system_id: admitted.system_id.clone(), session },
        not_after: admitted.not_after,
        serial: admitted.serial.clone(),
        signal,
        phase: inner.phase.subscribe(),
        target,
        rate: Rate::new(&inner.settings.rate, now),
        pending: FuturesUnordered::new(),
        pending_bytes: 0,
        stalled: 0,
        frame: inbound::Frame::new(now),
        delivery: Delivery::default(),
        sent: None,
        outbox: 0,
        kept: Vec::new(),
        sealer: None,
        told: None,
        leaves: None,
    }))
}

fn now() -> Now {
    Now { instant: Instant::now(), wall: Timestamp::now() }
}

/// A step of the session: boxed, so that an idle one holds nothing of it.
type Step<'a> = Pin<Box<dyn Future<Output = Result<Option<End>, GatewayError>> + Send + 'a>>;

/// What woke the session.
enum Woken {
    Phase,
    Signal(bool),
    Handled(inbound::Handled),
    Arrived(Result<Arrived, End>),
    Time,
}

impl Running {
    /// Says goodbye where that makes sense, and notes the end.
    async fn finish(self: Box<Self>, served: Result<End, GatewayError>) {
        let Self { gateway, socket, origin, pending, pending_bytes, .. } = *self;
        let (unit, session) = (origin.system_id.as_str(), origin.session);
        let metrics = &gateway.inner.metrics;
        metrics
            .handling(-i64::try_from(pending.len()).unwrap_or(0), -i64::try_from(pending_bytes).unwrap_or(0));
        drop(pending);
        let why = match served {
            Ok(End::Gone(why, reason)) => {
                tracing::info!(unit, session, "session ended: {reason}");
                if why == Closed::Peer {
                    socket.hang_up().await;
                }
                why
            }
            Ok(End::Ours(why, code, reason)) => {
                tracing::info!(unit, session, "session ends with {code}: {reason}");
                socket.close(code, reason).await;
                why
            }
            Err(error) => {
                tracing::error!(unit, session, "session failed: {}", aos_logging::with_causes(&error));
                Closed::Failed
            }
        };
        metrics.session_closed(why);
        note_end(&gateway.inner.store, &origin.unit_id, session, unit).await;
    }

    /// Runs until the session has ended; an error means that the cloud itself failed.
    async fn serve(&mut self) -> Result<End, GatewayError> {
        if let Some(end) = Box::pin(self.begin()).await? {
            return Ok(end);
        }
        loop {
            let step: Step<'_> = match self.wait().await {
                Woken::Phase => Box::pin(std::future::ready(Ok(None))),
                Woken::Signal(true) => Box::pin(self.signalled()),
                Woken::Signal(false) => {
                    return Ok(End::Ours(Closed::Stopped, close_code::AWAY, "the cloud is stopping"));
                }
                Woken::Handled(handled) => Box::pin(self.handled(handled)),
                Woken::Arrived(Ok(arrived)) => Box::pin(self.arrived(arrived)),
                Woken::Arrived(Err(end)) => return Ok(end),
                Woken::Time => Box::pin(self.tick()),
            };
            if let Some(end) = step.await? {
                return Ok(end);
            }
            // Also after a change of phase, which has no step of its own.
            if let Some(end) = self.left() {
                return Ok(end);
            }
        }
    }

    async fn begin(&mut self) -> Result<Option<End>, GatewayError> {
        // What happened between opening the session and watching the Unit raises no signal.
        if let Some(end) = self.signalled().await? {
            return Ok(Some(end));
        }
        if let Some(end) = self.feed(Event::connected(None)).await? {
            return Ok(Some(end));
        }
        if let Some(end) = self.renew_desired().await? {
            return Ok(Some(end));
        }
        self.read_outbox().await
    }

    /// Waits for whatever comes first.
    async fn wait(&mut self) -> Woken {
        let settings = &self.gateway.inner.settings;
        let at = Instant::now();
        let pause = self.rate.pause(&settings.rate, at);
        let may_read = self.pending.len() < MAX_HANDLED
            && self.pending_bytes < MAX_HANDLED_BYTES
            && self.stalled == 0
            && pause.is_none()
            && self.leaves.is_none();
        let wake = self.core.next_deadline().unwrap_or(at + PING);
        let deadlines = [
            // While we do not read, the Unit cannot complete its frame.
            may_read.then(|| self.socket.deadline(settings)).flatten(),
            pause.map(|pause| at + pause),
            self.leaves.or_else(|| self.turn().map(|(_, turn)| turn)),
        ];
        let wake = deadlines.into_iter().flatten().fold(wake, Instant::min);
        tokio::select! {
            Ok(()) = self.phase.changed() => Woken::Phase,
            changed = self.signal.changed() => Woken::Signal(changed.is_ok()),
            Some(handled) = self.pending.next(), if !self.pending.is_empty() => Woken::Handled(handled),
            arrived = self.socket.receive(), if may_read => Woken::Arrived(arrived),
            () = tokio::time::sleep_until(wake.into()) => Woken::Time,
        }
    }

    /// How and when the Unit has to leave.
    fn turn(&self) -> Option<(Leaving, Instant)> {
        match *self.phase.borrow() {
            Phase::Open => None,
            Phase::Leaving(leaving) => Some((leaving, leaving.turn(&self.origin.unit_id))),
        }
    }

    /// The end of a session whose turn to leave has come, once nothing is being handled any more.
    fn left(&mut self) -> Option<End> {
        let now = Instant::now();
        let Some((leaving, turn)) = self.turn() else {
            self.leaves = None;
            return None;
        };
        if now < turn {
            return None;
        }
        let limit = *self.leaves.get_or_insert(now + leaving.finish);
        if !self.pending.is_empty() && now < limit {
            return None;
        }
        Some(if leaving.stop {
            End::Ours(Closed::Stopped, close_code::AWAY, "the cloud is stopping")
        } else {
            End::Ours(Closed::Moved, close_code::RESTART, "please connect again")
        })
    }

    async fn tick(&mut self) -> Result<Option<End>, GatewayError> {
        if now_micros() / 1_000_000 > self.not_after {
            let reason = "the certificate has expired";
            return Ok(Some(End::Ours(Closed::Policy, close_code::POLICY, reason)));
        }
        let late = self.socket.deadline(&self.gateway.inner.settings).is_some_and(|at| at <= Instant::now());
        if late {
            let reason = "a message takes too long";
            return Ok(Some(End::Ours(Closed::Slow, close_code::POLICY, reason)));
        }
        let actions = self.core.on(now(), Event::Tick);
        for _ in actions.iter().filter(|action| matches!(action, Action::Transmit(_))) {
            self.gateway.inner.metrics.resent();
        }
        self.perform(actions).await
    }

    async fn arrived(&mut self, arrived: Arrived) -> Result<Option<End>, GatewayError> {
        let (settings, metrics) = (&self.gateway.inner.settings, &self.gateway.inner.metrics);
        match arrived {
            Arrived::Progress => self.feed(Event::PeerAlive).await,
            Arrived::Ping(content) => {
                if let Err(end) = self.socket.pong(&content, settings, metrics).await {
                    return Ok(Some(end));
                }
                self.control(content.len()).await
            }
            Arrived::Pong => self.control(0).await,
            Arrived::Message(message, share) => self.message(message, share).await,
        }
    }

    async fn control(&mut self, bytes: usize) -> Result<Option<End>, GatewayError> {
        let verdict = self.rate.on_frame(&self.gateway.inner.settings.rate, Instant::now(), bytes);
        if verdict == Verdict::Cut {
            return Ok(Some(self.cut()));
        }
        self.feed(Event::PeerAlive).await
    }

    fn cut(&self) -> End {
        self.gateway.inner.metrics.refused(Refused::Rate);
        End::Ours(Closed::Rate, close_code::POLICY, "too many messages")
    }

    /// Gives an event to the core and does what it wants.
    async fn feed(&mut self, event: Event<'_>) -> Result<Option<End>, GatewayError> {
        let actions = self.core.on(now(), event);
        self.perform(actions).await
    }

    async fn perform(&mut self, actions: Vec<Action>) -> Result<Option<End>, GatewayError> {
        let mut actions: VecDeque<Action> = actions.into();
        while let Some(action) = actions.pop_front() {
            let done = match action {
                Action::Transmit(bytes) => self.transmit(&bytes).await?,
                Action::Ping => {
                    let inner = &self.gateway.inner;
                    self.socket.ping(&inner.settings, &inner.metrics).await
                }
                Action::Reconnect => Err(End::Gone(Closed::Dead, "no sign of life".to_owned())),
                Action::Deliver(envelope) => {
                    actions.extend(self.deliver(*envelope));
                    Ok(())
                }
                Action::Acknowledged(about) => {
                    self.acknowledged(&about.txn).await?;
                    Ok(())
                }
                Action::Parked(about, reason) => {
                    self.parked(&about, reason).await?;
                    Ok(())
                }
                Action::Dropped(about, reason) => {
                    self.dropped(&about, reason).await?;
                    Ok(())
                }
                Action::Rejected(rejection) => self.rejected(&rejection).await?,
            };
            if let Err(end) = done {
                return Ok(Some(end));
            }
        }
        Ok(None)
    }

    /// Sends a message, sealed when the Unit wants that.
    async fn transmit(&mut self, message: &[u8]) -> Result<Result<(), End>, GatewayError> {
        let inner = &self.gateway.inner;
        inner.taps.see(&self.origin.unit_id, Direction::CloudToUnit, message);
        let sealed = match &self.sealer {
            Some(sealer) => sealer.seal(message)?,
            None => None,
        };
        let message = sealed.as_deref().unwrap_or(message);
        Ok(self.socket.send(message, &inner.settings, &inner.metrics).await)
    }

    fn unit(&self) -> &str {
        self.origin.system_id.as_str()
    }
}
