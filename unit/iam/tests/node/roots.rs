//! What peers are checked with: roots that are replaced while everything runs, and a clock that is behind.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use aos_unit_api::iamanager::v6;
use aos_unit_api::iamanager::v6::iam_provisioning_service_client::IamProvisioningServiceClient;
use aos_unit_api::iamanager::v7;
use aos_unit_api::iamanager::v7::iam_certificate_service_client::IamCertificateServiceClient as Certificates7;
use tonic::Status;
use tonic::transport::Channel;

use crate::authority::Authority;
use crate::recovery::{Unit, newest};
use crate::rig::{Rig, apply_on, eventually, tls_channel, with_softhsm};
use crate::secondary::{self, ID};

async fn types(channel: Channel) -> Result<Vec<String>, Status> {
    let mut client = IamProvisioningServiceClient::new(channel);
    Ok(client.get_cert_types(v6::GetCertTypesRequest::default()).await?.into_inner().types)
}

async fn give_root(orders: &Channel, node: &str, root: &str) {
    let request = v7::UpdateRootCertsRequest { node_id: node.into(), root_certs: vec![root.to_owned()] };
    let answer = Certificates7::new(orders.clone()).update_root_certs(request).await.unwrap();
    assert_eq!(answer.into_inner().error, None);
}

// A fleet moves to another root: nobody is restarted, nobody is locked out.
#[test]
fn new_roots_count_on_all_nodes_without_a_restart() {
    with_softhsm("roots::new_roots_count_on_all_nodes_without_a_restart", async |rig| {
        let unit = Unit::new(&rig, |_| {}, |authority, _, csr| authority.sign(csr, 2100)).await;
        let main = rig.start("normal").await;
        unit.prepare_second(|_| {});
        unit.provision_second(&rig, |authority, csr| authority.sign(csr, 2100)).await;
        let node = unit.second.start("normal").await;
        let orders = unit.orders(&rig);
        let node_types = async || {
            let mut client = IamProvisioningServiceClient::new(orders.clone());
            let request = v6::GetCertTypesRequest { node_id: ID.into() };
            client.get_cert_types(request).await.ok().map(|types| types.into_inner().types)
        };
        assert_eq!(node_types().await.unwrap(), ["iam", "sm"]);

        let new = Authority::new("Another CA");
        let root = rig.path("root.pem");
        let stranger = tls_channel(&unit.protected, &root, Some(new.client()));
        types(stranger.clone()).await.unwrap_err();
        for node in [ID, ""] {
            give_root(&orders, node, &new.pem()).await;
        }
        // Servers: a client of the new authority comes in, those of the old one as before.
        assert_eq!(types(stranger).await.unwrap().len(), 4);
        types(unit.orders(&rig)).await.unwrap();
        // Clients: the second node follows its main node to a certificate of the new authority.
        let request = v6::CreateKeyRequest { r#type: "iam".into(), ..Default::default() };
        let mut certificates =
            v6::iam_certificate_service_client::IamCertificateServiceClient::new(orders.clone());
        let made = certificates.create_key(request).await.unwrap().into_inner();
        assert_eq!(made.error, None);
        assert_eq!(apply_on(orders.clone(), "iam", &new.sign(&made.csr, 2200)).await.error, None);
        eventually("the new certificate", async || {
            let new_only = rig.path("new.pem");
            std::fs::write(&new_only, new.pem()).unwrap();
            types(tls_channel(&unit.protected, &new_only, Some(new.client()))).await.ok()
        })
        .await;
        node.stop().await;
        let node = unit.second.start("normal").await;
        eventually("the second node under the new root", node_types).await;
        secondary::becomes(&orders, "provisioned").await;
        node.stop().await;
        main.stop().await;
    });
}

fn floor(rig: &Rig) -> Option<u64> {
    std::fs::read_to_string(rig.path("work/time-floor")).ok()?.trim().parse().ok()
}

// The clock is a day behind: the certificates begin tomorrow.
// REL-25
#[test]
fn certificates_that_begin_tomorrow_say_what_time_it_is() {
    with_softhsm("roots::certificates_that_begin_tomorrow_say_what_time_it_is", async |rig| {
        let now = SystemTime::now();
        let (tomorrow, year) = (now + Duration::from_hours(24), now + Duration::from_hours(365 * 24));
        let sign = |authority: &Authority, _: &str, csr: &str| {
            authority.sign_from(csr, tomorrow, year) + &authority.pem()
        };
        let unit = Unit::new(&rig, |_| {}, sign).await;
        let expected = tomorrow.duration_since(UNIX_EPOCH).unwrap().as_secs();
        for _ in 0..2 {
            let main = rig.start("normal").await;
            // It serves with such a certificate and takes such a client.
            newest(&rig, &main, "iam").await.unwrap();
            let client = |until| unit.authority.client_valid("anybody", tomorrow, until);
            let root = rig.path("root.pem");
            types(tls_channel(&unit.protected, &root, Some(client(year)))).await.unwrap();
            eventually("the floor", async || floor(&rig).filter(|floor| *floor >= expected)).await;
            assert!(floor(&rig).unwrap() < expected + 3600, "running time alone is added");
            // What ends today by this clock has ended for it.
            let today = unit.authority.client_valid("anybody", now, now + Duration::from_hours(12));
            types(tls_channel(&unit.protected, &root, Some(today))).await.unwrap_err();
            main.stop().await;
        }
    });
}
