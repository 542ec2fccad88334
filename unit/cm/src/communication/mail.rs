//! The message session and what belongs to it, across connections and without any socket.
//!
//! It knows which messages lie in the outbox, tells in batches which of them may go, keeps those that find no
//! room in the session's queue until there is some, and counts everything. What needs the socket comes out as
//! [`Step`]s.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::{Duration, Instant};

use aos_cloud_protocol::{Body, Envelope, MessageType, RequestBlobUrls, UnitStatus};
use aos_cloud_session::{
    Action, Config as SessionConfig, DropReason, Event as Input, Now, Outgoing, Rejection, Session,
};
use aos_ids::{SystemId, Txn};
use bytes::Bytes;
use tokio::sync::{mpsc, oneshot};

use super::questions::Questions;
use super::state::Counters;
use super::{BlobUrlError, Command, Durable, Event, Stored, Told, outbox};

/// Acknowledged messages are removed from the outbox in batches of this size, or after this time.
const BATCH: usize = 64;
const BATCH_TIME: Duration = Duration::from_millis(100);
/// Reports that wait for their receiver; more are left out, the log has them.
const REPORTS: usize = 16;

/// What is to be done with the socket.
#[derive(Debug)]
pub(super) enum Step {
    Transmit(Bytes),
    Ping,
    Deliver(Box<Envelope>),
    Reconnect,
}

/// Times of the session.
#[derive(Debug, Clone, Copy)]
pub(super) struct Times {
    /// For an acknowledgement, and for an answer about blobs.
    pub wait: Duration,
    /// Between pings.
    pub ping: Duration,
    /// Without a sign of life.
    pub dead: Duration,
    /// A link that lived this long was a good one: attempts start anew.
    pub good: Duration,
    /// For the cloud to acknowledge what is kept, before a new certificate is used.
    pub settle: Duration,
}

pub(super) struct Mail {
    system_id: SystemId,
    session: Session,
    questions: Questions,
    events: mpsc::Sender<Event>,
    /// Messages in the outbox.
    kept: BTreeSet<Txn>,
    /// Those of them that the cloud does not acknowledge.
    parked: BTreeSet<Txn>,
    /// Those of them that found no room in the session.
    unsent: VecDeque<Envelope>,
    /// Messages whose senders wait for the outcome.
    awaited: BTreeMap<Txn, oneshot::Sender<Result<(), DropReason>>>,
    /// Messages that may leave the outbox.
    done: Vec<Txn>,
    /// Reports that found no room.
    reports: VecDeque<Event>,
    flush_at: Option<Instant>,
    counters: Counters,
}

pub(super) fn now() -> Now {
    Now { instant: Instant::now(), wall: jiff::Timestamp::now() }
}

impl Mail {
    /// A session that knows what earlier runs left.
    pub fn new(system_id: SystemId, times: Times, stored: Stored, events: mpsc::Sender<Event>) -> Self {
        let config = SessionConfig {
            ack_timeout: times.wait,
            ping_interval: times.ping,
            dead_after: times.dead,
            remembered: outbox::REMEMBERED as usize,
            ..SessionConfig::unit(system_id.clone())
        };
        let mut mail = Self {
            session: Session::new(config, stored.remembered),
            system_id,
            questions: Questions::new(times.wait),
            events,
            kept: BTreeSet::new(),
            parked: BTreeSet::new(),
            unsent: VecDeque::new(),
            awaited: BTreeMap::new(),
            done: Vec::new(),
            reports: VecDeque::new(),
            flush_at: None,
            counters: Counters::default(),
        };
        for envelope in stored.outbox {
            if envelope.header.system_id == mail.system_id {
                mail.keep(envelope);
            } else {
                tracing::warn!("a kept message of another identity of this Unit is removed");
                mail.done.push(envelope.header.txn);
            }
        }
        mail.flush();
        mail
    }

    /// Messages that the cloud has not acknowledged.
    pub fn queued(&self) -> usize {
        self.session.outstanding() + self.unsent.len()
    }

    /// Those of them that are on disk.
    pub fn kept(&self) -> usize {
        self.kept.len()
    }

    /// Counters, those of the session among them.
    pub fn counters(&self) -> Counters {
        let (sent, resent) = self.session.sent();
        Counters { sent, resent, ..self.counters }
    }

    /// True when the cloud has acknowledged everything that is on disk and that it can be expected to.
    pub fn is_settled(&self) -> bool {
        self.kept.len() == self.parked.len()
    }

    /// When [`Mail::tick`] is due.
    pub fn deadline(&self) -> Option<Instant> {
        let all = [self.session.next_deadline(), self.questions.deadline(), self.flush_at];
        all.into_iter().flatten().min()
    }

    /// A deadline has come.
    pub fn tick(&mut self) -> Vec<Step> {
        self.questions.expire();
        if self.flush_at.is_some_and(|at| at <= Instant::now()) {
            self.flush();
        }
        self.feed(Input::Tick)
    }

    /// The link stands.
    pub fn connected(&mut self, greeting: Option<UnitStatus>) -> Vec<Step> {
        self.counters.connections += 1;
        let greeting = greeting.map(|status| self.envelope(Body::UnitStatus(status), None));
        self.feed(Input::connected(greeting))
    }

    /// The link is gone.
    pub fn disconnected(&mut self) {
        self.feed(Input::Disconnected);
        self.questions.fail_all();
        self.flush();
    }

    /// A data frame came.
    pub fn frame(&mut self, bytes: &[u8]) -> Vec<Step> {
        self.counters.received += 1;
        self.feed(Input::Frame(bytes))
    }

    /// A data frame came that cannot be opened.
    pub fn sealed(&mut self) -> Vec<Step> {
        self.counters.received += 1;
        self.counters.refused.enveloped += 1;
        self.alive()
    }

    /// A frame came that WebSocket forbids, or that is too long.
    pub fn violated(&mut self) {
        self.counters.refused.violated += 1;
    }

    /// Something else came.
    pub fn alive(&mut self) -> Vec<Step> {
        self.feed(Input::PeerAlive)
    }

    /// Takes what the task is told. Without a link nothing can be asked.
    pub fn told(&mut self, told: Told) -> Vec<Step> {
        match told {
            Told::Durable(Durable::Send(envelope)) => self.keep(*envelope),
            Told::Durable(Durable::Accepted(txn)) => self.feed(Input::Accepted(txn)),
            Told::Command(Command::Send(body, correlation)) => {
                let envelope = self.envelope(*body, correlation);
                self.feed(Input::send(envelope))
            }
            Told::Command(Command::Deliver(body, correlation, outcome)) => {
                let envelope = self.envelope(*body, correlation);
                self.awaited.insert(envelope.header.txn.clone(), outcome);
                self.feed(Input::send(envelope))
            }
            Told::Command(Command::BlobUrls(digest, answer)) if self.session.is_connected() => {
                let exchange = self.questions.ask(digest, answer);
                let body = Body::RequestBlobUrls(RequestBlobUrls { digests: vec![digest] });
                let envelope = self.envelope(body, Some(exchange));
                self.feed(Input::send(envelope))
            }
            Told::Command(Command::BlobUrls(_, answer)) => {
                let _ = answer.send(Err(BlobUrlError::Offline));
                Vec::new()
            }
        }
    }

    fn envelope(&self, body: Body, correlation: Option<String>) -> Envelope {
        let envelope = Envelope::new(self.system_id.clone(), jiff::Timestamp::now(), body);
        Envelope { correlation_id: correlation, ..envelope }
    }

    /// Sends a message of the outbox, later when the session has no room for it.
    fn keep(&mut self, envelope: Envelope) -> Vec<Step> {
        let txn = envelope.header.txn.clone();
        self.kept.insert(txn.clone());
        if !self.unsent.is_empty() {
            self.unsent.push_back(envelope);
            return Vec::new();
        }
        let mut actions = self.session.on(now(), Input::keep(envelope.clone()));
        if refuse(&mut actions, &txn) {
            self.unsent.push_back(envelope);
        }
        self.settle(actions)
    }

    fn feed(&mut self, input: Input<'_>) -> Vec<Step> {
        let actions = self.session.on(now(), input);
        self.settle(actions)
    }

    /// Does what can be done without a socket.
    fn settle(&mut self, actions: Vec<Action>) -> Vec<Step> {
        let mut steps = Vec::new();
        let mut actions = VecDeque::from(actions);
        while let Some(action) = actions.pop_front() {
            match action {
                Action::Transmit(bytes) => steps.push(Step::Transmit(bytes)),
                Action::Ping => steps.push(Step::Ping),
                Action::Reconnect => steps.push(Step::Reconnect),
                Action::Deliver(envelope) => {
                    if let Body::BlobUrls(urls) = envelope.body {
                        self.questions.answered(envelope.correlation_id.as_deref(), urls.items);
                        actions.extend(self.session.on(now(), Input::Accepted(envelope.header.txn)));
                    } else {
                        steps.push(Step::Deliver(envelope));
                    }
                }
                Action::Acknowledged(about) => {
                    self.counters.acknowledged += 1;
                    self.tell_outcome(&about.txn, Ok(()));
                    self.remove(about.txn);
                    actions.extend(self.refill());
                }
                Action::Parked(about, reason) => self.parked(&about, reason),
                Action::Dropped(about, reason) => {
                    self.dropped(&about, reason);
                    actions.extend(self.refill());
                }
                Action::Rejected(what) => self.rejected(&what),
            }
        }
        steps
    }

    /// There may be room again for what found none.
    fn refill(&mut self) -> Vec<Action> {
        let mut all = Vec::new();
        while let Some(envelope) = self.unsent.front().cloned() {
            let txn = envelope.header.txn.clone();
            let mut actions = self.session.on(now(), Input::keep(envelope));
            let refused = refuse(&mut actions, &txn);
            all.extend(actions);
            if refused {
                break;
            }
            self.unsent.pop_front();
        }
        all
    }

    fn parked(&mut self, about: &Outgoing, reason: DropReason) {
        tracing::warn!("message {} {} is parked: {reason}", about.kind, about.txn);
        self.counters.parked += 1;
        if self.kept.contains(&about.txn) {
            self.parked.insert(about.txn.clone());
        }
        self.say(Event::Parked(format!("{} for the cloud {reason}; it is kept and sent again", about.kind)));
    }

    fn dropped(&mut self, about: &Outgoing, reason: DropReason) {
        self.counters.dropped.count(reason);
        self.tell_outcome(&about.txn, Err(reason));
        if reason == DropReason::Superseded {
            tracing::debug!("message {} {} given up: {reason}", about.kind, about.txn);
        } else {
            tracing::warn!("message {} {} given up: {reason}", about.kind, about.txn);
            if about.kind == MessageType::UnitStatus && self.session.is_connected() {
                self.say(Event::StatusLost);
            }
        }
        self.remove(about.txn.clone());
    }

    fn tell_outcome(&mut self, txn: &Txn, outcome: Result<(), DropReason>) {
        if let Some(waiting) = self.awaited.remove(txn) {
            let _ = waiting.send(outcome);
        }
    }

    fn rejected(&mut self, what: &Rejection) {
        self.counters.refused.count(what);
        if matches!(what, Rejection::Invalid(_)) {
            tracing::error!("{what}; acknowledged");
            self.say(Event::Refused(what.to_string()));
        } else {
            tracing::error!("{what}");
        }
    }

    /// Reports do not hold up messages.
    fn say(&mut self, event: Event) {
        if self.reports.len() < REPORTS {
            self.reports.push_back(event);
        }
        self.flush();
    }

    /// A message need not be kept any more.
    fn remove(&mut self, txn: Txn) {
        self.parked.remove(&txn);
        if self.kept.remove(&txn) {
            self.done.push(txn);
            self.flush_at.get_or_insert_with(|| Instant::now() + BATCH_TIME);
            if self.done.len() >= BATCH {
                self.flush();
            }
        }
    }

    /// Tells what may leave the outbox, and reports, as far as the receiver has room.
    fn flush(&mut self) {
        self.flush_at = None;
        while let Ok(permit) = self.events.try_reserve() {
            if let Some(report) = self.reports.pop_front() {
                permit.send(report);
            } else if self.done.is_empty() {
                return;
            } else {
                permit.send(Event::Acknowledged(std::mem::take(&mut self.done)));
            }
        }
        self.flush_at = Some(Instant::now() + BATCH_TIME);
    }
}

/// Takes the refusal of this message out of the actions; true when there was one.
fn refuse(actions: &mut Vec<Action>, txn: &Txn) -> bool {
    let before = actions.len();
    actions.retain(
        |action| !matches!(action, Action::Dropped(about, DropReason::QueueFull) if about.txn == *txn),
    );
    actions.len() < before
}
