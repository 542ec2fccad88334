//! What the tests of images need around them: a Communication Manager that tells addresses, a server of blobs
//! that can be held up or made to break, and images made by hand.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use aos_image_layers::sha256;
use aos_unit_api::servicemanager::v5 as wire;
use flate2::Compression;
use flate2::write::GzEncoder;
use serde_json::{Value, json};
use tokio::sync::watch;
use tokio_stream::Stream;
use tonic::{Request, Response, Status, Streaming};
use wire::sm_service_server::{SmService, SmServiceServer};

use super::super::*;

#[derive(Default)]
pub struct State {
    /// Contents by digest.
    pub blobs: HashMap<String, Vec<u8>>,
    /// Digests that CM says it does not know.
    pub hidden: HashSet<String>,
    /// Digests served with other bytes.
    pub wrong: HashMap<String, Vec<u8>>,
    /// Connections that are cut after so many bytes of the body, by digest; each once.
    pub cuts: HashMap<String, Vec<usize>>,
    /// Bytes of the body after which the server waits for `held` to become empty again.
    pub held: HashMap<String, usize>,
    /// Requests by digest, with the offset asked for.
    pub requests: Vec<(String, u64)>,
}

/// CM and its server.
#[derive(Clone)]
pub struct Cm {
    state: Arc<Mutex<State>>,
    web: String,
    pub calls: CmCalls,
    channel: Arc<watch::Sender<Option<tonic::transport::Channel>>>,
    grpc: Arc<Mutex<String>>,
}

impl Cm {
    pub async fn start() -> Self {
        let state = Arc::new(Mutex::new(State::default()));
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let web = listener.local_addr().unwrap().to_string();
        let serving = Arc::clone(&state);
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let state = Arc::clone(&serving);
                std::thread::spawn(move || serve(stream, &state));
            }
        });
        let (sender, channel) = watch::channel(None);
        let cm = Self {
            state,
            web,
            calls: CmCalls::new(channel),
            channel: Arc::new(sender),
            grpc: Arc::default(),
        };
        cm.connect().await;
        cm
    }

    pub async fn connect(&self) {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let incoming = tokio_stream::wrappers::TcpListenerStream::new(listener);
        let service = SmServiceServer::new(self.clone());
        tokio::spawn(tonic::transport::Server::builder().add_service(service).serve_with_incoming(incoming));
        let channel = aos_tls::plain_grpc_channel(&address.to_string()).unwrap();
        *self.grpc.lock().unwrap() = address.to_string();
        self.channel.send_replace(Some(channel));
    }

    /// Where its calls are served.
    pub fn grpc_address(&self) -> String {
        self.grpc.lock().unwrap().clone()
    }

    pub fn disconnect(&self) {
        self.channel.send_replace(None);
    }

    pub fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }

    pub fn put(&self, content: &[u8]) -> Digest {
        let digest = sha256(content);
        self.state().blobs.insert(digest.to_string(), content.to_vec());
        digest
    }

    /// How often a content was asked for.
    pub fn requests(&self, digest: &Digest) -> usize {
        let digest = digest.to_string();
        self.state().requests.iter().filter(|(asked, _)| *asked == digest).count()
    }

    fn described(&self, kind: &str, content: &[u8]) -> Value {
        json!({"mediaType": kind, "digest": self.put(content).to_string(), "size": content.len()})
    }

    /// Publishes a service of gzip layers.
    pub fn service(&self, layers: &[Vec<u8>]) -> Published {
        let mut described = Vec::new();
        let mut packed = Vec::new();
        for tar in layers {
            let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
            encoder.write_all(tar).unwrap();
            let content = encoder.finish().unwrap();
            described.push(self.described("application/vnd.oci.image.layer.v1.tar+gzip", &content));
            packed.push(sha256(&content));
        }
        let diff_ids: Vec<Digest> = layers.iter().map(|tar| sha256(tar)).collect();
        let config = json!({"architecture": "amd64", "os": "linux", "config": {"Cmd": ["x"]},
            "rootfs": {"type": "layers", "diff_ids": diff_ids.iter().map(ToString::to_string).collect::<Vec<_>>()}});
        let config = serde_json::to_vec(&config).unwrap();
        let manifest = json!({"schemaVersion": 2,
            "config": self.described("application/vnd.oci.image.config.v1+json", &config),
            "aosItemConfig": self.described("application/vnd.aos.item.config.v1+json", b"{}"),
            "layers": described});
        let manifest = self.put(&serde_json::to_vec(&manifest).unwrap());
        Published { manifest, config: sha256(&config), packed, diff_ids }
    }
}

/// Digests of a published service.
#[derive(Debug, Clone)]
pub struct Published {
    pub manifest: Digest,
    pub config: Digest,
    pub packed: Vec<Digest>,
    pub diff_ids: Vec<Digest>,
}

fn serve(mut stream: TcpStream, state: &Mutex<State>) {
    let mut head = Vec::new();
    let mut byte = [0];
    while !head.ends_with(b"\r\n\r\n") && stream.read(&mut byte).unwrap_or(0) == 1 {
        head.push(byte[0]);
    }
    let head = String::from_utf8(head).unwrap();
    let Some(digest) = head.split([' ', '/']).find(|part| part.starts_with("sha256:")).map(str::to_owned)
    else {
        return;
    };
    let lower = head.to_ascii_lowercase();
    let start =
        lower.lines().find_map(|line| line.strip_prefix("range: bytes=")?.strip_suffix('-')?.parse().ok());
    let start: u64 = start.unwrap_or(0);
    let (content, cut) = {
        let mut state = state.lock().unwrap();
        state.requests.push((digest.clone(), start));
        let content = state.wrong.get(&digest).or_else(|| state.blobs.get(&digest)).cloned();
        let cut = state.cuts.get_mut(&digest).and_then(|cuts| (!cuts.is_empty()).then(|| cuts.remove(0)));
        (content.unwrap_or_default(), cut)
    };
    let body = &content[usize::try_from(start).unwrap()..];
    let mut header =
        format!("HTTP/1.1 {} X\r\nContent-Length: {}\r\n", if start > 0 { 206 } else { 200 }, body.len());
    if start > 0 {
        let _ = std::fmt::Write::write_fmt(
            &mut header,
            format_args!("Content-Range: bytes {start}-{}/{}\r\n", content.len() - 1, content.len()),
        );
    }
    header.push_str("\r\n");
    let _ = stream.write_all(header.as_bytes());
    let mut sent = 0;
    for piece in body.chunks(1024) {
        while state.lock().unwrap().held.get(&digest).is_some_and(|&after| sent >= after) {
            std::thread::park_timeout(Duration::from_millis(5));
        }
        if cut.is_some_and(|cut| sent >= cut) || stream.write_all(piece).is_err() {
            return;
        }
        sent += piece.len();
    }
}

#[tonic::async_trait]
impl SmService for Cm {
    type RegisterSMStream = Pin<Box<dyn Stream<Item = Result<wire::SmIncomingMessages, Status>> + Send>>;

    async fn register_sm(
        &self,
        _: Request<Streaming<wire::SmOutgoingMessages>>,
    ) -> Result<Response<Self::RegisterSMStream>, Status> {
        Err(Status::unimplemented("not played"))
    }

    async fn get_blobs_infos(
        &self,
        request: Request<wire::BlobsInfosRequest>,
    ) -> Result<Response<wire::BlobsInfos>, Status> {
        let digests = request.into_inner().digests;
        if digests.iter().any(|digest| self.state().hidden.contains(digest)) {
            return Err(Status::not_found("no such blob"));
        }
        let urls = digests.iter().map(|digest| format!("http://{}/{digest}", self.web)).collect();
        Ok(Response::new(wire::BlobsInfos { urls }))
    }
}

/// A tar of files, folders (names that end in a slash), in this order.
pub fn tar(entries: &[(&str, &[u8])]) -> Vec<u8> {
    let mut builder = tar::Builder::new(Vec::new());
    for (name, content) in entries {
        let mut header = tar::Header::new_gnu();
        let kind = if name.ends_with('/') { tar::EntryType::Directory } else { tar::EntryType::Regular };
        header.set_entry_type(kind);
        header.set_size(content.len() as u64);
        header.set_mode(0o755);
        header.set_mtime(1);
        builder.append_data(&mut header, name, *content).unwrap();
    }
    builder.into_inner().unwrap()
}

/// Bytes that do not pack well, the same for the same seed.
pub fn noise(seed: u64, length: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(2).wrapping_add(1);
    let mut bytes = Vec::with_capacity(length + 8);
    while bytes.len() < length {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend_from_slice(&state.to_le_bytes());
    }
    bytes.truncate(length);
    bytes
}

/// An image manager on a folder, with its task.
pub struct Manager {
    pub images: ImageManager,
    pub database: Database,
    pub folder: PathBuf,
    task: tokio::task::JoinHandle<()>,
}

pub const RETENTION: Retention =
    Retention { ttl: Duration::from_hours(1), period: Duration::from_hours(1), part_limit: 0 };

impl Manager {
    pub fn open(folder: &Path, cm: &Cm, retention: Retention) -> Self {
        let database = Database::open(&folder.join("sm.db")).unwrap();
        let images = folder.join("images");
        let (handle, task) = ImageManager::open(
            images.clone(),
            retention,
            database.clone(),
            cm.calls.clone(),
            Dialer::default(),
        )
        .unwrap();
        Self { images: handle, database, folder: images, task: tokio::spawn(task) }
    }

    pub async fn install(&self, item: &str, version: &str, manifest: Digest) -> Result<Arc<Image>, Error> {
        self.images.install(item.to_owned(), version.to_owned(), manifest).await
    }

    /// Ends the task and waits until nothing works on the folder any more.
    pub async fn close(self) {
        self.task.abort();
        let _ = self.task.await;
    }

    pub fn layers(&self) -> LayerStore {
        self.images.layers.clone()
    }

    /// What is below the folder, by kind.
    pub fn contents(&self) -> BTreeMap<&'static str, usize> {
        let count = |name: &str| std::fs::read_dir(self.folder.join(name)).map_or(0, Iterator::count);
        ["blobs/sha256", "layers/sha256", "partial", "tmp"]
            .into_iter()
            .map(|name| (name, count(name)))
            .collect()
    }

    pub async fn wait_contents(&self, expected: [usize; 4]) {
        let names = ["blobs/sha256", "layers/sha256", "partial", "tmp"];
        let expected: BTreeMap<_, _> = names.into_iter().zip(expected).collect();
        wait_for(&format!("contents {expected:?}, last {:?}", self.contents()), || {
            (self.contents() == expected).then_some(())
        })
        .await;
    }

    pub fn use_only(&self, items: &[(&str, &str)]) {
        let items = items.iter().map(|(item, version)| ((*item).to_owned(), (*version).to_owned())).collect();
        self.images.in_use(items);
    }

    pub async fn versions(&self) -> Vec<(String, String, bool)> {
        let mut rows: Vec<_> = self.database.items().await.unwrap();
        rows.sort_by(|a, b| (&a.item, &a.version).cmp(&(&b.item, &b.version)));
        rows.into_iter().map(|row| (row.item, row.version, row.removed_at.is_none())).collect()
    }
}

/// Polls until there is a value; the test fails when there is none in time.
pub async fn wait_for<T>(what: &str, mut probe: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + Duration::from_mins(1);
    loop {
        if let Some(value) = probe() {
            return value;
        }
        assert!(Instant::now() < deadline, "waited too long for {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}
