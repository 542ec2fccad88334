//! The registry of live streams: who is connected, what was asked, who gets what.

use std::collections::{BTreeMap, VecDeque};
use std::net::SocketAddr;

use aos_ids::NodeId;
use aos_status::{AosCode, ConfigState, ErrorInfo, InstanceState};
use aos_unit_api::convert::{error_from_wire, instance};
use aos_unit_api::servicemanager::v5::{
    InstanceStatus, NodeConfigStatus, SmIncomingMessages, sm_incoming_messages::SmIncomingMessage,
    sm_outgoing_messages::SmOutgoingMessage,
};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::Instant;
use tonic::Status;

use super::service::connection_status;
use super::{ANSWER_TIME, Command, Event, NodeConfigState, runtime_id};
use crate::launcher::records::Report;

/// Nodes and instances of one message that are read.
const MAX_REPORTS: usize = 512;
/// Questions that may wait for one node.
const MAX_QUESTIONS: usize = 16;

/// Sending half of a stream.
pub(super) struct Outgoing {
    pub(super) sender: mpsc::Sender<Result<SmIncomingMessages, Status>>,
    /// Cloud state the node was told last.
    pub(super) told: bool,
    /// Other end of the connection.
    pub(super) peer: Option<SocketAddr>,
}

/// What a stream's reader says.
pub(super) enum FromStream {
    Opened(u64, Outgoing),
    Message(u64, Box<SmOutgoingMessage>),
    Closed(u64),
    /// Which node has a stream on the connection from there?
    WhoIs(SocketAddr, oneshot::Sender<Option<NodeId>>),
}

type Answer = oneshot::Sender<Result<NodeConfigState, ErrorInfo>>;

struct Stream {
    outgoing: Outgoing,
    node: Option<NodeId>,
    waiting: Option<(Answer, Instant)>,
    questions: VecDeque<(SmIncomingMessage, Answer)>,
}

/// The task.
pub struct Registry {
    from_streams: mpsc::Receiver<FromStream>,
    commands: mpsc::Receiver<Command>,
    events: mpsc::Sender<Event>,
    cloud: watch::Receiver<bool>,
    streams: BTreeMap<u64, Stream>,
}

impl Registry {
    pub(super) fn new(
        from_streams: mpsc::Receiver<FromStream>,
        commands: mpsc::Receiver<Command>,
        events: mpsc::Sender<Event>,
        cloud: watch::Receiver<bool>,
    ) -> Self {
        Self { from_streams, commands, events, cloud, streams: BTreeMap::new() }
    }

    /// Runs until every sender of commands is gone.
    pub async fn run(mut self) {
        loop {
            let deadline = self.streams.values().filter_map(|stream| Some(stream.waiting.as_ref()?.1)).min();
            tokio::select! {
                said = self.from_streams.recv() => match said {
                    Some(said) => self.hear(said).await,
                    None => return,
                },
                command = self.commands.recv() => match command {
                    Some(command) => self.obey(command),
                    None => return,
                },
                Ok(()) = self.cloud.changed() => self.tell_cloud_state(),
                () = sleep_until(deadline) => self.give_up(),
            }
        }
    }

    async fn hear(&mut self, said: FromStream) {
        let event = match said {
            FromStream::Opened(id, outgoing) => {
                let stream = Stream { outgoing, node: None, waiting: None, questions: VecDeque::new() };
                self.streams.insert(id, stream);
                self.tell_cloud_state();
                None
            }
            FromStream::Closed(id) => self.streams.remove(&id).and_then(|stream| stream.node).map(|node| {
                tracing::info!("Service Manager of node {node} is gone");
                Event::Gone(node)
            }),
            FromStream::Message(id, message) => self.read(id, *message),
            FromStream::WhoIs(peer, answer) => {
                let found = self.streams.values().find(|stream| stream.outgoing.peer == Some(peer));
                let _ = answer.send(found.and_then(|stream| stream.node.clone()));
                None
            }
        };
        if let Some(event) = event {
            // The coordinator ends last; without it there is nobody to tell.
            let _ = self.events.send(event).await;
        }
    }

    fn read(&mut self, id: u64, message: SmOutgoingMessage) -> Option<Event> {
        let stream = self.streams.get_mut(&id)?;
        if let SmOutgoingMessage::SmInfo(info) = message {
            let node: NodeId = match info.node_id.parse() {
                Ok(node) => node,
                Err(error) => {
                    tracing::warn!("a Service Manager names no node: {error}");
                    self.streams.remove(&id);
                    return None;
                }
            };
            if stream.node.as_ref() != Some(&node) {
                tracing::info!("Service Manager of node {node} is connected");
                stream.node = Some(node.clone());
                // The newest stream wins; the older one is closed without a word about the node.
                self.streams.retain(|other, stream| *other == id || stream.node.as_ref() != Some(&node));
            }
            return Some(Event::Info(node, info));
        }
        let Some(node) = stream.node.clone() else {
            tracing::warn!("a Service Manager speaks before it says who it is; ignored");
            return None;
        };
        Some(match message {
            SmOutgoingMessage::NodeInstancesStatus(all) => {
                Event::AllInstances(node.clone(), reports(&node, all.instances))
            }
            SmOutgoingMessage::UpdateInstancesStatus(some) => {
                Event::SomeInstances(node.clone(), reports(&node, some.instances))
            }
            SmOutgoingMessage::Alert(alert) => Event::Alert(node, alert),
            SmOutgoingMessage::InstantMonitoring(samples) => Event::Monitoring(node, samples),
            SmOutgoingMessage::Log(log) => Event::Log(node, log),
            SmOutgoingMessage::NodeConfigStatus(status) => {
                if let Some((answer, _)) = stream.waiting.take() {
                    let _ = answer.send(config_state(status));
                } else {
                    tracing::warn!("node {node} answers a question nobody waits for; ignored");
                }
                ask_next(stream);
                return None;
            }
            SmOutgoingMessage::SmInfo(_) | SmOutgoingMessage::AverageMonitoring(_) => return None,
        })
    }

    fn stream_of(&mut self, node: &NodeId) -> Result<&mut Stream, ErrorInfo> {
        let found = self.streams.values_mut().find(|stream| stream.node.as_ref() == Some(node));
        found.ok_or_else(|| ErrorInfo::new(AosCode::NotFound, format!("node {node} is not connected")))
    }

    fn obey(&mut self, command: Command) {
        match command {
            Command::Update(node, update) => {
                let sent = self
                    .stream_of(&node)
                    .is_ok_and(|stream| send(stream, SmIncomingMessage::UpdateInstances(update)));
                if !sent {
                    // Derived anew from the node's next word, or when it is connected again.
                    tracing::warn!("instances of node {node} cannot be sent now");
                }
            }
            Command::Tell(node, message, answer) => {
                let result = self.stream_of(&node).and_then(|stream| {
                    let busy = || ErrorInfo::new(AosCode::Failed, "the node does not take messages");
                    if send(stream, message) { Ok(()) } else { Err(busy()) }
                });
                let _ = answer.send(result);
            }
            Command::NodeConfig(node, message, answer) => match self.stream_of(&node) {
                Ok(stream) if stream.questions.len() < MAX_QUESTIONS => {
                    stream.questions.push_back((message, answer));
                    ask_next(stream);
                }
                Ok(_) => {
                    let _ = answer
                        .send(Err(ErrorInfo::new(AosCode::NoMemory, "too many questions wait for the node")));
                }
                Err(error) => {
                    let _ = answer.send(Err(error));
                }
            },
        }
    }

    fn tell_cloud_state(&mut self) {
        let connected = *self.cloud.borrow_and_update();
        for stream in self.streams.values_mut().filter(|stream| stream.outgoing.told != connected) {
            if send(stream, connection_status(connected)) {
                stream.outgoing.told = connected;
            }
        }
    }

    fn give_up(&mut self) {
        let now = Instant::now();
        for stream in self.streams.values_mut() {
            if let Some((answer, _)) = stream.waiting.take_if(|(_, deadline)| *deadline <= now) {
                let _ = answer.send(Err(ErrorInfo::new(AosCode::Timeout, "the node does not answer")));
                ask_next(stream);
            }
        }
    }
}

/// A stream whose node takes no messages is ended: when it is back, the node is told anew what it missed.
fn send(stream: &mut Stream, message: SmIncomingMessage) -> bool {
    let message = SmIncomingMessages { sm_incoming_message: Some(message) };
    let sent = stream.outgoing.sender.try_send(Ok(message));
    if let Err(mpsc::error::TrySendError::Full(_)) = &sent {
        tracing::warn!("a Service Manager does not take messages, its stream is ended");
        stream.outgoing.sender = mpsc::channel(1).0;
    }
    sent.is_ok()
}

fn ask_next(stream: &mut Stream) {
    while stream.waiting.is_none() {
        let Some((message, answer)) = stream.questions.pop_front() else { return };
        if send(stream, message) {
            stream.waiting = Some((answer, Instant::now() + ANSWER_TIME));
        } else {
            let _ = answer.send(Err(ErrorInfo::new(AosCode::Failed, "the node does not take messages")));
        }
    }
}

async fn sleep_until(deadline: Option<Instant>) {
    match deadline {
        Some(deadline) => tokio::time::sleep_until(deadline).await,
        None => std::future::pending().await,
    }
}

fn config_state(status: NodeConfigStatus) -> Result<NodeConfigState, ErrorInfo> {
    let state: ConfigState = status.state.parse().map_err(|error: aos_status::UnknownState| {
        ErrorInfo::new(AosCode::InvalidArgument, error.to_string())
    })?;
    Ok(NodeConfigState { state, version: status.version, error: error_from_wire(status.error) })
}

/// Reads what a node says of its instances; entries that cannot be read are logged and left out.
fn reports(node: &NodeId, statuses: Vec<InstanceStatus>) -> Vec<Report> {
    let read = |status: InstanceStatus| {
        let ident = instance(status.instance).map_err(|error| error.to_string())?;
        let state: InstanceState =
            status.state.parse().map_err(|error: aos_status::UnknownState| error.to_string())?;
        Ok::<_, String>(Report {
            ident,
            version: status.version,
            runtime: runtime_id(&status.runtime_id),
            manifest: status.manifest_digest.parse().ok(),
            state,
            error: error_from_wire(status.error),
            env_errors: status
                .env_vars
                .into_iter()
                .filter_map(|var| Some((var.name, error_from_wire(var.error)?)))
                .collect(),
        })
    };
    statuses
        .into_iter()
        .take(MAX_REPORTS)
        .filter_map(|status| {
            read(status)
                .inspect_err(|reason| tracing::warn!("node {node} reports a wrong instance: {reason}"))
                .ok()
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use aos_unit_api::servicemanager::v5::{SmInfo, UpdateInstances};

    use super::*;

    #[tokio::test]
    async fn the_stream_of_a_node_that_takes_nothing_is_ended_and_told_as_gone() {
        let (streams, from_streams) = mpsc::channel(8);
        let (commands, command_receiver) = mpsc::channel(8);
        let (event_sender, mut events) = mpsc::channel(8);
        let (_cloud, cloud) = watch::channel(false);
        let registry = Registry::new(from_streams, command_receiver, event_sender, cloud);
        tokio::spawn(registry.run());
        let (sender, mut messages) = mpsc::channel(1);
        let node = NodeId::new("rear").unwrap();
        let info = SmInfo { node_id: node.to_string(), ..Default::default() };
        let opened = FromStream::Opened(1, Outgoing { sender, told: false, peer: None });
        let described = FromStream::Message(1, Box::new(SmOutgoingMessage::SmInfo(info)));
        for said in [opened, described] {
            streams.send(said).await.ok().unwrap();
        }
        assert!(matches!(events.recv().await, Some(Event::Info(..))));
        for _ in 0..2 {
            commands.send(Command::Update(node.clone(), UpdateInstances::default())).await.unwrap();
        }
        while commands.capacity() < commands.max_capacity() {
            tokio::task::yield_now().await;
        }
        assert!(messages.recv().await.is_some(), "the first one had room");
        assert!(messages.recv().await.is_none(), "the stream is over");
        streams.send(FromStream::Closed(1)).await.ok().unwrap();
        assert!(matches!(events.recv().await, Some(Event::Gone(gone)) if gone == node));
    }
}
