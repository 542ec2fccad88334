//! The task of the link against scripted clouds on real sockets. Its receiver is played by the tests.

mod living;
mod reaching;
mod sealed;
mod stopping;

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use aos_cloud_protocol::{Body, Direction, Envelope, UnitStatus};
use aos_ids::{SystemId, Txn};
use aos_supervise::Shutdown;
use futures_util::{SinkExt, StreamExt};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;

use super::*;
use crate::app::tests::pki::Pki;

/// Time that nothing here should ever need.
const LONG: Duration = Duration::from_secs(20);

async fn in_time<T>(work: impl Future<Output = T>) -> T {
    tokio::time::timeout(LONG, work).await.expect("in time")
}

fn unit() -> SystemId {
    "unit-1".parse().unwrap()
}

/// What a test changes before the task runs.
#[derive(Default)]
struct Setup {
    discovery: String,
    keys: serde_json::Value,
    stored: Stored,
    /// Address and roots of an IAM.
    iam: Option<(String, std::path::PathBuf)>,
    times: Option<fn(&mut Times)>,
}

/// The running task and its surroundings.
struct Rig {
    pki: Pki,
    way: Communication,
    events: mpsc::Receiver<Event>,
    /// Events that came before a greeting was asked for.
    early: VecDeque<Event>,
    stop: Shutdown,
    task: JoinHandle<()>,
    identity: watch::Sender<Option<Arc<aos_token::Identity>>>,
    _system_id: watch::Sender<Option<SystemId>>,
    _dir: tempfile::TempDir,
}

impl Rig {
    fn new(setup: Setup) -> Self {
        if std::env::var_os("AOS_TEST_LOG").is_some() {
            let _ = aos_logging::init("cm", aos_logging::Level::Debug, aos_logging::Output::Stdout);
        }
        let dir = tempfile::tempdir().unwrap();
        let pki = Pki::new(dir.path());
        let mut keys = serde_json::json!({
            "caCert": pki.root_file(), "workingDir": dir.path(), "serviceDiscoveryUrl": setup.discovery,
            "iamPublicServerUrl": "localhost:1", "cmServerUrl": "127.0.0.1:0",
        });
        for (key, value) in setup.keys.as_object().into_iter().flatten() {
            keys[key] = value.clone();
        }
        let file = dir.path().join("aos_cm.cfg");
        std::fs::write(&file, keys.to_string()).unwrap();
        let config = Config::load(&file).unwrap();
        let (address, roots) = setup.iam.unwrap_or_else(|| ("localhost:1".to_owned(), pki.root_file()));
        let iam = IamLink::new(aos_iam_link::IamLinkConfig {
            public_url: address.clone(),
            protected_url: address,
            ca_cert: roots,
            plaintext: false,
        })
        .unwrap();
        let (identity, receiver) = watch::channel(Some(Self::certificate(&pki)));
        let (system_id_sender, system_id) = watch::channel(Some(unit()));
        let slot = IdentitySlot::new();
        slot.set(receiver.borrow().as_ref().unwrap().certified_key());
        let sources = Sources { roots: pki.roots().into(), slot, identity: receiver, system_id, iam };
        let (way, events, mut task) = open(&config, sources, setup.stored).unwrap();
        if let Some(change) = setup.times {
            change(&mut task.times);
        }
        let stop = Shutdown::new();
        let task = tokio::spawn(task.run(stop.clone()));
        Self {
            pki,
            way,
            events,
            early: VecDeque::new(),
            stop,
            task,
            identity,
            _system_id: system_id_sender,
            _dir: dir,
        }
    }

    fn certificate(pki: &Pki) -> Arc<aos_token::Identity> {
        let (cert, key) = pki.issue("online");
        Arc::new(aos_token::load_identity(&cert, &key).unwrap())
    }

    fn renew(&self) {
        self.identity.send_replace(Some(Self::certificate(&self.pki)));
    }

    /// The next event; the question for the greeting is answered on the way.
    async fn event(&mut self) -> Event {
        if let Some(event) = self.early.pop_front() {
            return event;
        }
        loop {
            match in_time(self.events.recv()).await.expect("the task runs") {
                Event::Connected(answer) => {
                    let _ = answer.send(UnitStatus::default());
                }
                event => return event,
            }
        }
    }

    /// Answers the next question for the greeting.
    async fn greet(&mut self) {
        while let Some(event) = in_time(self.events.recv()).await {
            if let Event::Connected(answer) = event {
                let _ = answer.send(UnitStatus::default());
                return;
            }
            self.early.push_back(event);
        }
    }

    /// Stops the task, which has a second for that.
    async fn stop(self) {
        let started = Instant::now();
        self.stop.trigger();
        in_time(self.task).await.unwrap();
        assert!(started.elapsed() < Duration::from_secs(1), "stopped in {:?}", started.elapsed());
    }
}

/// A message that is kept, as the coordinator hands it over.
fn kept(n: usize) -> Envelope {
    let status = aos_cloud_protocol::OverrideEnvVarsStatus { statuses: vec![] };
    let body = if n.is_multiple_of(2) {
        Body::OverrideEnvVarsStatus(status)
    } else {
        Body::InstallUnitCertificatesConfirmation(aos_cloud_protocol::InstallUnitCertificatesConfirmation {
            certificates: vec![],
        })
    };
    Envelope::new(unit(), jiff::Timestamp::now(), body).with_correlation_id(format!("kept {n}"))
}

#[allow(clippy::needless_pass_by_value, reason = "given as literals")]
fn answer(addresses: &[String], more: serde_json::Value) -> (u16, String) {
    let mut body = serde_json::json!({"version": 7, "connectionInfo": addresses, "authToken": "one"});
    for (key, value) in more.as_object().into_iter().flatten() {
        body[key] = value.clone();
    }
    (200, body.to_string())
}

/// A discovery server: gives its answers in turn, the last one for ever, and notes what it is asked and when.
#[derive(Clone)]
struct Discovery {
    address: SocketAddr,
    asked: Arc<Mutex<Vec<(Instant, String)>>>,
    answers: Arc<Mutex<VecDeque<(u16, String)>>>,
}

impl Discovery {
    async fn new(answers: impl IntoIterator<Item = (u16, String)>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let discovery = Self {
            address: listener.local_addr().unwrap(),
            asked: Arc::default(),
            answers: Arc::new(Mutex::new(answers.into_iter().collect())),
        };
        let this = discovery.clone();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                this.serve(stream).await;
            }
        });
        discovery
    }

    async fn serve(&self, mut stream: TcpStream) {
        let mut request = Vec::new();
        let text = loop {
            let mut chunk = [0; 4096];
            let read = stream.read(&mut chunk).await.unwrap_or(0);
            request.extend_from_slice(&chunk[..read]);
            let text = String::from_utf8_lossy(&request).into_owned();
            if read == 0 || text.ends_with('}') {
                break text;
            }
        };
        self.asked.lock().unwrap().push((Instant::now(), text));
        let (status, body) = {
            let mut answers = self.answers.lock().unwrap();
            if answers.len() > 1 { answers.pop_front() } else { answers.front().cloned() }.unwrap()
        };
        let head =
            format!("HTTP/1.1 {status} X\r\ncontent-length: {}\r\nconnection: close\r\n\r\n", body.len());
        let _ = stream.write_all((head + &body).as_bytes()).await;
    }

    fn url(&self) -> String {
        format!("http://{}/sd/v7/", self.address)
    }

    /// Waits for question number `n`, from 0; answers when it came and what it said.
    async fn question(&self, n: usize) -> (Instant, String) {
        in_time(async {
            loop {
                if let Some(asked) = self.asked.lock().unwrap().get(n).cloned() {
                    return asked;
                }
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        })
        .await
    }
}

/// A WebSocket server.
struct Sockets {
    listener: TcpListener,
}

/// The cloud's end of a link, with the headers of its upgrade in lower case.
struct Peer {
    socket: WebSocketStream<TcpStream>,
    headers: String,
}

impl Sockets {
    async fn new() -> Self {
        Self { listener: TcpListener::bind("127.0.0.1:0").await.unwrap() }
    }

    fn url(&self) -> String {
        format!("ws://{}/ws/v7/", self.listener.local_addr().unwrap())
    }

    #[allow(clippy::result_large_err, reason = "the signature of the callback")]
    async fn accept(&self) -> Peer {
        let (stream, _) = in_time(self.listener.accept()).await.unwrap();
        let mut headers = String::new();
        let note = |request: &tokio_tungstenite::tungstenite::handshake::server::Request, response| {
            headers = format!("{} {:?}", request.uri(), request.headers()).to_lowercase();
            Ok(response)
        };
        let socket = in_time(tokio_tungstenite::accept_hdr_async(stream, note)).await.unwrap();
        Peer { socket, headers }
    }

    /// Refuses the next upgrade.
    async fn refuse(&self, status: u16) {
        let (mut stream, _) = in_time(self.listener.accept()).await.unwrap();
        let mut chunk = [0; 4096];
        let _ = stream.read(&mut chunk).await;
        let head = format!("HTTP/1.1 {status} X\r\ncontent-length: 0\r\nconnection: close\r\n\r\n");
        stream.write_all(head.as_bytes()).await.unwrap();
        stream.shutdown().await.unwrap();
    }
}

impl Peer {
    /// The next message, not acknowledged; `None` when the link has ended.
    async fn next(&mut self) -> Option<Envelope> {
        loop {
            match in_time(self.socket.next()).await? {
                Ok(Message::Binary(bytes)) => {
                    return Some(aos_cloud_protocol::read(&bytes, Direction::UnitToCloud).unwrap());
                }
                Ok(Message::Close(_)) | Err(_) => return None,
                Ok(_) => {}
            }
        }
    }

    /// The next message of which this much is known: it is about the exchange.
    async fn about(&mut self, exchange: &str) -> Envelope {
        loop {
            let message = self.next().await.expect("the link stands");
            if message.correlation_id.as_deref() == Some(exchange) {
                return message;
            }
        }
    }

    async fn acknowledge(&mut self, message: &Envelope) {
        self.send(&Envelope::ack(unit(), jiff::Timestamp::now(), &message.header.txn)).await;
    }

    async fn send(&mut self, message: &Envelope) {
        self.send_raw(aos_cloud_protocol::write(message).unwrap()).await;
    }

    async fn send_raw(&mut self, bytes: Vec<u8>) {
        self.socket.send(Message::binary(bytes)).await.unwrap();
    }

    /// Takes the greeting.
    async fn greeted(&mut self) {
        let first = self.next().await.expect("a greeting");
        assert!(matches!(&first.body, Body::UnitStatus(status) if !status.is_delta_info), "{first:?}");
        self.acknowledge(&first).await;
    }
}

/// A cloud of one discovery server and one WebSocket server.
async fn cloud() -> (Discovery, Sockets) {
    let sockets = Sockets::new().await;
    (Discovery::new([answer(&[sockets.url()], serde_json::json!({}))]).await, sockets)
}
