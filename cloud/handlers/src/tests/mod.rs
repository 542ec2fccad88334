//! The flows on a real store, through the broker, with a Unit that is played by the test.

mod certificates;
mod crash;
mod logs;
mod nodes;
mod recovery;
mod states;
mod statuses;

use std::sync::Arc;
use std::time::Duration;

use aos_cloud_blobs::{Blobs, Counter};
use aos_cloud_broker::{Answer, Broker, Origin, Outcome};
use aos_cloud_pki::{CertType, Pki, Request};
use aos_cloud_protocol::{AosIdentity, Body, Envelope};
use aos_cloud_store::{
    Certificate, Holder, NewAccount, NewCertificate, NewNode, NewUnit, Role, Store, Unit, now_micros,
};
use aos_ids::SystemId;
use jiff::Timestamp;
use rcgen::{CertificateParams, KeyPair, PKCS_ECDSA_P256_SHA256};
use tokio::task::JoinHandle;

use crate::{Addresses, Flows, Handlers, Patience};

const ITEM: &str = "3f0c6a52-8d1e-4b7a-9c35-6e2f1d0a7b41";
const SUBJECT: &str = "c5a9e1b3-7264-4d08-b1f6-90e8d3a2c714";

/// Folder and authority: what survives a crash of the cloud.
struct World {
    dir: tempfile::TempDir,
    pki: Arc<Pki>,
    patience: Patience,
}

/// A running cloud; dropped it is gone as if it had crashed.
struct Cloud {
    store: Store,
    flows: Flows,
    broker: Broker,
    unit: Unit,
    running: JoinHandle<()>,
}

impl Drop for Cloud {
    fn drop(&mut self) {
        self.running.abort();
    }
}

fn now() -> i64 {
    now_micros() / 1_000_000
}

/// A key with a request for it.
fn csr(common_name: Option<&str>) -> String {
    let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).unwrap();
    csr_of(&key, common_name)
}

fn csr_of(key: &KeyPair, common_name: Option<&str>) -> String {
    let mut params = CertificateParams::default();
    params.distinguished_name = rcgen::DistinguishedName::new();
    if let Some(name) = common_name {
        params.distinguished_name.push(rcgen::DnType::CommonName, name);
    }
    params.serialize_request(key).unwrap().pem().unwrap()
}

fn node(id: &str) -> AosIdentity {
    AosIdentity::by_codename(id)
}

impl World {
    fn new() -> Self {
        Self::patient(Patience::default())
    }

    fn patient(patience: Patience) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let pki = Pki::open(&dir.path().join("pki"), &["localhost".to_owned()], now()).unwrap();
        Self { dir, pki: Arc::new(pki), patience }
    }

    /// Starts a cloud on what is on disk; the Unit is registered at the first start.
    async fn cloud(&self) -> Cloud {
        let store = Store::open(&self.dir.path().join("cloud.db")).unwrap();
        let unit = match store.unit("unit-1").await.unwrap() {
            Some(unit) => unit,
            None => self.register(&store).await,
        };
        let addresses = Addresses {
            blobs: "https://blobs.example".to_owned(),
            discovery: "https://cloud.example:9000/sd/v7/".to_owned(),
        };
        let flows = Flows::with_patience(store.clone(), Arc::clone(&self.pki), addresses, self.patience);
        let (counter, counting) = Counter::new(store.clone());
        let blobs = self.dir.path().join("blobs");
        let blobs = Blobs::open(&blobs, store.clone(), Arc::clone(&self.pki), counter).await.unwrap();
        let (broker, handlers) = Handlers::new(flows.clone(), blobs);
        let running = tokio::spawn(async move {
            tokio::select! {
                () = handlers.run() => {}
                _ = counting => {}
            }
        });
        Cloud { store, flows, broker, unit, running }
    }

    async fn register(&self, store: &Store) -> Unit {
        let account = NewAccount {
            role: Role::Oem,
            company: "Axle Works".to_owned(),
            username: "ann".to_owned(),
            email: "ann@axle.example".to_owned(),
        };
        let (account, _) = store.invite(account, [1; 32], i64::MAX).await.unwrap();
        let registered = |id: &str, is_main| NewNode {
            node_id: id.to_owned(),
            node_type: "gateway".to_owned(),
            name: id.to_owned(),
            is_main,
            status: "provisioned".to_owned(),
            info: "{}".to_owned(),
        };
        let secrets = br#"{"version": "2.0.0", "nodes": {"main": "pin-main"}}"#;
        let new = NewUnit {
            system_uid: "unit-1".to_owned(),
            company_id: account.company_id,
            model_name: "model".to_owned(),
            model_version: "1.0".to_owned(),
            provisioning_software: "test:1".to_owned(),
            sealed_secrets: Some(self.pki.vault().seal("unit secrets", secrets).unwrap()),
            nodes: vec![registered("main", true), registered("rear", false)],
        };
        let fresh = [CertType::Online, CertType::Offline, CertType::Sm].map(|kind| self.issued(kind, "main"));
        store.provision(new, fresh.into(), now()).await.unwrap().0
    }

    fn issued(&self, kind: CertType, node: &str) -> NewCertificate {
        let request = Request::from_pem(&csr(Some("unit-1"))).unwrap();
        let issued = self.pki.issue_unit(&request, "unit-1", kind, "https://cloud.example", now()).unwrap();
        NewCertificate {
            holder: Holder::Nobody,
            cert_type: kind.as_str().to_owned(),
            node_id: node.to_owned(),
            issuer: issued.issuer_der,
            serial: issued.serial,
            key_hash: issued.key_hash,
            chain: issued.chain_pem,
            not_before: issued.not_before,
            not_after: issued.not_after,
        }
    }
}

impl Cloud {
    fn message(body: Body, correlation_id: Option<&str>) -> Envelope {
        let system_id = SystemId::new("unit-1").unwrap();
        let mut envelope = Envelope::new(system_id, Timestamp::now(), body);
        envelope.correlation_id = correlation_id.map(str::to_owned);
        envelope
    }

    /// The Unit sends a message; gives back what it is answered at once.
    async fn deliver(&self, envelope: Envelope) -> Vec<Answer> {
        let origin =
            Origin { unit_id: self.unit.id.clone(), system_id: SystemId::new("unit-1").unwrap(), session: 1 };
        match self.broker.dispatch(origin, envelope).unwrap().await.unwrap() {
            Outcome::Done(answers) => answers,
            Outcome::Later(_) => panic!("the message could not be handled"),
        }
    }

    async fn send(&self, body: Body) -> Vec<Answer> {
        self.deliver(Self::message(body, None)).await
    }

    async fn answer(&self, body: Body, request: &Envelope) {
        self.deliver(Self::message(body, request.correlation_id.as_deref())).await;
    }

    /// What waits for the Unit.
    async fn waiting(&self) -> Vec<Envelope> {
        let waiting = self.flows.waiting(&self.unit.id, &SystemId::new("unit-1").unwrap(), 0).await.unwrap();
        waiting.into_iter().map(|(_, envelope)| envelope).collect()
    }

    /// Takes the only message that waits for the Unit, and acknowledges it.
    async fn take(&self) -> Envelope {
        let mut waiting = self.waiting().await;
        assert_eq!(waiting.len(), 1, "{waiting:?}");
        let envelope = waiting.remove(0);
        self.store.outbox_acked(&self.unit.id, &envelope.header.txn).await.unwrap();
        envelope
    }

    async fn invalid(&self) -> Vec<String> {
        let rows = self.store.events_after(&self.unit.id, "invalid", 0, 100).await.unwrap();
        rows.into_iter().map(|row| row.body).collect()
    }

    async fn certificates(&self) -> Vec<Certificate> {
        self.store.unit_certificates(&self.unit.id).await.unwrap()
    }

    /// Waits until the Unit looks like `condition` wants it.
    async fn until<F: Future<Output = bool>>(&self, condition: impl Fn() -> F) {
        let mut signal = self.store.watch_unit(&self.unit.id).await.unwrap();
        let wait = async {
            while !condition().await {
                signal.changed().await.unwrap();
            }
        };
        tokio::time::timeout(Duration::from_secs(10), wait).await.unwrap();
    }
}
