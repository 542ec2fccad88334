//! One connection: what comes is handed on, what waits goes out, and neither holds the other up.

use std::collections::VecDeque;
use std::time::Duration;

use aos_unit_api::servicemanager::v5 as wire;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tonic::Streaming;
use wire::sm_incoming_messages::SmIncomingMessage as Incoming;
use wire::sm_outgoing_messages::SmOutgoingMessage as Wire;

use super::messages::Update;
use super::outbox::Outbox;
use super::refused::Refused;
use super::{Outgoing, SmClient, messages, to_wire, wrap};
use crate::Error;
use crate::iamclient::CertificateSource;
use crate::launcher::Command;
use crate::logprovider::Request;
use crate::monitoring::Monitoring;
use crate::nodeconfig::NodeConfigFile;

/// Answers to requests for logs under way; no more messages are read meanwhile.
const MAX_LOG_ANSWERS: usize = 32;
/// Longest time in which messages of CM wait for its networks.
const SYNC_TIME: Duration = Duration::from_secs(15);
/// Commands to the launcher that may wait; no more messages are read meanwhile.
const MAX_COMMANDS: usize = 4;

/// One connection, once it stands.
pub struct Talk<'a> {
    /// Everything else.
    pub client: &'a mut SmClient,
    /// What CM says.
    pub stream: Streaming<wire::SmIncomingMessages>,
    /// What CM is told.
    pub sender: mpsc::Sender<wire::SmOutgoingMessages>,
    /// Our certificate, which may change.
    pub certificate: Option<CertificateSource>,
    /// What waits.
    pub outbox: &'a mut Outbox,
    /// Takes parts of logs.
    pub log_queue: &'a mpsc::Sender<Outgoing>,
    /// The other end of it.
    pub logs: &'a mut mpsc::Receiver<Outgoing>,
}

impl Talk<'_> {
    /// Until the connection ends.
    pub async fn run(self) -> Result<(), Error> {
        let Talk { client, mut stream, sender, mut certificate, outbox, log_queue, logs } = self;
        let networks = client.networks.clone();
        let mut synchronising = Box::pin(async move {
            match tokio::time::timeout(SYNC_TIME, networks.synchronise()).await {
                Ok(Err(error)) => tracing::warn!("networks are not synchronised: {}", error.info().message),
                Err(_) => tracing::warn!("networks are not synchronised yet"),
                Ok(Ok(())) => {}
            }
        });
        // What CM asks for may need its networks, so nothing is read before they were synchronised. The
        // network manager tries again by itself.
        let mut synchronised = false;
        let mut answers = JoinSet::new();
        let mut commands = VecDeque::new();
        loop {
            let renewed = async {
                match &mut certificate {
                    Some(certificate) => certificate.changed().await,
                    None => std::future::pending().await,
                }
            };
            let may_read = synchronised && commands.len() < MAX_COMMANDS && answers.len() < MAX_LOG_ANSWERS;
            if outbox.take_wish() {
                commands.push_back(Command::Announce);
            }
            tokio::select! {
                message = stream.message(), if may_read => match message {
                    Ok(Some(message)) => {
                        let Some(message) = message.sm_incoming_message else { continue };
                        match handle(message, &client.node_config, &client.monitoring) {
                            Reaction::None => {}
                            Reaction::Answer(answer) => outbox.push(*answer),
                            Reaction::Command(command) => commands.push_back(command),
                            Reaction::Update(mut update) => {
                                let told = refuse(&mut client.refused, &mut update);
                                if !told.is_empty() {
                                    outbox.push(Wire::UpdateInstancesStatus(wire::UpdateInstancesStatus {
                                        instances: told,
                                    }));
                                }
                                let Update { start, stop, .. } = update;
                                commands.push_back(Command::Update { start, stop });
                            }
                            Reaction::Logs(request) => {
                                answers.spawn(client.logs.clone().answer(request, log_queue.clone()));
                            }
                        }
                    }
                    Ok(None) => return Ok(()),
                    Err(status) => return Err(Error::Call { call: "RegisterSM", source: Box::new(status) }),
                },
                () = sender.closed() => return Ok(()),
                Ok(room) = client.launcher.reserve(), if !commands.is_empty() => {
                    if let Some(command) = commands.pop_front() {
                        room.send(command);
                    }
                }
                Some(message) = client.outgoing.recv() => outbox.push(to_wire(message)),
                Ok(room) = sender.reserve(), if !outbox.is_empty() => {
                    if let Some(message) = outbox.pop() {
                        room.send(wrap(client.refused.completed(message)));
                    }
                }
                Some(alert) = client.alerts.recv(), if outbox.is_empty() => outbox.push(Wire::Alert(alert)),
                Some(log) = logs.recv(), if outbox.is_empty() => outbox.push(to_wire(log)),
                Some(_) = answers.join_next() => {}
                () = &mut synchronising, if !synchronised => {
                    synchronised = true;
                    commands.push_front(Command::CmConnected);
                }
                () = renewed => {
                    tracing::info!("our certificate has changed, connecting anew");
                    return Ok(());
                }
            }
        }
    }
}

/// What a message of CM leads to.
enum Reaction {
    None,
    Answer(Box<Wire>),
    Command(Command),
    Update(Update),
    Logs(Request),
}

/// Notes what of a request cannot be read; answers the statuses CM is told.
fn refuse(refused: &mut Refused, update: &mut Update) -> Vec<wire::InstanceStatus> {
    for error in &update.nameless {
        tracing::warn!("an entry of CM's request is left out: {}", error.info().message);
    }
    for one in &update.refused {
        let reason = one.status.error.as_ref().map_or("", |error| error.message.as_str());
        tracing::warn!("an instance of CM's request is refused: {reason}");
    }
    let named = update.start.iter().map(|info| &info.ident).chain(&update.stop);
    refused.take(named, std::mem::take(&mut update.refused))
}

/// One message; what is wrong with it concerns no other.
fn handle(message: Incoming, node_config: &NodeConfigFile, monitoring: &Monitoring) -> Reaction {
    let answer = match message {
        Incoming::UpdateInstances(update) => {
            return Reaction::Update(messages::update(update));
        }
        Incoming::ConnectionStatus(status) => {
            let connected = status.cloud_status() == wire::ConnectionEnum::Connected;
            return Reaction::Command(Command::Cloud(connected));
        }
        Incoming::GetAverageMonitoring(_) => {
            monitoring.average();
            return Reaction::None;
        }
        Incoming::SystemLogRequest(request) => return Reaction::Logs(request.into()),
        Incoming::InstanceLogRequest(request) => return Reaction::Logs(request.into()),
        Incoming::InstanceCrashLogRequest(request) => return Reaction::Logs(request.into()),
        Incoming::GetNodeConfigStatus(_) => node_config.status(),
        Incoming::CheckNodeConfig(check) => node_config.check(&check.node_config, &check.version),
        Incoming::SetNodeConfig(set) => {
            let answer = node_config.set(&set.node_config, &set.version);
            monitoring.rules_changed();
            answer
        }
    };
    Reaction::Answer(Box::new(answer))
}
