//! Certificates without a session: the main node asks the cloud, another node the main node.

use std::sync::Arc;

use aos_recovery_protocol::{CsrOf, Named, stated};
use aos_unit_api::aosrecovery::v1::node_recovery_service_client::NodeRecoveryServiceClient;
use aos_unit_api::aosrecovery::v1::{CertificateRequest, GetCertificatesRequest, GetChallengeRequest};
use aos_unit_api::iamanager::v6;
use aos_unit_api::iamanager::v6::iam_nodes_service_client::IamNodesServiceClient;
use aos_unit_api::iamanager::v6::iam_public_cert_service_client::IamPublicCertServiceClient;
use rustls::SignatureScheme;
use rustls::sign::CertifiedKey;
use serde_json::{Value, json};
use tonic::Code;
use tonic::transport::Channel;

use crate::authority::Authority;
use crate::cloud::{Cloud, UNIT};
use crate::rig::{Daemon, PASSWORD, Rig, eventually, start, tls_channel, with_softhsm};
use crate::secondary::{self, ID};

const MAIN: &str = "node-main";

/// A main node, one beside it, and the cloud that both depend on.
pub struct Unit {
    pub authority: Arc<Authority>,
    pub cloud: Cloud,
    pub second: Rig,
    pub public: String,
    pub protected: String,
}

impl Unit {
    /// Provisions the main node; `sign` makes the certificate of a type. Nothing runs afterwards. The main node
    /// listens on Unix sockets, so that it does so at the same address after each start.
    pub async fn new(
        rig: &Rig,
        change: impl FnOnce(&mut Value),
        sign: impl Fn(&Authority, &str, &str) -> String,
    ) -> Self {
        let authority = Arc::new(Authority::new("Unit CA"));
        let cloud = Cloud::start(&authority).await;
        let socket = |name: &str| format!("unix:{}", rig.path(name).display());
        let (public, protected) = (socket("public"), socket("protected"));
        rig.prepare(|config| {
            config["iamPublicServerUrl"] = json!(public);
            config["iamProtectedServerUrl"] = json!(protected);
            config["recoveryUrl"] = json!(cloud.url());
            change(config);
        });
        std::fs::write(rig.path("root.pem"), authority.pem()).unwrap();
        let daemon = rig.start("provisioning").await;
        let mut client = daemon.provisioning();
        assert_eq!(client.start_provisioning(start(PASSWORD)).await.unwrap().into_inner().error, None);
        let types = client.get_cert_types(v6::GetCertTypesRequest::default()).await.unwrap().into_inner();
        for cert_type in types.types {
            let chain = sign(&authority, &cert_type, &daemon.create_key(&cert_type).await);
            assert_eq!(daemon.apply(&cert_type, &chain).await.error, None);
            cloud.note(MAIN, &cert_type, &chain);
        }
        let finished = client.finish_provisioning(v6::FinishProvisioningRequest::default()).await.unwrap();
        assert_eq!(finished.into_inner().error, None);
        daemon.stop().await;
        Self { authority, cloud, second: rig.beside("second"), public, protected }
    }

    /// A channel to the main node's protected server.
    pub fn orders(&self, rig: &Rig) -> Channel {
        tls_channel(&self.protected, &rig.path("root.pem"), Some(self.authority.client_of(UNIT)))
    }

    /// Writes the files of the second node.
    pub fn prepare_second(&self, change: impl FnOnce(&mut Value)) {
        std::fs::write(self.second.path("root.pem"), self.authority.pem()).unwrap();
        secondary::prepare_for(&self.second, &self.public, &self.protected, change);
    }

    /// Provisions it through the running main node; it does not run afterwards.
    pub async fn provision_second(&self, rig: &Rig, sign: impl Fn(&Authority, &str) -> String) {
        let node = self.second.start("provisioning").await;
        let orders = self.orders(rig);
        secondary::becomes(&orders, "unprovisioned").await;
        secondary::provision_with(&orders, &self.authority.pem(), |csr| {
            let chain = sign(&self.authority, csr);
            self.cloud.note(ID, "", &chain);
            chain
        })
        .await;
        node.stop().await;
    }
}

/// Newest certificate of a type by a running node; `None` while its servers are not trusted.
pub async fn newest(rig: &Rig, daemon: &Daemon, cert_type: &str) -> Option<v6::CertInfo> {
    newest_at(rig, &daemon.public, cert_type).await
}

pub async fn newest_at(rig: &Rig, address: &str, cert_type: &str) -> Option<v6::CertInfo> {
    let channel = tls_channel(address, &rig.path("root.pem"), None);
    let request = v6::GetCertRequest { r#type: cert_type.into(), ..Default::default() };
    IamPublicCertServiceClient::new(channel).get_cert(request).await.ok().map(tonic::Response::into_inner)
}

/// Serial number, hexadecimal.
fn text(info: &v6::CertInfo) -> String {
    String::from_utf8(info.serial.clone()).unwrap().to_lowercase()
}

/// Orders reach the second node.
async fn takes_orders(orders: &Channel) {
    let mut nodes = IamNodesServiceClient::new(orders.clone());
    let request = v6::PauseNodeRequest { node_id: ID.into() };
    assert_eq!(nodes.pause_node(request).await.unwrap().into_inner().error, None);
    let request = v6::ResumeNodeRequest { node_id: ID.into() };
    assert_eq!(nodes.resume_node(request).await.unwrap().into_inner().error, None);
}

/// Certificate and key in the token of `rig`, whatever the daemon there does.
fn held(rig: &Rig, cert_type: &str) -> Arc<CertifiedKey> {
    let database = rusqlite::Connection::open(rig.path("work/iamanager.db")).unwrap();
    let sql = "SELECT certURL, keyURL FROM certificates WHERE type = ?1 ORDER BY notAfter DESC LIMIT 1";
    let urls: (String, String) =
        database.query_row(sql, [cert_type], |row| Ok((row.get(0)?, row.get(1)?))).unwrap();
    aos_token::load_identity(&urls.0, &urls.1).unwrap().certified_key()
}

// REL-25
#[test]
fn a_node_whose_certificates_have_ended_comes_back_by_itself() {
    with_softhsm("recovery::a_node_whose_certificates_have_ended_comes_back_by_itself", async |rig| {
        let unit = Unit::new(&rig, |_| {}, |authority, _, csr| authority.sign(csr, 2100)).await;
        let main = rig.start("normal").await;
        unit.prepare_second(|_| {});
        unit.provision_second(&rig, Authority::sign_ended).await;

        // The cloud is away: mutual TLS refuses the node, which goes on asking.
        unit.cloud.record.lock().unwrap().away = true;
        let node = unit.second.start("normal").await;
        let ended = tls_channel(&unit.protected, &rig.path("root.pem"), Some(held(&unit.second, "iam")));
        secondary::node_info(&ended).await.unwrap_err();
        secondary::node_info(&unit.orders(&rig)).await.unwrap();
        assert!(newest(&unit.second, &node, "iam").await.is_none(), "its own servers show what has ended");
        unit.cloud.record.lock().unwrap().away = false;

        let iam = eventually("a new certificate", async || newest(&unit.second, &node, "iam").await).await;
        let record = unit.cloud.record.lock().unwrap().of_node[ID].clone();
        assert_eq!(record.len(), 4, "two at first, two afterwards");
        assert!(record[2..].contains(&text(&iam)), "{record:?} {iam:?}");
        let sm = newest(&unit.second, &node, "sm").await.unwrap();
        assert!(record[2..].contains(&text(&sm)));
        takes_orders(&unit.orders(&rig)).await;
        assert!(
            unit.second.path("work/time-floor").exists(),
            "what the certificates prove of the time is kept"
        );
        node.stop().await;
        main.stop().await;
    });
}

// REL-25
#[test]
fn a_connected_node_is_renewed_over_its_stream() {
    with_softhsm("recovery::a_connected_node_is_renewed_over_its_stream", async |rig| {
        // Of the main node only `cm` is due: what it asks the cloud for brings to light what else is.
        let sign = |authority: &Authority, cert_type: &str, csr: &str| {
            if cert_type == "cm" { authority.sign_ended(csr) } else { authority.sign(csr, 2100) }
        };
        let unit = Unit::new(&rig, |_| {}, sign).await;
        unit.cloud.record.lock().unwrap().away = true;
        let main = rig.start("normal").await;
        unit.prepare_second(|config| config["recoveryUrl"] = json!("none"));
        unit.provision_second(&rig, |authority, csr| authority.sign(csr, 2100)).await;
        let node = unit.second.start("normal").await;
        takes_orders(&unit.orders(&rig)).await;
        let before = unit.cloud.record.lock().unwrap().of_node[ID].clone();
        {
            let mut record = unit.cloud.record.lock().unwrap();
            let due = |cert_type: &str| Named { cert_type: cert_type.into(), node: ID.into() };
            record.due = vec![due("iam"), due("sm")];
            record.away = false;
        }
        let new = async |rig: &Rig, daemon: &Daemon, cert_type: &str| {
            let known = unit.cloud.record.lock().unwrap().of_node.clone();
            let serial = text(&newest(rig, daemon, cert_type).await?);
            let old = if cert_type == "cm" { known[MAIN][..4].to_vec() } else { before.clone() };
            (!old.contains(&serial)).then_some(())
        };
        eventually("cm of the main node", async || new(&rig, &main, "cm").await).await;
        for cert_type in ["iam", "sm"] {
            // It ends before those that are there, so that nothing else shows it.
            let stored = async || {
                let known = unit.cloud.record.lock().unwrap().of_node[ID].clone();
                let rows = crate::kills::rows(&unit.second, "certificates");
                (known.len() == 4 && rows == 4).then_some(())
            };
            eventually(cert_type, stored).await;
        }
        assert!(unit.cloud.record.lock().unwrap().due.is_empty());
        takes_orders(&unit.orders(&rig)).await;
        node.stop().await;
        main.stop().await;
    });
}

fn csr(name: &str) -> String {
    let key = rcgen::KeyPair::generate().unwrap();
    let mut params = rcgen::CertificateParams::default();
    params.distinguished_name.push(rcgen::DnType::CommonName, name);
    params.serialize_request(&key).unwrap().pem().unwrap()
}

/// What a node asks, proved with `key`.
fn asked(node: &str, challenge: &str, unit: &str, key: &CertifiedKey) -> GetCertificatesRequest {
    let csr = csr(unit);
    let requests = [CsrOf { cert_type: "iam".into(), node: node.into(), csr: csr.clone(), proved_by: None }];
    let signer = key
        .key
        .choose_scheme(&[SignatureScheme::ECDSA_NISTP384_SHA384, SignatureScheme::ECDSA_NISTP256_SHA256]);
    GetCertificatesRequest {
        node_id: node.into(),
        challenge: challenge.into(),
        chain: key.cert.iter().map(|one| one.to_vec()).collect(),
        signature: signer.unwrap().sign(&stated(challenge, unit, &requests)).unwrap(),
        requests: vec![CertificateRequest { r#type: "iam".into(), csr }],
    }
}

#[test]
fn without_a_proof_the_main_node_asks_nothing_for_anybody() {
    with_softhsm("recovery::without_a_proof_the_main_node_asks_nothing_for_anybody", async |rig| {
        let unit = Unit::new(&rig, |_| {}, |authority, _, csr| authority.sign(csr, 2100)).await;
        let main = rig.start("normal").await;
        unit.prepare_second(|_| {});
        unit.provision_second(&rig, |authority, csr| authority.sign(csr, 2100)).await;
        let mut client =
            NodeRecoveryServiceClient::new(tls_channel(&unit.public, &rig.path("root.pem"), None));
        let mut challenge = async |node: &str| {
            let request = GetChallengeRequest { node_id: node.into() };
            client.get_challenge(request).await.unwrap().into_inner().challenge
        };
        let own = held(&unit.second, "iam");
        let (here, elsewhere) = (challenge(ID).await, challenge("another").await);
        let stranger = Authority::new("Unit CA").client_of(UNIT);
        let mut swapped = asked(ID, &here, UNIT, &own);
        swapped.requests[0].csr = csr(UNIT);
        let mut bare = asked(ID, &here, UNIT, &own);
        bare.chain.clear();
        let mut many = asked(ID, &here, UNIT, &own);
        many.requests = vec![many.requests[0].clone(); 9];
        let mut borrowed = asked(ID, &here, UNIT, &unit.authority.client_of(UNIT));
        borrowed.chain = own.cert.iter().map(|one| one.to_vec()).collect();
        let wrong = [
            (asked(ID, "00", UNIT, &own), Code::PermissionDenied, "challenge"),
            (asked(ID, &elsewhere, UNIT, &own), Code::PermissionDenied, "challenge"),
            (asked("another", &elsewhere, UNIT, &own), Code::PermissionDenied, "provision it"),
            (asked(ID, &here, UNIT, &stranger), Code::PermissionDenied, "roots"),
            (
                asked(ID, &here, "another-unit", &unit.authority.client_of("another-unit")),
                Code::PermissionDenied,
                "not issued to this Unit",
            ),
            (swapped, Code::PermissionDenied, "signature"),
            (borrowed, Code::PermissionDenied, "signature"),
            (bare, Code::InvalidArgument, "one certificate"),
            (many, Code::InvalidArgument, "1 to 8"),
        ];
        let mut client =
            NodeRecoveryServiceClient::new(tls_channel(&unit.public, &rig.path("root.pem"), None));
        for (request, code, why) in wrong {
            let refused = client.get_certificates(request).await.unwrap_err();
            assert!(refused.code() == code && refused.message().contains(why), "{why}: {refused}");
        }
        let no_id = client.get_challenge(GetChallengeRequest { node_id: String::new() }).await.unwrap_err();
        assert_eq!(no_id.code(), Code::InvalidArgument);
        assert_eq!(unit.cloud.record.lock().unwrap().proved, 0, "the cloud was not asked");

        // A proof that holds, with a certificate that the cloud does not take for the node's: its word counts.
        let revoked = asked(ID, &here, UNIT, &unit.authority.client_of(UNIT));
        let answer = client.get_certificates(revoked).await.unwrap().into_inner();
        assert_eq!((answer.certificates.len(), answer.refused.len()), (0, 1));
        assert!(answer.refused[0].reason.contains("revoked"), "{answer:?}");
        let answer = client.get_certificates(asked(ID, &here, UNIT, &own)).await.unwrap().into_inner();
        assert_eq!((answer.certificates.len(), answer.refused.len()), (1, 0));
        main.stop().await;
    });
}

/// As `aos iam recover` does it, once the daemon listens for it.
async fn by_hand(rig: &Rig) -> Result<String, aos_iam::Error> {
    eventually("somebody to ask", async || {
        let dir = rig.path("run");
        let told = tokio::task::spawn_blocking(move || aos_iam::ask_recovery(&dir, None)).await.unwrap();
        let nobody = matches!(&told, Err(aos_iam::Error::File { .. }));
        (!nobody).then_some(told)
    })
    .await
}

// Where the configuration names no address, the certificate does: the host of the cloud, at the usual port.
#[test]
fn the_certificate_tells_where_to_ask() {
    with_softhsm("recovery::the_certificate_tells_where_to_ask", async |rig| {
        let host = "127.0.0.77";
        let sign = |authority: &Authority, cert_type: &str, csr: &str| match cert_type {
            "online" => authority.sign_for_cloud(csr, &format!("https://{host}:443/sd/v7")),
            _ => authority.sign(csr, 2100),
        };
        let unit = Unit::new(&rig, |config| config["recoveryUrl"] = json!(""), sign).await;
        let main = rig.start("normal").await;
        let refused = by_hand(&rig).await.unwrap_err().to_string();
        assert!(refused.contains(&format!("https://{host}:9443")), "{refused}");
        unit.cloud.also_at(&format!("{host}:9443")).await;
        let told = by_hand(&rig).await.unwrap();
        assert!(told.contains("4 certificates are new"), "{told}");
        main.stop().await;
    });
}

#[test]
fn the_clouds_name_is_checked() {
    with_softhsm("recovery::the_clouds_name_is_checked", async |rig| {
        // Nobody's address is this host's too, but does not count as local.
        let address = "0.0.0.0";
        let unit = Unit::new(&rig, |_| {}, |authority, _, csr| authority.sign(csr, 2100)).await;
        for (named, taken) in [("cloud.example", false), (address, true)] {
            let port = unit.cloud.named(named).await;
            let mut config: Value =
                serde_json::from_slice(&std::fs::read(rig.path("iam.cfg")).unwrap()).unwrap();
            config["recoveryUrl"] = json!(format!("https://{address}:{port}"));
            std::fs::write(rig.path("iam.cfg"), config.to_string()).unwrap();
            let main = rig.start("normal").await;
            let told = by_hand(&rig).await;
            assert_eq!(told.is_ok(), taken, "{named}: {told:?}");
            if let Err(error) = told {
                assert!(error.to_string().contains("not valid for name"), "{error}");
            }
            main.stop().await;
        }
    });
}
