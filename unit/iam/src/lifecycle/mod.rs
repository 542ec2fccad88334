//! Keeps this node's certificates alive, with or without a session to the cloud.
//!
//! The cloud asks for renewals at two thirds of a life, through the Communication Manager. What is still due
//! later, or has ended, this task gets from the cloud's recovery endpoint by itself: it has the keys, and it
//! works when no certificate is good any more. When to ask is decided by [`aos_cert_life::Keeper`], what time
//! it is by [`aos_cert_life::Clock`]; consumers follow the certificates as after any other change. A node that is
//! not the main one does the same towards the main node, which asks the cloud in its stead.

mod door;
mod exchange;
mod floor;
mod gate;
mod https;
mod mainnode;
mod proof;

use std::collections::{BTreeMap, HashMap};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use aos_cert_life::{Clock, Event, Keeper, Life, Settings};
use aos_recovery_protocol::{Certificates, Challenges, CsrOf, DEFAULT_PORT, Token};
use aos_supervise::{Shutdown, TaskTree};
use aos_tls::Roots;
use rustls::pki_types::CertificateDer;
use tokio::sync::{mpsc, watch};
use url::Url;
use x509_parser::extensions::{GeneralName, ParsedExtension};
use x509_parser::prelude::{FromDer, X509Certificate};

pub use door::ask;
pub use gate::{Asked, Gate};

use crate::Error;
use crate::certhandler::{CertHandler, CertRecord};
use crate::config::Checked;
use crate::currentnode::NodeInfo;
use crate::identhandler::IdentHandler;
use crate::nodemanager::NodeManager;
use exchange::{Exchange, Outcome};
use floor::{FloorFile, reading};
use gate::Relay;
use mainnode::MainNode;

const ONLINE: &str = "online";
/// Assumed life of a certificate that cannot be read just now, seconds.
const ASSUMED_LIFE: i64 = 90 * 24 * 3600;
/// `recoveryUrl` that switches recovery off.
const NONE: &str = "none";
/// Other nodes whose requests may wait.
const RELAYS: usize = 4;

/// What the task works with.
pub struct Parts {
    /// Certificates of this node.
    pub certs: CertHandler,
    /// This node.
    pub node: watch::Receiver<NodeInfo>,
    /// Roots to verify the other end with.
    pub roots: Roots,
    /// Folder of sockets.
    pub run_dir: PathBuf,
    /// Who gives certificates.
    pub from: From,
}

/// Who gives certificates.
pub enum From {
    /// The cloud.
    Cloud {
        /// Who the Unit is.
        identity: IdentHandler,
        /// The other nodes.
        nodes: Option<NodeManager>,
    },
    /// The main node, whose public server this is.
    MainNode(String),
}

/// What is known of a certificate.
#[derive(Debug, Clone)]
struct Read {
    not_before: i64,
    /// Host of the cloud that it names.
    cloud: Option<String>,
}

enum Source {
    Cloud(Box<Exchange>, IdentHandler),
    MainNode(Box<MainNode>),
}

struct Lifecycle {
    certs: CertHandler,
    node: watch::Receiver<NodeInfo>,
    url: String,
    source: Source,
    /// What other nodes ask; on the main node.
    relays: Option<mpsc::Receiver<Relay>>,
    keeper: Keeper,
    clock: Clock,
    file: FloorFile,
    read: HashMap<String, Read>,
}

/// Starts the task and its socket. On a main node, returns what other nodes may ask.
pub fn start(tree: &mut TaskTree, config: &Checked, parts: Parts) -> Option<Gate> {
    let Parts { certs, node, roots, run_dir, from } = parts;
    let url = config.raw.recovery_url.clone();
    if url == NONE {
        return None;
    }
    let file = FloorFile::new(&config.raw.working_dir);
    let usual = Settings::default();
    let percent = config.raw.renew_at_percent.unwrap_or(usual.renew_at_percent);
    let (mut gate, mut relays) = (None, None);
    let source = match from {
        From::Cloud { identity, nodes } => {
            if let Some(nodes) = nodes.clone() {
                let (sender, queue) = mpsc::channel(RELAYS);
                let own = node.borrow().node_id.clone();
                let (challenges, roots, identity) =
                    (Arc::new(Challenges::new()), roots.clone(), identity.clone());
                gate = Some(Gate { challenges, roots, nodes, identity, own, relays: sender });
                relays = Some(queue);
            }
            let exchange = Exchange { certs: certs.clone(), nodes, roots, csrs: BTreeMap::new() };
            Source::Cloud(Box::new(exchange), identity)
        }
        From::MainNode(address) => {
            let (proves, certs) = (config.raw.cert_storage.clone(), certs.clone());
            Source::MainNode(Box::new(MainNode { address, roots, certs, proves, csrs: BTreeMap::new() }))
        }
    };
    let clock = Clock::new(file.read(), reading());
    let keeper = Keeper::new(Settings { renew_at_percent: percent });
    let (wanted, requests) = mpsc::channel(1);
    let lifecycle = Lifecycle { certs, node, url, source, relays, keeper, clock, file, read: HashMap::new() };
    tree.spawn("certificate life", |stop| lifecycle.run(requests, stop));
    tree.spawn("recovery door", |stop| door::serve(run_dir, wanted, stop));
    gate
}

/// The next request of another node.
async fn next(relays: &mut Option<mpsc::Receiver<Relay>>) -> Option<Relay> {
    match relays {
        Some(relays) => relays.recv().await,
        None => std::future::pending().await,
    }
}

impl Lifecycle {
    async fn run(mut self, mut requests: mpsc::Receiver<door::Wanted>, stop: Shutdown) -> Result<(), Error> {
        let mut changes = self.certs.watch();
        changes.mark_changed();
        let mut event = Event::Wake;
        loop {
            self.keep_time().await;
            let order = self.keeper.on(self.time(), aos_backoff::random_fraction(), event);
            if let Some(order) = order {
                let outcome = tokio::select! {
                    outcome = self.get(&order.types, None) => outcome,
                    () = stop.wait() => return Ok(()),
                };
                event = self.settle(outcome).await;
                continue;
            }
            let wait = self.keeper.wait(self.time()).unwrap_or(aos_cert_life::LONGEST_WAIT);
            let wait = Duration::from_secs(wait.unsigned_abs());
            event = tokio::select! {
                () = stop.wait() => return Ok(()),
                changed = changes.changed() => {
                    if changed.is_err() {
                        return Ok(());
                    }
                    Event::Lives(self.lives().await)
                }
                () = tokio::time::sleep(wait) => Event::Lives(self.lives().await),
                wanted = requests.recv() => {
                    let Some(wanted) = wanted else { return Ok(()) };
                    self.by_hand(wanted).await;
                    Event::Lives(self.lives().await)
                }
                Some(relay) = next(&mut self.relays) => {
                    let given = self.relay(relay.requests).await;
                    // The node may have gone; it asks again.
                    let _ = relay.answer.send(given);
                    Event::Lives(self.lives().await)
                }
            };
        }
    }

    fn time(&self) -> aos_cert_life::Time {
        self.clock.time(reading())
    }

    /// Stores the floor when it is worth it, and lets TLS know it.
    async fn keep_time(&mut self) {
        let reading = reading();
        let floor = self.clock.time(reading).floor;
        aos_tls::raise_time_floor(u64::try_from(floor).unwrap_or(0));
        let Some(floor) = self.clock.to_save(reading) else { return };
        let file = self.file.clone();
        let written = tokio::task::spawn_blocking(move || file.write(floor)).await;
        if let Ok(Err(error)) = written {
            tracing::warn!("{}", aos_logging::with_causes(&error));
            self.clock.not_saved();
        }
    }

    /// The newest certificate of each type that the cloud issues; what they prove of the time is noted.
    async fn lives(&mut self) -> Vec<Life> {
        let types = self.certs.cert_types().await.unwrap_or_default();
        let snapshot = self.certs.certificates();
        let newest: Vec<CertRecord> =
            types.iter().filter_map(|kind| snapshot.latest(kind).cloned()).collect();
        self.read.retain(|url, _| newest.iter().any(|record| record.cert_url == *url));
        let mut lives = Vec::with_capacity(newest.len());
        for record in newest {
            let not_after = record.not_after / 1_000_000_000;
            let not_before = match self.read(&record).await {
                Some(read) => {
                    self.clock.proved(read.not_before, reading());
                    read.not_before
                }
                None => not_after.saturating_sub(ASSUMED_LIFE),
            };
            lives.push(Life { cert_type: record.cert_type, not_before, not_after });
        }
        lives
    }

    async fn read(&mut self, record: &CertRecord) -> Option<Read> {
        if let Some(read) = self.read.get(&record.cert_url) {
            return Some(read.clone());
        }
        if self.certs.shut().borrow().contains(&record.cert_type) {
            return None;
        }
        let urls = (record.cert_url.clone(), record.key_url.clone());
        let loaded = tokio::task::spawn_blocking(move || aos_token::load_identity(&urls.0, &urls.1)).await;
        let identity = match loaded.ok()? {
            Ok(identity) => identity,
            Err(error) => {
                tracing::warn!(
                    "the life of the certificate '{}' is not known: {}",
                    record.cert_type,
                    aos_logging::with_causes(&error)
                );
                return None;
            }
        };
        let leaf = identity.leaf()?;
        let (not_before, _) = validity(leaf)?;
        let read = Read { not_before, cloud: cloud_host(leaf) };
        self.read.insert(record.cert_url.clone(), read.clone());
        Some(read)
    }

    async fn get(&mut self, types: &[String], token: Option<&Token>) -> Result<Outcome, Error> {
        let node = self.node.borrow().node_id.clone();
        if let Source::MainNode(main) = &mut self.source {
            if token.is_some() {
                return Err(Error::NotSupported("tokens are for the main node: give it there".to_owned()));
            }
            tracing::info!("asking the main node for certificates: {}", types.join(", "));
            return main.run(&node, types).await;
        }
        let server = self.server().await?;
        let Source::Cloud(exchange, identity) = &mut self.source else { return Err(Error::Stopping) };
        let system_id = identity.system().await?.system_id;
        tracing::info!("asking {server} for certificates: {}", types.join(", "));
        exchange.run(&server, &system_id, &node, types, token).await
    }

    /// Asks the cloud for another node.
    async fn relay(&mut self, requests: Vec<CsrOf>) -> Result<Certificates, Error> {
        let server = self.server().await?;
        let Source::Cloud(exchange, identity) = &self.source else { return Err(Error::Stopping) };
        let system_id = identity.system().await?.system_id;
        let node = requests.first().map(|one| one.node.clone()).unwrap_or_default();
        tracing::info!("asking {server} for {} certificates of node {node}", requests.len());
        exchange.relay(&server, &system_id, requests).await
    }

    /// Where to ask: as configured, else the host that the online certificate names, at the usual port.
    async fn server(&mut self) -> Result<Url, Error> {
        if !self.url.is_empty() {
            return Url::parse(&self.url)
                .map_err(|error| Error::InvalidArgument(format!("recoveryUrl '{}': {error}", self.url)));
        }
        let record = self.certs.certificates().latest(ONLINE).cloned();
        let read = match record {
            Some(record) => self.read(&record).await,
            None => None,
        };
        let host = read.and_then(|read| read.cloud);
        let url = host.and_then(|host| Url::parse(&format!("https://{host}:{DEFAULT_PORT}")).ok());
        url.ok_or_else(|| {
            Error::NotFound("the online certificate names no cloud; set recoveryUrl".to_owned())
        })
    }

    /// What an order came to, for the keeper.
    async fn settle(&mut self, outcome: Result<Outcome, Error>) -> Event {
        let event = match outcome {
            Ok(outcome) => {
                for failure in &outcome.failures {
                    tracing::warn!("a certificate is not renewed: {failure}");
                }
                if outcome.stored > 0 {
                    self.clock.proved_now(outcome.not_before, reading());
                    tracing::info!("{} certificates renewed by the Unit itself", outcome.stored);
                    Event::Done
                } else {
                    Event::Failed
                }
            }
            Err(error) => {
                let time = self.time();
                let state = if self.keeper.is_expired(time) { "ended" } else { "due" };
                tracing::warn!("certificates are {state} but: {}", aos_logging::with_causes(&error));
                Event::Failed
            }
        };
        // The keeper must know what was stored before it hears that the order is over.
        let lives = self.lives().await;
        let order = self.keeper.on(self.time(), 0.0, Event::Lives(lives));
        debug_assert!(order.is_none(), "one order at a time");
        event
    }

    async fn by_hand(&mut self, wanted: door::Wanted) {
        let types = self.certs.cert_types().await.unwrap_or_default();
        let result = self.get(&types, wanted.token.as_ref()).await;
        let told = match result {
            Ok(outcome) if outcome.stored > 0 => {
                self.clock.proved_now(outcome.not_before, reading());
                let mut text = format!("{} certificates are new", outcome.stored);
                if !outcome.failures.is_empty() {
                    text = format!("{text}; not so: {}", outcome.failures.join("; "));
                }
                Ok(text)
            }
            Ok(outcome) => Err(Error::Failed(outcome.failures.join("; "))),
            Err(error) => Err(error),
        };
        // Whoever asked may have gone.
        let _ = wanted.answer.send(told);
    }
}

/// Begin and end of a certificate's validity, seconds since 1970 UTC.
fn validity(leaf: &CertificateDer<'_>) -> Option<(i64, i64)> {
    let (_, parsed) = X509Certificate::from_der(leaf).ok()?;
    let validity = parsed.validity();
    Some((validity.not_before.timestamp(), validity.not_after.timestamp()))
}

/// The host in the issuer's alternative name, which is the address of service discovery.
fn cloud_host(leaf: &CertificateDer<'_>) -> Option<String> {
    let (_, parsed) = X509Certificate::from_der(leaf).ok()?;
    let uri = parsed.extensions().iter().find_map(|extension| match extension.parsed_extension() {
        ParsedExtension::IssuerAlternativeName(names) => {
            names.general_names.iter().find_map(|name| match name {
                GeneralName::URI(uri) => Some((*uri).to_owned()),
                _ => None,
            })
        }
        _ => None,
    })?;
    Url::parse(&uri).ok()?.host().map(|host| host.to_string())
}
