//! Keeps the Unit's certificates alive, with or without a session to the cloud. Main node only.
//!
//! The cloud asks for renewals at two thirds of a life, through the Communication Manager. What is still due
//! later, or has ended, this task gets from the cloud's recovery endpoint by itself: it has the keys, and it
//! works when no certificate is good any more. When to ask is decided by [`aos_cert_life::Keeper`], what time
//! it is by [`aos_cert_life::Clock`]; consumers follow the certificates as after any other change.

mod door;
mod exchange;
mod floor;
mod https;

use std::collections::{BTreeMap, HashMap};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use aos_cert_life::{Clock, Event, Keeper, Life, Settings};
use aos_recovery_protocol::{DEFAULT_PORT, Token};
use aos_supervise::{Shutdown, TaskTree};
use rustls::RootCertStore;
use rustls::pki_types::CertificateDer;
use tokio::sync::{mpsc, watch};
use url::Url;
use x509_parser::extensions::{GeneralName, ParsedExtension};
use x509_parser::prelude::{FromDer, X509Certificate};

pub use door::ask;

use crate::Error;
use crate::certhandler::{CertHandler, CertRecord};
use crate::config::Checked;
use crate::currentnode::NodeInfo;
use crate::identhandler::IdentHandler;
use crate::nodemanager::NodeManager;
use exchange::{Exchange, Outcome};
use floor::{FloorFile, reading};

const ONLINE: &str = "online";
/// Assumed life of a certificate that cannot be read just now, seconds.
const ASSUMED_LIFE: i64 = 90 * 24 * 3600;
/// `recoveryUrl` that switches recovery off.
const NONE: &str = "none";

/// What the task works with.
pub struct Parts {
    /// Certificates of this node.
    pub certs: CertHandler,
    /// Who the Unit is.
    pub identity: IdentHandler,
    /// This node.
    pub node: watch::Receiver<NodeInfo>,
    /// The other nodes.
    pub nodes: Option<NodeManager>,
    /// Roots to verify the cloud with.
    pub roots: Arc<RootCertStore>,
    /// Folder of sockets.
    pub run_dir: PathBuf,
}

/// What is known of a certificate.
#[derive(Debug, Clone)]
struct Read {
    not_before: i64,
    /// Host of the cloud that it names.
    cloud: Option<String>,
}

struct Lifecycle {
    parts: Parts,
    url: String,
    exchange: Exchange,
    keeper: Keeper,
    clock: Clock,
    file: FloorFile,
    read: HashMap<String, Read>,
}

/// Starts the task and its socket.
pub fn start(tree: &mut TaskTree, config: &Checked, parts: Parts) {
    let url = config.raw.recovery_url.clone();
    if url == NONE {
        return;
    }
    let file = FloorFile::new(&config.raw.working_dir);
    let usual = Settings::default();
    let percent = config.raw.renew_at_percent.unwrap_or(usual.renew_at_percent);
    let exchange = Exchange {
        certs: parts.certs.clone(),
        nodes: parts.nodes.clone(),
        roots: Arc::clone(&parts.roots),
        csrs: BTreeMap::new(),
    };
    let clock = Clock::new(file.read(), reading());
    let keeper = Keeper::new(Settings { renew_at_percent: percent });
    let (wanted, requests) = mpsc::channel(1);
    let run_dir = parts.run_dir.clone();
    let lifecycle = Lifecycle { parts, url, exchange, keeper, clock, file, read: HashMap::new() };
    tree.spawn("certificate life", |stop| lifecycle.run(requests, stop));
    tree.spawn("recovery door", |stop| door::serve(run_dir, wanted, stop));
}

impl Lifecycle {
    async fn run(mut self, mut requests: mpsc::Receiver<door::Wanted>, stop: Shutdown) -> Result<(), Error> {
        let mut changes = self.parts.certs.watch();
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
            tracing::warn!("{}", crate::error::chain(&error));
            self.clock.not_saved();
        }
    }

    /// The newest certificate of each type that the cloud issues; what they prove of the time is noted.
    async fn lives(&mut self) -> Vec<Life> {
        let types = self.parts.certs.cert_types().await.unwrap_or_default();
        let snapshot = self.parts.certs.certificates();
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
        let urls = (record.cert_url.clone(), record.key_url.clone());
        let loaded = tokio::task::spawn_blocking(move || aos_token::load_identity(&urls.0, &urls.1)).await;
        let identity = match loaded.ok()? {
            Ok(identity) => identity,
            Err(error) => {
                tracing::warn!(
                    "the life of the certificate '{}' is not known: {}",
                    record.cert_type,
                    crate::error::chain(&error)
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
        let system_id = self.parts.identity.system().await?.system_id;
        let node = self.parts.node.borrow().node_id.clone();
        let server = self.server().await?;
        tracing::info!("asking {server} for certificates: {}", types.join(", "));
        self.exchange.run(&server, &system_id, &node, types, token).await
    }

    /// Where to ask: as configured, else the host that the online certificate names, at the usual port.
    async fn server(&mut self) -> Result<Url, Error> {
        if !self.url.is_empty() {
            return Url::parse(&self.url)
                .map_err(|error| Error::InvalidArgument(format!("recoveryUrl '{}': {error}", self.url)));
        }
        let record = self.parts.certs.certificates().latest(ONLINE).cloned();
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
                tracing::warn!("certificates are {state} but: {}", crate::error::chain(&error));
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
        let types = self.parts.certs.cert_types().await.unwrap_or_default();
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
