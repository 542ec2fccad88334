//! Knocks at a TLS server with or without a client certificate, to see whether it lets us in.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConnection, StreamOwned};

/// A client's certificates, leaf first, and key.
#[derive(Debug)]
pub struct Identity {
    chain: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
}

impl Identity {
    /// From PEM files.
    pub fn from_files(chain: &Path, key: &Path) -> std::io::Result<Self> {
        let key = PrivateKeyDer::from_pem_file(key).map_err(other)?;
        Ok(Self { chain: certificates(chain)?, key })
    }
}

/// A connection to `address`, whose certificate must lead to `root` and be made for `localhost`.
pub fn connect(
    address: &str,
    root: &Path,
    identity: Option<Identity>,
    limit: Duration,
) -> std::io::Result<StreamOwned<ClientConnection, TcpStream>> {
    let mut roots = rustls::RootCertStore::empty();
    roots.add_parsable_certificates(certificates(root)?);
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let builder = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(other)?
        .with_root_certificates(roots);
    let config = match identity {
        None => builder.with_no_client_auth(),
        Some(identity) => builder.with_client_auth_cert(identity.chain, identity.key).map_err(other)?,
    };
    let name = ServerName::try_from("localhost").map_err(other)?;
    let connection = ClientConnection::new(Arc::new(config), name).map_err(other)?;
    let stream = TcpStream::connect(address)?;
    stream.set_read_timeout(Some(limit))?;
    stream.set_write_timeout(Some(limit))?;
    Ok(StreamOwned::new(connection, stream))
}

/// Sends `request` and returns all of the answer. In TLS 1.3 a server that refuses the client's certificate
/// says so only after the client's side of the handshake, so the refusal shows as an error of this call.
pub fn ask(stream: &mut StreamOwned<ClientConnection, TcpStream>, request: &str) -> std::io::Result<Vec<u8>> {
    stream.write_all(request.as_bytes())?;
    let mut bytes = Vec::new();
    match stream.read_to_end(&mut bytes) {
        // A server that only closes the connection is no reason to distrust a complete answer.
        Err(error) if error.kind() != std::io::ErrorKind::UnexpectedEof => Err(error),
        _ => Ok(bytes),
    }
}

fn certificates(file: &Path) -> std::io::Result<Vec<CertificateDer<'static>>> {
    CertificateDer::pem_file_iter(file).and_then(Iterator::collect).map_err(other)
}

fn other(error: impl std::fmt::Display) -> std::io::Error {
    std::io::Error::other(error.to_string())
}
