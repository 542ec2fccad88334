//! Client of a Vehicle Information Service: a secure WebSocket, opened again for ever.
//!
//! Chain and host name of the service are verified against `caCertFile`; of a service on this very machine only
//! the chain. We show no certificate. A silent connection is pinged and given up when it stays silent.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use aos_supervise::Shutdown;
use aos_tls::{ClientTlsStream, HostCheck};
use futures_util::{SinkExt, StreamExt};
use rustls::ClientConfig;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::Instant;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::http::Uri;
use tokio_tungstenite::tungstenite::protocol::WebSocketConfig;
use tokio_tungstenite::tungstenite::{self, Message};

use super::Changes;
use crate::Error;
use crate::config::IdentifierParams;

mod core;
mod messages;

use self::core::{Action, QuestionId, Talk};
pub use messages::{Found, Topic};

const QUEUE: usize = 16;
/// Time for an answer when the configuration says nothing.
const ANSWER_TIME: Duration = Duration::from_mins(2);
const RECONNECT: Duration = Duration::from_secs(2);
const UPGRADE_TIME: Duration = Duration::from_secs(10);
/// Silence after which we ask whether the service is still there; twice of it ends the connection.
const SILENCE: Duration = Duration::from_secs(30);
const MAX_MESSAGE: usize = 64 * 1024;
const BUFFER: usize = 4 * 1024;
const DEFAULT_PORT: u16 = 443;

struct Question {
    topic: Topic,
    answer: oneshot::Sender<Result<Found, Error>>,
}

/// The way to the service.
#[derive(Debug, Clone)]
pub struct Vis {
    questions: mpsc::Sender<Question>,
    time: Duration,
    system_id: watch::Receiver<Option<String>>,
}

impl Vis {
    /// The value of `topic`; waits for a connection and the answer, at most the configured time.
    pub async fn get(&self, topic: Topic) -> Result<Found, Error> {
        let asking = async {
            let (answer, found) = oneshot::channel();
            self.questions.send(Question { topic, answer }).await.map_err(|_| Error::Stopping)?;
            found.await.map_err(|_| Error::Stopping)?
        };
        tokio::time::timeout(self.time, asking).await.unwrap_or_else(|_| {
            Err(Error::Timeout(format!(
                "the Vehicle Information Service does not answer within {} s",
                self.time.as_secs()
            )))
        })
    }

    /// The system ID, if it is known already.
    pub fn known_system_id(&self) -> Option<String> {
        self.system_id.borrow().clone()
    }
}

/// The client's task.
pub struct Task {
    address: Uri,
    host: String,
    port: u16,
    ca: PathBuf,
    questions: mpsc::Receiver<Question>,
    changes: watch::Sender<Changes>,
    system_id: watch::Sender<Option<String>>,
    talk: Talk,
    answers: BTreeMap<QuestionId, oneshot::Sender<Result<Found, Error>>>,
    last_question: QuestionId,
}

/// Makes the client and its task; nothing is connected yet.
pub fn open(params: &IdentifierParams) -> Result<(Vis, watch::Receiver<Changes>, Task), Error> {
    let wrong = || Error::InvalidArgument(format!("visServer '{}' is no wss:// address", params.vis_server));
    let address: Uri = params.vis_server.parse().map_err(|_| wrong())?;
    let host = address.host().filter(|_| address.scheme_str() == Some("wss")).ok_or_else(wrong)?;
    let host = host.trim_start_matches('[').trim_end_matches(']').to_owned();
    let configured = params.web_socket_timeout.as_ref().map(|text| text.0);
    let time = configured.filter(|time| !time.is_zero()).unwrap_or(ANSWER_TIME);
    let (questions, queue) = mpsc::channel(QUEUE);
    let (changes, changed) = watch::channel(Changes::from([]));
    let (system_id, known) = watch::channel(None);
    let task = Task {
        port: address.port_u16().unwrap_or(DEFAULT_PORT),
        address,
        host,
        ca: params.ca_cert_file.clone(),
        questions: queue,
        changes,
        system_id,
        talk: Talk::default(),
        answers: BTreeMap::new(),
        last_question: 0,
    };
    Ok((Vis { questions, time, system_id: known }, changed, task))
}

/// Why a connection could not be made or ended.
#[derive(Debug, thiserror::Error)]
enum LinkEnd {
    #[error(transparent)]
    Tls(#[from] aos_tls::TlsError),
    #[error("the WebSocket failed")]
    Socket(#[from] tungstenite::Error),
    #[error("no WebSocket within {} s", UPGRADE_TIME.as_secs())]
    Upgrade,
    #[error("the service is silent")]
    Silent,
    #[error("the service closed the connection")]
    Closed,
    #[error("the service sent no JSON")]
    Json(#[from] serde_json::Error),
    #[error(transparent)]
    Refused(Error),
}

type Socket = WebSocketStream<ClientTlsStream>;

fn new_id() -> String {
    uuid::Uuid::new_v4().to_string()
}

impl Task {
    /// Keeps the connection until `stop`.
    pub async fn run(mut self, stop: Shutdown) -> Result<(), Error> {
        let mut last_failure = String::new();
        loop {
            let Some(end) = self.link(&stop).await else { return Ok(()) };
            let reason = aos_logging::with_causes(&end);
            // An absent service is not worth a line every few seconds.
            if reason == last_failure {
                tracing::debug!("no Vehicle Information Service: {reason}");
            } else {
                tracing::warn!("no Vehicle Information Service at {}: {reason}", self.address);
                last_failure = reason;
            }
            self.talk.disconnected();
            tokio::select! {
                () = self.collect_until(Instant::now() + RECONNECT) => {}
                () = stop.wait() => return Ok(()),
            }
        }
    }

    /// One connection; `None` when the program stops.
    async fn link(&mut self, stop: &Shutdown) -> Option<LinkEnd> {
        let connecting = connect(self.address.clone(), self.host.clone(), self.port, self.ca.clone());
        let mut socket = tokio::select! {
            connected = connecting => match connected {
                Ok(socket) => socket,
                Err(end) => return Some(end),
            },
            () = stop.wait() => return None,
        };
        tracing::info!("connected to the Vehicle Information Service at {}", self.address);
        tokio::select! {
            end = self.talk(&mut socket) => end.err(),
            () = stop.wait() => {
                // The service sees the end anyway.
                let _ = socket.send(Message::text(messages::request("unsubscribeAll", &new_id(), ""))).await;
                let _ = socket.close(None).await;
                None
            }
        }
    }

    async fn talk(&mut self, socket: &mut Socket) -> Result<(), LinkEnd> {
        let actions = self.talk.connected(new_id);
        self.act(socket, actions).await?;
        let mut heard = Instant::now();
        let mut pinged = false;
        loop {
            let silent_at = heard + if pinged { 2 * SILENCE } else { SILENCE };
            tokio::select! {
                message = socket.next() => {
                    heard = Instant::now();
                    pinged = false;
                    match message.ok_or(LinkEnd::Closed)?? {
                        Message::Text(text) => {
                            let said = serde_json::from_str(&text)?;
                            let actions = self.talk.said(&said, new_id);
                            self.act(socket, actions).await?;
                        }
                        Message::Close(_) => return Err(LinkEnd::Closed),
                        _ => {}
                    }
                }
                Some(question) = self.questions.recv() => {
                    let actions = self.ask(question);
                    self.act(socket, actions).await?;
                }
                () = tokio::time::sleep_until(silent_at) => {
                    if pinged {
                        return Err(LinkEnd::Silent);
                    }
                    pinged = true;
                    socket.send(Message::Ping(Vec::new().into())).await?;
                }
            }
        }
    }

    /// Takes questions while there is no connection.
    async fn collect_until(&mut self, end: Instant) {
        loop {
            tokio::select! {
                Some(question) = self.questions.recv() => {
                    let actions = self.ask(question);
                    self.answer_only(actions);
                }
                () = tokio::time::sleep_until(end) => return,
            }
        }
    }

    fn ask(&mut self, question: Question) -> Vec<Action> {
        let gone: Vec<QuestionId> =
            self.answers.iter().filter(|(_, answer)| answer.is_closed()).map(|(id, _)| *id).collect();
        for id in gone {
            self.answers.remove(&id);
            self.talk.forget(id);
        }
        self.last_question += 1;
        self.answers.insert(self.last_question, question.answer);
        self.talk.question(self.last_question, question.topic, new_id)
    }

    async fn act(&mut self, socket: &mut Socket, actions: Vec<Action>) -> Result<(), LinkEnd> {
        for action in actions {
            match action {
                Action::Send(text) => socket.send(Message::text(text)).await?,
                Action::Break(error) => return Err(LinkEnd::Refused(error)),
                other => self.answer_only(vec![other]),
            }
        }
        Ok(())
    }

    fn answer_only(&mut self, actions: Vec<Action>) {
        for action in actions {
            match action {
                Action::Answer(id, result) => {
                    if let Some(answer) = self.answers.remove(&id) {
                        let _ = answer.send(result);
                    }
                }
                Action::Subjects(subjects) => {
                    tracing::info!("the Unit has {} subjects now", subjects.len());
                    self.changes.send_replace(subjects.into());
                }
                Action::SystemId(id) => {
                    self.system_id.send_replace(Some(id));
                }
                Action::Send(_) | Action::Break(_) => {}
            }
        }
    }
}

async fn connect(address: Uri, host: String, port: u16, ca: PathBuf) -> Result<Socket, LinkEnd> {
    let roots = aos_tls::roots_from_pem_file(&ca)?;
    let config: Arc<ClientConfig> = aos_tls::client_config(roots, None, host_check(&host, port).await)?;
    let stream = aos_tls::connect_tcp_tls(&host, port, config, &host).await?;
    let settings = WebSocketConfig::default()
        .read_buffer_size(BUFFER)
        .write_buffer_size(0)
        .max_message_size(Some(MAX_MESSAGE))
        .max_frame_size(Some(MAX_MESSAGE));
    let upgrade = tokio_tungstenite::client_async_with_config(address, stream, Some(settings));
    let (socket, _) = tokio::time::timeout(UPGRADE_TIME, upgrade).await.map_err(|_| LinkEnd::Upgrade)??;
    Ok(socket)
}

/// A name that leads to this machine only proves nothing.
async fn host_check(host: &str, port: u16) -> HostCheck {
    let Ok(mut addresses) = tokio::net::lookup_host((host, port)).await else { return HostCheck::Verify };
    if addresses.all(|address| address.ip().is_loopback()) { HostCheck::ChainOnly } else { HostCheck::Verify }
}
