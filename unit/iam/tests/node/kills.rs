//! SIGKILL before and after every durable write, every call that changes a token and every external program of
//! provisioning, renewal and deprovisioning. The steps are counted in a run without a kill; then each of them is where one run ends. The
//! client repeats the order that failed, as its author would, and everything has to come out as if nothing had
//! happened.

use std::path::Path;
use std::sync::Arc;

use aos_token::{AuthPin, Library, ObjectKind, SlotChoice};
use aos_unit_api::iamanager::v6::iam_certificate_service_client::IamCertificateServiceClient;
use aos_unit_api::iamanager::v6::iam_provisioning_service_client::IamProvisioningServiceClient;
use aos_unit_api::iamanager::v6::iam_public_cert_service_client::IamPublicCertServiceClient;
use aos_unit_api::iamanager::v7::iam_certificate_service_client::IamCertificateServiceClient as Certificates7;
use aos_unit_api::iamanager::{v6, v7};
use rustls::sign::CertifiedKey;
use serde_json::{Value, json};
use tonic::Status;
use tonic::transport::Channel;

use crate::authority::Authority;
use crate::rig::{
    Daemon, MODULE, PASSWORD, Rig, eventually, plain_channel, start, tls_channel, with_softhsm,
};

/// Elliptic curves only: RSA keys take half a second each.
fn prepare(rig: &Rig) {
    let (finished, deprovisioned) = (rig.path("finished"), rig.path("deprovisioned"));
    rig.prepare(|config| {
        let modules = config["certModules"].as_array_mut().unwrap();
        modules.remove(1);
        modules.remove(2);
        modules[2]["algorithm"] = json!("ecc");
        config["startProvisioningCmdArgs"] = json!(["true"]);
        config["diskEncryptionCmdArgs"] = json!(["true"]);
        config["finishProvisioningCmdArgs"] = json!(["touch", finished]);
        config["deprovisionCmdArgs"] = json!(["touch", deprovisioned]);
    });
}

/// A client that meets a daemon which may die, starts it again and repeats.
struct Client<'a> {
    rig: &'a Rig,
    mode: &'static str,
    key: Option<Arc<CertifiedKey>>,
    daemon: Option<Daemon>,
    deaths: u32,
}

impl<'a> Client<'a> {
    async fn new(rig: &'a Rig, mode: &'static str, key: Option<Arc<CertifiedKey>>, die_at: u64) -> Self {
        let daemon = rig.start_mortal(mode, die_at).await;
        let deaths = u32::from(daemon.is_none());
        Self { rig, mode, key, daemon, deaths }
    }

    /// A client of a daemon that does not die.
    fn healthy(rig: &'a Rig, mode: &'static str, key: Option<Arc<CertifiedKey>>) -> Self {
        Self { rig, mode, key, daemon: None, deaths: 0 }
    }

    /// Asks until there is an answer.
    async fn ask<T>(&mut self, mut call: impl AsyncFnMut(Channel) -> Result<T, Status>) -> T {
        for _ in 0..3 {
            if self.daemon.is_none() {
                self.daemon = Some(self.rig.start(self.mode).await);
            }
            let protected = &self.daemon.as_ref().unwrap().protected;
            let channel = match &self.key {
                None => plain_channel(protected),
                key => tls_channel(protected, &self.rig.path("root.pem"), key.clone()),
            };
            match call(channel).await {
                Ok(answer) => return answer,
                Err(status) => {
                    assert_ne!(status.code(), tonic::Code::Internal, "{status}");
                    self.daemon.take().unwrap().dead().await;
                    self.deaths += 1;
                }
            }
        }
        panic!("no answer")
    }

    async fn start_provisioning(&mut self) {
        let answer = self
            .ask(async |channel| {
                IamProvisioningServiceClient::new(channel).start_provisioning(start(PASSWORD)).await
            })
            .await;
        assert_eq!(answer.into_inner().error, None);
    }

    async fn update_roots(&mut self, authority: &Authority) {
        let roots = || v7::UpdateRootCertsRequest { root_certs: vec![authority.pem()], ..Default::default() };
        let answer =
            self.ask(async |channel| Certificates7::new(channel).update_root_certs(roots()).await).await;
        assert_eq!(answer.into_inner().error, None);
    }

    async fn issue(&mut self, authority: &Authority, cert_type: &str, year: i32) -> v6::CertInfo {
        let made = self
            .ask(async |channel| {
                let request = v6::CreateKeyRequest { r#type: cert_type.into(), ..Default::default() };
                IamCertificateServiceClient::new(channel).create_key(request).await
            })
            .await
            .into_inner();
        assert_eq!(made.error, None);
        let chain = authority.sign(&made.csr, year);
        let answer = self
            .ask(async |channel| {
                let request = v6::ApplyCertRequest {
                    r#type: cert_type.into(),
                    cert: chain.clone(),
                    ..Default::default()
                };
                IamCertificateServiceClient::new(channel).apply_cert(request).await
            })
            .await
            .into_inner();
        assert_eq!(answer.error, None);
        answer.cert_info.unwrap()
    }

    async fn finish(&mut self) {
        let finish = v6::FinishProvisioningRequest::default;
        let answer = self
            .ask(async |channel| {
                IamProvisioningServiceClient::new(channel).finish_provisioning(finish()).await
            })
            .await;
        assert_eq!(answer.into_inner().error, None);
    }

    /// Deprovisions. A repeated order may find the node unprovisioned already.
    async fn deprovision(&mut self) {
        let deprovision = v6::DeprovisionRequest::default;
        let answer = self
            .ask(async |channel| IamProvisioningServiceClient::new(channel).deprovision(deprovision()).await)
            .await;
        assert_eq!(answer.into_inner().error, None);
    }

    async fn latest(&mut self, cert_type: &str) -> v6::CertInfo {
        self.ask(async |channel| {
            let request = v6::GetCertRequest { r#type: cert_type.into(), ..Default::default() };
            IamPublicCertServiceClient::new(channel).get_cert(request).await
        })
        .await
        .into_inner()
    }

    /// Ends; returns how often the daemon died.
    async fn end(mut self) -> u32 {
        if let Some(daemon) = self.daemon.take() {
            self.deaths += u32::from(!daemon.stopped().await);
        }
        self.deaths
    }
}

/// What the tokens hold: certificates with keys, and anything else with a label.
fn tokens(rig: &Rig) -> (usize, usize) {
    inside(rig, &["aoscore", "aoscloud"])
}

/// The same of these tokens.
pub fn inside(rig: &Rig, labels: &[&str]) -> (usize, usize) {
    let pin = AuthPin::from(std::fs::read_to_string(rig.path("pins/user")).unwrap());
    let library = Library::open(MODULE).unwrap();
    // Another process has changed them.
    library.refresh().unwrap();
    let (mut complete, mut loose) = (0, 0);
    for label in labels {
        let token = library.find_token(&SlotChoice::Label((*label).into())).unwrap().unwrap();
        let objects = token.open(&pin).unwrap().list_objects(None).unwrap();
        let of = |kind: ObjectKind| objects.iter().filter(move |object| object.kind == kind);
        for object in objects.iter().filter(|object| !object.label.is_empty()) {
            let same = |kind| of(kind).filter(|other| other.id == object.id).count() == 1;
            let whole =
                same(ObjectKind::Certificate) && same(ObjectKind::PublicKey) && same(ObjectKind::PrivateKey);
            complete += usize::from(whole && object.kind == ObjectKind::Certificate);
            loose += usize::from(!whole);
        }
    }
    (complete, loose)
}

pub fn rows(rig: &Rig, table: &str) -> usize {
    let database = rusqlite::Connection::open(rig.path("work/iamanager.db")).unwrap();
    database.query_row(&format!("SELECT count(*) FROM {table}"), [], |row| row.get::<_, u32>(0)).unwrap()
        as usize
}

/// Every stored certificate can be used, nothing else is in the tokens and nothing waits.
fn nothing_lost_or_orphaned(rig: &Rig, certificates: usize, what: &str) {
    assert_eq!(tokens(rig), (certificates, 0), "{what}: certificates and loose objects in the tokens");
    assert_eq!(rows(rig, "certificates"), certificates, "{what}: rows");
    assert_eq!(rows(rig, "pendingkeys"), 0, "{what}: waiting keys");
}

fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy(&entry.path(), &target);
        } else if entry.file_type().unwrap().is_file() {
            std::fs::copy(entry.path(), target).unwrap();
        }
    }
}

/// What lasts, of this node and of one beside it.
const STATE: [&str; 7] = ["tokens", "work", "pins", "state", "second/work", "second/pins", "second/state"];

fn save(rig: &Rig) {
    let _ = std::fs::remove_dir_all(rig.path("saved"));
    for name in STATE {
        let (from, to) = (rig.path(name), rig.path("saved").join(name));
        if from.is_dir() {
            copy(&from, &to);
        } else if from.exists() {
            std::fs::create_dir_all(to.parent().unwrap()).unwrap();
            std::fs::copy(from, to).unwrap();
        }
    }
}

fn restore(rig: &Rig) {
    for name in STATE {
        let (from, to) = (rig.path("saved").join(name), rig.path(name));
        let _ = std::fs::remove_dir_all(&to);
        let _ = std::fs::remove_file(&to);
        if from.is_dir() {
            copy(&from, &to);
        } else if from.exists() {
            std::fs::copy(from, to).unwrap();
        }
    }
    std::fs::create_dir_all(rig.path("tokens")).unwrap();
}

/// Waits until the daemon has written its floor of time, so that no later run does.
pub async fn has_floor(rig: &Rig) {
    let file = rig.path("work/time-floor");
    eventually("the floor of time", async || file.exists().then_some(())).await;
}

/// Runs `story` once to count its steps, then once for every step to die at.
pub async fn at_every_step(rig: &Rig, story: impl AsyncFnMut(u64) -> u32) {
    at_every_step_of(rig, rig, story).await;
}

/// The same, where the node `mortal` beside `rig` dies.
pub async fn at_every_step_of(rig: &Rig, mortal: &Rig, mut story: impl AsyncFnMut(u64) -> u32) {
    save(rig);
    let _ = std::fs::remove_file(mortal.path("steps"));
    assert_eq!(story(0).await, 0);
    let names = std::fs::read_to_string(mortal.path("steps")).unwrap();
    let names: Vec<&str> = names.lines().collect();
    println!("{} steps", names.len());
    let mut died = 0;
    for (number, name) in (1..).zip(&names) {
        restore(rig);
        std::fs::write(rig.path("now"), format!("step {number}: {name}")).unwrap();
        died += story(number).await;
    }
    assert_eq!(died as usize, names.len(), "every step was one to die at");
}

pub fn now(rig: &Rig) -> String {
    std::fs::read_to_string(rig.path("now")).unwrap_or_default()
}

// IAM-23, IAM-24
// REL-24
#[test]
fn provisioning_completes_after_a_kill_at_every_step() {
    with_softhsm("kills::provisioning_completes_after_a_kill_at_every_step", async |rig| {
        prepare(&rig);
        let authority = Authority::new("Unit CA");
        std::fs::write(rig.path("root.pem"), authority.pem()).unwrap();
        at_every_step(&rig, async |die_at| {
            let mut client = Client::new(&rig, "provisioning", None, die_at).await;
            client.start_provisioning().await;
            client.update_roots(&authority).await;
            let mut serials: Vec<(&str, Value)> = Vec::new();
            for cert_type in ["online", "iam"] {
                let info = client.issue(&authority, cert_type, 2100).await;
                serials.push((cert_type, json!(info.serial)));
            }
            client.finish().await;
            for (cert_type, serial) in serials {
                let latest = client.latest(cert_type).await;
                assert_eq!(json!(latest.serial), serial, "{}", now(&rig));
                aos_token::load_identity(&latest.cert_url, &latest.key_url).unwrap();
            }
            client.latest("diskencryption").await;
            let deaths = client.end().await;
            assert_eq!(std::fs::read_to_string(rig.path("state")).unwrap(), "provisioned");
            let (complete, loose) = tokens(&rig);
            assert_eq!(complete, 3, "{}", now(&rig));
            if loose > 0 {
                // What a kill left behind goes with the next key of its type.
                let mut renewing = Client::healthy(&rig, "normal", Some(authority.client()));
                for cert_type in ["online", "iam"] {
                    renewing.issue(&authority, cert_type, 2101).await;
                }
                renewing.end().await;
            }
            nothing_lost_or_orphaned(&rig, if loose > 0 { 5 } else { 3 }, &now(&rig));
            deaths
        })
        .await;
    });
}

// IAM-07, IAM-26
// REL-24
#[test]
fn renewal_completes_after_a_kill_at_every_step() {
    with_softhsm("kills::renewal_completes_after_a_kill_at_every_step", async |rig| {
        prepare(&rig);
        let authority = Authority::new("Unit CA");
        rig.provision(&authority).await;
        // The next one takes the place of the oldest.
        let mut client = Client::healthy(&rig, "normal", Some(authority.client()));
        client.issue(&authority, "iam", 2101).await;
        has_floor(&rig).await;
        client.end().await;
        at_every_step(&rig, async |die_at| {
            let mut client = Client::new(&rig, "normal", Some(authority.client()), die_at).await;
            let before = client.latest("iam").await;
            aos_token::load_identity(&before.cert_url, &before.key_url).unwrap();
            let new = client.issue(&authority, "iam", 2102).await;
            let latest = client.latest("iam").await;
            assert_eq!(latest.serial, new.serial, "{}", now(&rig));
            let deaths = client.end().await;
            // A kill while the oldest goes may leave parts of it until the next renewal.
            let mut renewing = Client::healthy(&rig, "normal", Some(authority.client()));
            let next = renewing.issue(&authority, "iam", 2103).await;
            renewing.end().await;
            nothing_lost_or_orphaned(&rig, 4, &now(&rig));
            aos_token::load_identity(&next.cert_url, &next.key_url).unwrap();
            deaths
        })
        .await;
    });
}

// IAM-25
// REL-24
#[test]
fn deprovisioning_completes_after_a_kill_at_every_step() {
    with_softhsm("kills::deprovisioning_completes_after_a_kill_at_every_step", async |rig| {
        prepare(&rig);
        let authority = Authority::new("Unit CA");
        rig.provision(&authority).await;
        let daemon = rig.start("normal").await;
        has_floor(&rig).await;
        daemon.stop().await;
        at_every_step(&rig, async |die_at| {
            let mut client = Client::new(&rig, "normal", Some(authority.client()), die_at).await;
            client.deprovision().await;
            let deaths = client.end().await;
            assert!(!rig.path("state").exists(), "{}", now(&rig));
            assert!(rig.path("deprovisioned").exists());
            let mut client = Client::healthy(&rig, "provisioning", None);
            client.start_provisioning().await;
            client.issue(&authority, "online", 2100).await;
            client.end().await;
            nothing_lost_or_orphaned(&rig, 2, &now(&rig));
            deaths
        })
        .await;
    });
}
