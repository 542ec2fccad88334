//! Composition root: reads the configuration, opens what is stored, builds the modules, runs them, and stops
//! them in reverse order.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use aos_backoff::Backoff;
use aos_content_store::Store;
use aos_iam_link::{IamLink, IamLinkConfig, LinkError};
use aos_ids::{NodeId, SystemId};
use aos_supervise::{Shutdown, TaskTree};
use aos_tls::IdentitySlot;
use aos_token::Identity;
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;
use serde_json::Value;
use tokio::sync::{mpsc, oneshot, watch};

use crate::transport::Dialer;
use crate::updatemanager::coordinator::{self, Coordinator};
use crate::{Config, Error, communication, database, fileserver, imagemanager, networkmanager, smcontroller};

/// Longest time that the link keeps its identity while certificates are being installed.
const INSTALL_TIME: Duration = Duration::from_mins(5);
/// Time for the orderly stop.
const STOP_TIME: Duration = Duration::from_secs(2);
/// Pauses between questions to an IAM that is away, from the first to the longest.
const IAM_PAUSE: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(1));
/// Questions for the local status that may wait.
const QUESTIONS: usize = 8;
/// Certificate type of the link to the cloud.
const ONLINE: &str = "online";
/// Largest file of root certificates, bytes.
const MAX_ROOTS: u64 = 1024 * 1024;

/// Runs until SIGTERM or SIGINT.
pub fn run(config: &Path) -> Result<(), Error> {
    let config = Config::load(config)?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .max_blocking_threads(4)
        .on_thread_park(aos_footprint::before_sleep)
        .thread_keep_alive(Duration::from_secs(2))
        .build()
        .map_err(Error::Runtime)?;
    let result = runtime.block_on(async {
        let shutdown = Shutdown::on_signals().map_err(Error::Runtime)?;
        run_until(&config, shutdown, &aos_local_status::run_dir()).await
    });
    // A handshake or an unpacking that is still under way must not hold the process.
    runtime.shutdown_timeout(Duration::from_millis(200));
    result
}

/// Runs until `shutdown`; the local status is served in `run_dir`.
pub(crate) async fn run_until(config: &Config, shutdown: Shutdown, run_dir: &Path) -> Result<(), Error> {
    let tree = build(config, shutdown, run_dir).await?;
    aos_supervise::notify_ready();
    tracing::info!("Communication Manager is running");
    let result = tree.run(STOP_TIME).await;
    Ok(result?)
}

async fn build(config: &Config, shutdown: Shutdown, run_dir: &Path) -> Result<TaskTree, Error> {
    for dir in [&config.working_dir, &config.storage_dir, &config.state_dir] {
        aos_durable::create_dir(dir, 0o700)
            .map_err(|source| Error::Directory { dir: dir.clone(), source: Box::new(source) })?;
    }
    let db = || database::open(&config.database());
    let roots = aos_tls::Roots::from_file(&config.ca_cert)?;
    let iam = IamLink::new(IamLinkConfig {
        public_url: config.iam_public_server_url.clone(),
        protected_url: config.iam_protected_server_url.clone(),
        ca_cert: config.ca_cert.clone(),
        plaintext: false,
    })?;
    let (system_id_sender, system_id) = watch::channel(None);
    let (main_node_sender, main_node) = watch::channel(None);
    let (installing, is_installing) = watch::channel(false);
    let (online_sender, online) = watch::channel(None);

    let sources = communication::Sources {
        roots: roots.clone(),
        slot: iam.slot(ONLINE),
        identity: online,
        system_id: system_id.clone(),
        iam: iam.clone(),
    };
    let coordinator_db = db()?;
    let stored = communication::Stored::load(&coordinator_db)?;
    let (cloud, cloud_events, cloud_task) = communication::open(config, sources, stored)?;
    let (networks, network_task) = networkmanager::open(db()?, config)?;
    let store = Store::open(&config.install_path)?;
    let dialer = Dialer::new(&roots, &IdentitySlot::new())?;
    let image_parts = imagemanager::Parts {
        db: db()?,
        installed: store.clone(),
        downloads: Store::open(&config.download_path)?,
        dialer: dialer.clone(),
        roots: root_certificates(&config.ca_cert)?,
        cloud: cloud.clone(),
    };
    let (images, book, image_events, image_task) = imagemanager::open(config, image_parts)?;
    let files = match &config.file_server {
        Some(address) => {
            let identity = iam.slot(&config.cert_storage);
            Some(fileserver::open(address, roots.clone(), identity, store.clone()).await?)
        }
        None => None,
    };
    let controller_parts = smcontroller::Parts {
        address: config.cm_server_url.clone(),
        roots,
        identity: iam.slot(&config.cert_storage),
        networks,
        blobs: smcontroller::Blobs {
            store: store.clone(),
            server: config.file_server.clone(),
            main_node: main_node.clone(),
        },
        cloud: cloud.connected(),
    };
    let (controller, sm_events, registry, server) = smcontroller::open(controller_parts).await?;
    tracing::info!("listening for Service Managers on {}", server.address());
    if let Some(files) = &files {
        tracing::info!("blobs for other nodes at {}", files.address());
    }
    let (question_sender, questions) = mpsc::channel(QUESTIONS);
    let coordinator = Coordinator::open(
        config,
        coordinator::Parts {
            db: coordinator_db,
            cloud,
            cloud_events,
            images,
            book,
            image_events,
            controller,
            sm_events,
            iam: iam.clone(),
            installing,
            dialer,
            store,
            system_id,
            main_node,
            online: iam.identity(ONLINE),
            own: iam.identity(&config.cert_storage),
            questions,
        },
    )?;

    let mut tree = TaskTree::new(shutdown);
    tree.spawn("networkmanager", |stop| until(stop, network_task.run()));
    tree.spawn("imagemanager", |stop| image_task.run(stop));
    tree.spawn("updatemanager", |stop| coordinator.run(stop));
    let dir = run_dir.to_owned();
    tree.spawn("localstatus", |stop| until(stop, serve_status(dir, question_sender)));
    tree.spawn("smcontroller", |stop| until(stop, registry.run()));
    tree.spawn("smserver", |stop| async move {
        tokio::select! {
            () = stop.wait() => Ok(()),
            result = server.run() => result,
        }
    });
    if let Some(files) = files {
        tree.spawn("fileserver", |stop| until(stop, files.run()));
    }
    let renewed = iam.identity(ONLINE);
    tree.spawn("identity", |stop| until(stop, pass_on_identity(renewed, is_installing, online_sender)));
    tree.spawn("iamclient", |stop| until(stop, learn_identity(iam, system_id_sender, main_node_sender)));
    tree.spawn("communication", |stop| cloud_task.run(stop));
    Ok(tree)
}

async fn until(stop: Shutdown, work: impl Future<Output = ()>) {
    tokio::select! {
        () = stop.wait() => {}
        () = work => {}
    }
}

/// Tells the link of a new identity, but not while more certificates are being installed: the cloud gets the
/// confirmation of all of them on the link that it asked on.
async fn pass_on_identity(
    mut identity: watch::Receiver<Option<Arc<Identity>>>,
    mut installing: watch::Receiver<bool>,
    link: watch::Sender<Option<Arc<Identity>>>,
) {
    loop {
        if link.borrow().is_some() {
            let finished = installing.wait_for(|installing| !installing);
            if tokio::time::timeout(INSTALL_TIME, finished).await.is_err() {
                tracing::warn!("certificates are being installed for too long; the new one is used");
            }
        }
        link.send_replace(identity.borrow_and_update().clone());
        if identity.changed().await.is_err() {
            return std::future::pending().await;
        }
    }
}

/// Asks IAM who we are until it says so.
async fn learn_identity(
    iam: IamLink,
    system_id: watch::Sender<Option<SystemId>>,
    main_node: watch::Sender<Option<NodeId>>,
) {
    let unit = ask("the Unit's identity", || async { Ok(iam.system_info().await?.system_id) });
    system_id.send_replace(Some(unit.await));
    let node = ask("this node", || async { Ok(iam.current_node_info().await?.node_id) });
    main_node.send_replace(Some(node.await));
    std::future::pending::<()>().await;
}

async fn ask<T: std::str::FromStr<Err: std::fmt::Display>, F: Future<Output = Result<String, LinkError>>>(
    what: &str,
    question: impl Fn() -> F,
) -> T {
    let mut said = false;
    let mut backoff = Backoff::new(IAM_PAUSE.0, IAM_PAUSE.1, 0.0);
    loop {
        let reason = match question().await {
            Ok(text) => match text.parse() {
                Ok(value) => return value,
                Err(error) => format!("{error}"),
            },
            Err(error) => error.to_string(),
        };
        if !said {
            tracing::warn!("waiting for IAM to tell {what}: {reason}");
            said = true;
        }
        tokio::time::sleep(backoff.next(0.0)).await;
    }
}

async fn serve_status(dir: std::path::PathBuf, questions: mpsc::Sender<oneshot::Sender<Value>>) {
    let provider = || {
        let questions = questions.clone();
        async move {
            let (sender, answer) = oneshot::channel();
            match questions.send(sender).await {
                Ok(()) => answer.await.unwrap_or_default(),
                Err(_) => Value::Null,
            }
        }
    };
    if let Err(error) = aos_local_status::serve(&dir, "cm", provider).await {
        // The Unit works without it.
        tracing::error!("{error}");
    }
    std::future::pending::<()>().await;
}

fn root_certificates(path: &Path) -> Result<Vec<Vec<u8>>, Error> {
    let text = aos_durable::read_bounded(path, MAX_ROOTS)
        .map_err(|source| Error::Roots { path: path.to_owned(), source: Box::new(source) })?
        .unwrap_or_default();
    Ok(CertificateDer::pem_slice_iter(&text).filter_map(Result::ok).map(|der| der.to_vec()).collect())
}

#[cfg(test)]
#[path = "app_tests/mod.rs"]
pub(crate) mod tests;
