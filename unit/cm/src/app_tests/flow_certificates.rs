//! Renewal of certificates, from the cloud's notification to the confirmation.

use aos_cloud_protocol::{
    Alert, AosIdentity, CertificateToRenew, CertificateType, InstallUnitCertificatesConfirmation,
    IssuedCertificate, IssuedUnitCertificates, NodeSecret, RenewCertificatesNotification, Secret,
    UnitSecrets,
};
use aos_status::ErrorInfo;

use super::*;

const ID: Option<&str> = Some("0b1f3a58-4d5e-4c90-8a43-7d5f4a2e9c10");

fn kind(word: &str) -> CertificateType {
    CertificateType::from(word.to_owned())
}

fn renew(list: &[(&str, &str)], secrets: &[(&str, &str)]) -> Body {
    let certificates = list.iter().map(|(node, word)| CertificateToRenew {
        kind: kind(word),
        node: AosIdentity::by_codename(*node),
        serial: None,
        valid_till: None,
    });
    let nodes = secrets.iter().map(|(node, secret)| NodeSecret {
        node: AosIdentity::by_codename(*node),
        secret: Secret::new(*secret),
    });
    Body::RenewCertificatesNotification(RenewCertificatesNotification {
        certificates: certificates.collect(),
        unit_secrets: UnitSecrets { nodes: nodes.collect(), ..UnitSecrets::default() },
    })
}

fn issued(list: &[(&str, &str)]) -> Body {
    let certificates = list.iter().map(|(node, word)| IssuedCertificate {
        kind: kind(word),
        node: AosIdentity::by_codename(*node),
        certificate_chain: "pem".into(),
    });
    Body::IssuedUnitCertificates(IssuedUnitCertificates { certificates: certificates.collect() })
}

fn lines(confirmation: &InstallUnitCertificatesConfirmation) -> Vec<String> {
    let line = |one: &aos_cloud_protocol::InstalledCertificate| {
        let outcome = one.error_info.as_ref().map_or(one.serial.clone(), |error| error.message.clone());
        format!("{} {} {outcome}", one.node.key().unwrap(), one.kind)
    };
    confirmation.certificates.iter().map(line).collect()
}

impl World {
    async fn confirmation(&mut self) -> Vec<String> {
        let envelope = self.cloud.answer().await;
        assert_eq!(envelope.correlation_id.as_deref(), ID);
        match envelope.body {
            Body::InstallUnitCertificatesConfirmation(confirmation) => lines(&confirmation),
            other => panic!("{other:?}"),
        }
    }
}

// PRO-93 to PRO-98, PRO-122: a renewal, with an entry that has no secret and one that IAM refuses.
#[tokio::test]
async fn certificates_are_renewed() {
    in_time!(async {
        let mut world = World::new().await;
        world.iam.orders.with_rear("provisioned");
        world.cloud.connected().await;
        world.iam.orders.refuse("key main cm one", ErrorInfo::new(AosCode::NotFound, "no such type"));
        let list = [("main", "online"), ("rear", "sm"), ("lost", "iam"), ("main", "cm"), ("main", "online")];
        world.cloud.send_as(renew(&list, &[("main", "one"), ("rear", "two")]), ID).await;
        let envelope = world.cloud.answer().await;
        assert_eq!(envelope.correlation_id.as_deref(), ID);
        let Body::IssueUnitCertificates(requests) = envelope.body else { panic!("{envelope:?}") };
        let csrs: Vec<&str> = requests.requests.iter().map(|one| one.csr.as_str()).collect();
        assert_eq!(csrs, ["csr of main online", "csr of rear sm"]);
        assert_eq!(
            world.confirmation().await,
            ["lost iam no secret for this node", "main cm no such type"],
            "what is not renewed is told"
        );
        assert_eq!(world.iam.orders.take(), ["key main online one", "key rear sm two", "key main cm one"]);
        let told = loop {
            if let Body::Alerts(alerts) = world.cloud.next().await.body {
                break alerts.items;
            }
        };
        assert!(matches!(&told[0], Alert::CoreAlert(alert) if alert.message.contains("iam of lost")));

        world.iam.orders.refuse("apply rear sm pem", ErrorInfo::new(AosCode::Failed, "key does not match"));
        let list = [("main", "iam"), ("main", "online"), ("rear", "iam"), ("rear", "sm")];
        world.cloud.send_as(issued(&list), ID).await;
        assert_eq!(
            world.confirmation().await,
            ["rear sm key does not match", "rear iam 0abc", "main online 0abc", "main iam 0abc"]
        );
        assert_eq!(
            world.iam.orders.take(),
            ["apply rear sm pem", "apply rear iam pem", "apply main online pem", "apply main iam pem"]
        );

        // Nothing to do is nothing to answer.
        world.cloud.send_as(renew(&[], &[]), ID).await;
        world.cloud.send_as(issued(&[]), ID).await;
        world.cloud.send_as(issued(&[("main", "sm")]), ID).await;
        assert_eq!(world.confirmation().await, ["main sm 0abc"]);
    });
}

// REL-02: killed in the middle of each half, the renewal goes on and is confirmed once.
#[tokio::test]
async fn a_renewal_survives_a_crash() {
    in_time!(async {
        let mut world = World::new().await;
        world.cloud.connected().await;
        world.iam.orders.hang(Some("key main iam one"));
        let list = [("main", "online"), ("main", "iam")];
        let txn = world.cloud.send_as(renew(&list, &[("main", "one")]), ID).await;
        world.cloud.acknowledged(&txn).await;
        world.iam.orders.wait_for("key main iam one").await;
        world.kill().await;
        world.iam.orders.hang(Some("apply main iam pem"));
        world.start();
        world.cloud.connected().await;
        let Body::IssueUnitCertificates(requests) = world.cloud.answer().await.body else {
            panic!("requests")
        };
        assert_eq!(requests.requests.len(), 2);

        let txn = world.cloud.send_as(issued(&list), ID).await;
        world.cloud.acknowledged(&txn).await;
        world.iam.orders.wait_for("apply main iam pem").await;
        world.kill().await;
        world.iam.orders.hang(None);
        world.start();
        world.cloud.connected().await;
        assert_eq!(world.confirmation().await, ["main online 0abc", "main iam 0abc"]);
        world.cloud.send_as(issued(&[("main", "cm")]), ID).await;
        assert_eq!(world.confirmation().await, ["main cm 0abc"], "nothing was confirmed twice");
        for ending in ["", "-wal"] {
            let file = format!("{}{ending}", world.config.database().display());
            let bytes = std::fs::read(file).unwrap();
            let secret = b"\"secret\":\"one\"";
            assert!(!bytes.windows(secret.len()).any(|part| part == secret), "no secret stays{ending}");
        }
    });
}

// CM-32, CM-35, D13: the link stays until the confirmation of all certificates is acknowledged, then it is opened
// anew with the new certificate. Orders go to IAM's protected services, the news come from its public ones.
#[tokio::test]
async fn the_confirmation_comes_before_the_new_link() {
    in_time!(async {
        let mut world = World::new().await;
        world.cloud.connected().await;
        let serial = |document: &Value| {
            let all = document["certificates"].as_array().unwrap().clone();
            all.into_iter().find(|one| one["type"] == "online").map(|one| one["serial"].clone())
        };
        let before = serial(&world.document().await);
        world.iam.orders.hang(Some("apply main iam pem"));
        world.cloud.send_as(issued(&[("main", "iam"), ("main", "online")]), ID).await;
        world.iam.orders.wait_for("apply main online pem").await;
        world.iam.renew(&world.pki, "online");
        world.until(|document| serial(document) != before).await;
        world.iam.orders.hang(None);
        assert_eq!(world.confirmation().await, ["main online 0abc", "main iam 0abc"], "on the same link");
        world.cloud.connected().await;
    });
}
