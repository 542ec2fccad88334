//! Routes messages of Units to the parts of the cloud that handle them, inside one process.
//!
//! A route is a bounded queue for some kinds of messages. Who takes from it decides what happens to the
//! message and says so through [`Inbound::finish`]; only then the Unit gets its acknowledgement. A full queue
//! is a passing overload: the Unit is asked to come again.

use std::collections::HashMap;
use std::time::Duration;

use aos_cloud_protocol::{Body, Envelope, MessageType};
use aos_ids::SystemId;
use tokio::sync::mpsc::error::TrySendError;
use tokio::sync::{mpsc, oneshot};

/// Pause that a Unit is asked for when a queue is full.
pub const OVERLOAD_PAUSE: Duration = Duration::from_secs(2);

/// Which Unit a message came from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Origin {
    /// The Unit in the cloud.
    pub unit_id: String,
    /// Its own id.
    pub system_id: SystemId,
    /// Number of its session.
    pub session: i64,
}

/// What a handler made of a message.
#[derive(Debug)]
pub enum Outcome {
    /// It took effect durably: acknowledge it and send the answers.
    Done(Vec<Answer>),
    /// Not now: have it sent again after this pause.
    Later(Duration),
}

/// A message back to the Unit.
#[derive(Debug, Clone, PartialEq)]
pub struct Answer {
    /// Content.
    pub body: Body,
    /// The exchange it belongs to.
    pub correlation_id: Option<String>,
}

/// A message on its way to a handler.
#[derive(Debug)]
pub struct Inbound {
    /// Where it came from.
    pub origin: Origin,
    /// The message.
    pub envelope: Envelope,
    finished: oneshot::Sender<Outcome>,
}

impl Inbound {
    /// Takes the message apart: its origin, itself, and what must be told the outcome. Dropping the last
    /// without an outcome leaves the message unacknowledged; the Unit repeats it.
    pub fn into_parts(self) -> (Origin, Envelope, Finish) {
        (self.origin, self.envelope, Finish(self.finished))
    }
}

/// Takes the outcome of a message.
#[derive(Debug)]
pub struct Finish(oneshot::Sender<Outcome>);

impl Finish {
    /// Tells the outcome. The session may have ended meanwhile; then nobody cares any more.
    pub fn tell(self, outcome: Outcome) {
        let _ = self.0.send(outcome);
    }
}

/// Why a message found no handler.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum DispatchError {
    /// Nobody handles this kind.
    #[error("nobody handles {0}")]
    NoRoute(MessageType),
    /// The queue of its handler is full.
    #[error("the handler of {0} is overloaded")]
    Full(MessageType),
    /// Its handler has stopped.
    #[error("the handler of {0} has stopped")]
    Stopped(MessageType),
}

/// The routing table. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct Broker {
    routes: HashMap<MessageType, mpsc::Sender<Inbound>>,
}

impl Broker {
    /// An empty table.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a route for `kinds` with room for `capacity` messages; a later route of a kind replaces an
    /// earlier one. Returns where the handler takes them from.
    pub fn route(&mut self, kinds: &[MessageType], capacity: usize) -> mpsc::Receiver<Inbound> {
        let (sender, receiver) = mpsc::channel(capacity.max(1));
        self.routes.extend(kinds.iter().map(|kind| (*kind, sender.clone())));
        receiver
    }

    /// Puts a message into the queue of its handler. The receiver gets the outcome, or nothing when the
    /// handler gave up.
    pub fn dispatch(
        &self,
        origin: Origin,
        envelope: Envelope,
    ) -> Result<oneshot::Receiver<Outcome>, DispatchError> {
        match self.enqueue(origin, envelope)? {
            Queued::Placed(outcome) => Ok(outcome),
            Queued::Full(waiting) => Err(DispatchError::Full(waiting.kind)),
        }
    }

    /// Like [`Broker::dispatch`], but with a full queue gives the message back, to wait for room. Who does
    /// so takes nothing further from its Unit meanwhile.
    pub fn enqueue(&self, origin: Origin, envelope: Envelope) -> Result<Queued, DispatchError> {
        let kind = envelope.body.message_type();
        let route = self.routes.get(&kind).ok_or(DispatchError::NoRoute(kind))?;
        let (finished, outcome) = oneshot::channel();
        match route.try_send(Inbound { origin, envelope, finished }) {
            Ok(()) => Ok(Queued::Placed(outcome)),
            Err(TrySendError::Full(inbound)) => {
                let route = route.clone();
                Ok(Queued::Full(Waiting { kind, route, inbound: Box::new(inbound), outcome }))
            }
            Err(TrySendError::Closed(_)) => Err(DispatchError::Stopped(kind)),
        }
    }
}

/// Where a message is.
#[derive(Debug)]
pub enum Queued {
    /// In the queue of its handler; the receiver gets the outcome.
    Placed(oneshot::Receiver<Outcome>),
    /// Still here: the queue is full.
    Full(Waiting),
}

/// A message that waits for room in the queue of its handler.
#[derive(Debug)]
pub struct Waiting {
    kind: MessageType,
    route: mpsc::Sender<Inbound>,
    inbound: Box<Inbound>,
    outcome: oneshot::Receiver<Outcome>,
}

impl Waiting {
    /// Kind of the message.
    pub const fn kind(&self) -> MessageType {
        self.kind
    }

    /// Waits for room, however long that takes. Those who wait get it in order.
    pub async fn placed(self) -> Result<oneshot::Receiver<Outcome>, DispatchError> {
        let kind = self.kind;
        self.route.send(*self.inbound).await.map_err(|_| DispatchError::Stopped(kind))?;
        Ok(self.outcome)
    }
}

#[cfg(test)]
mod tests {
    use aos_cloud_protocol::{Alerts, MonitoringData};

    use super::*;

    fn origin() -> Origin {
        Origin { unit_id: "u".to_owned(), system_id: SystemId::new("unit-1").unwrap(), session: 1 }
    }

    fn message(body: Body) -> Envelope {
        Envelope::new(SystemId::new("unit-1").unwrap(), jiff::Timestamp::UNIX_EPOCH, body)
    }

    #[tokio::test]
    async fn messages_go_to_the_handler_of_their_kind() {
        let mut broker = Broker::new();
        let mut alerts = broker.route(&[MessageType::Alerts], 1);
        let outcome = broker.dispatch(origin(), message(Body::Alerts(Alerts::default()))).unwrap();
        let (from, envelope, finish) = alerts.recv().await.unwrap().into_parts();
        assert_eq!(from, origin());
        assert_eq!(envelope.body.message_type(), MessageType::Alerts);
        finish.tell(Outcome::Done(vec![]));
        assert!(matches!(outcome.await, Ok(Outcome::Done(_))));
        let none = broker.dispatch(origin(), message(Body::MonitoringData(MonitoringData::default())));
        assert_eq!(none.unwrap_err(), DispatchError::NoRoute(MessageType::MonitoringData));
    }

    #[tokio::test]
    async fn a_full_queue_and_a_stopped_handler_are_told_apart() {
        let mut broker = Broker::new();
        let alerts = broker.route(&[MessageType::Alerts], 1);
        let send = || broker.dispatch(origin(), message(Body::Alerts(Alerts::default())));
        let waiting = send().unwrap();
        assert_eq!(send().unwrap_err(), DispatchError::Full(MessageType::Alerts));
        drop(alerts);
        assert!(waiting.await.is_err());
        assert_eq!(send().unwrap_err(), DispatchError::Stopped(MessageType::Alerts));
    }

    #[tokio::test]
    async fn who_waits_for_room_gets_it_in_order() {
        let mut broker = Broker::new();
        let mut alerts = broker.route(&[MessageType::Alerts], 1);
        let send = || broker.enqueue(origin(), message(Body::Alerts(Alerts::default()))).unwrap();
        let Queued::Placed(first) = send() else { panic!("there is room") };
        let Queued::Full(waiting) = send() else { panic!("there is no room") };
        let (second, ()) = tokio::join!(waiting.placed(), async {
            let (_, _, finish) = alerts.recv().await.unwrap().into_parts();
            finish.tell(Outcome::Done(vec![]));
        });
        assert!(first.await.is_ok());
        let (_, _, finish) = alerts.recv().await.unwrap().into_parts();
        finish.tell(Outcome::Later(OVERLOAD_PAUSE));
        assert!(matches!(second.unwrap().await, Ok(Outcome::Later(_))));
    }
}
