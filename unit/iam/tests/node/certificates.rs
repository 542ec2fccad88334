//! Certificates over their life: exchange, lookup, notification, and agreement of token and database.

use aos_token::{AuthPin, Library, SlotChoice, TokenSession};
use aos_unit_api::iamanager::v6;
use aos_unit_api::iamanager::v6::iam_public_cert_service_client::IamPublicCertServiceClient;
use tonic::Code;

use crate::authority::Authority;
use crate::rig::{Daemon, MODULE, PASSWORD, Rig, apply_on, eventually, start, tls_channel, with_softhsm};

const NOT_FOUND: i32 = 5;
const INVALID_ARGUMENT: i32 = 6;

/// The newest certificate of a type.
pub fn get(cert_type: &str) -> v6::GetCertRequest {
    v6::GetCertRequest { r#type: cert_type.into(), ..Default::default() }
}

fn subscribe(cert_type: &str) -> v6::SubscribeCertChangedRequest {
    v6::SubscribeCertChangedRequest { r#type: cert_type.into() }
}

/// A daemon in provisioning mode whose tokens have their owner.
pub async fn owned(rig: &Rig) -> Daemon {
    let daemon = rig.start("provisioning").await;
    let answer = daemon.provisioning().start_provisioning(start(PASSWORD)).await.unwrap().into_inner();
    assert_eq!(answer.error, None);
    daemon
}

fn token(rig: &Rig, label: &str) -> TokenSession {
    let pin = AuthPin::from(std::fs::read_to_string(rig.path("pins/user")).unwrap());
    let token = Library::open(MODULE).unwrap().find_token(&SlotChoice::Label(label.into())).unwrap();
    token.unwrap().open(&pin).unwrap()
}

fn objects(rig: &Rig, label: &str, cert_type: &str) -> usize {
    token(rig, label).list_objects(Some(cert_type)).unwrap().len()
}

// IAM-17, IAM-26
// IAM 26.7, IAM 26.9
#[test]
fn a_third_certificate_replaces_the_one_that_ends_first() {
    with_softhsm("certificates::a_third_certificate_replaces_the_one_that_ends_first", async |rig| {
        rig.prepare(|_| {});
        let authority = Authority::new("Unit CA");
        let daemon = owned(&rig).await;
        let refused = daemon.certs().subscribe_cert_changed(subscribe("online")).await.unwrap_err();
        assert_eq!(refused.code(), Code::Internal, "there is none to follow yet");

        let middle = daemon.issue(&authority, "online", 2101).await;
        let mut changes =
            daemon.certs().subscribe_cert_changed(subscribe("online")).await.unwrap().into_inner();
        let older = daemon.issue(&authority, "online", 2100).await;
        let latest = async || daemon.certs().get_cert(get("online")).await.unwrap().into_inner().serial;
        assert_eq!(latest().await, middle.serial, "the one that stays valid longest is the newest");
        let newest = daemon.issue(&authority, "online", 2102).await;
        assert_eq!(latest().await, newest.serial);
        let told = changes.message().await.unwrap().unwrap();
        assert_eq!(told.serial, newest.serial, "the older one was not told");
        assert_eq!((told.r#type.as_str(), told.key_url), ("online", newest.key_url.clone()));

        let exact = |info: &v6::CertInfo| v6::GetCertRequest {
            r#type: "online".into(),
            issuer: info.issuer.clone(),
            serial: String::from_utf8(info.serial.clone()).unwrap(),
        };
        assert!(daemon.certs().get_cert(exact(&older)).await.is_err());
        assert!(aos_token::load_identity(&older.cert_url, &older.key_url).is_err());
        for kept in [&middle, &newest] {
            assert_eq!(daemon.certs().get_cert(exact(kept)).await.unwrap().get_ref().serial, kept.serial);
            aos_token::load_identity(&kept.cert_url, &kept.key_url).unwrap();
        }
        let mut unknown = exact(&newest);
        unknown.r#type = "unknown".into();
        assert!(daemon.certs().get_cert(unknown).await.is_err());
        let mut wrong = exact(&newest);
        wrong.serial = "no hex".into();
        assert!(daemon.certs().get_cert(wrong).await.is_err());
        daemon.stop().await;
    });
}

// IAM 26.7
#[test]
fn a_wrong_certificate_costs_nothing() {
    with_softhsm("certificates::a_wrong_certificate_costs_nothing", async |rig| {
        rig.prepare(|_| {});
        let authority = Authority::new("Unit CA");
        let daemon = owned(&rig).await;
        let kept =
            [daemon.issue(&authority, "online", 2101).await, daemon.issue(&authority, "online", 2102).await];
        let csr = daemon.create_key("online").await;
        let code = async |chain: &str| daemon.apply("online", chain).await.error.unwrap().aos_code;
        assert_eq!(code(&authority.sign_leaf(&csr, 2100)).await, NOT_FOUND, "the root is missing");
        assert_eq!(code("").await, NOT_FOUND);
        let damaged = authority.sign(&csr, 2100).replacen("MII", "MIA", 1);
        assert_eq!(code(&damaged).await, INVALID_ARGUMENT);
        let other = daemon.create_key("offline").await;
        assert_eq!(code(&authority.sign(&other, 2103)).await, NOT_FOUND, "no key waits for it here");
        for kept in kept {
            aos_token::load_identity(&kept.cert_url, &kept.key_url).unwrap();
        }
        let unknown = daemon.apply("unknown", &authority.sign(&csr, 2100)).await;
        assert_eq!(unknown.error.unwrap().aos_code, NOT_FOUND);
        assert_eq!(daemon.apply("online", &authority.sign(&csr, 2103)).await.error, None);
        daemon.stop().await;
    });
}

#[test]
fn waiting_keys_are_bounded() {
    with_softhsm("certificates::waiting_keys_are_bounded", async |rig| {
        rig.prepare(|_| {});
        let authority = Authority::new("Unit CA");
        let daemon = owned(&rig).await;
        let mut requests = Vec::new();
        for _ in 0..6 {
            requests.push(daemon.create_key("online").await);
        }
        assert_eq!(objects(&rig, "aoscloud", "online"), 10, "two halves of five keys");
        let first = daemon.apply("online", &authority.sign(&requests[0], 2100)).await;
        assert_eq!(first.error.unwrap().aos_code, NOT_FOUND);
        for request in &requests[1..] {
            assert_eq!(daemon.apply("online", &authority.sign(request, 2100)).await.error, None);
        }
        assert_eq!(objects(&rig, "aoscloud", "online"), 6, "two certificates with their keys stay");
        daemon.stop().await;
    });
}

// IAM 26.8
#[test]
fn token_and_database_agree_after_a_start() {
    with_softhsm("certificates::token_and_database_agree_after_a_start", async |rig| {
        rig.prepare(|_| {});
        let authority = Authority::new("Unit CA");
        let daemon = owned(&rig).await;
        let kept = daemon.issue(&authority, "online", 2101).await;
        let lost = daemon.issue(&authority, "online", 2102).await;
        daemon.stop().await;

        // A row is gone, the objects of another row are gone, and a key belongs to nothing.
        let database = rusqlite::Connection::open(rig.path("work/iamanager.db")).unwrap();
        let removed =
            database.execute("DELETE FROM certificates WHERE certURL = ?1", [&kept.cert_url]).unwrap();
        assert_eq!(removed, 1);
        drop(database);
        let session = token(&rig, "aoscloud");
        let aos_token::CertUrl::Pkcs11(url) = aos_token::CertUrl::parse(&lost.cert_url).unwrap() else {
            panic!("{}", lost.cert_url)
        };
        session.destroy_certificate(&url.id, "online").unwrap();
        session.generate_key(aos_token::KeyKind::EcP384, [7; 16], "online").unwrap();
        assert_eq!(objects(&rig, "aoscloud", "online"), 7);

        let daemon = rig.start("provisioning").await;
        let found = daemon.certs().get_cert(get("online")).await.unwrap().into_inner();
        assert_eq!(found.serial, kept.serial);
        assert_eq!(objects(&rig, "aoscloud", "online"), 7, "nothing is destroyed at start");
        daemon.issue(&authority, "online", 2103).await;
        assert_eq!(objects(&rig, "aoscloud", "online"), 6, "left-overs went with the next key");
        daemon.stop().await;
    });
}

// A damaged database is found again in the token.
#[test]
fn a_damaged_database_costs_no_certificate() {
    with_softhsm("certificates::a_damaged_database_costs_no_certificate", async |rig| {
        rig.prepare(|_| {});
        let authority = Authority::new("Unit CA");
        rig.provision(&authority).await;
        let files = std::fs::read_dir(rig.path("work")).unwrap();
        for file in files {
            std::fs::write(file.unwrap().path(), "this is no database at all").unwrap();
        }
        let daemon = rig.start("normal").await;
        let public = tls_channel(&daemon.public, &rig.path("root.pem"), None);
        for cert_type in ["online", "offline", "iam", "cm", "diskencryption"] {
            IamPublicCertServiceClient::new(public.clone()).get_cert(get(cert_type)).await.unwrap();
        }
        daemon.stop().await;
    });
}

// ARC-21
// IAM 26.10
#[test]
fn servers_show_their_new_certificate_without_a_restart() {
    with_softhsm("certificates::servers_show_their_new_certificate_without_a_restart", async |rig| {
        rig.prepare(|_| {});
        let authority = Authority::new("Unit CA");
        rig.provision(&authority).await;
        let daemon = rig.start("normal").await;
        let root = rig.path("root.pem");
        let public = tls_channel(&daemon.public, &root, None);
        let mut changes = IamPublicCertServiceClient::new(public.clone())
            .subscribe_cert_changed(subscribe("iam"))
            .await
            .unwrap()
            .into_inner();
        let before = shown_serial(&daemon.public, &root).await;

        let protected = tls_channel(&daemon.protected, &root, Some(authority.client()));
        let mut certificates =
            v6::iam_certificate_service_client::IamCertificateServiceClient::new(protected.clone());
        let request = v6::CreateKeyRequest { r#type: "iam".into(), ..Default::default() };
        let csr = certificates.create_key(request).await.unwrap().into_inner().csr;
        let answer = apply_on(protected, "iam", &authority.sign(&csr, 2200)).await;
        assert_eq!(answer.error, None);
        let new = answer.cert_info.unwrap();
        assert_eq!(changes.message().await.unwrap().unwrap().serial, new.serial);
        for address in [&daemon.public, &daemon.protected] {
            eventually("new certificate", async || {
                let shown = shown_serial(address, &root).await;
                (hex::encode(&shown).into_bytes() == new.serial).then_some(())
            })
            .await;
        }
        assert_ne!(hex::encode(before).into_bytes(), new.serial);
        IamPublicCertServiceClient::new(public).get_cert(get("iam")).await.unwrap();
        daemon.stop().await;
    });
}

/// Serial number of the certificate that a server shows.
async fn shown_serial(address: &str, roots: &std::path::Path) -> Vec<u8> {
    use x509_parser::prelude::{FromDer, X509Certificate};

    let roots = aos_tls::roots_from_pem_file(roots).unwrap();
    // The servers speak only HTTP/2, and the protected one asks for a certificate only after its own.
    let mut config = (*aos_tls::client_config(roots, None, aos_tls::HostCheck::ChainOnly).unwrap()).clone();
    config.alpn_protocols = vec![b"h2".to_vec()];
    let (host, port) = address.rsplit_once(':').unwrap();
    let config = std::sync::Arc::new(config);
    let stream = aos_tls::connect_tcp_tls(host, port.parse().unwrap(), config, "localhost").await.unwrap();
    let leaf = stream.get_ref().1.peer_certificates().unwrap()[0].clone();
    let (_, leaf) = X509Certificate::from_der(&leaf).unwrap();
    leaf.serial.to_bytes_be()
}
