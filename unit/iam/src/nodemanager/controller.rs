//! Streams of secondary nodes, and requests sent over them; pure.
//!
//! A stream has no identity until it sends its node's description. Answers are matched by kind, so one
//! request of a kind is under way per node and later ones wait; nodes never wait for one another. An
//! attempt fails when there is no stream, it breaks, or no answer comes; three are made, 10 s apart, or as
//! soon as the node is back.

use std::collections::{BTreeMap, VecDeque};
use std::time::{Duration, Instant};

use aos_status::NodeState;
use aos_unit_api::iamanager::v7::iam_incoming_messages::IamIncomingMessage as Request;
use aos_unit_api::iamanager::v7::iam_outgoing_messages::IamOutgoingMessage as Message;

use super::kinds::{Kind, fits};
use super::table::MAX_NODES;
use crate::currentnode::NodeInfo;

const ATTEMPTS: u32 = 3;
const RETRY: Duration = Duration::from_secs(10);
const MAX_WAITING: usize = 8;

/// Number of a stream.
pub type StreamId = u64;
/// Number of a request.
pub type CallId = u64;

/// The server that a stream came in on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Side {
    /// For nodes that are not provisioned.
    Public,
    /// For all others.
    Protected,
}

impl Side {
    fn takes(self, state: NodeState) -> bool {
        (self == Self::Public) == (state == NodeState::Unprovisioned)
    }
}

/// What happened.
#[derive(Debug)]
pub enum Event {
    /// A node opened a stream.
    Opened(StreamId, Side),
    /// A node described itself.
    Described(StreamId, Box<NodeInfo>),
    /// A node answered.
    Answered(StreamId, Box<Message>),
    /// A stream ended.
    Closed(StreamId),
    /// Somebody wants something from a node.
    Call(CallId, String, Box<Request>),
    /// Time has passed.
    Tick,
    /// The program stops.
    Stop,
}

/// What is to be done.
#[derive(Debug, PartialEq)]
pub enum Action {
    /// Send a request.
    Send(StreamId, Box<Request>),
    /// End a stream with an error.
    End(StreamId, StreamEnd),
    /// A node is connected and says this of itself.
    Connected(StreamId, Box<NodeInfo>),
    /// A node is not reachable any more.
    Disconnected(String),
    /// A request is answered or has failed.
    Finish(CallId, Result<Box<Message>, CallError>),
}

/// Why we end a node's stream.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum StreamEnd {
    /// It says to be this node.
    #[error("node ID '{0}' is the main node's own")]
    OwnId(String),
    /// The table is full.
    #[error("a Unit has at most {MAX_NODES} nodes")]
    Full,
    /// The program stops.
    #[error("the node controller is stopping")]
    Stopping,
}

/// Why a request to a node has no answer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CallError {
    /// The node has no stream here.
    #[error("node '{0}' is not connected")]
    NotConnected(String),
    /// The node does not answer.
    #[error("node '{0}' does not answer")]
    NoAnswer(String),
    /// Too many requests wait for the node.
    #[error("node '{0}' has too many requests waiting")]
    Busy(String),
    /// The program stops.
    #[error("the node controller is stopping")]
    Stopping,
}

#[derive(Debug)]
struct Stream {
    side: Side,
    node: Option<String>,
}

#[derive(Debug)]
struct Call {
    id: CallId,
    request: Box<Request>,
    failed: u32,
    phase: Phase,
}

#[derive(Debug, Clone, Copy)]
enum Phase {
    Waiting,
    Retry(Instant),
    Sent(StreamId, Instant),
}

/// All streams and requests.
#[derive(Debug)]
pub struct Controller {
    own_id: String,
    streams: BTreeMap<StreamId, Stream>,
    links: BTreeMap<String, StreamId>,
    calls: BTreeMap<(String, Kind), VecDeque<Call>>,
    stopped: bool,
}

impl Controller {
    /// The controller of the main node `own_id`.
    pub fn new(own_id: String) -> Self {
        Self {
            own_id,
            streams: BTreeMap::new(),
            links: BTreeMap::new(),
            calls: BTreeMap::new(),
            stopped: false,
        }
    }

    /// When [`Event::Tick`] is due.
    pub fn deadline(&self) -> Option<Instant> {
        self.calls
            .values()
            .filter_map(|queue| match queue.front()?.phase {
                Phase::Waiting => None,
                Phase::Retry(at) | Phase::Sent(_, at) => Some(at),
            })
            .min()
    }

    /// Takes an event at `now`.
    pub fn on(&mut self, now: Instant, event: Event) -> Vec<Action> {
        let mut actions = Vec::new();
        match event {
            Event::Opened(stream, _) if self.stopped => {
                actions.push(Action::End(stream, StreamEnd::Stopping));
            }
            Event::Opened(stream, side) => {
                self.streams.insert(stream, Stream { side, node: None });
            }
            Event::Described(stream, info) => {
                let node = info.node_id.clone();
                self.described(stream, info, &mut actions);
                if self.links.get(&node) == Some(&stream) {
                    self.resume(now, &node, &mut actions);
                }
            }
            Event::Answered(stream, message) => self.answered(now, stream, message, &mut actions),
            Event::Closed(stream) => {
                self.unlink(stream, &mut actions);
                self.streams.remove(&stream);
                self.fail_where(
                    now,
                    |phase| matches!(phase, Phase::Sent(on, _) if on == stream),
                    &mut actions,
                );
            }
            Event::Call(id, node, request) => self.call(now, id, node, request, &mut actions),
            Event::Tick => {
                self.fail_where(
                    now,
                    |phase| matches!(phase, Phase::Sent(_, until) if until <= now),
                    &mut actions,
                );
                self.retry(now, &mut actions);
            }
            Event::Stop => self.stop(&mut actions),
        }
        actions
    }

    fn described(&mut self, id: StreamId, info: Box<NodeInfo>, actions: &mut Vec<Action>) {
        let Some(stream) = self.streams.get(&id) else { return };
        if info.node_id == self.own_id {
            actions.push(Action::End(id, StreamEnd::OwnId(info.node_id)));
            return;
        }
        if !stream.side.takes(info.state) {
            tracing::warn!("node {} is {} and came in on the wrong server", info.node_id, info.state);
            self.unlink(id, actions);
            return;
        }
        if stream.side == Side::Public && self.is_linked_on(Side::Protected, &info.node_id) {
            tracing::warn!("somebody on the public server claims to be the connected node {}", info.node_id);
            self.unlink(id, actions);
            return;
        }
        if stream.node.as_ref().is_some_and(|node| *node != info.node_id) {
            self.unlink(id, actions);
        }
        if let Some(stream) = self.streams.get_mut(&id) {
            stream.node = Some(info.node_id.clone());
        }
        if let Some(older) = self.links.insert(info.node_id.clone(), id).filter(|older| *older != id)
            && let Some(stream) = self.streams.get_mut(&older)
        {
            stream.node = None;
        }
        actions.push(Action::Connected(id, info));
    }

    fn is_linked_on(&self, side: Side, node: &str) -> bool {
        self.links.get(node).and_then(|id| self.streams.get(id)).is_some_and(|stream| stream.side == side)
    }

    fn unlink(&mut self, id: StreamId, actions: &mut Vec<Action>) {
        let Some(node) = self.streams.get_mut(&id).and_then(|stream| stream.node.take()) else { return };
        // Only the stream that is the node's present one says that it is gone.
        if self.links.get(&node) == Some(&id) {
            self.links.remove(&node);
            actions.push(Action::Disconnected(node));
        }
    }

    fn call(
        &mut self,
        now: Instant,
        id: CallId,
        node: String,
        request: Box<Request>,
        actions: &mut Vec<Action>,
    ) {
        if self.stopped {
            actions.push(Action::Finish(id, Err(CallError::Stopping)));
            return;
        }
        let key = (node, Kind::of_request(&request));
        let queue = self.calls.entry(key.clone()).or_default();
        if queue.len() >= MAX_WAITING {
            actions.push(Action::Finish(id, Err(CallError::Busy(key.0))));
            return;
        }
        queue.push_back(Call { id, request, failed: 0, phase: Phase::Waiting });
        if queue.len() == 1 {
            self.attempt(now, &key, actions);
        }
    }

    /// Starts the next attempt of the first request in a queue.
    fn attempt(&mut self, now: Instant, key: &(String, Kind), actions: &mut Vec<Action>) {
        let link = self.links.get(&key.0).copied();
        let Some(call) = self.calls.get_mut(key).and_then(VecDeque::front_mut) else {
            self.calls.remove(key);
            return;
        };
        if let Some(stream) = link {
            call.phase = Phase::Sent(stream, now + key.1.time());
            actions.push(Action::Send(stream, call.request.clone()));
        } else {
            self.fail(now, key, CallError::NotConnected(key.0.clone()), actions);
        }
    }

    /// An attempt has failed: another one later, or the end.
    fn fail(&mut self, now: Instant, key: &(String, Kind), error: CallError, actions: &mut Vec<Action>) {
        let Some(call) = self.calls.get_mut(key).and_then(VecDeque::front_mut) else { return };
        call.failed += 1;
        if call.failed < ATTEMPTS {
            call.phase = Phase::Retry(now + RETRY);
            return;
        }
        let id = call.id;
        self.finish(now, key, id, Err(error), actions);
    }

    fn finish(
        &mut self,
        now: Instant,
        key: &(String, Kind),
        id: CallId,
        result: Result<Box<Message>, CallError>,
        actions: &mut Vec<Action>,
    ) {
        actions.push(Action::Finish(id, result));
        if let Some(queue) = self.calls.get_mut(key) {
            queue.pop_front();
        }
        self.attempt(now, key, actions);
    }

    fn fail_where(&mut self, now: Instant, which: impl Fn(Phase) -> bool, actions: &mut Vec<Action>) {
        for key in self.fronts(which) {
            self.fail(now, &key, CallError::NoAnswer(key.0.clone()), actions);
        }
    }

    fn retry(&mut self, now: Instant, actions: &mut Vec<Action>) {
        for key in self.fronts(|phase| matches!(phase, Phase::Retry(at) if at <= now)) {
            self.attempt(now, &key, actions);
        }
    }

    /// What waits for another attempt need not wait any longer: the node is back.
    fn resume(&mut self, now: Instant, node: &str, actions: &mut Vec<Action>) {
        for key in self.fronts(|phase| matches!(phase, Phase::Retry(_))) {
            if key.0 == node {
                self.attempt(now, &key, actions);
            }
        }
    }

    fn fronts(&self, which: impl Fn(Phase) -> bool) -> Vec<(String, Kind)> {
        self.calls
            .iter()
            .filter(|(_, queue)| queue.front().is_some_and(|call| which(call.phase)))
            .map(|(key, _)| key.clone())
            .collect()
    }

    fn answered(&mut self, now: Instant, stream: StreamId, message: Box<Message>, actions: &mut Vec<Action>) {
        let Some(kind) = Kind::of_answer(&message) else { return };
        let waiting = self.calls.iter().find_map(|(key, queue)| {
            let call = queue.front()?;
            let mine =
                matches!(call.phase, Phase::Sent(on, _) if on == stream) && fits(&call.request, &message);
            (key.1 == kind && mine).then(|| (key.clone(), call.id))
        });
        // An answer that nobody waits for comes too late or was never asked for.
        let Some((key, id)) = waiting else { return };
        self.finish(now, &key, id, Ok(message), actions);
    }

    fn stop(&mut self, actions: &mut Vec<Action>) {
        self.stopped = true;
        for call in std::mem::take(&mut self.calls).into_values().flatten() {
            actions.push(Action::Finish(call.id, Err(CallError::Stopping)));
        }
        for stream in std::mem::take(&mut self.streams).into_keys() {
            actions.push(Action::End(stream, StreamEnd::Stopping));
        }
        self.links.clear();
    }
}
