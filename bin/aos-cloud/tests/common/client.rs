//! A small HTTPS client: one request a connection, certificates of choice.

use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};
use hyper::{HeaderMap, Request, StatusCode};
use hyper_util::rt::TokioIo;
use rcgen::{CertificateParams, KeyPair, PKCS_ECDSA_P256_SHA256};
use rustls::sign::CertifiedKey;
use rustls::{ClientConfig, RootCertStore};
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

/// A key with its chain.
#[derive(Clone)]
pub struct Credentials {
    pub chain: Vec<CertificateDer<'static>>,
    pub key_pem: String,
}

impl Credentials {
    pub fn from_pem(chain: &str, key_pem: &str) -> Self {
        let chain = CertificateDer::pem_slice_iter(chain.as_bytes()).map(Result::unwrap).collect();
        Self { chain, key_pem: key_pem.to_owned() }
    }

    fn certified(&self) -> CertifiedKey {
        let key = PrivateKeyDer::from_pem_slice(self.key_pem.as_bytes()).unwrap();
        let key = aos_tls::provider().key_provider.load_private_key(key).unwrap();
        CertifiedKey::new(self.chain.clone(), key)
    }
}

/// A fresh EC key and a request for it.
pub fn key_and_csr(edit: impl FnOnce(&mut CertificateParams)) -> (KeyPair, String) {
    let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).unwrap();
    let mut params = CertificateParams::default();
    params.distinguished_name = rcgen::DistinguishedName::new();
    edit(&mut params);
    let csr = params.serialize_request(&key).unwrap().pem().unwrap();
    (key, csr)
}

/// Trusts the cloud's root and presents `credentials`.
pub fn tls(data: &Path, credentials: Option<&Credentials>) -> Arc<ClientConfig> {
    let root = CertificateDer::from_pem_file(data.join("pki/root.pem")).unwrap();
    let mut roots = RootCertStore::empty();
    roots.add(root).unwrap();
    let identity = credentials.map(|credentials| Arc::new(credentials.certified()));
    aos_tls::client_config(Arc::new(roots), identity, aos_tls::HostCheck::Verify).unwrap()
}

pub async fn connect(address: &str, config: &Arc<ClientConfig>) -> std::io::Result<TlsStream<TcpStream>> {
    let stream = TcpStream::connect(address).await?;
    let name = ServerName::try_from("localhost").unwrap();
    TlsConnector::from(Arc::clone(config)).connect(name, stream).await
}

/// The text of the answer to a HEAD request.
pub async fn raw_head(address: &str, config: &Arc<ClientConfig>, path: &str) -> String {
    let mut stream = connect(address, config).await.unwrap();
    let call = format!("HEAD {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n");
    stream.write_all(call.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    answer
}

#[derive(Debug)]
pub struct Answer {
    pub status: StatusCode,
    pub headers: HeaderMap,
    pub body: Bytes,
}

impl Answer {
    pub fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.body)
            .unwrap_or_else(|error| panic!("{error}: {}", String::from_utf8_lossy(&self.body)))
    }

    #[track_caller]
    pub fn ok(self) -> Self {
        assert!(self.status.is_success(), "{}: {}", self.status, String::from_utf8_lossy(&self.body));
        self
    }
}

/// One request; an error is one of connection or handshake.
pub async fn request(
    address: &str,
    config: &Arc<ClientConfig>,
    request: Request<Full<Bytes>>,
) -> anyhow::Result<Answer> {
    let stream = connect(address, config).await?;
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
    let connection = tokio::spawn(connection);
    let (mut parts, body) = request.into_parts();
    parts.headers.insert("host", "localhost".parse()?);
    let response = sender.send_request(Request::from_parts(parts, body)).await?;
    let (parts, body) = response.into_parts();
    let body = body.collect().await?.to_bytes();
    drop(sender);
    let _ = connection.await;
    Ok(Answer { status: parts.status, headers: parts.headers, body })
}
