//! Certificates without a session, and renewals that the cloud starts.

use aos_cloud_fleet::MAX_ISSUED;
use aos_recovery_protocol::{CertificatesRequest, CsrOf, Token, listing, statement};
use rcgen::SigningKey as _;

use super::*;
use crate::FlowError;

/// The Unit's `offline` key, made known to the cloud.
async fn offline_key(world: &World, cloud: &Cloud) -> KeyPair {
    let key = KeyPair::generate_for(&rcgen::PKCS_ECDSA_P384_SHA384).unwrap();
    let request = Request::from_pem(&csr_of(&key, Some("unit-1"))).unwrap();
    let url = "https://cloud.example";
    let issued = world.pki.issue_unit(&request, "unit-1", CertType::Offline, url, now()).unwrap();
    let unit_id = cloud.unit.id.clone();
    let add = move |work: &mut aos_cloud_store::Work<'_>| {
        work.add_certificate(&NewCertificate {
            holder: Holder::Unit(unit_id),
            cert_type: "offline".to_owned(),
            node_id: "main".to_owned(),
            issuer: issued.issuer_der,
            serial: issued.serial,
            key_hash: issued.key_hash,
            chain: issued.chain_pem,
            not_before: issued.not_before,
            not_after: issued.not_after,
        })
    };
    cloud.store.transact(add).await.unwrap();
    key
}

fn wanted(cert_type: &str, node: &str, csr: String) -> CsrOf {
    CsrOf { cert_type: cert_type.to_owned(), node: node.to_owned(), csr, proved_by: None }
}

fn unproved(cloud: &Cloud, requests: Vec<CsrOf>) -> CertificatesRequest {
    let challenge = cloud.flows.recovery_challenge("unit-1").unwrap();
    CertificatesRequest { system_id: "unit-1".to_owned(), challenge, signature: None, token: None, requests }
}

fn signed(cloud: &Cloud, key: &KeyPair, requests: Vec<CsrOf>) -> CertificatesRequest {
    let mut request = unproved(cloud, requests);
    let listed = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, &listing(&request.requests));
    let text = statement(&request.challenge, "unit-1", listed.as_ref());
    request.signature = Some(hex::encode(key.sign(&text).unwrap()));
    request
}

fn with_token(cloud: &Cloud, token: &str, requests: Vec<CsrOf>) -> CertificatesRequest {
    CertificatesRequest { token: Some(Token::new(token)), ..unproved(cloud, requests) }
}

async fn forbidden(cloud: &Cloud, request: CertificatesRequest) {
    let error = cloud.flows.recover(request).await.unwrap_err();
    assert!(matches!(error, FlowError::Forbidden(_)), "{error}");
}

#[tokio::test]
async fn the_offline_key_recovers_a_unit() {
    let world = World::new();
    let cloud = world.cloud().await;
    let key = offline_key(&world, &cloud).await;
    let requests = vec![
        wanted("online", "main", csr(Some("unit-1"))),
        wanted("sm", "main", csr(None)),
        wanted("cm", "main", csr(None)),
        wanted("sm", "main-2", csr(Some("unit-1"))),
        wanted("offline", "main", csr(Some("another"))),
    ];
    let answer = cloud.flows.recover(signed(&cloud, &key, requests.clone())).await.unwrap();
    let types: Vec<&str> = answer.certificates.iter().map(|one| one.cert_type.as_str()).collect();
    assert_eq!(types, ["online", "sm"]);
    assert_eq!(answer.refused.len(), 3, "{:?}", answer.refused);
    let held = cloud.certificates().await;
    assert!(held.iter().any(|one| one.chain == answer.certificates[0].certificate_chain));
    // The answer was lost: the same requests have the same certificates.
    let again = cloud.flows.recover(signed(&cloud, &key, requests)).await.unwrap();
    assert_eq!(again.certificates, answer.certificates);
    assert_eq!(cloud.certificates().await.len(), held.len());
}

// A node other than the main one asks by the key of a certificate of its own, which only we know to be good.
#[tokio::test]
async fn what_a_node_proved_with_must_be_its_own_and_not_revoked() {
    let world = World::new();
    let cloud = world.cloud().await;
    let key = offline_key(&world, &cloud).await;
    let of_node = |held: &[Certificate], node: &str| {
        held.iter().find(|one| one.cert_type == "sm" && one.node_id == node).map(|one| one.serial.clone())
    };
    let serial = of_node(&cloud.certificates().await, "main").unwrap();
    let by = |node: &str, serial: &str| {
        vec![CsrOf { proved_by: Some(serial.to_owned()), ..wanted("sm", node, csr(None)) }]
    };
    let ask = async |requests| cloud.flows.recover(signed(&cloud, &key, requests)).await.unwrap();
    let answer = ask(by("main", &serial)).await;
    assert_eq!((answer.certificates.len(), answer.refused.len()), (1, 0), "{answer:?}");
    for (node, serial) in [("main-2", serial.as_str()), ("main", "00"), ("main", "")] {
        let answer = ask(by(node, serial)).await;
        assert_eq!(answer.certificates.len(), 0, "{node} {serial}");
        assert!(answer.refused[0].reason.contains("proved"), "{answer:?}");
    }
    let (unit_id, revoked) = (cloud.unit.id.clone(), serial.clone());
    cloud.store.transact(move |work| work.revoke_serial(&unit_id, &revoked)).await.unwrap();
    assert_eq!(ask(by("main", &serial)).await.certificates.len(), 0, "revoked");
}

#[tokio::test]
async fn whoever_proves_nothing_gets_nothing() {
    let world = World::new();
    let cloud = world.cloud().await;
    let key = offline_key(&world, &cloud).await;
    let one = || vec![wanted("online", "main", csr(None))];
    let before = cloud.certificates().await.len();

    forbidden(&cloud, unproved(&cloud, one())).await;
    let other = KeyPair::generate_for(&rcgen::PKCS_ECDSA_P384_SHA384).unwrap();
    forbidden(&cloud, signed(&cloud, &other, one())).await;
    // A signature is for its requests, its challenge and its Unit only.
    forbidden(&cloud, CertificatesRequest { requests: one(), ..signed(&cloud, &key, one()) }).await;
    let challenge = cloud.flows.recovery_challenge("unit-1").unwrap();
    forbidden(&cloud, CertificatesRequest { challenge, ..signed(&cloud, &key, one()) }).await;
    let system_id = "unit-2".to_owned();
    forbidden(&cloud, CertificatesRequest { system_id, ..signed(&cloud, &key, one()) }).await;
    forbidden(&cloud, with_token(&cloud, "guess", one())).await;
    let system_id = cloud.unit.id.clone();
    let challenge = cloud.flows.recovery_challenge(&system_id).unwrap();
    let by_id = CertificatesRequest { system_id, challenge, ..signed(&cloud, &key, one()) };
    forbidden(&cloud, by_id).await;
    for requests in [vec![], [one(), one()].concat(), vec![wanted("sm", "main", "x".repeat(20_000))]] {
        let error = cloud.flows.recover(signed(&cloud, &key, requests)).await.unwrap_err();
        assert!(matches!(error, FlowError::Invalid(_)), "{error}");
    }
    assert_eq!(cloud.certificates().await.len(), before);

    // Not for a Unit whose offline certificate was revoked, nor for one that is out of service.
    let serial = |kind: &str, held: &[Certificate]| {
        held.iter().filter(|one| one.cert_type == kind).map(|one| one.serial.clone()).collect::<Vec<_>>()
    };
    let unit_id = cloud.unit.id.clone();
    let offline = serial("offline", &cloud.certificates().await);
    let revoke = move |work: &mut aos_cloud_store::Work<'_>| {
        offline.iter().try_for_each(|serial| work.revoke_serial(&unit_id, serial))
    };
    cloud.store.transact(revoke).await.unwrap();
    forbidden(&cloud, signed(&cloud, &key, one())).await;
    let (token, _) = cloud.flows.recovery_token(&cloud.unit.id).await.unwrap();
    cloud.store.deprovision(&cloud.unit.id, true).await.unwrap();
    forbidden(&cloud, with_token(&cloud, &token, one())).await;
    assert!(cloud.flows.recovery_token(&cloud.unit.id).await.is_err());
}

#[tokio::test]
async fn a_token_is_good_for_one_recovery() {
    let world = World::new();
    let cloud = world.cloud().await;
    let (lost, _) = cloud.flows.recovery_token(&cloud.unit.id).await.unwrap();
    let (token, ends) = cloud.flows.recovery_token(&cloud.unit.id).await.unwrap();
    assert!(ends > now_micros());
    let first = vec![wanted("offline", "main", csr(None))];
    forbidden(&cloud, with_token(&cloud, &lost, first.clone())).await;
    let answer = cloud.flows.recover(with_token(&cloud, &token, first.clone())).await.unwrap();
    assert_eq!(answer.certificates.len(), 1);
    let again = cloud.flows.recover(with_token(&cloud, &token, first)).await.unwrap();
    assert_eq!(again, answer, "the answer was lost");
    forbidden(&cloud, with_token(&cloud, &token, vec![wanted("offline", "main", csr(None))])).await;
}

#[tokio::test]
async fn a_unit_gets_only_so_many_in_a_day() {
    let world = World::new();
    let cloud = world.cloud().await;
    let key = offline_key(&world, &cloud).await;
    // One was issued at registration.
    for _ in 1..MAX_ISSUED {
        let request = signed(&cloud, &key, vec![wanted("online", "main", csr(None))]);
        assert_eq!(cloud.flows.recover(request).await.unwrap().certificates.len(), 1);
    }
    let request = signed(&cloud, &key, vec![wanted("online", "main", csr(None))]);
    let answer = cloud.flows.recover(request).await.unwrap();
    assert!(answer.refused[0].reason.contains("too many"), "{answer:?}");
}

// CLO-25
#[tokio::test]
async fn what_is_due_is_renewed_without_an_operator() {
    let patience = Patience { renew_at_percent: 1, ..Patience::default() };
    let mut world = World::patient(patience);
    let dir = tempfile::tempdir().unwrap();
    let lives = aos_cloud_pki::UnitLives { usual: 50, offline: 10_000_000 };
    let pki = Pki::open(&dir.path().join("pki"), &["localhost".to_owned()], now()).unwrap();
    world.pki = Arc::new(pki.with_unit_lives(lives));
    let cloud = world.cloud().await;
    let asked = || async {
        let waiting = cloud.waiting().await;
        waiting.iter().any(|one| matches!(one.body, Body::RenewCertificatesNotification(_)))
    };
    cloud.until(asked).await;
    let Body::RenewCertificatesNotification(wish) = cloud.take().await.body else { panic!() };
    let mut kinds: Vec<String> = wish.certificates.iter().map(|one| one.kind.as_str().to_owned()).collect();
    kinds.sort();
    assert_eq!(kinds, ["online", "sm"], "the offline one has time");
    assert_eq!(wish.unit_secrets.nodes[0].secret.expose(), "pin-main");
}
