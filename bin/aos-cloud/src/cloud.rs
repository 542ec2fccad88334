//! Building the parts of the cloud and connecting them.

use std::fs::File;
use std::net::IpAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use aos_cloud_api::{Api, hash_token, new_token, recovery_routes, upload_routes};
use aos_cloud_blobs::{Blobs, Counter};
use aos_cloud_gateway::Gateway;
use aos_cloud_handlers::{Addresses, Flows, Handlers, Patience};
use aos_cloud_listener::{Limits, Listener};
use aos_cloud_metrics::Metrics;
use aos_cloud_pki::{Domain, Pki};
use aos_cloud_store::{NewAccount, Role, Store, now_micros};
use aos_supervise::{Shutdown, TaskTree};
use aos_tls::{ClientAuth, IdentitySlot, server_config};
use rustls::RootCertStore;
use rustls::sign::CertifiedKey;
use serde_json::Value;

use crate::endpoints::{Endpoints, authority, last, prepare, reachable, with_last_port};
use crate::metrics::MetricsListener;
use crate::options::RunOptions;

/// Time for requests under way when the cloud stops.
const DRAIN: Duration = Duration::from_millis(800);
/// How long the first administrator's token waits to be used, microseconds.
const BOOTSTRAP: i64 = 30 * 24 * 3600 * 1_000_000;
/// Time between two looks at the end of the server certificate.
const RENEWAL: Duration = Duration::from_hours(12);
const CLIENT_LIMITS: Limits = Limits {
    handshakes: 32,
    handshakes_per_address: 32,
    connections: 1024,
    // A proxy in front of the cloud is one address.
    connections_per_address: 1024,
    handshake_time: Duration::from_secs(10),
};

/// A started cloud: all listeners are bound.
pub struct Cloud {
    tree: TaskTree,
    endpoints: Endpoints,
    /// Held so that no second cloud works on the same data.
    _lock: File,
}

impl Cloud {
    /// Starts everything; on return requests are answered. Ends when `shutdown` is triggered.
    pub async fn start(options: &RunOptions, shutdown: Shutdown) -> anyhow::Result<Self> {
        let data = options.data.as_path();
        prepare(data)?;
        let lock = lock(&data.join("lock"))?;
        let hosts = hosts(options);
        let now = now_micros() / 1_000_000;
        let pki =
            Pki::open(&data.join("pki"), &hosts, now).context("cannot open the certificate authority")?;
        let pki = Arc::new(pki.with_unit_lives(options.certificates.lives()));
        let metrics = Metrics::new();
        let commits = metrics.clone();
        let on_commit = move |time, jobs| commits.committed(time, jobs);
        let store =
            Store::open_observed(&data.join("cloud.db"), on_commit).context("cannot open the store")?;
        bootstrap(data, &store).await?;

        let server = IdentitySlot::holding(server_key(&pki)?);
        let clients = |domain| -> anyhow::Result<Arc<RootCertStore>> {
            let mut anchors = RootCertStore::empty();
            anchors.add(pki.client_anchor(domain).clone()).context("cannot trust our own intermediate")?;
            Ok(Arc::new(anchors))
        };
        let for_units = server_config(server.clone(), ClientAuth::Required(clients(Domain::Units)?))?;
        let for_users = server_config(server.clone(), ClientAuth::Optional(clients(Domain::Users)?))?;
        let for_blobs = server_config(server.clone(), ClientAuth::None)?;

        let file = data.join("endpoints.json");
        let before = last(&file);
        let units =
            bind("units", &options.listen_units, &before, &for_units, options.limits.connections()).await?;
        let api = bind("api", &options.listen_api, &before, &for_users, CLIENT_LIMITS).await?;
        let blob = bind("blobs", &options.listen_blobs, &before, &for_blobs, CLIENT_LIMITS).await?;
        let told = match &options.listen_metrics {
            Some(address) => Some(MetricsListener::bind(address).await?),
            None => None,
        };
        let domain = pki.domain().to_owned();
        let units_authority = authority(&domain, units.local_addr().port());
        let endpoints = Endpoints {
            units: reachable(units.local_addr(), &domain),
            api: reachable(api.local_addr(), &domain),
            blobs: reachable(blob.local_addr(), &domain),
            metrics: told.as_ref().map(|told| told.local_addr().to_string()),
            discovery_url: format!("https://{units_authority}/sd/v7/"),
        };

        let mut tree = TaskTree::new(shutdown);
        let (counter, counting) = Counter::new(store.clone());
        let blobs =
            Blobs::open(&data.join("blobs"), store.clone(), Arc::clone(&pki), counter.clone()).await?;
        tree.spawn("counter", |stop| async move {
            tokio::pin!(counting);
            tokio::select! {
                ended = &mut counting => return ended,
                () = stop.wait() => {}
            }
            tokio::select! {
                ended = &mut counting => ended,
                () = counter.flush() => Ok(()),
            }
        });
        let renewing = Arc::clone(&pki);
        tree.spawn("server certificate", |stop| async move {
            loop {
                tokio::select! {
                    () = stop.wait() => return,
                    () = tokio::time::sleep(RENEWAL) => {}
                }
                match server_key(&renewing) {
                    Ok(key) => server.set(key),
                    Err(error) => tracing::error!("the server certificate stays as it is: {error:#}"),
                }
            }
        });
        metrics.show_listener(units.counts());
        if let Some(told) = told {
            let metrics = metrics.clone();
            tree.spawn("metrics", |stop| told.serve(metrics, stop));
        }
        let addresses = Addresses {
            blobs: format!("https://{}", authority(&domain, blob.local_addr().port())),
            discovery: endpoints.discovery_url.clone(),
        };
        let patience =
            Patience { renew_at_percent: options.certificates.renew_at_percent, ..Patience::default() };
        let flows = Flows::with_patience(store.clone(), Arc::clone(&pki), addresses, patience);
        let (broker, handlers) = Handlers::new(flows.clone(), blobs.clone());
        let gateway = Gateway::new(
            store.clone(),
            flows.clone(),
            broker,
            &pki,
            format!("wss://{units_authority}/ws/v7/"),
            options.limits.settings(),
            metrics.clone(),
        );
        tree.spawn("handlers", |stop| async move {
            tokio::select! {
                () = handlers.run() => {}
                () = stop.wait() => {}
            }
        });
        let downloads = blobs.routes().merge(upload_routes(flows.clone()));
        let downloads = downloads.merge(recovery_routes(flows.clone()));
        let discovery_url = Arc::from(endpoints.discovery_url.as_str());
        let rest = Api { store, pki, blobs, flows, gateway: gateway.clone(), discovery_url }.routes();
        let drain = Duration::from_secs(options.drain_time);
        tree.spawn("listeners", |stop| async move {
            // While Units are moved away they are still told when to come back.
            let end = Shutdown::new();
            let ended = async {
                stop.wait().await;
                if !drain.is_zero() {
                    gateway.drain(drain).await;
                }
                end.trigger();
                gateway.stop(DRAIN).await;
            };
            tokio::join!(
                units.serve(gateway.routes(), end.clone(), DRAIN),
                api.serve(rest, end.clone(), DRAIN),
                blob.serve(downloads, end.clone(), DRAIN),
                ended,
            );
        });
        endpoints.write(&file)?;
        tracing::info!(
            "cloud '{domain}' serves Units on {}, the API on {}, blobs on {}",
            endpoints.units,
            endpoints.api,
            endpoints.blobs
        );
        Ok(Self { tree, endpoints, _lock: lock })
    }

    /// Where it listens.
    pub fn endpoints(&self) -> &Endpoints {
        &self.endpoints
    }

    /// Runs until the shutdown is triggered; then all tasks together have `stop_time` to end.
    pub async fn run(self, stop_time: Duration) -> anyhow::Result<()> {
        self.tree.run(stop_time).await?;
        tracing::info!("stopped");
        Ok(())
    }
}

/// The present server certificate, renewed when it ends soon.
fn server_key(pki: &Pki) -> anyhow::Result<Arc<CertifiedKey>> {
    let server =
        pki.server_certificate(now_micros() / 1_000_000).context("cannot make the server certificate")?;
    let provider = aos_tls::provider();
    let key = provider.key_provider.load_private_key(server.key).context("cannot use the server key")?;
    Ok(Arc::new(CertifiedKey::new(server.chain, key)))
}

/// All names under which clients may reach the listeners, the public ones first.
fn hosts(options: &RunOptions) -> Vec<String> {
    let mut hosts = options.public_host.clone();
    hosts.extend(["localhost", "127.0.0.1", "::1"].map(str::to_owned));
    for listen in [&options.listen_units, &options.listen_api, &options.listen_blobs] {
        let host = listen.rsplit_once(':').map_or("", |(host, _)| host.trim_matches(['[', ']']));
        if host.parse::<IpAddr>().is_ok_and(|ip| !ip.is_unspecified()) {
            hosts.push(host.to_owned());
        }
    }
    let mut seen = std::collections::HashSet::new();
    hosts.retain(|host| !host.is_empty() && seen.insert(host.clone()));
    hosts
}

fn lock(path: &Path) -> anyhow::Result<File> {
    let open = File::options().create(true).append(true).open(path);
    let file = open.with_context(|| format!("cannot open {}", path.display()))?;
    file.try_lock()
        .with_context(|| format!("another cloud works on this data: {} is locked", path.display()))?;
    Ok(file)
}

/// Makes the first administrator and leaves its token in a file, as long as nobody has enrolled.
async fn bootstrap(data: &Path, store: &Store) -> anyhow::Result<()> {
    let path = data.join("bootstrap-token");
    if !store.nobody_enrolled().await? {
        aos_durable::remove_durably(&path)?;
        return Ok(());
    }
    let stored = aos_durable::read_bounded(&path, 1024)?;
    let stored = stored.and_then(|bytes| String::from_utf8(bytes).ok()).map(|text| text.trim().to_owned());
    let token = match stored.filter(|token| !token.is_empty()) {
        Some(token) => token,
        None => new_token()?,
    };
    // The file first: a token in the store that nobody can read would be useless.
    aos_durable::write_atomic(&path, format!("{token}\n").as_bytes(), 0o600)?;
    let admin = NewAccount {
        role: Role::Admin,
        company: "Cloud operator".to_owned(),
        username: "admin".to_owned(),
        email: "admin@localhost".to_owned(),
    };
    store.invite(admin, hash_token(&token), now_micros() + BOOTSTRAP).await?;
    tracing::info!("nobody has enrolled yet; the administrator's token is in {}", path.display());
    Ok(())
}

/// Binds a listener. Port 0 means the port of the last run when that is still free.
async fn bind(
    name: &'static str,
    address: &str,
    before: &Value,
    config: &Arc<rustls::ServerConfig>,
    limits: Limits,
) -> anyhow::Result<Listener> {
    if let Some(same) = with_last_port(address, before, name)
        && let Ok(listener) = Listener::bind(name, &same, config, limits).await
    {
        return Ok(listener);
    }
    Listener::bind(name, address, config, limits)
        .await
        .with_context(|| format!("cannot listen for {name} on {address}"))
}
