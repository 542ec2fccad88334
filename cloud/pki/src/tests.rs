//! The authority as its clients see it: real keys, chains verified by webpki.

use std::os::unix::fs::PermissionsExt as _;
use std::time::Duration;

use rcgen::{
    CertificateParams, DnType, ExtendedKeyUsagePurpose, KeyPair, PKCS_ECDSA_P256_SHA256,
    PKCS_ECDSA_P384_SHA384, PKCS_RSA_SHA256, SanType,
};
use rustls_pki_types::{CertificateDer, UnixTime};
use webpki::{EndEntityCert, KeyUsage, anchor_from_trusted_cert};
use x509_parser::extensions::{GeneralName, ParsedExtension};

use super::*;

const NOW: i64 = 1_800_000_000;
const URL: &str = "https://cloud.example:9000/sd/v7/";

fn hosts() -> Vec<String> {
    ["cloud.example", "localhost", "127.0.0.1", "::1", "192.0.2.7"].map(str::to_owned).to_vec()
}

fn fresh() -> (tempfile::TempDir, Pki) {
    let dir = tempfile::tempdir().unwrap();
    let pki = Pki::open(&dir.path().join("pki"), &hosts(), NOW).unwrap();
    (dir, pki)
}

fn csr(edit: impl FnOnce(&mut CertificateParams)) -> String {
    let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).unwrap();
    csr_with(&key, edit)
}

fn csr_with(key: &KeyPair, edit: impl FnOnce(&mut CertificateParams)) -> String {
    let mut params = CertificateParams::default();
    params.distinguished_name = rcgen::DistinguishedName::new();
    edit(&mut params);
    params.serialize_request(key).unwrap().pem().unwrap()
}

fn unit(pki: &Pki, pem: &str, cert_type: CertType) -> Result<Issued, PkiError> {
    pki.issue_unit(&Request::from_pem(pem)?, "unit-1", cert_type, URL, NOW)
}

fn verifies(chain: &[CertificateDer<'_>], anchor: &CertificateDer<'_>, at: i64) -> bool {
    let anchors = [anchor_from_trusted_cert(anchor).unwrap()];
    let leaf = EndEntityCert::try_from(&chain[0]).unwrap();
    let time = UnixTime::since_unix_epoch(Duration::from_secs(at.unsigned_abs()));
    leaf.verify_for_usage(
        webpki::ALL_VERIFICATION_ALGS,
        &anchors,
        &chain[1..],
        time,
        KeyUsage::client_auth(),
        None,
        None,
    )
    .is_ok()
}

#[test]
fn the_authority_survives_a_restart_and_keeps_its_keys_to_itself() {
    let (dir, pki) = fresh();
    let first = (pki.root_pem().to_owned(), pki.server_certificate(NOW).unwrap().chain);
    let again = Pki::open(&dir.path().join("pki"), &hosts(), NOW + 60).unwrap();
    assert_eq!(again.root_pem(), first.0);
    assert_eq!(again.server_certificate(NOW + 60).unwrap().chain, first.1);
    for entry in std::fs::read_dir(dir.path().join("pki")).unwrap() {
        let entry = entry.unwrap();
        let text = std::fs::read_to_string(entry.path()).unwrap_or_default();
        let secret = text.contains("PRIVATE KEY") || entry.path().extension().is_some_and(|e| e == "key");
        let mode = entry.metadata().unwrap().permissions().mode() & 0o777;
        assert!(!secret || mode == 0o600, "{} has mode {mode:o}", entry.path().display());
    }
}

#[test]
fn the_root_key_is_not_needed_after_the_first_start() {
    let (dir, pki) = fresh();
    drop(pki);
    std::fs::remove_file(dir.path().join("pki/root.key")).unwrap();
    let pki = Pki::open(&dir.path().join("pki"), &hosts(), NOW).unwrap();
    assert!(unit(&pki, &csr(|_| {}), CertType::Online).is_ok());
    assert!(pki.server_certificate(NOW).is_ok());
}

#[test]
fn a_half_made_authority_is_made_again() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::create_dir(dir.path().join("pki.new")).unwrap();
    std::fs::write(dir.path().join("pki.new/root.pem"), "half").unwrap();
    Pki::open(&dir.path().join("pki"), &hosts(), NOW).unwrap();
    assert!(!dir.path().join("pki.new").exists());
}

#[test]
fn a_new_host_or_a_near_end_renews_the_server_certificate() {
    let (dir, pki) = fresh();
    let first = pki.server_certificate(NOW).unwrap();
    let later = pki.server_certificate(first.not_after - 24 * 3600).unwrap();
    assert_ne!(later.chain, first.chain);
    let mut more = hosts();
    more.push("other.example".to_owned());
    let pki = Pki::open(&dir.path().join("pki"), &more, NOW).unwrap();
    let chain = pki.server_certificate(NOW).unwrap().chain;
    let (_, leaf) = x509_parser::parse_x509_certificate(&chain[0]).unwrap();
    let names = leaf.subject_alternative_name().unwrap().unwrap().value.general_names.len();
    assert_eq!(names, more.len());
}

// CLO-26
#[test]
fn unit_certificates_follow_the_contract() {
    let (_dir, pki) = fresh();
    // Upstream's IAM makes P-384 keys; the chain must end in the self-signed root, at most four of 2 KiB.
    let key = KeyPair::generate_for(&PKCS_ECDSA_P384_SHA384).unwrap();
    let pem = csr_with(&key, |params| {
        params.distinguished_name.push(DnType::CommonName, "unit-1");
        params.extended_key_usages =
            vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
    });
    let issued = unit(&pki, &pem, CertType::Online).unwrap();
    let chain = pem_certificates(&issued.chain_pem);
    assert_eq!(chain.len(), 3);
    assert!(chain.iter().all(|der| der.len() <= 2048));
    assert_eq!(&chain[2], pki.root_der());
    assert!(verifies(&chain, pki.client_anchor(Domain::Units), NOW));
    assert!(verifies(&chain, pki.root_der(), NOW));
    assert!(!verifies(&chain, pki.client_anchor(Domain::Users), NOW));
    assert!(!verifies(&chain, pki.client_anchor(Domain::Units), issued.not_after + 1));

    let (_, leaf) = x509_parser::parse_x509_certificate(&chain[0]).unwrap();
    assert_eq!(leaf.subject().to_string(), "CN=unit-1");
    assert_eq!(serial_text(leaf.raw_serial()), issued.serial);
    assert_eq!(leaf.issuer().as_raw(), issued.issuer_der);
    let eku = leaf.extended_key_usage().unwrap().unwrap().value;
    assert!(eku.client_auth && !eku.server_auth, "an online certificate serves nobody");
    let names: Vec<String> = leaf
        .extensions()
        .iter()
        .filter_map(|extension| match extension.parsed_extension() {
            ParsedExtension::IssuerAlternativeName(names) => Some(&names.general_names),
            _ => None,
        })
        .flatten()
        .map(|name| match name {
            GeneralName::URI(uri) => (*uri).to_owned(),
            other => panic!("{other:?}"),
        })
        .collect();
    assert_eq!(names, [URL]);
}

#[test]
fn requested_usages_and_names_are_copied_for_node_certificates() {
    let (_dir, pki) = fresh();
    let pem = csr(|params| {
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        params.subject_alt_names = vec![
            SanType::DnsName("main.unit".try_into().unwrap()),
            SanType::DnsName("localhost".try_into().unwrap()),
        ];
    });
    let issued = unit(&pki, &pem, CertType::Iam).unwrap();
    let chain = pem_certificates(&issued.chain_pem);
    let (_, leaf) = x509_parser::parse_x509_certificate(&chain[0]).unwrap();
    assert_eq!(leaf.subject_alternative_name().unwrap().unwrap().value.general_names.len(), 2);
    let eku = leaf.extended_key_usage().unwrap().unwrap().value;
    assert!(eku.server_auth && !eku.client_auth);
}

#[test]
fn an_rsa_key_may_open_envelopes() {
    let (_dir, pki) = fresh();
    let key = KeyPair::generate_for(&PKCS_RSA_SHA256).unwrap();
    let issued = unit(&pki, &csr_with(&key, |_| {}), CertType::Offline).unwrap();
    let chain = pem_certificates(&issued.chain_pem);
    let (_, leaf) = x509_parser::parse_x509_certificate(&chain[0]).unwrap();
    assert!(leaf.key_usage().unwrap().unwrap().value.key_encipherment());
}

#[test]
fn bad_requests_are_refused_with_their_reason() {
    let (_dir, pki) = fresh();
    let wrong_name = csr(|params| params.distinguished_name.push(DnType::CommonName, "unit-2"));
    let our_name = csr(|params| {
        params.subject_alt_names = vec![SanType::DnsName("Cloud.example".try_into().unwrap())];
    });
    let our_address = csr(|params| {
        params.subject_alt_names = vec![SanType::IpAddress("192.0.2.7".parse().unwrap())];
    });
    let wildcard = csr(|params| {
        params.subject_alt_names = vec![SanType::DnsName("*.unit".try_into().unwrap())];
    });
    let code_signing = csr(|params| params.extended_key_usages = vec![ExtendedKeyUsagePurpose::CodeSigning]);
    let mut broken = csr(|_| {});
    let middle = broken.len() - 60;
    let replacement = if broken.as_bytes()[middle] == b'A' { "B" } else { "A" };
    broken.replace_range(middle..=middle, replacement);
    for (name, pem) in [
        ("name of another Unit", wrong_name),
        ("our name", our_name),
        ("our address", our_address),
        ("wildcard", wildcard),
        ("code signing", code_signing),
        ("broken signature", broken),
        ("no PEM", "hello".to_owned()),
        ("too long", "x".repeat(20_000)),
    ] {
        let error = unit(&pki, &pem, CertType::Iam).unwrap_err();
        assert!(error.is_refusal(), "{name}: {error}");
    }
    assert!("host-device".parse::<CertType>().is_err());
}

#[test]
fn user_certificates_carry_what_the_tools_read() {
    let (_dir, pki) = fresh();
    let user = UserSubject {
        username: "ann".to_owned(),
        company: "Axle Works".to_owned(),
        email: "ann@axle.example".to_owned(),
    };
    let issued = pki.issue_user(&Request::from_pem(&csr(|_| {})).unwrap(), &user, NOW).unwrap();
    let chain = pem_certificates(&issued.chain_pem);
    assert!(verifies(&chain, pki.client_anchor(Domain::Users), NOW));
    assert!(!verifies(&chain, pki.client_anchor(Domain::Units), NOW));
    let (_, leaf) = x509_parser::parse_x509_certificate(&chain[0]).unwrap();
    let subject = leaf.subject().to_string();
    for part in ["CN=ann", "OU=Axle Works", "O=cloud.example", "ann@axle.example"] {
        assert!(subject.contains(part), "{subject}");
    }
    let names = &leaf.subject_alternative_name().unwrap().unwrap().value.general_names;
    assert!(matches!(names[..], [GeneralName::URI("urn:aos:domain:cloud.example")]));
}

#[test]
fn sealed_secrets_open_only_for_their_purpose() {
    let (_dir, pki) = fresh();
    let sealed = pki.vault().seal("unit secrets", b"pin").unwrap();
    assert_eq!(pki.vault().open("unit secrets", &sealed).unwrap(), b"pin");
    assert!(matches!(pki.vault().open("blob key", &sealed), Err(PkiError::Sealed)));
    assert!(matches!(pki.vault().open("unit secrets", &sealed[..5]), Err(PkiError::Sealed)));
    let (_other_dir, other) = fresh();
    assert!(other.vault().open("unit secrets", &sealed).is_err());
}

#[test]
fn download_tokens_are_bound_to_their_text() {
    let (_dir, pki) = fresh();
    let tag = pki.url_key().tag("abc|1");
    assert!(pki.url_key().verify("abc|1", &tag));
    assert!(!pki.url_key().verify("abc|2", &tag));
}

#[test]
fn blob_signatures_verify_with_the_first_certificate() {
    let (_dir, pki) = fresh();
    let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, b"content");
    let signature = pki.signer().sign(&digest).unwrap();
    let certificates: Vec<_> = pki.signer().certificates().collect();
    assert_eq!(certificates.len(), 2);
    let (_, leaf) = x509_parser::parse_x509_certificate(certificates[0].0).unwrap();
    let key = aws_lc_rs::signature::UnparsedPublicKey::new(
        &aws_lc_rs::signature::RSA_PKCS1_2048_8192_SHA256,
        &leaf.public_key().subject_public_key.data,
    );
    key.verify(b"content", &signature).unwrap();
    assert!(pki.signer().chain_name().len() <= 64);
}
