use std::sync::{Arc, Mutex};

use aos_iam_link::IamLinkConfig;
use aos_ids::{ItemId, SubjectId};
use aos_unit_api::iamanager::v6;
use tokio::sync::oneshot;
use tonic::{Request, Response, Status};
use v6::iam_permissions_service_server::{IamPermissionsService, IamPermissionsServiceServer};

use super::*;

/// What a played IAM knows; it outlives the server, as IAM's database does.
#[derive(Clone, Default)]
struct Played(Arc<Mutex<State>>);

#[derive(Default)]
struct State {
    registered: BTreeMap<u64, (String, usize)>,
    calls: Vec<String>,
    secrets: u64,
}

#[tonic::async_trait]
impl IamPermissionsService for Played {
    async fn register_instance(
        &self,
        request: Request<v6::RegisterInstanceRequest>,
    ) -> Result<Response<v6::RegisterInstanceResponse>, Status> {
        let request = request.into_inner();
        let number = request.instance.unwrap().instance;
        let mut state = self.0.lock().unwrap();
        state.calls.push(format!("register {number}"));
        state.secrets += 1;
        let new = (format!("secret {}", state.secrets), request.permissions.len());
        let secret = state.registered.entry(number).or_insert(new).0.clone();
        Ok(Response::new(v6::RegisterInstanceResponse { secret }))
    }

    async fn unregister_instance(
        &self,
        request: Request<v6::UnregisterInstanceRequest>,
    ) -> Result<Response<()>, Status> {
        let number = request.into_inner().instance.unwrap().instance;
        let mut state = self.0.lock().unwrap();
        state.calls.push(format!("unregister {number}"));
        let known = state.registered.remove(&number).is_some();
        if known { Ok(Response::new(())) } else { Err(Status::internal("no such instance")) }
    }
}

impl Played {
    /// Serves until the answer is dropped.
    async fn serve(&self, address: &str) -> (String, Server) {
        let listener = loop {
            match tokio::net::TcpListener::bind(address).await {
                Ok(listener) => break listener,
                Err(_) => tokio::task::yield_now().await,
            }
        };
        let address = listener.local_addr().unwrap().to_string();
        let incoming = tokio_stream::wrappers::TcpListenerStream::new(listener);
        let (stop, stopped) = oneshot::channel::<()>();
        let service = IamPermissionsServiceServer::new(self.clone());
        let task = tokio::spawn(async move {
            let server = tonic::transport::Server::builder().add_service(service);
            let stop = async {
                let _ = stopped.await;
            };
            let _ = server.serve_with_incoming_shutdown(incoming, stop).await;
        });
        (address, Server { _stop: stop, task })
    }

    fn numbers(&self) -> Vec<u64> {
        self.0.lock().unwrap().registered.keys().copied().collect()
    }

    fn calls(&self) -> Vec<String> {
        std::mem::take(&mut self.0.lock().unwrap().calls)
    }
}

struct Server {
    _stop: oneshot::Sender<()>,
    task: tokio::task::JoinHandle<()>,
}

impl Drop for Server {
    fn drop(&mut self) {
        self.task.abort();
    }
}

fn ident(number: u64) -> InstanceIdent {
    InstanceIdent::service(ItemId::new("item").unwrap(), SubjectId::new("subject").unwrap(), number)
}

fn at(servers: &[&str]) -> Wanted {
    let rights = BTreeMap::from([("path".to_owned(), "rw".to_owned())]);
    servers.iter().map(|server| ((*server).to_owned(), rights.clone())).collect()
}

fn open(url: &str, folder: &Path) -> Permissions {
    let config = IamLinkConfig {
        public_url: url.to_owned(),
        protected_url: url.to_owned(),
        ca_cert: PathBuf::new(),
        plaintext: true,
    };
    let link = IamLink::new(config).unwrap();
    let (permissions, task) = Permissions::open(Some(link), "sm".into(), folder.to_owned()).unwrap();
    tokio::spawn(task);
    permissions
}

async fn wait_for(what: &str, mut probe: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(40);
    while !probe() {
        assert!(Instant::now() < deadline, "waited too long for {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

fn files(folder: &Path) -> usize {
    std::fs::read_dir(folder).unwrap().count()
}

#[tokio::test]
async fn a_secret_stays_as_long_as_the_permissions_do() {
    let (iam, folder) = (Played::default(), tempfile::tempdir().unwrap());
    let (url, _server) = iam.serve("127.0.0.1:0").await;
    let permissions = open(&url, folder.path());
    let secret = permissions.register(&ident(0), &at(&["vis"])).await.unwrap();
    assert_eq!(permissions.register(&ident(0), &at(&["vis"])).await.unwrap(), secret);
    assert_eq!(iam.calls(), ["register 0", "register 0"]);
    // IAM would go on with the old permissions if it were only asked again.
    let other = permissions.register(&ident(0), &at(&["vis", "can"])).await.unwrap();
    assert_ne!(other, secret);
    assert_eq!(iam.0.lock().unwrap().registered.get(&0).unwrap().1, 2);
    assert_eq!(iam.calls(), ["unregister 0", "register 0"]);
    assert!(!format!("{secret:?}").contains("secret 1"), "a secret is never printed");

    permissions.unregister(&ident(0)).await.unwrap();
    assert!(iam.numbers().is_empty());
    permissions.unregister(&ident(0)).await.unwrap();
    permissions.unregister(&ident(7)).await.unwrap();
    assert_eq!(iam.calls(), ["unregister 0"], "who is not registered costs nothing");
    assert_eq!(files(folder.path()), 0);
}

/// A restart of ours keeps what runs and takes back what was left, adopted instances included: those are
/// unregistered when they end.
#[tokio::test]
async fn registrations_of_the_past_are_taken_back_at_start() {
    let (iam, folder) = (Played::default(), tempfile::tempdir().unwrap());
    let (url, _server) = iam.serve("127.0.0.1:0").await;
    let permissions = open(&url, folder.path());
    for number in 0..3 {
        permissions.register(&ident(number), &at(&["vis"])).await.unwrap();
    }
    drop(permissions);
    std::fs::write(folder.path().join("torn"), b"{").unwrap();
    let permissions = open(&url, folder.path());
    permissions.retain(&BTreeSet::from([ident(1)])).await.unwrap();
    wait_for("the past to be taken back", || iam.numbers() == [1]).await;
    permissions.unregister(&ident(1)).await.unwrap();
    assert!(iam.numbers().is_empty(), "an adopted instance is unregistered at its end");
    wait_for("the records to be removed", || files(folder.path()) == 1).await;
}

#[tokio::test]
async fn an_iam_that_is_away_is_waited_for_and_told_later() {
    let (iam, folder) = (Played::default(), tempfile::tempdir().unwrap());
    let (url, server) = iam.serve("127.0.0.1:0").await;
    let permissions = open(&url, folder.path());
    let secret = permissions.register(&ident(0), &at(&["vis"])).await.unwrap();
    permissions.register(&ident(1), &at(&["vis"])).await.unwrap();
    drop(server);
    permissions.unregister(&ident(1)).await.unwrap();
    assert_eq!(iam.numbers(), [0, 1]);
    let waiting = tokio::spawn({
        let permissions = permissions.clone();
        async move { permissions.register(&ident(0), &at(&["vis"])).await }
    });
    let (_, _server) = iam.serve(&url).await;
    assert_eq!(waiting.await.unwrap().unwrap(), secret, "IAM's restart changes no secret");
    wait_for("the end of the other to be told", || iam.numbers() == [0]).await;
    wait_for("its record to be removed", || files(folder.path()) == 1).await;
}

#[tokio::test]
async fn orders_about_one_instance_are_done_in_turn() {
    let (iam, folder) = (Played::default(), tempfile::tempdir().unwrap());
    let (url, _server) = iam.serve("127.0.0.1:0").await;
    let permissions = open(&url, folder.path());
    let wanted = at(&["vis"]);
    permissions.register(&ident(0), &wanted).await.unwrap();
    let (first, number) = (ident(0), ident(0));
    let (ended, registered) =
        tokio::join!(permissions.unregister(&first), permissions.register(&number, &wanted));
    ended.unwrap();
    registered.unwrap();
    assert_eq!(iam.calls(), ["register 0", "unregister 0", "register 0"]);
    assert_eq!(iam.numbers(), [0]);
    let without = Permissions::open(None, "sm".into(), folder.path().join("other")).unwrap();
    tokio::spawn(without.1);
    assert!(without.0.register(&number, &wanted).await.is_err());
}
