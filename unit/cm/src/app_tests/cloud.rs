//! A scripted cloud: discovery, WebSocket and blobs over TLS, on ports of their own.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use aos_blob_crypto::{ServedHasher, encrypt_cbc};
use aos_cloud_protocol::{
    AosIdentity, BlobInfo, BlobUrls, Body, DecryptInfo, DesiredInstance, DesiredItem, DesiredStatus,
    Direction, Envelope, IdentityType, MessageType, ServedHash, UnitStatus,
};
use aos_content_store::sha256;
use aos_ids::Digest;
use aos_item_format::{Descriptor, ImageConfig, Index, ItemConfig, Manifest, media_type};
use aos_tls::{ClientAuth, Incoming, Protocol, ServerConnection};
use futures_util::{SinkExt, StreamExt};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::mpsc;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;

use super::pki::Pki;

/// A blob as it is served.
#[derive(Clone)]
pub struct Served {
    pub bytes: Vec<u8>,
    pub info: BlobInfo,
    /// Cut the connection after this many bytes of a full answer, once.
    pub cut_after: Option<usize>,
    /// Complete answers from byte 0, and bytes sent in all.
    pub fulls: usize,
    pub sent: usize,
}

pub type Blobs = Arc<Mutex<BTreeMap<String, Served>>>;

pub struct Cloud {
    pub discovery: String,
    pub blobs: Blobs,
    blob_port: u16,
    links: mpsc::Receiver<WebSocketStream<ServerConnection>>,
    link: Option<WebSocketStream<ServerConnection>>,
    /// Messages received and not yet looked at; acks and blob questions are handled in between.
    pub acks: Vec<String>,
    /// Kinds and transactions of all messages but acks.
    pub seen: Vec<(MessageType, String)>,
    /// Messages of this kind are not acknowledged.
    pub withheld: Option<MessageType>,
    refusing: Arc<AtomicBool>,
    answered: BTreeSet<String>,
}

impl Cloud {
    pub async fn start(pki: &Pki) -> Self {
        let required = || ClientAuth::Required(pki.roots());
        let units = aos_tls::server_config(pki.identity("cloud"), required()).unwrap();
        let public = aos_tls::server_config(pki.identity("blobs"), ClientAuth::None).unwrap();
        let mut discovery = Incoming::bind_tls("127.0.0.1:0", &units, Protocol::Http1).await.unwrap();
        let mut sockets = Incoming::bind_tls("127.0.0.1:0", &units, Protocol::Http1).await.unwrap();
        let mut files = Incoming::bind_tls("127.0.0.1:0", &public, Protocol::Http1).await.unwrap();
        let (url, socket_port) = (discovery.local_addr().port(), sockets.local_addr().port());
        let blob_port = files.local_addr().port();
        let blobs = Blobs::default();
        tokio::spawn(async move {
            loop {
                let mut connection = discovery.accept().await;
                let head = read_head(&mut connection).await;
                assert!(head.starts_with("POST /sd/v7/ "), "{head}");
                let body = serde_json::json!({
                    "version": 7, "systemId": "unit-1", "nextRequestDelay": 0, "authToken": "secret",
                    "connectionInfo": [format!("wss://localhost:{socket_port}/ws/v7/")], "errorCode": "NoError"
                });
                respond(&mut connection, "200 OK", "", body.to_string().as_bytes()).await;
            }
        });
        let (sender, links) = mpsc::channel(4);
        let refusing = Arc::new(AtomicBool::new(false));
        let refuse = Arc::clone(&refusing);
        tokio::spawn(async move {
            loop {
                let connection = sockets.accept().await;
                if refuse.load(Ordering::Relaxed) {
                    continue;
                }
                assert_eq!(
                    connection.peer().identity.as_ref().unwrap().common_name.as_deref(),
                    Some("unit-1")
                );
                if let Ok(socket) = tokio_tungstenite::accept_async(connection).await
                    && sender.send(socket).await.is_err()
                {
                    return;
                }
            }
        });
        let served = Arc::clone(&blobs);
        tokio::spawn(async move {
            loop {
                let connection = files.accept().await;
                tokio::spawn(serve_blob(connection, Arc::clone(&served)));
            }
        });
        let discovery = format!("https://localhost:{url}/sd/v7/");
        Self {
            discovery,
            blobs,
            blob_port,
            links,
            link: None,
            acks: vec![],
            withheld: None,
            seen: vec![],
            refusing,
            answered: BTreeSet::new(),
        }
    }

    /// Puts a blob up; every other one is encrypted.
    pub fn publish(&self, bytes: &[u8]) -> Descriptor {
        let digest = sha256(bytes);
        let encrypt = digest.as_bytes()[0].is_multiple_of(2);
        let (mut served, mut decrypt_info) = (bytes.to_vec(), None);
        if encrypt {
            served.clear();
            encrypt_cbc(bytes, &mut served, &[7; 32], &[9; 16]).unwrap();
            decrypt_info = Some(DecryptInfo {
                block_alg: aos_cloud_protocol::AES256_CBC.into(),
                block_iv: vec![9; 16].into(),
                block_key: vec![7; 32].into(),
            });
        }
        let mut hasher = ServedHasher::default();
        hasher.update(&served);
        let hash = ServedHash::parse(&hasher.finish().to_hex()).unwrap();
        let url = format!("https://localhost:{}/blobs/{}", self.blob_port, digest.hex());
        let dead = "https://localhost:1/blobs/none".to_owned();
        let info = BlobInfo {
            digest,
            urls: vec![dead, url],
            sha256: hash,
            size: served.len() as u64,
            decrypt_info,
            sign_info: None,
        };
        let blob = Served { bytes: served, info, cut_after: None, fulls: 0, sent: 0 };
        self.blobs.lock().unwrap().entry(digest.hex()).or_insert(blob);
        Descriptor::new("", digest, bytes.len() as u64)
    }

    /// Puts an image up; answers the digests of its index and of its layer.
    pub fn publish_image(&self, layer: &[u8]) -> (Digest, Digest) {
        self.publish_item(layer, &ItemConfig::default())
    }

    /// The same with a configuration.
    pub fn publish_item(&self, layer: &[u8], item: &ItemConfig) -> (Digest, Digest) {
        let config =
            ImageConfig { architecture: "amd64".into(), os: "linux".into(), ..ImageConfig::default() };
        let of = |kind: &str, bytes: &[u8]| Descriptor { media_type: kind.into(), ..self.publish(bytes) };
        let layer = of(media_type::LAYER_TAR, layer);
        let manifest = Manifest::new(
            of(media_type::IMAGE_CONFIG, &config.write()),
            Some(of(media_type::ITEM_CONFIG, &item.write())),
            vec![layer.clone()],
        );
        let index = Index::new(vec![of(media_type::MANIFEST, &manifest.write())]);
        (of(media_type::INDEX, &index.write()).digest, layer.digest)
    }

    /// Damages what is served of a blob.
    pub fn damage(&self, digest: &Digest) {
        self.blobs.lock().unwrap().get_mut(&digest.hex()).unwrap().bytes[0] ^= 1;
    }

    pub fn fulls(&self) -> Vec<usize> {
        self.blobs.lock().unwrap().values().map(|blob| blob.fulls).collect()
    }

    /// The next connection of the Unit, with its greeting.
    pub async fn connected(&mut self) -> UnitStatus {
        self.link = Some(self.links.recv().await.unwrap());
        match self.next().await.body {
            Body::UnitStatus(status) if !status.is_delta_info => status,
            other => panic!("the greeting is a full status, not {other:?}"),
        }
    }

    /// Whether connections are closed at once.
    pub fn refuse(&self, refuse: bool) {
        self.refusing.store(refuse, Ordering::Relaxed);
    }

    /// Takes one frame.
    pub async fn step(&mut self) {
        self.frame().await;
    }

    pub fn disconnect(&mut self) {
        self.link = None;
    }

    pub async fn send(&mut self, body: Body) -> String {
        self.send_as(body, None).await
    }

    /// Sends a message that belongs to an exchange.
    pub async fn send_as(&mut self, body: Body, correlation_id: Option<&str>) -> String {
        let envelope = Envelope::new("unit-1".parse().unwrap(), jiff::Timestamp::now(), body);
        let envelope = Envelope { correlation_id: correlation_id.map(str::to_owned), ..envelope };
        let txn = envelope.header.txn.to_string();
        self.send_raw(aos_cloud_protocol::write(&envelope).unwrap()).await;
        txn
    }

    pub async fn send_raw(&mut self, bytes: Vec<u8>) {
        self.link.as_mut().unwrap().send(Message::binary(bytes)).await.unwrap();
    }

    /// Sends more than a Unit takes; answers the code that it closes with.
    pub async fn overfill(&mut self) -> Option<u16> {
        let (mut sink, mut stream) = self.link.take().unwrap().split();
        let flood = async {
            // The Unit stops reading in the middle, so this may fail.
            let _ = sink.send(Message::binary(vec![b' '; aos_cloud_protocol::MAX_FRAME + 1])).await;
        };
        let closed = async {
            loop {
                match stream.next().await {
                    Some(Ok(Message::Close(frame))) => return frame.map(|frame| frame.code.into()),
                    Some(Ok(_)) => {}
                    Some(Err(_)) | None => return None,
                }
            }
        };
        tokio::join!(flood, closed).1
    }

    /// The next message that is neither an ack nor a question about blobs; those are noted or answered.
    pub async fn next(&mut self) -> Envelope {
        loop {
            if let Some(envelope) = self.frame().await {
                return envelope;
            }
        }
    }

    /// Reads until this message is acknowledged.
    pub async fn acknowledged(&mut self, txn: &str) {
        while !self.acks.iter().any(|known| known == txn) {
            self.frame().await;
        }
    }

    async fn frame(&mut self) -> Option<Envelope> {
        let frame = self.link.as_mut().unwrap().next().await.expect("link is open").unwrap();
        let Message::Binary(bytes) = frame else { return None };
        let envelope = aos_cloud_protocol::read(&bytes, Direction::UnitToCloud).unwrap();
        if let Body::Ack(_) = envelope.body {
            self.acks.push(envelope.header.txn.to_string());
            return None;
        }
        self.seen.push((envelope.body.message_type(), envelope.header.txn.to_string()));
        let now = jiff::Timestamp::now();
        if self.withheld != Some(envelope.body.message_type()) {
            let ack = Envelope::ack("unit-1".parse().unwrap(), now, &envelope.header.txn);
            self.send_raw(aos_cloud_protocol::write(&ack).unwrap()).await;
        }
        let Body::RequestBlobUrls(question) = &envelope.body else { return Some(envelope) };
        let items: Vec<BlobInfo> = {
            let blobs = self.blobs.lock().unwrap();
            question
                .digests
                .iter()
                .filter_map(|digest| Some(blobs.get(&digest.hex())?.info.clone()))
                .collect()
        };
        let answer = Envelope::new("unit-1".parse().unwrap(), now, Body::BlobUrls(BlobUrls { items }));
        self.send_raw(aos_cloud_protocol::write(&answer.answering(&envelope)).unwrap()).await;
        None
    }

    /// The next message that did not come before.
    pub async fn next_once(&mut self) -> Envelope {
        loop {
            let envelope = self.next().await;
            if self.answered.insert(envelope.header.txn.to_string()) {
                return envelope;
            }
        }
    }

    /// The next message that is neither a status nor an alert. One that comes again after a crash
    /// is left out, as clouds do.
    pub async fn answer(&mut self) -> Envelope {
        loop {
            let envelope = self.next_once().await;
            if !matches!(envelope.body, Body::UnitStatus(_) | Body::Alerts(_) | Body::MonitoringData(_)) {
                return envelope;
            }
        }
    }

    /// Reads until a status satisfies `wanted`.
    pub async fn status(&mut self, wanted: impl Fn(&UnitStatus) -> bool) -> UnitStatus {
        loop {
            if let Body::UnitStatus(status) = self.next().await.body
                && wanted(&status)
            {
                return status;
            }
        }
    }
}

/// A wish for one instance of the item in this version.
pub fn wish(version: &str, index: Digest) -> Body {
    let id = AosIdentity::by_id("3f0c6a52-8d1e-4b7a-9c35-6e2f1d0a7b41");
    Body::DesiredStatus(DesiredStatus {
        items: Some(vec![DesiredItem {
            item: id.clone().with_type(IdentityType::Service),
            version: version.into(),
            owner: AosIdentity::by_id("sp"),
            index_digest: index,
        }]),
        instances: Some(vec![DesiredInstance {
            item: id,
            subject: AosIdentity::by_id("c5a9e1b3-7264-4d08-b1f6-90e8d3a2c714"),
            priority: 0,
            num_instances: 1,
            labels: vec![],
        }]),
        subjects: Some(vec![]),
        ..DesiredStatus::default()
    })
}

async fn read_head(connection: &mut ServerConnection) -> String {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        match connection.read_u8().await {
            Ok(byte) => head.push(byte),
            Err(_) => break,
        }
    }
    let head = String::from_utf8(head).unwrap().to_lowercase().replacen("post", "POST", 1);
    let length = head.lines().find_map(|line| line.strip_prefix("content-length: ")?.parse::<usize>().ok());
    let mut body = vec![0; length.unwrap_or(0)];
    connection.read_exact(&mut body).await.unwrap();
    head
}

async fn respond(connection: &mut ServerConnection, status: &str, headers: &str, body: &[u8]) {
    let head =
        format!("HTTP/1.1 {status}\r\ncontent-length: {}\r\n{headers}connection: close\r\n\r\n", body.len());
    connection.write_all(head.as_bytes()).await.unwrap();
    let _ = connection.write_all(body).await;
    let _ = connection.shutdown().await;
}

async fn serve_blob(mut connection: ServerConnection, blobs: Blobs) {
    let head = read_head(&mut connection).await;
    let Some(hex) = head.split_whitespace().nth(1).and_then(|path| path.strip_prefix("/blobs/")) else {
        return;
    };
    let Some(blob) = blobs.lock().unwrap().get(hex).cloned() else { return };
    let start = head
        .lines()
        .find_map(|line| line.strip_prefix("range: bytes=")?.trim_end_matches('-').parse::<usize>().ok());
    let note = |sent: usize, full: bool| {
        let mut blobs = blobs.lock().unwrap();
        let blob = blobs.get_mut(hex).unwrap();
        blob.sent += sent;
        blob.fulls += usize::from(full);
    };
    if let (None, Some(cut)) = (start, blob.cut_after) {
        let head = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n", blob.bytes.len());
        connection.write_all(head.as_bytes()).await.unwrap();
        connection.write_all(&blob.bytes[..cut]).await.unwrap();
        connection.flush().await.unwrap();
        note(cut, false);
        // Silent, as a server in a tunnel.
        std::future::pending::<()>().await;
    }
    let from = start.unwrap_or(0);
    let range = format!("content-range: bytes {from}-{}/{}\r\n", blob.bytes.len() - 1, blob.bytes.len());
    note(blob.bytes.len() - from, from == 0);
    if start.is_some() {
        respond(&mut connection, "206 Partial Content", &range, &blob.bytes[from..]).await;
    } else {
        respond(&mut connection, "200 OK", "", &blob.bytes).await;
    }
}
