use std::sync::Arc;

use aos_tls::HostCheck;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use super::*;
use crate::app::tests::pki::Pki;

const LONG: Duration = Duration::from_secs(30);

#[test]
fn addresses_are_read_as_upstream_reads_them() {
    let digest: Digest = format!("sha256:{}", "0f".repeat(32)).parse().unwrap();
    for (text, start, listen) in [
        ("10.0.0.100:8094", "https://10.0.0.100:8094/", ":8094"),
        ("main", "https://main:8080/", ":8080"),
        (":8094", "https://localhost:8094/", "127.0.0.1:8094"),
        ("localhost:1", "https://localhost:1/", "127.0.0.1:1"),
        ("127.0.0.2:5", "https://127.0.0.2:5/", "127.0.0.2:5"),
        ("[fd00::1]:8094", "https://[fd00::1]:8094/", "[::]:8094"),
        ("[::1]", "https://[::1]:8080/", "[::1]:8080"),
    ] {
        let address = Address::read(text).unwrap();
        assert_eq!(address.url(&digest), format!("{start}blobs/sha256/{}", digest.hex()), "{text}");
        assert_eq!(address.listen(), listen, "{text}");
    }
    for wrong in ["main:port", "main:0", "main:70000", "a b:80", "http://main:80", "[fd00::1:80"] {
        assert_eq!(Address::read(wrong), None, "{wrong}");
    }
}

struct World {
    dir: tempfile::TempDir,
    pki: Pki,
    store: Store,
    address: std::net::SocketAddr,
    counts: Arc<aos_tls::ListenerCounts>,
    task: tokio::task::JoinHandle<()>,
}

impl World {
    async fn new(silence: Duration) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let pki = Pki::new(dir.path());
        let store = Store::open(dir.path().join("install")).unwrap();
        let slot = IdentitySlot::holding(pki.identity("cm"));
        let address = Address { host: "localhost".into(), port: 0 };
        let server = open(&address, pki.roots().into(), slot, store.clone()).await.unwrap();
        let server = Server { silence, ..server };
        let (address, counts) = (server.address(), server.incoming.counts());
        let task = tokio::spawn(server.run());
        Self { dir, pki, store, address, counts, task }
    }

    fn blob(&self, content: &[u8]) -> Digest {
        let file = self.dir.path().join("content");
        std::fs::write(&file, content).unwrap();
        let digest = aos_content_store::sha256(content);
        std::fs::copy(&file, self.store.path(&digest)).unwrap();
        digest
    }

    async fn connect(&self) -> aos_tls::ClientTlsStream {
        let identity = Some(self.pki.identity("sm"));
        let config = aos_tls::client_config(self.pki.roots(), identity, HostCheck::Verify).unwrap();
        let host = self.address.ip().to_string();
        aos_tls::connect_tcp_tls(&host, self.address.port(), config, "localhost").await.unwrap()
    }

    /// One request; the whole answer as text.
    async fn ask(&self, request: &str) -> String {
        let mut stream = self.connect().await;
        let request = format!("{request}\r\nHost: main\r\nConnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = Vec::new();
        tokio::time::timeout(LONG, stream.read_to_end(&mut answer)).await.unwrap().unwrap();
        String::from_utf8_lossy(&answer).into_owned()
    }
}

impl Drop for World {
    fn drop(&mut self) {
        self.task.abort();
    }
}

// CM-56
#[tokio::test]
async fn blobs_are_served_whole_and_in_parts_and_nothing_else_is() {
    let world = World::new(LONG).await;
    let digest = world.blob(b"0123456789");
    let path = format!("/blobs/sha256/{}", digest.hex());
    let get = async |more: &str| world.ask(&format!("GET {path} HTTP/1.1{more}")).await;

    let whole = get("").await;
    assert!(whole.starts_with("HTTP/1.1 200 ") && whole.ends_with("\r\n\r\n0123456789"), "{whole}");
    for header in ["Content-Length: 10", "Accept-Ranges: bytes", "Content-Type: application/octet-stream"] {
        assert!(whole.contains(header), "{whole}");
    }
    let tag = whole.lines().find_map(|line| line.strip_prefix("Etag: ")).unwrap();
    let rest = get(&format!("\r\nRange: bytes=7-\r\nIf-Range: {tag}")).await;
    assert!(rest.starts_with("HTTP/1.1 206 ") && rest.ends_with("\r\n\r\n789"), "{rest}");
    assert!(rest.contains("Content-Range: bytes 7-9/10"), "{rest}");
    let other = get("\r\nRange: bytes=7-\r\nIf-Range: \"other\"").await;
    assert!(other.starts_with("HTTP/1.1 200 "), "{other}");
    let beyond = get("\r\nRange: bytes=10-").await;
    assert!(beyond.starts_with("HTTP/1.1 416 ") && beyond.contains("bytes */10"), "{beyond}");
    let head = world.ask(&format!("HEAD {path} HTTP/1.1")).await;
    assert!(head.starts_with("HTTP/1.1 200 ") && head.contains("Content-Length: 10"), "{head}");
    assert!(head.ends_with("\r\n\r\n"), "{head}");
    let query = world.ask(&format!("GET {path}?x=1 HTTP/1.1")).await;
    assert!(query.ends_with("\r\n\r\n0123456789"), "{query}");

    let post = world.ask(&format!("POST {path} HTTP/1.1")).await;
    assert!(post.starts_with("HTTP/1.1 405 "), "{post}");
    // What lies beside the blobs, and what is not there.
    std::fs::write(world.store.root().join("secret"), "secret").unwrap();
    let absent = format!("/blobs/sha256/{}", "00".repeat(32));
    for path in ["/", "/secret", "/blobs/sha256/../../secret", "/blobs/sha256/%2e%2e/%2e%2e/secret", &absent]
    {
        let answer = world.ask(&format!("GET {path} HTTP/1.1")).await;
        assert!(answer.starts_with("HTTP/1.1 404 ") && !answer.contains("secret"), "{path}: {answer}");
    }
}

// CM-56
#[tokio::test]
async fn without_a_certificate_of_the_unit_nothing_is_served() {
    let world = World::new(LONG).await;
    let digest = world.blob(b"content");
    let stranger_dir = tempfile::tempdir().unwrap();
    let stranger = Pki::new(stranger_dir.path());
    for identity in [None, Some(stranger.identity("sm"))] {
        let config = aos_tls::client_config(world.pki.roots(), identity, HostCheck::Verify).unwrap();
        let host = world.address.ip().to_string();
        let connected =
            aos_tls::connect_tcp_tls(&host, world.address.port(), Arc::clone(&config), "localhost").await;
        // With TLS 1.3 the refusal may come only with the first bytes.
        let Ok(mut stream) = connected else { continue };
        let request = format!("GET /blobs/sha256/{} HTTP/1.1\r\nHost: main\r\n\r\n", digest.hex());
        let _ = stream.write_all(request.as_bytes()).await;
        let mut answer = Vec::new();
        let end = tokio::time::timeout(LONG, stream.read_to_end(&mut answer)).await.unwrap();
        assert!(end.is_err() || answer.is_empty(), "{}", String::from_utf8_lossy(&answer));
        assert!(!String::from_utf8_lossy(&answer).contains("content"));
    }
}

// CM-56
#[tokio::test]
async fn a_client_that_takes_nothing_is_cut_and_one_that_goes_on_is_not() {
    let world = World::new(Duration::from_millis(200)).await;
    // More than the buffers between the two hold.
    let content = vec![7; 32 << 20];
    let digest = world.blob(&content);
    let request =
        format!("GET /blobs/sha256/{} HTTP/1.1\r\nHost: main\r\nConnection: close\r\n\r\n", digest.hex());
    let mut busy = world.connect().await;
    let mut idle = world.connect().await;
    for stream in [&mut busy, &mut idle] {
        stream.write_all(request.as_bytes()).await.unwrap();
    }
    let mut answer = Vec::new();
    tokio::time::timeout(LONG, busy.read_to_end(&mut answer)).await.unwrap().unwrap();
    assert!(answer.len() > content.len());
    // The other one has taken nothing meanwhile. It is cut as soon as the server notices; only what its buffers
    // held can still be read then.
    let cut = async {
        while world.counts.open() > 0 {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(LONG, cut).await.unwrap();
    let mut part = Vec::new();
    let end = tokio::time::timeout(LONG, idle.read_to_end(&mut part)).await.unwrap();
    assert!(end.is_err() || part.len() < content.len(), "{} bytes came", part.len());
}
