//! SIGKILL at every step of a node that is not the main one, of the main node while it works for that node, and
//! of exchanges with the cloud. Steps are enumerated as in [`kills`](crate::kills). A node starts again in the mode
//! that its state asks for, as its units do it.

use std::time::Duration;

use aos_unit_api::iamanager::v6;
use aos_unit_api::iamanager::v6::iam_certificate_service_client::IamCertificateServiceClient;
use aos_unit_api::iamanager::v6::iam_provisioning_service_client::IamProvisioningServiceClient;
use serde_json::json;
use tonic::transport::Channel;

use crate::authority::Authority;
use crate::kills::{at_every_step, at_every_step_of, has_floor, inside, now, rows};
use crate::recovery::{Unit, newest, newest_at};
use crate::rig::{Daemon, Rig, eventually, with_softhsm};
use crate::secondary::{self, ID};

/// A daemon that may die and is started again.
struct Mortal<'a> {
    rig: &'a Rig,
    daemon: Option<Daemon>,
    deaths: u32,
}

fn mode(rig: &Rig) -> &'static str {
    if rig.path("state").exists() { "normal" } else { "provisioning" }
}

impl<'a> Mortal<'a> {
    async fn start(rig: &'a Rig, die_at: u64) -> Self {
        let daemon = rig.start_mortal(mode(rig), die_at).await;
        let deaths = u32::from(daemon.is_none());
        Self { rig, daemon, deaths }
    }

    /// Does `work` while the daemon is kept running. A start is never broken off.
    async fn during<T>(&mut self, work: impl Future<Output = T>) -> T {
        let mut work = std::pin::pin!(work);
        loop {
            if self.daemon.as_mut().is_none_or(Daemon::has_ended) {
                self.deaths += u32::from(self.daemon.take().is_some());
                self.daemon = Some(self.rig.start(mode(self.rig)).await);
            }
            tokio::select! {
                done = &mut work => return done,
                () = tokio::time::sleep(Duration::from_millis(20)) => {}
            }
        }
    }

    /// Ends it in order; returns how often it died.
    async fn end(self) -> u32 {
        match self.daemon {
            Some(daemon) => self.deaths + u32::from(!daemon.stopped().await),
            None => self.deaths,
        }
    }
}

/// A Unit whose keys are made quickly.
async fn unit(rig: &Rig, sign: impl Fn(&Authority, &str, &str) -> String) -> Unit {
    let quick = |config: &mut serde_json::Value| {
        let modules = config["certModules"].as_array_mut().unwrap();
        modules.truncate(3);
        modules[1]["algorithm"] = json!("ecc");
        config["authorizeCallers"] = json!(false);
    };
    Unit::new(rig, quick, sign).await
}

fn until_2100(authority: &Authority, _: &str, csr: &str) -> String {
    authority.sign(csr, 2100)
}

/// Both tokens' worth of the second node: nothing but complete certificates, as many as rows.
fn whole(unit: &Unit, certificates: usize, what: &str) {
    assert_eq!(
        inside(&unit.second, &["second"]),
        (certificates, 0),
        "{what}: certificates and loose objects"
    );
    assert_eq!(rows(&unit.second, "certificates"), certificates, "{what}: rows");
    assert_eq!(rows(&unit.second, "pendingkeys"), 0, "{what}: waiting keys");
}

/// Has the second node make a key and store its certificate.
async fn renew(unit: &Unit, orders: &Channel, cert_type: &str) {
    let mut client = IamCertificateServiceClient::new(orders.clone());
    let request = v6::CreateKeyRequest { node_id: ID.into(), r#type: cert_type.into(), ..Default::default() };
    let made = client.create_key(request).await.unwrap().into_inner();
    assert_eq!(made.error, None);
    let cert = unit.authority.sign(&made.csr, 2100);
    let request = v6::ApplyCertRequest { node_id: ID.into(), r#type: cert_type.into(), cert };
    assert_eq!(client.apply_cert(request).await.unwrap().into_inner().error, None);
}

// REL-24
#[test]
fn a_node_is_provisioned_through_the_main_one_whenever_it_dies() {
    with_softhsm(
        "kills_elsewhere::a_node_is_provisioned_through_the_main_one_whenever_it_dies",
        async |rig| {
            let unit = unit(&rig, until_2100).await;
            unit.prepare_second(|config| config["recoveryUrl"] = json!("none"));
            at_every_step_of(&rig, &unit.second, async |die_at| {
                let main = rig.start("normal").await;
                let mut node = Mortal::start(&unit.second, die_at).await;
                let orders = unit.orders(&rig);
                let work = async {
                    secondary::becomes(&orders, "unprovisioned").await;
                    secondary::provision_with(&orders, &unit.authority.pem(), |csr| {
                        unit.authority.sign(csr, 2100)
                    })
                    .await;
                };
                node.during(work).await;
                let deaths = node.end().await;
                assert_eq!(
                    std::fs::read_to_string(unit.second.path("state")).unwrap(),
                    "provisioned",
                    "{}",
                    now(&rig)
                );
                let healthy = unit.second.start("normal").await;
                secondary::becomes(&orders, "provisioned").await;
                let (_, loose) = inside(&unit.second, &["second"]);
                if loose > 0 {
                    // What a death left behind goes with the next key of its type.
                    for cert_type in ["iam", "sm"] {
                        renew(&unit, &orders, cert_type).await;
                    }
                }
                healthy.stop().await;
                main.stop().await;
                whole(&unit, if loose > 0 { 4 } else { 2 }, &now(&rig));
                deaths
            })
            .await;
        },
    );
}

// REL-24
#[test]
fn a_node_is_renewed_and_taken_back_through_the_main_one_whenever_it_dies() {
    with_softhsm(
        "kills_elsewhere::a_node_is_renewed_and_taken_back_through_the_main_one_whenever_it_dies",
        async |rig| {
            let unit = unit(&rig, until_2100).await;
            let main = rig.start("normal").await;
            unit.prepare_second(|config| config["recoveryUrl"] = json!("none"));
            unit.provision_second(&rig, |authority, csr| authority.sign(csr, 2100)).await;
            main.stop().await;
            at_every_step_of(&rig, &unit.second, async |die_at| {
                let main = rig.start("normal").await;
                let mut node = Mortal::start(&unit.second, die_at).await;
                let orders = unit.orders(&rig);
                let work = async {
                    secondary::becomes(&orders, "provisioned").await;
                    renew(&unit, &orders, "sm").await;
                    renew(&unit, &orders, "sm").await;
                };
                node.during(work).await;
                let deaths = node.end().await;
                // A death may leave a part of what it interrupted until the next key.
                let healthy = unit.second.start("normal").await;
                secondary::becomes(&orders, "provisioned").await;
                renew(&unit, &orders, "sm").await;
                healthy.stop().await;
                whole(&unit, 3, &now(&rig));
                main.stop().await;
                deaths
            })
            .await;
            at_every_step_of(&rig, &unit.second, async |die_at| {
                let main = rig.start("normal").await;
                let mut node = Mortal::start(&unit.second, die_at).await;
                let orders = unit.orders(&rig);
                let work = async {
                    secondary::becomes(&orders, "provisioned").await;
                    let mut client = IamProvisioningServiceClient::new(orders.clone());
                    let request = v6::DeprovisionRequest { node_id: ID.into(), password: String::new() };
                    let done = client.deprovision(request).await.unwrap().into_inner();
                    assert_eq!(done.error, None, "{}", now(&rig));
                    secondary::becomes(&orders, "unprovisioned").await;
                };
                node.during(work).await;
                assert!(!unit.second.path("state").exists());
                main.stop().await;
                node.end().await
            })
            .await;
        },
    );
}

// REL-24
#[test]
fn the_main_node_may_die_whenever_it_works_for_another() {
    with_softhsm("kills_elsewhere::the_main_node_may_die_whenever_it_works_for_another", async |rig| {
        let unit = unit(&rig, until_2100).await;
        let main = rig.start("normal").await;
        has_floor(&rig).await;
        main.stop().await;
        unit.prepare_second(|config| config["recoveryUrl"] = json!("none"));
        at_every_step(&rig, async |die_at| {
            let mut main = Mortal::start(&rig, die_at).await;
            let mut node = Mortal::start(&unit.second, 0).await;
            let orders = unit.orders(&rig);
            let work = async {
                // The client repeats what failed with the main node.
                loop {
                    secondary::becomes(&orders, "unprovisioned").await;
                    if node.during(provisioned(&unit, &orders)).await {
                        break;
                    }
                    if unit.second.path("state").exists() {
                        break;
                    }
                }
                node.during(async {
                    eventually("state", async || unit.second.path("state").exists().then_some(())).await;
                })
                .await;
            };
            main.during(work).await;
            node.end().await;
            let healthy = unit.second.start("normal").await;
            main.during(secondary::becomes(&orders, "provisioned")).await;
            healthy.stop().await;
            whole(&unit, 2, &now(&rig));
            main.end().await
        })
        .await;
    });
}

/// One try to provision the second node; `false` when the main node went away.
async fn provisioned(unit: &Unit, orders: &Channel) -> bool {
    let mut client = IamProvisioningServiceClient::new(orders.clone());
    let start = v6::StartProvisioningRequest { node_id: ID.into(), password: crate::rig::PASSWORD.into() };
    if client.start_provisioning(start).await.is_err() {
        return false;
    }
    for cert_type in ["iam", "sm"] {
        let mut certificates = IamCertificateServiceClient::new(orders.clone());
        let request =
            v6::CreateKeyRequest { node_id: ID.into(), r#type: cert_type.into(), ..Default::default() };
        let Ok(made) = certificates.create_key(request).await else { return false };
        let cert = unit.authority.sign(&made.into_inner().csr, 2100);
        let request = v6::ApplyCertRequest { node_id: ID.into(), r#type: cert_type.into(), cert };
        if certificates.apply_cert(request).await.is_err() {
            return false;
        }
    }
    let finish = v6::FinishProvisioningRequest { node_id: ID.into(), ..Default::default() };
    client.finish_provisioning(finish).await.is_ok()
}

/// Whether the floor of time was raised to what was issued just now.
fn knows_the_time(rig: &Rig) -> bool {
    let text = std::fs::read_to_string(rig.path("work/time-floor")).unwrap_or_default();
    let year_2025 = 1_735_689_600;
    text.trim().parse::<i64>().is_ok_and(|floor| floor > year_2025)
}

// REL-24, REL-25
#[test]
fn what_has_ended_is_recovered_whenever_the_main_node_dies() {
    with_softhsm("kills_elsewhere::what_has_ended_is_recovered_whenever_the_main_node_dies", async |rig| {
        let sign = |authority: &Authority, cert_type: &str, csr: &str| match cert_type {
            "offline" => authority.sign(csr, 2100),
            _ => authority.sign_ended(csr),
        };
        let unit = unit(&rig, sign).await;
        at_every_step(&rig, async |die_at| {
            let mut main = Mortal::start(&rig, die_at).await;
            let work = eventually("new certificates and the time", async || {
                for cert_type in ["online", "iam"] {
                    newest_at(&rig, &unit.public, cert_type).await?;
                    stored(&rig, cert_type)?;
                }
                (knows_the_time(&rig)).then_some(())
            });
            main.during(work).await;
            let deaths = main.end().await;
            let healthy = rig.start("normal").await;
            newest(&rig, &healthy, "iam").await.unwrap();
            healthy.stop().await;
            let (complete, loose) = inside(&rig, &["aoscore", "aoscloud"]);
            assert_eq!(complete, rows(&rig, "certificates"), "{}", now(&rig));
            // A key whose certificate was lost with its answer waits for the next exchange, as do parts of it.
            assert!(complete >= 5 && loose <= 2 * 3, "{complete} {loose} {}", now(&rig));
            deaths
        })
        .await;
    });
}

/// Whether a certificate is stored that has not ended.
fn stored(rig: &Rig, cert_type: &str) -> Option<()> {
    let database = rusqlite::Connection::open(rig.path("work/iamanager.db")).unwrap();
    let sql = "SELECT count(*) FROM certificates WHERE type = ?1 AND notAfter > ?2";
    let year_2025 = 1_735_689_600_i64 * 1_000_000_000;
    let count: u32 = database.query_row(sql, (cert_type, year_2025), |row| row.get(0)).ok()?;
    (count > 0).then_some(())
}

/// Whether the second node has what it needs.
fn recovered(unit: &Unit) -> Option<()> {
    for cert_type in ["iam", "sm"] {
        stored(&unit.second, cert_type)?;
    }
    knows_the_time(&unit.second).then_some(())
}

/// A Unit whose second node has certificates that have ended; nothing runs.
async fn unit_with_ended(rig: &Rig) -> Unit {
    let unit = unit(rig, until_2100).await;
    let main = rig.start("normal").await;
    has_floor(rig).await;
    unit.prepare_second(|_| {});
    unit.provision_second(rig, Authority::sign_ended).await;
    main.stop().await;
    unit
}

fn whole_after_recovery(unit: &Unit, what: &str) {
    let (complete, loose) = inside(&unit.second, &["second"]);
    assert_eq!(complete, rows(&unit.second, "certificates"), "{what}");
    assert!(complete >= 3 && loose <= 2 * 3, "{complete} {loose} {what}");
}

// REL-24, REL-25
#[test]
fn what_has_ended_is_recovered_whenever_the_node_dies() {
    with_softhsm("kills_elsewhere::what_has_ended_is_recovered_whenever_the_node_dies", async |rig| {
        let unit = unit_with_ended(&rig).await;
        at_every_step_of(&rig, &unit.second, async |die_at| {
            let main = rig.start("normal").await;
            let mut node = Mortal::start(&unit.second, die_at).await;
            node.during(eventually("the second node", async || recovered(&unit))).await;
            let deaths = node.end().await;
            main.stop().await;
            whole_after_recovery(&unit, &now(&rig));
            deaths
        })
        .await;
    });
}

// REL-24, REL-25
#[test]
fn what_has_ended_is_recovered_whenever_the_main_node_dies_between() {
    with_softhsm(
        "kills_elsewhere::what_has_ended_is_recovered_whenever_the_main_node_dies_between",
        async |rig| {
            let unit = unit_with_ended(&rig).await;
            at_every_step(&rig, async |die_at| {
                let mut main = Mortal::start(&rig, die_at).await;
                let node = unit.second.start("normal").await;
                main.during(eventually("the second node", async || recovered(&unit))).await;
                node.stop().await;
                whole_after_recovery(&unit, &now(&rig));
                main.end().await
            })
            .await;
        },
    );
}
