//! Readers against real servers on this machine, which break in chosen ways.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};

use super::*;

/// How the server treats the next connection.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Manner {
    /// Answers as asked, ranges too.
    Good,
    /// Knows no ranges.
    Whole,
    /// Closes after so many bytes of the body.
    Cut(usize),
    /// Answers with a status and no body.
    Status(u16),
    /// Sends more than it says.
    Long,
}

/// A server of one content; serves connections in the manners given, the last one for all that follow.
struct Server {
    url: String,
    ranges: Arc<Mutex<Vec<Option<u64>>>>,
}

fn content() -> Vec<u8> {
    (0..300_000u32).flat_map(u32::to_le_bytes).collect()
}

fn serve(manners: &[Manner]) -> Server {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}/blob?token=secret", listener.local_addr().unwrap());
    let ranges = Arc::new(Mutex::new(Vec::new()));
    let (seen, manners) = (Arc::clone(&ranges), manners.to_vec());
    std::thread::spawn(move || {
        for (number, stream) in listener.incoming().enumerate() {
            let manner = *manners.get(number).unwrap_or(manners.last().unwrap());
            let Ok(stream) = stream else { return };
            answer(stream, manner, &seen);
        }
    });
    Server { url, ranges }
}

fn answer(mut stream: TcpStream, manner: Manner, seen: &Mutex<Vec<Option<u64>>>) {
    let mut head = Vec::new();
    let mut byte = [0];
    while !head.ends_with(b"\r\n\r\n") && stream.read(&mut byte).unwrap_or(0) == 1 {
        head.push(byte[0]);
    }
    let head = String::from_utf8(head).unwrap().to_ascii_lowercase();
    let range =
        head.lines().find_map(|line| line.strip_prefix("range: bytes=")?.strip_suffix('-')?.parse().ok());
    seen.lock().unwrap().push(range);
    let all = content();
    let start = match manner {
        Manner::Whole => 0,
        _ => usize::try_from(range.unwrap_or(0)).unwrap(),
    };
    let body = &all[start..];
    let length = all.len();
    let header = match manner {
        Manner::Status(code) => format!("HTTP/1.1 {code} Odd\r\nContent-Length: 0\r\n\r\n"),
        Manner::Long => "HTTP/1.1 200 OK\r\nContent-Length: 9999999\r\n\r\n".to_owned(),
        _ if start > 0 => format!(
            "HTTP/1.1 206 Partial\r\nContent-Length: {}\r\nContent-Range: bytes {start}-{}/{length}\r\n\r\n",
            body.len(),
            length - 1
        ),
        _ => format!("HTTP/1.1 200 OK\r\nContent-Length: {length}\r\n\r\n"),
    };
    let _ = stream.write_all(header.as_bytes());
    let _ = match manner {
        Manner::Status(_) => Ok(()),
        Manner::Cut(after) => stream.write_all(&body[..after.min(body.len())]),
        _ => stream.write_all(body),
    };
}

async fn read_all(urls: Vec<String>) -> Result<Vec<u8>, String> {
    let size = content().len() as u64;
    let (mut reader, pump) =
        Dialer::default().open(&urls, size, 0, &Stop::default()).map_err(|e| e.to_string())?;
    let reading = tokio::task::spawn_blocking(move || {
        let mut all = Vec::new();
        reader.read_to_end(&mut all).map_err(|error| error.to_string())?;
        assert_eq!(reader.read(&mut [0]).unwrap(), 0, "the end stays the end");
        Ok(all)
    });
    pump.await;
    reading.await.unwrap()
}

// SM-73
#[tokio::test]
async fn a_broken_connection_is_resumed_where_it_ended() {
    let server = serve(&[Manner::Cut(100_000), Manner::Cut(300_000), Manner::Cut(7), Manner::Good]);
    assert!(read_all(vec![server.url.clone()]).await.unwrap() == content());
    assert_eq!(*server.ranges.lock().unwrap(), [None, Some(100_000), Some(400_000), Some(400_007)]);
}

#[tokio::test]
async fn a_server_without_ranges_sends_all_of_it_again_and_nothing_comes_twice() {
    let server = serve(&[Manner::Cut(100_000), Manner::Whole]);
    assert!(read_all(vec![server.url.clone()]).await.unwrap() == content());
}

#[tokio::test]
async fn addresses_are_tried_in_order() {
    let (bad, cut, good) = (
        serve(&[Manner::Status(404)]),
        serve(&[Manner::Cut(5000), Manner::Status(404)]),
        serve(&[Manner::Good]),
    );
    let urls = vec![
        "file:///nowhere/at/all".to_owned(),
        bad.url.clone(),
        "http://127.0.0.1:1/refused".to_owned(),
        cut.url.clone(),
        good.url.clone(),
    ];
    assert!(read_all(urls).await.unwrap() == content());
    assert_eq!(bad.ranges.lock().unwrap().len(), 1, "what says no is not asked again");
    assert_eq!(*good.ranges.lock().unwrap(), [Some(5000)]);
}

#[tokio::test]
async fn other_lengths_and_refusals_end_with_a_reason_and_without_the_token() {
    for manner in [Manner::Long, Manner::Status(302), Manner::Status(403)] {
        let error = read_all(vec![serve(&[manner]).url]).await.unwrap_err();
        assert!(error.contains("9999999") || error.contains("HTTP status"), "{error}");
        assert!(!error.contains("secret"), "{error}");
    }
    let error = read_all(vec!["ftp://host/x?secret".into()]).await.unwrap_err();
    assert!(error.contains("no address") && !error.contains("secret"), "{error}");
    let error = read_all(vec!["https://127.0.0.1:1/x".into()]).await.unwrap_err();
    assert!(error.contains("root certificates"), "{error}");
    assert!(read_all(vec![]).await.is_err());
}

#[tokio::test]
async fn a_server_that_is_away_is_given_up_after_three_rounds() {
    let server = serve(&[Manner::Status(503)]);
    let error = read_all(vec![server.url.clone()]).await.unwrap_err();
    assert!(error.contains("503"), "{error}");
    assert_eq!(server.ranges.lock().unwrap().len(), 3);
}

#[tokio::test]
async fn files_are_read_and_nothing_else() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    std::fs::write(path("blob"), content()).unwrap();
    std::fs::write(path("with blank"), content()).unwrap();
    std::fs::write(path("short"), "x").unwrap();
    std::os::unix::fs::symlink(path("blob"), path("link")).unwrap();
    rustix::fs::mknodat(rustix::fs::CWD, path("pipe"), rustix::fs::FileType::Fifo, 0o600.into(), 0).unwrap();
    let url = |name: &str| vec![format!("file://{}", path(name).display())];
    assert!(read_all(url("blob")).await.unwrap() == content());
    assert!(read_all(url("with%20blank")).await.unwrap() == content());
    for bad in ["short", "link", "pipe", "none"] {
        read_all(url(bad)).await.unwrap_err();
    }
    // A file may stand in for a server, from where that stopped.
    let server = serve(&[Manner::Cut(5000), Manner::Status(404)]);
    let urls = vec![server.url.clone(), url("blob").remove(0)];
    assert!(read_all(urls).await.unwrap() == content());
}

#[tokio::test]
async fn small_blobs_are_fetched_whole_and_bounded() {
    let server = serve(&[Manner::Good]);
    let dialer = Dialer::default();
    let size = content().len() as u64;
    assert!(dialer.fetch(std::slice::from_ref(&server.url), None, size).await.unwrap() == content());
    let error = dialer.fetch(std::slice::from_ref(&server.url), None, size - 1).await.unwrap_err();
    assert!(matches!(error, SourceError::TooLong { .. }), "{error}");
}

#[tokio::test]
async fn a_stopped_reading_ends() {
    let server = serve(&[Manner::Good]);
    let stop = Stop::default();
    let (mut reader, pump) =
        Dialer::default().open(std::slice::from_ref(&server.url), content().len() as u64, 0, &stop).unwrap();
    drop(pump);
    let ended = tokio::task::spawn_blocking(move || reader.read(&mut [0; 10])).await.unwrap();
    assert!(ended.unwrap_err().to_string().contains("stopped"));
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("a"), content()).unwrap();
    let url = format!("file://{}", folder.path().join("a").display());
    let (mut reader, _pump) = Dialer::default().open(&[url], content().len() as u64, 0, &stop).unwrap();
    assert_eq!(reader.read(&mut [0; 10]).unwrap(), 10);
    stop.now();
    assert!(reader.read(&mut [0; 10]).is_err());
}

/// Roots and a server certificate that chains to them.
fn authority() -> (Arc<rustls::RootCertStore>, Arc<rustls::sign::CertifiedKey>) {
    use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
    let ca_key = KeyPair::generate().unwrap();
    let mut ca = CertificateParams::new(vec![]).unwrap();
    ca.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let pem = ca.self_signed(&ca_key).unwrap().pem();
    let key = KeyPair::generate().unwrap();
    let server = CertificateParams::new(vec!["blobs".to_owned()]).unwrap();
    let server = server.signed_by(&key, &Issuer::new(ca, ca_key)).unwrap();
    let key = rustls::pki_types::PrivateKeyDer::try_from(key.serialize_der()).unwrap();
    let key = aos_tls::provider().key_provider.load_private_key(key).unwrap();
    let key = rustls::sign::CertifiedKey::new(vec![server.der().clone()], key);
    (aos_tls::roots_from_pem(pem.as_bytes()).unwrap(), Arc::new(key))
}

#[tokio::test]
async fn a_server_is_trusted_by_the_given_roots_alone() {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let (roots, key) = authority();
    let (others, _) = authority();
    let config = aos_tls::server_config(key, aos_tls::ClientAuth::None).unwrap();
    let mut incoming =
        aos_tls::Incoming::bind_tls("127.0.0.1:0", &config, aos_tls::Protocol::Http1).await.unwrap();
    let url = vec![format!("https://{}/blob", incoming.local_addr())];
    tokio::spawn(async move {
        loop {
            let mut connection = incoming.accept().await;
            let mut request = Vec::new();
            while !request.ends_with(b"\r\n\r\n") {
                let mut byte = [0];
                if connection.read(&mut byte).await.unwrap_or(0) == 0 {
                    break;
                }
                request.push(byte[0]);
            }
            let answer = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", content().len());
            let _ = connection.write_all(&[answer.as_bytes(), &content()].concat()).await;
            let _ = connection.shutdown().await;
        }
    });
    let dialer = |roots: std::sync::Arc<_>| Dialer::new(roots, &aos_tls::IdentitySlot::default()).unwrap();
    let fetched = dialer(roots).fetch(&url, None, content().len() as u64).await.unwrap();
    assert!(fetched == content());
    let error = dialer(others).fetch(&url, None, content().len() as u64).await.unwrap_err();
    assert!(matches!(error, SourceError::Tls(_)), "{error}");
}
