//! A recording sent to a cloud again: its Unit's messages, one after the other, each with a fresh transaction.
//!
//! The session core does the sending and repeating. What the cloud sends is read and not acknowledged: it is
//! meant for the Unit, which has to get it later.

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail};
use aos_cloud_protocol::{Body, Direction, Envelope, discovery, read};
use aos_cloud_session::{Action, Config, Event, Now, Session};
use aos_ids::SystemId;
use futures_util::{SinkExt as _, StreamExt as _};
use jiff::Timestamp;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use serde_json::{Value, json};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::client::IntoClientRequest as _;
use tokio_tungstenite::tungstenite::http::HeaderValue;

use super::{Status, frames};
use crate::args::Replay;
use crate::output::{Output, rows, table};

/// Longest time that anything before the first message may take.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(30);

type Socket = WebSocketStream<TlsStream<TcpStream>>;

/// `aosctl protocol replay FILE --to-cloud URL`.
pub async fn replay(url: &str, arguments: &Replay, out: &Output) -> Result<()> {
    let messages = messages(&arguments.file)?;
    let recorded = messages.first().map(|(_, envelope)| envelope.header.system_id.clone());
    let recorded = recorded.with_context(|| format!("{} holds no message of a Unit", arguments.file))?;
    let system_id = match &arguments.system_id {
        Some(text) => text.parse().context("--system-id is no system ID")?,
        None => recorded,
    };
    let tls = tls(arguments)?;
    let socket = tokio::time::timeout(CONNECT_TIMEOUT, connect(url, &system_id, tls))
        .await
        .context("the cloud did not answer in time")??;
    out.progress(&format!("sending {} messages of {system_id} to {url}", messages.len()));
    let sent = Sender { socket, session: Session::new(Config::unit(system_id.clone()), []) };
    let results = sent.send_all(messages, &system_id).await?;
    let lost = results.iter().filter(|result| result["latencyMs"].is_null()).count();
    let document = json!({"items": results, "total": results.len(), "notAcknowledged": lost});
    out.show(&document, |_| {
        let lines = rows(&results, &["/number", "/messageType", "/txn", "/latencyMs", "/reason"]);
        table(&["#", "KIND", "TXN", "ACKNOWLEDGED (MS)", "REASON"], &lines)
    })?;
    if lost == 0 { Ok(()) } else { Err(anyhow!(Status(1))) }
}

/// The Unit's messages that call for an acknowledgement, without repetitions, with their numbers in the file.
fn messages(file: &str) -> Result<Vec<(usize, Envelope)>> {
    let mut seen = std::collections::HashSet::new();
    let mut messages = Vec::new();
    for frame in frames::load(file)? {
        let from_unit = frame.direction.is_none_or(|direction| direction == Direction::UnitToCloud);
        if let Ok(envelope) = read(&frame.bytes, Direction::UnitToCloud)
            && from_unit
            && envelope.body.direction() == Direction::UnitToCloud
            && seen.insert(envelope.header.txn.clone())
        {
            messages.push((frame.number, envelope));
        }
    }
    Ok(messages)
}

fn tls(arguments: &Replay) -> Result<rustls::ClientConfig> {
    let identity = arguments.identity.as_deref().unwrap_or_default();
    let (chain, key) =
        identity.split_once(',').context("--identity takes two files: certificate chain, private key")?;
    let chain = CertificateDer::pem_file_iter(chain)
        .and_then(Iterator::collect::<Result<Vec<_>, _>>)
        .with_context(|| format!("cannot read certificates from {chain}"))?;
    let key = PrivateKeyDer::from_pem_file(key).with_context(|| format!("cannot read a key from {key}"))?;
    let ca = arguments.ca.as_deref().context("--ca is missing")?;
    let mut roots = rustls::RootCertStore::empty();
    for root in CertificateDer::pem_file_iter(ca).with_context(|| format!("cannot read {}", ca.display()))? {
        roots.add(root.with_context(|| format!("{} is damaged", ca.display()))?)?;
    }
    let builder = rustls::ClientConfig::builder().with_root_certificates(roots);
    builder.with_client_auth_cert(chain, key).context("certificate and key do not go together")
}

async fn connect(url: &str, system_id: &SystemId, tls: rustls::ClientConfig) -> Result<Socket> {
    let (address, token) = if url.starts_with("wss://") {
        (url.to_owned(), String::new())
    } else if url.starts_with("https://") {
        discover(url, system_id, tls.clone()).await?
    } else {
        bail!("'{url}' is neither https:// of a discovery nor wss:// of a gateway");
    };
    let mut request =
        address.as_str().into_client_request().with_context(|| format!("'{address}' is no address"))?;
    let bearer =
        HeaderValue::from_str(&format!("Bearer {token}")).context("the cloud's token is no header text")?;
    request.headers_mut().insert("Authorization", bearer);
    let uri = request.uri().clone();
    let host =
        uri.host().with_context(|| format!("'{address}' names no host"))?.trim_matches(['[', ']']).to_owned();
    let failed = || format!("cannot connect to {address}");
    let tcp =
        TcpStream::connect((host.as_str(), uri.port_u16().unwrap_or(443))).await.with_context(failed)?;
    let name = ServerName::try_from(host).context("no host name")?;
    let stream = TlsConnector::from(Arc::new(tls)).connect(name, tcp).await.with_context(failed)?;
    let (socket, _) = tokio_tungstenite::client_async(request, stream).await.with_context(failed)?;
    Ok(socket)
}

/// Asks where to connect, and with which token.
async fn discover(url: &str, system_id: &SystemId, tls: rustls::ClientConfig) -> Result<(String, String)> {
    let http = reqwest::Client::builder().tls_backend_preconfigured(tls).build()?;
    let path = url.splitn(4, '/').nth(3).unwrap_or_default();
    let url = if path.is_empty() {
        format!("{}{}", url.trim_end_matches('/'), discovery::PATH)
    } else {
        url.to_owned()
    };
    let request = http.post(&url).header("Content-Type", "application/json");
    let body = discovery::Request::new(system_id.clone()).to_json();
    let mut response = request.body(body).send().await.with_context(|| format!("cannot reach {url}"))?;
    if response.status() != reqwest::StatusCode::OK {
        bail!("{url} answered {}", response.status());
    }
    let mut answer = Vec::new();
    while let Some(piece) = response.chunk().await.context("the answer broke off")? {
        answer.extend_from_slice(&piece);
        if answer.len() > discovery::MAX_BODY {
            bail!("the answer of {url} is too long");
        }
    }
    let response = discovery::Response::read(&answer)?;
    match response.verdict() {
        discovery::Verdict::Connect(addresses) => {
            let address = addresses.into_iter().find(|address| address.starts_with("wss://"));
            Ok((address.context("the cloud names no wss:// address")?, response.auth_token))
        }
        other => bail!("the cloud does not let this Unit connect: {other:?}"),
    }
}

struct Sender {
    socket: Socket,
    session: Session,
}

/// What became of the message under way.
enum Outcome {
    Acknowledged,
    Given(String),
}

impl Sender {
    async fn send_all(
        mut self,
        messages: Vec<(usize, Envelope)>,
        system_id: &SystemId,
    ) -> Result<Vec<Value>> {
        let mut results = Vec::new();
        let actions = self.session.on(now(), Event::connected(None));
        self.act(actions).await?;
        for (number, recorded) in messages {
            let kind = recorded.body.message_type();
            let envelope = fresh(recorded, system_id);
            let txn = envelope.header.txn.clone();
            let start = Instant::now();
            let outcome = self.send(envelope).await?;
            let (latency, reason) = match outcome {
                Outcome::Acknowledged => (Some(u64::try_from(start.elapsed().as_millis())?), String::new()),
                Outcome::Given(reason) => (None, reason),
            };
            results.push(json!({
                "number": number, "messageType": kind.as_str(), "txn": txn.as_str(),
                "latencyMs": latency, "reason": reason,
            }));
        }
        // Best effort: everything is acknowledged already.
        let _ = self.socket.close(None).await;
        Ok(results)
    }

    /// Sends one message and waits until it is acknowledged or given up.
    async fn send(&mut self, envelope: Envelope) -> Result<Outcome> {
        let actions = self.session.on(now(), Event::send(envelope));
        let mut outcome = self.act(actions).await?;
        while outcome.is_none() {
            let due = self.session.next_deadline();
            let wake = async {
                match due {
                    Some(due) => tokio::time::sleep_until(due.into()).await,
                    None => std::future::pending().await,
                }
            };
            let actions = tokio::select! {
                () = wake => self.session.on(now(), Event::Tick),
                frame = self.socket.next() => match frame.context("the cloud closed the connection")? {
                    Ok(Message::Binary(bytes)) => self.session.on(now(), Event::Frame(&bytes)),
                    Ok(Message::Text(text)) => self.session.on(now(), Event::Frame(text.as_bytes())),
                    Ok(Message::Close(reason)) => {
                        let reason = reason.map(|frame| format!(": {} {}", frame.code, frame.reason));
                        bail!("the cloud closed the connection{}", reason.unwrap_or_default());
                    }
                    Ok(_) => self.session.on(now(), Event::PeerAlive),
                    Err(error) => return Err(error).context("the connection broke"),
                },
            };
            outcome = self.act(actions).await?;
        }
        outcome.context("no outcome")
    }

    async fn act(&mut self, actions: Vec<Action>) -> Result<Option<Outcome>> {
        let mut outcome = None;
        for action in actions {
            match action {
                Action::Transmit(bytes) => {
                    self.socket.send(Message::Binary(bytes)).await.context("the connection broke")?;
                }
                Action::Ping => {
                    self.socket
                        .send(Message::Ping(bytes::Bytes::new()))
                        .await
                        .context("the connection broke")?;
                }
                Action::Acknowledged(_) => outcome = Some(Outcome::Acknowledged),
                Action::Parked(_, reason) | Action::Dropped(_, reason) => {
                    outcome = Some(Outcome::Given(reason.to_string()));
                }
                Action::Reconnect => bail!("the cloud has gone silent"),
                Action::Deliver(_) | Action::Rejected(_) => {}
            }
        }
        Ok(outcome)
    }
}

/// The message as it would be sent now.
fn fresh(recorded: Envelope, system_id: &SystemId) -> Envelope {
    let Envelope { correlation_id, mut body, .. } = recorded;
    if let Body::Alerts(alerts) = &mut body {
        alerts.refused.clear();
    }
    let envelope = Envelope::new(system_id.clone(), Timestamp::now(), body);
    Envelope { correlation_id, ..envelope }
}

fn now() -> Now {
    Now { instant: Instant::now(), wall: Timestamp::now() }
}
