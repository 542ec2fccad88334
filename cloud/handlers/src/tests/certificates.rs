//! Renewal of certificates.

use aos_cloud_protocol::{
    CertificateRequest, CertificateType, InstallUnitCertificatesConfirmation, InstalledCertificate,
    IssueUnitCertificates, IssuedUnitCertificates,
};
use aos_cloud_store::Renewal;
use aos_status::ErrorInfo;

use super::*;
use crate::{FlowError, NewRenewal};

fn request(kind: CertificateType, of: &str, csr: String) -> CertificateRequest {
    CertificateRequest { kind, node: node(of), csr }
}

fn requests(requests: Vec<CertificateRequest>) -> Body {
    Body::IssueUnitCertificates(IssueUnitCertificates { requests })
}

fn installed(kind: CertificateType, serial: &str, error: Option<&str>) -> Body {
    let error_info = error.map(|text| ErrorInfo { aos_code: 6, exit_code: 0, message: text.to_owned() });
    let one = InstalledCertificate { kind, node: node("main"), serial: serial.to_owned(), error_info };
    Body::InstallUnitCertificatesConfirmation(InstallUnitCertificatesConfirmation { certificates: vec![one] })
}

async fn issued(cloud: &Cloud) -> IssuedUnitCertificates {
    match cloud.take().await.body {
        Body::IssuedUnitCertificates(issued) => issued,
        other => panic!("{other:?}"),
    }
}

async fn renewal(cloud: &Cloud, id: &str) -> Renewal {
    cloud.store.renewal(&cloud.unit.id, id).await.unwrap().unwrap()
}

fn of_type(kind: CertType) -> NewRenewal {
    NewRenewal { types: vec![kind], ..NewRenewal::default() }
}

// D45
// PRO-93, PRO-94, PRO-96, PRO-97, PRO-98, PRO-122
// CLO-27
#[tokio::test]
async fn a_certificate_is_renewed_and_its_predecessor_ends_when_the_new_one_is_used() {
    let world = World::new();
    let cloud = world.cloud().await;
    let unit = &cloud.unit.id;
    let old = cloud.certificates().await.into_iter().find(|one| one.cert_type == "online").unwrap();
    let started = cloud.flows.renew_certificates(unit, of_type(CertType::Online)).await.unwrap();
    let row = cloud.store.outbox(unit, 0).await.unwrap().remove(0);
    assert!(row.sealed && !String::from_utf8_lossy(&row.body).contains("pin-main"));
    let sent = cloud.take().await;
    let Body::RenewCertificatesNotification(asked) = &sent.body else { panic!("{sent:?}") };
    assert_eq!(asked.certificates.len(), 1);
    assert_eq!(asked.certificates[0].serial.as_deref(), Some(old.serial.as_str()));
    assert_eq!(asked.unit_secrets.nodes[0].secret.expose(), "pin-main");

    let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).unwrap();
    let csr = csr_of(&key, Some("unit-1"));
    let message = Cloud::message(requests(vec![request(CertificateType::Online, "main", csr.clone())]), None);
    cloud.deliver(message.clone()).await;
    cloud.deliver(message).await;
    let first = issued(&cloud).await;
    assert_eq!(first.certificates.len(), 1);
    // The Unit lost the answer and asks again with the same key: it gets the same certificate.
    cloud.send(requests(vec![request(CertificateType::Online, "main", csr)])).await;
    assert_eq!(issued(&cloud).await, first);
    let held = cloud.certificates().await;
    let new = held.iter().find(|one| one.chain == first.certificates[0].certificate_chain).unwrap();
    assert_eq!(held.iter().filter(|one| one.cert_type == "online").count(), 2, "both are good");

    // The serial number in the form of another library.
    let told = format!("00{}", new.serial.to_uppercase());
    cloud.answer(installed(CertificateType::Online, &told, None), &sent).await;
    let ended = renewal(&cloud, &started.id).await;
    assert_eq!((ended.state.as_str(), ended.certificates[0].state.as_str()), ("done", "installed"));
    cloud.store.certificate_used(unit, &old.serial).await.unwrap();
    assert_eq!(cloud.certificates().await.len(), 4);
    cloud.store.certificate_used(unit, &new.serial).await.unwrap();
    let held = cloud.certificates().await;
    assert!(held.iter().any(|one| one.serial == new.serial));
    assert!(!held.iter().any(|one| one.serial == old.serial), "the old one is revoked");
}

// PRO-95, PRO-98
// CLO-27
#[tokio::test]
async fn what_was_not_asked_for_or_is_wrong_is_refused_and_noted() {
    let world = World::new();
    let cloud = world.cloud().await;
    let unit = &cloud.unit.id;
    let before = cloud.certificates().await;
    // Nothing is under way, and nothing ends soon.
    cloud.send(requests(vec![request(CertificateType::Online, "main", csr(None))])).await;
    assert!(issued(&cloud).await.certificates.is_empty());
    let both = NewRenewal { types: vec![CertType::Online, CertType::Sm], ..NewRenewal::default() };
    let started = cloud.flows.renew_certificates(unit, both).await.unwrap();
    cloud.take().await;
    cloud
        .send(requests(vec![
            request(CertificateType::Online, "main", csr(Some("another-unit"))),
            request(CertificateType::Sm, "rear", csr(None)),
            request(CertificateType::Iam, "main", csr(None)),
            request(CertificateType::Sm, "main", csr(None)),
            request(CertificateType::Other("odd".to_owned()), "main", csr(None)),
            request(CertificateType::Offline, "main", "no request".to_owned()),
        ]))
        .await;
    let answer = issued(&cloud).await;
    assert_eq!(answer.certificates.len(), 1);
    assert_eq!(answer.certificates[0].kind, CertificateType::Sm);
    assert_eq!(cloud.certificates().await.len(), before.len() + 1);
    assert_eq!(cloud.invalid().await.len(), 6);
    let open = renewal(&cloud, &started.id).await;
    let states: Vec<&str> = open.certificates.iter().map(|one| one.state.as_str()).collect();
    assert_eq!(states, ["refused", "issued"]);
    assert!(open.certificates[0].reason.as_ref().unwrap().contains("common name"));
    assert_eq!(open.state, "waiting");

    // The Unit cannot install it: the new certificate is void, the old one stays.
    cloud.send(installed(CertificateType::Sm, "", Some("key does not match"))).await;
    let ended = renewal(&cloud, &started.id).await;
    assert_eq!((ended.state.as_str(), ended.certificates[1].state.as_str()), ("failed", "failed"));
    let left: Vec<String> = cloud.certificates().await.into_iter().map(|one| one.serial).collect();
    assert_eq!(left, before.iter().map(|one| one.serial.clone()).collect::<Vec<_>>());
    cloud.send(installed(CertificateType::Sm, "1234", None)).await;
    assert_eq!(cloud.invalid().await.len(), 7, "a serial number of nobody, and no renewal");
}

#[tokio::test]
async fn a_renewal_needs_certificates_and_passwords_and_replaces_the_one_before() {
    let world = World::new();
    let cloud = world.cloud().await;
    let unit = &cloud.unit.id;
    let nothing = NewRenewal { nodes: vec!["rear".to_owned()], ..NewRenewal::default() };
    assert!(matches!(cloud.flows.renew_certificates(unit, nothing).await, Err(FlowError::Invalid(_))));
    let rear = world.issued(CertType::Sm, "rear");
    let id = unit.clone();
    cloud
        .store
        .transact(move |work| {
            let mut rear = rear;
            rear.holder = Holder::Unit(id);
            work.add_certificate(&rear)
        })
        .await
        .unwrap();
    let mut of_rear = NewRenewal { nodes: vec!["rear".to_owned()], ..NewRenewal::default() };
    let refused = cloud.flows.renew_certificates(unit, of_rear.clone()).await;
    assert!(matches!(refused, Err(FlowError::Invalid(text)) if text.contains("rear")));
    of_rear.secrets.insert("rear".to_owned(), "pin-rear".to_owned());
    let first = cloud.flows.renew_certificates(unit, of_rear.clone()).await.unwrap();
    of_rear.secrets.clear();
    cloud.flows.renew_certificates(unit, of_rear).await.unwrap();
    let sent = cloud.take().await;
    let Body::RenewCertificatesNotification(asked) = &sent.body else { panic!("{sent:?}") };
    assert_eq!(asked.unit_secrets.nodes[0].secret.expose(), "pin-rear", "it is known from before");
    assert_eq!(renewal(&cloud, &first.id).await.state, "failed");
}

#[tokio::test]
async fn what_is_signed_for_a_unit_is_bounded_and_a_late_failure_revokes_nothing() {
    let world = World::new();
    let cloud = world.cloud().await;
    let unit = &cloud.unit.id;
    let started = cloud.flows.renew_certificates(unit, of_type(CertType::Sm)).await.unwrap();
    cloud.take().await;
    let one = || request(CertificateType::Sm, "main", csr(None));
    cloud.send(requests(vec![one(), one(), one()])).await;
    assert_eq!(issued(&cloud).await.certificates.len(), 1, "one of a kind");
    assert_eq!(cloud.invalid().await.len(), 2);
    assert_eq!(renewal(&cloud, &started.id).await.certificates[0].state, "issued");
    // One at registration, one above.
    for _ in 2..16 {
        cloud.send(requests(vec![one()])).await;
        assert_eq!(issued(&cloud).await.certificates.len(), 1);
    }
    let last = cloud.certificates().await.into_iter().rfind(|one| one.cert_type == "sm").unwrap();
    cloud.send(installed(CertificateType::Sm, &last.serial, None)).await;
    assert_eq!(renewal(&cloud, &started.id).await.state, "done");

    let both = NewRenewal { types: vec![CertType::Online, CertType::Sm], ..NewRenewal::default() };
    let started = cloud.flows.renew_certificates(unit, both).await.unwrap();
    cloud.take().await;
    cloud.send(requests(vec![one()])).await;
    assert!(issued(&cloud).await.certificates.is_empty());
    let entry = renewal(&cloud, &started.id).await.certificates.remove(1);
    assert_eq!(entry.state, "refused");
    assert!(entry.reason.unwrap().contains("too many certificates"));

    cloud.send(requests(vec![request(CertificateType::Online, "main", csr(None))])).await;
    issued(&cloud).await;
    let serial = renewal(&cloud, &started.id).await.certificates[0].new_serial.clone().unwrap();
    let other = NewRenewal { types: vec![CertType::Online, CertType::Offline], ..NewRenewal::default() };
    let started = cloud.flows.renew_certificates(unit, other).await.unwrap();
    cloud.take().await;
    cloud.send(installed(CertificateType::Online, &serial, None)).await;
    cloud.send(installed(CertificateType::Online, "", Some("late"))).await;
    let open = renewal(&cloud, &started.id).await;
    let online = open.certificates.iter().find(|one| one.cert_type == "online").unwrap();
    assert_eq!((open.state.as_str(), online.state.as_str()), ("waiting", "installed"));
    assert!(cloud.certificates().await.iter().any(|one| one.serial == serial), "still good");
}
