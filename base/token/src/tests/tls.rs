//! Identities from URLs, used in handshakes.

use std::path::Path;
use std::sync::Arc;

use rustls::client::WebPkiServerVerifier;
use rustls::server::WebPkiClientVerifier;
use rustls::sign::SingleCertAndKey;
use rustls::{
    ClientConfig, ClientConnection, ConfigBuilder, ConfigSide, ProtocolVersion, RootCertStore, ServerConfig,
    ServerConnection, SignatureScheme, SupportedProtocolVersion, WantsVerifier, WantsVersions, version,
};
use rustls_pki_types::ServerName;

use super::certificates::Authority;
use super::{MODULE, elsewhere, new_session, with_softhsm};
use crate::{CertUrl, Identity, KeyKind, Pin, Pkcs11Url, TokenError, load_identity, load_key};

fn url(dir: &Path, id: &[u8], object: &str) -> String {
    let pin_file = dir.join("pin");
    std::fs::write(&pin_file, "4711\n").unwrap();
    CertUrl::Pkcs11(Pkcs11Url {
        token: Some("aos".into()),
        object: object.into(),
        id: id.to_vec(),
        module_path: Some(MODULE.into()),
        pin: Pin::Source(pin_file),
    })
    .to_string()
}

fn only<S: ConfigSide>(
    builder: ConfigBuilder<S, WantsVersions>,
    version: &'static SupportedProtocolVersion,
) -> ConfigBuilder<S, WantsVerifier> {
    builder.with_protocol_versions(&[version]).unwrap()
}

/// Both sides present `identity`; returns what the server saw of the client.
fn shake_hands(
    identity: &Identity,
    roots: &Arc<RootCertStore>,
    version: &'static SupportedProtocolVersion,
) -> (ProtocolVersion, usize) {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let key = Arc::new(SingleCertAndKey::from(identity.certified_key()));
    let server_verifier =
        WebPkiServerVerifier::builder_with_provider(Arc::clone(roots), Arc::clone(&provider))
            .build()
            .unwrap();
    let client_verifier =
        WebPkiClientVerifier::builder_with_provider(Arc::clone(roots), Arc::clone(&provider))
            .build()
            .unwrap();
    let client = only(ClientConfig::builder_with_provider(Arc::clone(&provider)), version)
        .with_webpki_verifier(server_verifier)
        .with_client_cert_resolver(Arc::clone(&key) as _);
    let server = only(ServerConfig::builder_with_provider(provider), version)
        .with_client_cert_verifier(client_verifier)
        .with_cert_resolver(key);
    let mut client = ClientConnection::new(Arc::new(client), ServerName::try_from("unit").unwrap()).unwrap();
    let mut server = ServerConnection::new(Arc::new(server)).unwrap();
    while client.is_handshaking() || server.is_handshaking() {
        let mut flight = vec![];
        while client.wants_write() {
            client.write_tls(&mut flight).unwrap();
        }
        let mut rest = flight.as_slice();
        while !rest.is_empty() {
            server.read_tls(&mut rest).unwrap();
            server.process_new_packets().unwrap();
        }
        let mut flight = vec![];
        while server.wants_write() {
            server.write_tls(&mut flight).unwrap();
        }
        let mut rest = flight.as_slice();
        while !rest.is_empty() {
            client.read_tls(&mut rest).unwrap();
            client.process_new_packets().unwrap();
        }
    }
    (server.protocol_version().unwrap(), server.peer_certificates().unwrap().len())
}

// PRO-05
#[test]
fn keys_in_the_token_serve_both_sides_of_a_handshake() {
    with_softhsm("tests::tls::keys_in_the_token_serve_both_sides_of_a_handshake", |dir| {
        let session = new_session();
        let root = Authority::root("root");
        let middle = root.below("middle");
        let mut roots = RootCertStore::empty();
        roots.add(root.certificate.der().clone()).unwrap();
        let roots = Arc::new(roots);
        session.import_ca_certificate(middle.certificate.der()).unwrap();
        session.import_ca_certificate(root.certificate.der()).unwrap();
        for (number, kind) in (1..).zip([KeyKind::EcP256, KeyKind::EcP384, KeyKind::Rsa2048]) {
            let key = session.generate_key(kind, [number; 16], "online").unwrap();
            let mut params = rcgen::CertificateParams::new(vec!["unit".into()]).unwrap();
            params.use_authority_key_identifier_extension = true;
            let leaf = params.signed_by(&key, &middle.issuer).unwrap();
            session.import_certificate(leaf.der(), &[number; 16], "online").unwrap();

            let url = url(dir, &[number; 16], "online");
            let identity = load_identity(&url, &url).unwrap();
            assert_eq!(identity.leaf(), Some(leaf.der()));
            assert_eq!(identity.chain().len(), 2, "the root stays at home");
            let (seen, certificates) = shake_hands(&identity, &roots, &version::TLS13);
            assert_eq!((seen, certificates), (ProtocolVersion::TLSv1_3, 2));
            shake_hands(&identity, &roots, &version::TLS12);
            assert_eq!(load_key(&url).unwrap().kind(), kind);
        }
    });
}

#[test]
fn what_is_missing_is_told() {
    with_softhsm("tests::tls::what_is_missing_is_told", |dir| {
        let session = new_session();
        let url = url(dir, &[1; 16], "sm");
        assert!(matches!(load_identity(&url, &url), Err(TokenError::NotFound { what: "certificate", .. })));
        let key = session.generate_key(KeyKind::EcP256, [2; 16], "sm").unwrap();
        let leaf = Authority::root("root").issue("sm", &key);
        session.import_certificate(leaf.der(), &[1; 16], "sm").unwrap();
        assert!(matches!(load_identity(&url, &url), Err(TokenError::NotFound { what: "private key", .. })));
        std::fs::remove_file(dir.join("pin")).unwrap();
        let error = load_identity(&url, &url).unwrap_err();
        assert!(matches!(error, TokenError::ReadFile { .. }));
        let foreign = url.replace(MODULE, "/nonexistent/module.so");
        assert!(matches!(load_key(&foreign), Err(TokenError::ReadFile { .. } | TokenError::Load { .. })));
    });
}

#[test]
fn identities_from_files() {
    let dir = tempfile::tempdir().unwrap();
    let root = Authority::root("root");
    let key = rcgen::KeyPair::generate().unwrap();
    let leaf = root.issue("unit", &key);
    let (cert_file, key_file) = (dir.path().join("cert.pem"), dir.path().join("key.pem"));
    std::fs::write(&cert_file, leaf.pem() + &root.certificate.pem()).unwrap();
    std::fs::write(&key_file, key.serialize_pem()).unwrap();
    let url = |path: &Path| CertUrl::File(path.to_owned()).to_string();
    let identity = load_identity(&url(&cert_file), &url(&key_file)).unwrap();
    assert_eq!(identity.chain(), [leaf.der().clone()]);
    assert!(load_identity(&url(&key_file), &url(&key_file)).is_err());
    assert!(load_identity(&url(&cert_file), &url(&cert_file)).is_err());
}

#[test]
fn a_token_replaced_by_another_process_is_read_anew() {
    with_softhsm("tests::tls::a_token_replaced_by_another_process_is_read_anew", |dir| {
        let url = url(dir, &[1; 16], "sm");
        let old = new_session().generate_key(KeyKind::EcP256, [1; 16], "sm").unwrap();
        assert_eq!(load_key(&url).unwrap().id(), old.id());

        // The whole store is new: same label and PIN, another token underneath.
        let key_file = dir.join("key.pem");
        std::fs::write(&key_file, rcgen::KeyPair::generate().unwrap().serialize_pem()).unwrap();
        std::fs::remove_dir_all(dir.join("tokens")).unwrap();
        std::fs::create_dir(dir.join("tokens")).unwrap();
        elsewhere(&["--init-token", "--free", "--label", "aos", "--so-pin", "owner", "--pin", "4711"]);
        let import = ["--import", key_file.to_str().unwrap(), "--token", "aos", "--pin", "4711"];
        elsewhere(&[&import[..], &["--id", &"01".repeat(16), "--label", "sm"]].concat());

        let new = load_key(&url).unwrap();
        new.sign_with(SignatureScheme::ECDSA_NISTP256_SHA256, b"text").unwrap();
        assert!(old.sign_with(SignatureScheme::ECDSA_NISTP256_SHA256, b"text").is_err());
    });
}
