//! Composition root: opens what the configuration names, starts the tasks, stops them in reverse.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use aos_supervise::{Shutdown, TaskTree};
use aos_tls::{ClientAuth, IdentitySlot, Roots};
use rustls::ServerConfig;
use tokio::sync::Semaphore;

use crate::certhandler::{CertHandler, Handler};
use crate::config::Checked;
use crate::currentnode::CurrentNode;
use crate::database::Store;
use crate::iamserver::access::{DEFAULT_RULES, Rules};
use crate::iamserver::{self, API_VERSION, Access, Api, Listener, MAX_CERT_SUBSCRIPTIONS};
use crate::identhandler::IdentHandler;
use crate::localstatus::{self, Sources};
use crate::nodemanager::{NodeManager, Side};
use crate::worker::{self, Worker};
use crate::{
    Error, certhandler, config, iamclient, identhandler, lifecycle, nodemanager, ownidentity, permhandler,
    provisionmanager,
};

const STOP_DEADLINE: Duration = Duration::from_secs(5);
/// Threads for token, database and external programs; they end when idle.
const BLOCKING_THREADS: usize = 8;
const THREAD_IDLE: Duration = Duration::from_secs(2);

/// What the command line says.
#[derive(Debug, Clone)]
pub struct Args {
    /// Configuration file.
    pub config: PathBuf,
    /// Serve in plain text and allow the node to be provisioned.
    pub provisioning: bool,
}

/// Runs until SIGTERM or SIGINT; blocks the calling thread. Logging must have been set up.
pub fn run(args: Args) -> Result<(), Error> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .max_blocking_threads(BLOCKING_THREADS)
        .on_thread_park(aos_footprint::before_sleep)
        .thread_keep_alive(THREAD_IDLE)
        .build()
        .map_err(|error| Error::Failed(format!("cannot start the runtime: {error}")))?;
    let result = runtime.block_on(async {
        let shutdown = Shutdown::on_signals()
            .map_err(|error| Error::Failed(format!("cannot listen for signals: {error}")))?;
        let app = App::start(args, aos_local_status::run_dir(), shutdown).await?;
        aos_supervise::notify_ready();
        app.run().await
    });
    // A hanging external program must not keep us.
    runtime.shutdown_background();
    result
}

/// The running program.
pub struct App {
    public_addr: String,
    protected_addr: String,
    tree: TaskTree,
}

impl App {
    /// Starts everything; on success both servers listen. `run_dir` is for the local status.
    pub async fn start(args: Args, run_dir: PathBuf, shutdown: Shutdown) -> Result<Self, Error> {
        crate::killpoint::arm();
        let config = config::load(&args.config)?;
        let mut tree = TaskTree::new(shutdown);

        let store = Store::open(&config.raw.working_dir)?;
        let node = CurrentNode::open(&config.node)?;
        let own = node.watch();
        let identity = identhandler::open(&config, &mut tree)?;

        let (store_worker, jobs) = Worker::new();
        tree.spawn("database", |stop| worker::run(store, jobs, stop));
        let certs = open_certificates(&mut tree, &config, store_worker.clone(), args.provisioning).await?;

        let permissions = if config.raw.enable_permissions_handler {
            let (handler, task) = permhandler::open(store_worker.clone()).await?;
            tree.spawn("permissions", |stop| task.run(stop));
            Some(handler)
        } else {
            None
        };
        let nodes = if config.node.is_main() {
            let (manager, task) = nodemanager::open(store_worker, own.clone()).await?;
            tree.spawn("nodes", |stop| task.run(stop));
            Some(manager)
        } else {
            None
        };
        let (provisioning, task) = provisionmanager::open(&config.raw, node, certs.clone(), identity.clone());
        tree.spawn("provisioning", |stop| task.run(stop));

        let (public, protected, slot) = listen(&mut tree, &config, &certs, args.provisioning).await?;
        let access = slot.clone().filter(|_| config.raw.authorize_callers);
        let access = access.map(|slot| Access::new(caller_rules(&config), certs.watch(), slot));
        let link = iamclient::open(&config, &certs, &own, &provisioning, slot)?;
        let (public_addr, protected_addr) = (public.address(), protected.address());
        let mut recovery = None;
        if let Some(from) = giver(&config, identity.clone(), nodes.clone()).filter(|_| !args.provisioning) {
            let (certs, node, run_dir) = (certs.clone(), own.clone(), run_dir.clone());
            let parts = lifecycle::Parts { certs, node, roots: roots(&config)?, run_dir, from };
            recovery = lifecycle::start(&mut tree, &config, parts);
        }
        let api = Api {
            certs: certs.clone(),
            own: own.clone(),
            version: config.raw.api_version.unwrap_or(API_VERSION),
            identity: identity.clone(),
            nodes: nodes.clone(),
            provisioning,
            permissions,
            access,
            recovery,
            subscriptions: Arc::new(Semaphore::new(MAX_CERT_SUBSCRIPTIONS)),
            stop: Shutdown::new(),
        };
        let public_api = api.clone();
        tree.spawn("public server", |stop| {
            iamserver::serve(Api { stop, ..public_api }, Side::Public, public)
        });
        tree.spawn("protected server", |stop| {
            iamserver::serve(Api { stop, ..api }, Side::Protected, protected)
        });
        if let Some(link) = link {
            tree.spawn("main node link", |stop| link.run(stop));
        }
        let sources = Sources { node: own, certs, identity, nodes, provisioning: args.provisioning };
        tree.spawn("local status", |stop| localstatus::serve(run_dir, sources, stop));

        tracing::info!(
            "identity and access manager ready{}: public on {public_addr}, protected on {protected_addr}",
            if args.provisioning { " in provisioning mode" } else { "" }
        );
        Ok(Self { public_addr, protected_addr, tree })
    }

    /// Where the public server listens: `host:port` or `unix:/path`.
    pub fn public_addr(&self) -> &str {
        &self.public_addr
    }

    /// Where the protected server listens.
    pub fn protected_addr(&self) -> &str {
        &self.protected_addr
    }

    /// Runs until asked to stop, then stops in order.
    pub async fn run(self) -> Result<(), Error> {
        Ok(self.tree.run(STOP_DEADLINE).await?)
    }
}

/// Who renews certificates of this node that nobody else renews.
fn giver(
    config: &Checked,
    identity: Option<IdentHandler>,
    nodes: Option<NodeManager>,
) -> Option<lifecycle::From> {
    let main = &config.raw.main_iam_public_server_url;
    match identity {
        Some(identity) if config.node.is_main() => Some(lifecycle::From::Cloud { identity, nodes }),
        _ if config.node.is_main() || main.is_empty() => None,
        _ => Some(lifecycle::From::MainNode(main.clone())),
    }
}

/// The roots for checking peers, followed through changes of their file.
fn roots(config: &Checked) -> Result<Roots, Error> {
    Roots::from_file(&config.raw.ca_cert).map_err(|source| Error::Tls {
        doing: format!("use caCert '{}'", config.raw.ca_cert.display()),
        source: Box::new(source),
    })
}

/// The built-in rules, with those of the configuration in their place.
fn caller_rules(config: &Checked) -> Rules {
    let texts = |callers: &[&str]| callers.iter().map(|caller| (*caller).to_owned()).collect();
    let mut rules: Rules =
        DEFAULT_RULES.iter().map(|(service, callers)| ((*service).to_owned(), texts(callers))).collect();
    rules.extend(config.raw.callers.clone());
    rules
}

async fn open_certificates(
    tree: &mut TaskTree,
    config: &Checked,
    store: Worker<Store>,
    forgiving: bool,
) -> Result<CertHandler, Error> {
    let modules = config.modules.clone();
    let handler = tokio::task::spawn_blocking(move || Handler::open(&modules, store, forgiving))
        .await
        .map_err(|error| Error::Failed(format!("opening of the tokens was lost: {error}")))??;
    let (watch, shut) = (handler.watch(), handler.shut());
    let (worker, jobs) = Worker::new();
    tree.spawn("certificates", |stop| worker::run(handler, jobs, stop));
    let certs = CertHandler::new(worker, watch, shut);
    let mended = certs.clone();
    tree.spawn("tokens that do not open", |stop| certhandler::mend(mended, stop));
    Ok(certs)
}

async fn listen(
    tree: &mut TaskTree,
    config: &Checked,
    certs: &CertHandler,
    provisioning: bool,
) -> Result<(Listener, Listener, Option<IdentitySlot>), Error> {
    let public_url = &config.raw.iam_public_server_url;
    let protected_url = &config.raw.iam_protected_server_url;
    let failed = |doing: String| move |source| Error::Tls { doing, source: Box::new(source) };
    let open = async |address: &str, tls: Option<&Arc<ServerConfig>>, which: &str| {
        Listener::bind(address, tls).await.map_err(failed(format!("open the {which} server")))
    };
    if provisioning {
        let public = open(public_url, None, "public").await?;
        return Ok((public, open(protected_url, None, "protected").await?, None));
    }
    let roots = roots(config)?;
    let (slot, shown) = ownidentity::load(certs, &config.raw.cert_storage).await?;
    let (followed, certs) = (slot.clone(), certs.clone());
    let kind = config.raw.cert_storage.clone();
    tree.spawn("own certificate", |stop| ownidentity::follow(certs, kind, followed, shown, stop));

    let tls = |clients| aos_tls::server_config(slot.clone(), clients);
    let public_tls = tls(ClientAuth::None).map_err(failed("make the public server's TLS".into()))?;
    let protected_tls =
        tls(ClientAuth::RequiredNow(roots)).map_err(failed("make the protected server's TLS".into()))?;
    let public = open(public_url, Some(&public_tls), "public").await?;
    let protected = open(protected_url, Some(&protected_tls), "protected").await?;
    Ok((public, protected, Some(slot)))
}
