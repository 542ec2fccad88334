//! The TLS library alone behind a socket: what a handshake costs at least.
//!
//! One thread accepts, shakes hands with the settings of the Units' listener, and hangs up. Nothing else.

use std::io::Read as _;
use std::net::{SocketAddr, TcpListener};
use std::path::Path;
use std::sync::Arc;

use aos_cloud_pki::{Domain, Pki};
use aos_cloud_store::now_micros;
use aos_tls::{ClientAuth, server_config};
use rustls::sign::CertifiedKey;
use rustls::{RootCertStore, ServerConnection, Stream};

use crate::error::SimError;

/// Serves handshakes for the cloud whose data is in `data`, in a thread of its own, until the process ends.
/// Returns where.
pub fn serve_bare(data: &Path) -> Result<SocketAddr, SimError> {
    let now = now_micros() / 1_000_000;
    let hosts = ["localhost", "127.0.0.1", "::1"].map(str::to_owned);
    let pki = Pki::open(&data.join("pki"), &hosts, now)?;
    let server = pki.server_certificate(now)?;
    let provider = aos_tls::provider();
    let key =
        provider.key_provider.load_private_key(server.key).map_err(|_| SimError::Fleet("server key"))?;
    let mut anchors = RootCertStore::empty();
    anchors.add(pki.client_anchor(Domain::Units).clone()).map_err(|_| SimError::Fleet("anchor"))?;
    let clients = ClientAuth::Required(Arc::new(anchors));
    let config = server_config(Arc::new(CertifiedKey::new(server.chain, key)), clients)?;
    let listener = TcpListener::bind("127.0.0.1:0").map_err(SimError::Connection)?;
    let address = listener.local_addr().map_err(SimError::Connection)?;
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let Ok(mut stream) = stream else { continue };
            let Ok(mut connection) = ServerConnection::new(Arc::clone(&config)) else { continue };
            let _ = stream.set_nodelay(true);
            let mut tls = Stream::new(&mut connection, &mut stream);
            // As a cloud does: read until the client's goodbye, hang up. A failed handshake is only that.
            let _ = tls.read(&mut [0; 64]);
        }
    });
    Ok(address)
}
