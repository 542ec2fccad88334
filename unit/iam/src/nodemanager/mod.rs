//! The main node's knowledge of all nodes, and the way to the secondary ones.
//!
//! One task owns the table and the streams. Readers look at the newest table through a `watch` channel.
//! The main node itself is in the table as a connected node and follows its own state.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Instant;

use aos_status::NodeState;
use aos_supervise::Shutdown;
use aos_unit_api::iamanager::v7::iam_incoming_messages::IamIncomingMessage as Request;
use aos_unit_api::iamanager::v7::iam_outgoing_messages::IamOutgoingMessage as Message;
use tokio::sync::{mpsc, oneshot, watch};

use crate::Error;
use crate::currentnode::NodeInfo;
use crate::database::Store;
use crate::worker::Worker;

mod controller;
mod kinds;
mod table;
#[cfg(test)]
mod tests;

pub use controller::{Side, StreamEnd};
pub use table::{Nodes, Shown};

use controller::{Action, CallError, CallId, Controller, Event, StreamId};
use table::Keep;

const QUEUE: usize = 64;
const STREAM_QUEUE: usize = 16;
/// Streams at the same time: the public server takes them from everybody.
const MAX_STREAMS: usize = 64;

/// What a stream's writer gets: requests, then possibly the reason why it ends.
pub type ToNode = Result<Request, StreamEnd>;

enum Command {
    Open(Side, Option<Shown>, oneshot::Sender<Result<(StreamId, mpsc::Receiver<ToNode>), Error>>),
    Stream(StreamEvent),
    Call(String, Box<Request>, oneshot::Sender<Result<Box<Message>, CallError>>),
    SetState(String, NodeState, oneshot::Sender<Result<(), Error>>),
}

enum StreamEvent {
    Described(StreamId, Box<NodeInfo>),
    Answered(StreamId, Box<Message>),
    Closed(StreamId),
}

/// The way to the node manager.
#[derive(Debug, Clone)]
pub struct NodeManager {
    commands: mpsc::Sender<Command>,
    nodes: watch::Receiver<Arc<Nodes>>,
}

/// A node's stream, from the side of the server. Dropping it says that the stream has ended.
pub struct NodeStream {
    id: StreamId,
    commands: mpsc::Sender<Command>,
}

impl NodeStream {
    /// The node described itself.
    pub async fn described(&self, info: NodeInfo) {
        self.send(StreamEvent::Described(self.id, Box::new(info))).await;
    }

    /// The node answered.
    pub async fn answered(&self, message: Message) {
        self.send(StreamEvent::Answered(self.id, Box::new(message))).await;
    }

    async fn send(&self, event: StreamEvent) {
        // Without a receiver the program is stopping and all streams end.
        let _ = self.commands.send(Command::Stream(event)).await;
    }
}

impl Drop for NodeStream {
    fn drop(&mut self) {
        let (id, commands) = (self.id, self.commands.clone());
        if let Err(mpsc::error::TrySendError::Full(command)) =
            commands.try_send(Command::Stream(StreamEvent::Closed(id)))
            && let Ok(runtime) = tokio::runtime::Handle::try_current()
        {
            runtime.spawn(async move {
                let _ = commands.send(command).await;
            });
        }
    }
}

impl NodeManager {
    /// The newest table.
    pub fn nodes(&self) -> Arc<Nodes> {
        self.nodes.borrow().clone()
    }

    /// The table and its changes.
    pub fn watch(&self) -> watch::Receiver<Arc<Nodes>> {
        self.nodes.clone()
    }

    /// A node has opened a stream and shown this certificate.
    pub async fn open_stream(
        &self,
        side: Side,
        shown: Option<Shown>,
    ) -> Result<(NodeStream, mpsc::Receiver<ToNode>), Error> {
        let (answer, result) = oneshot::channel();
        self.commands.send(Command::Open(side, shown, answer)).await.map_err(|_| Error::Stopping)?;
        let (id, requests) = result.await.map_err(|_| Error::Stopping)??;
        Ok((NodeStream { id, commands: self.commands.clone() }, requests))
    }

    /// Sends a request to a secondary node and waits for its answer.
    pub async fn call(&self, node: &str, request: Request) -> Result<Message, Error> {
        let (answer, result) = oneshot::channel();
        self.commands
            .send(Command::Call(node.to_owned(), Box::new(request), answer))
            .await
            .map_err(|_| Error::Stopping)?;
        match result.await.map_err(|_| Error::Stopping)? {
            Ok(message) => Ok(*message),
            Err(error @ CallError::NotConnected(_)) => Err(Error::NotFound(error.to_string())),
            Err(error @ CallError::NoAnswer(_)) => Err(Error::Timeout(error.to_string())),
            Err(error @ CallError::Busy(_)) => Err(Error::TooMany(error.to_string())),
            Err(CallError::Stopping) => Err(Error::Stopping),
        }
    }

    /// A secondary node has confirmed its new state.
    pub async fn set_state(&self, node: &str, state: NodeState) -> Result<(), Error> {
        let (answer, result) = oneshot::channel();
        self.commands
            .send(Command::SetState(node.to_owned(), state, answer))
            .await
            .map_err(|_| Error::Stopping)?;
        result.await.map_err(|_| Error::Stopping)?
    }
}

/// The way to a node, and what it showed.
struct Writer {
    requests: mpsc::Sender<ToNode>,
    shown: Option<Shown>,
}

/// The node manager's task.
pub struct Task {
    commands: mpsc::Receiver<Command>,
    own: watch::Receiver<NodeInfo>,
    nodes: Nodes,
    published: watch::Sender<Arc<Nodes>>,
    store: Worker<Store>,
    controller: Controller,
    writers: BTreeMap<StreamId, Writer>,
    answers: BTreeMap<CallId, oneshot::Sender<Result<Box<Message>, CallError>>>,
    last_stream: StreamId,
    last_call: CallId,
}

/// Makes the manager and its task, with the stored nodes and this one.
pub async fn open(
    store: Worker<Store>,
    mut own: watch::Receiver<NodeInfo>,
) -> Result<(NodeManager, Task), Error> {
    let stored = store.call(|store| store.nodes()).await?;
    let own_info = own.borrow_and_update().clone();
    let own_id = own_info.node_id.clone();
    let (commands, queue) = mpsc::channel(QUEUE);
    let mut task = Task {
        commands: queue,
        own,
        nodes: Nodes::new(stored),
        published: watch::Sender::new(Arc::default()),
        store,
        controller: Controller::new(own_id),
        writers: BTreeMap::new(),
        answers: BTreeMap::new(),
        last_stream: 0,
        last_call: 0,
    };
    let keep = task.nodes.set(own_info)?;
    task.nodes.settle();
    task.keep(keep).await?;
    let nodes = task.published.subscribe();
    Ok((NodeManager { commands, nodes }, task))
}

impl Task {
    /// Works until `shutdown`.
    pub async fn run(mut self, shutdown: Shutdown) -> Result<(), Error> {
        loop {
            let deadline = self.controller.deadline();
            let event = tokio::select! {
                command = self.commands.recv() => match command {
                    Some(command) => self.command(command).await?,
                    None => return Ok(()),
                },
                changed = self.own.changed() => {
                    if changed.is_err() {
                        return Ok(());
                    }
                    let info = self.own.borrow_and_update().clone();
                    let keep = self.nodes.set(info)?;
                    self.keep(keep).await?;
                    None
                }
                () = until(deadline) => Some(Event::Tick),
                () = shutdown.wait() => {
                    self.event(Event::Stop).await?;
                    return Ok(());
                }
            };
            if let Some(event) = event {
                self.event(event).await?;
            }
        }
    }

    async fn command(&mut self, command: Command) -> Result<Option<Event>, Error> {
        Ok(match command {
            Command::Open(_, _, answer) if self.writers.len() >= MAX_STREAMS => {
                let _ = answer.send(Err(Error::TooMany("too many streams of nodes".into())));
                None
            }
            Command::Open(side, shown, answer) => {
                self.last_stream += 1;
                let (writer, requests) = mpsc::channel(STREAM_QUEUE);
                self.writers.insert(self.last_stream, Writer { requests: writer, shown });
                if answer.send(Ok((self.last_stream, requests))).is_err() {
                    self.writers.remove(&self.last_stream);
                    return Ok(None);
                }
                Some(Event::Opened(self.last_stream, side))
            }
            Command::Stream(StreamEvent::Described(id, info)) => Some(Event::Described(id, info)),
            Command::Stream(StreamEvent::Answered(id, message)) => Some(Event::Answered(id, message)),
            Command::Stream(StreamEvent::Closed(id)) => {
                self.writers.remove(&id);
                Some(Event::Closed(id))
            }
            Command::Call(node, request, answer) => {
                self.last_call += 1;
                self.answers.insert(self.last_call, answer);
                Some(Event::Call(self.last_call, node, request))
            }
            Command::SetState(node, state, answer) => {
                let result = match self.nodes.set_state(&node, state) {
                    Ok(keep) => self.keep(keep).await,
                    Err(error) => Err(error),
                };
                let _ = answer.send(result);
                None
            }
        })
    }

    async fn event(&mut self, event: Event) -> Result<(), Error> {
        let mut actions = self.controller.on(Instant::now(), event);
        while !actions.is_empty() {
            let mut more = Vec::new();
            for action in actions {
                if let Some(closed) = self.act(action).await? {
                    more.extend(self.controller.on(Instant::now(), Event::Closed(closed)));
                }
            }
            actions = more;
        }
        Ok(())
    }

    /// Carries an action out; returns a stream that ended by it.
    async fn act(&mut self, action: Action) -> Result<Option<StreamId>, Error> {
        match action {
            Action::Send(id, request) => {
                let sent = self
                    .writers
                    .get(&id)
                    .is_some_and(|writer| writer.requests.try_send(Ok(*request)).is_ok());
                if !sent {
                    tracing::warn!("a node does not take its requests, its stream is ended");
                    self.writers.remove(&id);
                    return Ok(Some(id));
                }
            }
            Action::End(id, reason) => {
                tracing::warn!("a node's stream is ended: {reason}");
                if let Some(writer) = self.writers.remove(&id) {
                    let _ = writer.requests.try_send(Err(reason));
                }
                return Ok(Some(id));
            }
            Action::Connected(id, info) => {
                tracing::info!("node {} is connected and {}", info.node_id, info.state);
                let node = info.node_id.clone();
                match self.nodes.set(*info) {
                    Ok(keep) => {
                        self.nodes.show(&node, self.writers.get(&id).and_then(|writer| writer.shown.clone()));
                        self.keep(keep).await?;
                    }
                    Err(error) => {
                        tracing::warn!("a node is not taken: {}", aos_logging::with_causes(&error));
                        if let Some(writer) = self.writers.remove(&id) {
                            let _ = writer.requests.try_send(Err(StreamEnd::Full));
                        }
                        return Ok(Some(id));
                    }
                }
            }
            Action::Disconnected(node) => {
                tracing::info!("node {node} is disconnected");
                self.nodes.disconnect(&node);
                self.publish();
            }
            Action::Finish(id, result) => {
                if let Some(answer) = self.answers.remove(&id) {
                    let _ = answer.send(result);
                }
            }
        }
        Ok(None)
    }

    async fn keep(&mut self, keep: Keep) -> Result<(), Error> {
        match keep {
            Keep::AsIs => {}
            Keep::Store(info) => self.store.call(move |store| store.set_node(&info)).await?,
            Keep::Forget(id) => self.store.call(move |store| store.remove_node(&id)).await?,
        }
        self.publish();
        Ok(())
    }

    fn publish(&self) {
        self.published.send_if_modified(|published| {
            let changed = **published != self.nodes;
            if changed {
                *published = Arc::new(self.nodes.clone());
            }
            changed
        });
    }
}

async fn until(deadline: Option<Instant>) {
    match deadline {
        Some(deadline) => tokio::time::sleep_until(deadline.into()).await,
        None => std::future::pending().await,
    }
}
