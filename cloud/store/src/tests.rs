//! The store on a real file.

use super::*;

const NOW: i64 = 1_800_000_000;

pub(crate) struct Fixture {
    pub(crate) dir: tempfile::TempDir,
    pub(crate) store: Store,
    company: String,
}

impl Fixture {
    pub(crate) async fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(&dir.path().join("cloud.db")).unwrap();
        let (account, _) = store.invite(oem("ann"), [1; 32], i64::MAX).await.unwrap();
        Self { dir, store, company: account.company_id }
    }

    pub(crate) fn reopened(&self) -> Store {
        Store::open(&self.dir.path().join("cloud.db")).unwrap()
    }

    /// The files as they are at this moment, opened by a cloud that starts after a crash.
    pub(crate) fn copied(&self) -> (tempfile::TempDir, Store) {
        let dir = tempfile::tempdir().unwrap();
        for name in ["cloud.db", "cloud.db-wal"] {
            std::fs::copy(self.dir.path().join(name), dir.path().join(name)).unwrap();
        }
        let store = Store::open(&dir.path().join("cloud.db")).unwrap();
        (dir, store)
    }

    fn unit(&self) -> NewUnit {
        NewUnit {
            system_uid: "unit-1".to_owned(),
            company_id: self.company.clone(),
            model_name: "model".to_owned(),
            model_version: "1.0".to_owned(),
            provisioning_software: "test:1".to_owned(),
            sealed_secrets: None,
            nodes: vec![],
        }
    }

    pub(crate) async fn provisioned(&self) -> Unit {
        let fresh = vec![certificate("online", 7, "a1")];
        self.store.provision(self.unit(), fresh, NOW).await.unwrap().0
    }

    async fn item(&self, versions: &[&str]) -> Item {
        let new = NewItem {
            company_id: self.company.clone(),
            kind: "service".to_owned(),
            codename: "hello".to_owned(),
            title: None,
        };
        let (item, _) = self.store.ensure_item(new).await.unwrap();
        for version in versions {
            self.version(&item, version, "sha256:aa").await.unwrap();
        }
        item
    }

    async fn version(&self, item: &Item, version: &str, digest: &str) -> Result<VersionAdded, StoreError> {
        self.store.add_blob(blob(digest)).await.unwrap();
        let new = NewVersion {
            version: version.to_owned(),
            index_digest: digest.to_owned(),
            blobs: vec![digest.to_owned()],
        };
        self.store.add_version(&item.id, new).await
    }
}

fn oem(username: &str) -> NewAccount {
    NewAccount {
        role: Role::Oem,
        company: "Axle Works".to_owned(),
        username: username.to_owned(),
        email: "ann@axle.example".to_owned(),
    }
}

pub(crate) fn certificate(cert_type: &str, key: u8, serial: &str) -> NewCertificate {
    NewCertificate {
        holder: Holder::Nobody,
        cert_type: cert_type.to_owned(),
        node_id: "main".to_owned(),
        issuer: b"issuer".to_vec(),
        serial: serial.to_owned(),
        key_hash: [key; 32],
        chain: format!("chain {serial}"),
        not_before: NOW - 10,
        not_after: NOW + 1000,
    }
}

fn blob(digest: &str) -> Blob {
    Blob {
        digest: digest.to_owned(),
        size: 10,
        served_size: 16,
        sha3: format!("sha3 of {digest}"),
        sealed_key: vec![1],
        iv: vec![2; 16],
        signature: vec![3],
        chain_name: "items".to_owned(),
        signed_at: NOW,
    }
}

pub(crate) fn receipt(unit: &str, txn: &str) -> Receipt {
    Receipt { unit_id: unit.to_owned(), txn: aos_ids::Txn::new(txn).unwrap() }
}

fn latest() -> NewAssignment {
    NewAssignment { version: "latest".to_owned(), num_instances: 1, priority: 0, labels: vec![] }
}

#[tokio::test]
async fn everything_is_there_after_a_restart() {
    let fixture = Fixture::new().await;
    let unit = fixture.provisioned().await;
    let item = fixture.item(&["1.0.0"]).await;
    fixture.store.assign(&unit.id, &item.id, latest()).await.unwrap();
    let session = fixture.store.open_session(&unit.id).await.unwrap();
    let id = unit.id.clone();
    let put = move |work: &mut Work<'_>| work.put_status(&id, "{}", Some(session));
    fixture.store.transact(put).await.unwrap();

    let store = fixture.reopened();
    let view = store.unit_view("unit-1").await.unwrap().unwrap();
    assert_eq!(view.status.unwrap().merged, "{}");
    assert_eq!(view.assigned.len(), 1);
    assert_eq!(view.unit.online, OnlineStatus::Offline, "no session survives the cloud");
    assert_eq!(store.unit_certificates(&unit.id).await.unwrap().len(), 1);
}

#[tokio::test]
async fn a_token_serves_one_key_and_repeats_its_answer() {
    let fixture = Fixture::new().await;
    let token = fixture.store.token([1; 32], NOW).await.unwrap().unwrap();
    assert_eq!(token.account.username, "ann");
    let user = |key, serial| {
        let mut new = certificate("user", key, serial);
        new.holder = Holder::User(token.account.id.clone());
        new
    };
    let first = fixture.store.use_token([1; 32], user(1, "a")).await.unwrap();
    assert_eq!(fixture.store.use_token([1; 32], user(1, "b")).await.unwrap(), first);
    assert!(matches!(fixture.store.use_token([1; 32], user(2, "c")).await, Err(StoreError::Conflict(_))));
    assert!(matches!(fixture.store.use_token([9; 32], user(2, "d")).await, Err(StoreError::NotFound(_))));
    let found = fixture.store.certificate(b"issuer", "a").await.unwrap().unwrap();
    let account = fixture.store.account_of(&found).await.unwrap().unwrap();
    assert_eq!(account, token.account);
    assert!(fixture.store.token([1; 32], i64::MAX).await.unwrap().is_none(), "expired");
}

#[tokio::test]
async fn an_invitation_again_is_the_same_user_with_a_new_token() {
    let fixture = Fixture::new().await;
    let (again, made) = fixture.store.invite(oem("ann"), [2; 32], i64::MAX).await.unwrap();
    assert!(!made);
    assert!(fixture.store.token([1; 32], NOW).await.unwrap().is_none(), "the open token is replaced");
    assert_eq!(fixture.store.token([2; 32], NOW).await.unwrap().unwrap().account, again);
}

#[tokio::test]
async fn provisioning_twice_with_the_same_keys_gives_the_same_certificates() {
    let fixture = Fixture::new().await;
    let first = fixture
        .store
        .provision(fixture.unit(), vec![certificate("online", 1, "a"), certificate("iam", 2, "b")], NOW)
        .await
        .unwrap();
    let again = fixture
        .store
        .provision(fixture.unit(), vec![certificate("online", 1, "c"), certificate("iam", 2, "d")], NOW)
        .await
        .unwrap();
    assert_eq!(first.1, again.1);
    assert_eq!(fixture.store.unit_certificates(&first.0.id).await.unwrap().len(), 2);
}

#[tokio::test]
async fn new_keys_are_taken_only_from_a_unit_that_never_connected() {
    let fixture = Fixture::new().await;
    let unit = fixture.provisioned().await;
    let other = vec![certificate("online", 9, "z1")];
    fixture.store.provision(fixture.unit(), other, NOW).await.unwrap();
    let old = fixture.store.certificate(b"issuer", "a1").await.unwrap().unwrap();
    assert!(old.revoked_at.is_some());

    fixture.store.open_session(&unit.id).await.unwrap();
    let third = vec![certificate("online", 10, "z2")];
    let refused = fixture.store.provision(fixture.unit(), third, NOW).await;
    assert!(matches!(refused, Err(StoreError::Conflict(_))));

    let mut stranger = fixture.unit();
    stranger.company_id = "someone".to_owned();
    let refused = fixture.store.provision(stranger, vec![certificate("online", 9, "z3")], NOW).await;
    assert!(matches!(refused, Err(StoreError::Conflict(_))));
}

#[tokio::test]
async fn a_newer_session_replaces_an_older_one() {
    let fixture = Fixture::new().await;
    let unit = fixture.provisioned().await;
    let mut signal = fixture.store.watch_unit(&unit.id).await.unwrap();
    let first = fixture.store.open_session(&unit.id).await.unwrap();
    let second = fixture.store.open_session(&unit.id).await.unwrap();
    signal.wait_for(|signal| signal.session == second).await.unwrap();
    fixture.store.close_session(&unit.id, first).await.unwrap();
    let found = fixture.store.unit(&unit.id).await.unwrap().unwrap();
    assert_eq!(found.online, OnlineStatus::Connected, "the old session's end says nothing");
    fixture.store.close_session(&unit.id, second).await.unwrap();
    let found = fixture.store.unit(&unit.id).await.unwrap().unwrap();
    assert_eq!(found.online, OnlineStatus::Offline);
}

#[tokio::test]
async fn a_new_version_retargets_the_units_that_follow_it() {
    let fixture = Fixture::new().await;
    let unit = fixture.provisioned().await;
    let item = fixture.item(&["1.0.0"]).await;
    assert!(fixture.store.assign(&unit.id, &item.id, latest()).await.unwrap());
    assert!(!fixture.store.assign(&unit.id, &item.id, latest()).await.unwrap(), "the same again");
    let signal = fixture.store.watch_unit(&unit.id).await.unwrap();
    let before = signal.borrow().target;
    fixture.version(&item, "1.1.0", "sha256:bb").await.unwrap();
    assert!(signal.borrow().target > before);
    let again = fixture.version(&item, "1.1.0", "sha256:bb").await.unwrap();
    assert!(matches!(again, VersionAdded::Same(_)));
    let other = fixture.version(&item, "1.1.0", "sha256:cc").await;
    assert!(matches!(other, Err(StoreError::Conflict(_))));
    assert_eq!(fixture.store.versions(&item.id).await.unwrap().len(), 2);
}

#[tokio::test]
async fn a_desired_status_has_a_new_revision_only_when_it_differs() {
    let fixture = Fixture::new().await;
    let unit = fixture.provisioned().await;
    let build = |text: &'static str| move |_: &Wanted| Ok::<_, ()>(text.to_owned());
    let first = fixture.store.renew_desired(&unit.id, build("a")).await.unwrap().unwrap();
    fixture.store.desired_sent(&unit.id, first.revision).await.unwrap();
    fixture.store.desired_acked(&unit.id, first.revision).await.unwrap();
    let same = fixture.store.renew_desired(&unit.id, build("a")).await.unwrap().unwrap();
    assert_eq!(same.revision, 1);
    assert!(same.acked_at.is_some());
    let next = fixture.store.renew_desired(&unit.id, build("b")).await.unwrap().unwrap();
    assert_eq!((next.revision, next.acked_at), (2, None));
    fixture.store.desired_acked(&unit.id, 1).await.unwrap();
    let view = fixture.store.unit_view(&unit.id).await.unwrap().unwrap();
    assert_eq!(view.desired.unwrap().acked_at, None, "a late ack of an old revision");
}

#[tokio::test]
async fn a_unit_may_fetch_the_blobs_of_its_items_and_no_others() {
    let fixture = Fixture::new().await;
    let unit = fixture.provisioned().await;
    let item = fixture.item(&["1.0.0"]).await;
    assert!(!fixture.store.unit_may_fetch(&unit.id, "sha256:aa").await.unwrap());
    fixture.store.assign(&unit.id, &item.id, latest()).await.unwrap();
    assert!(fixture.store.unit_may_fetch(&unit.id, "sha256:aa").await.unwrap());
    assert!(!fixture.store.unit_may_fetch(&unit.id, "sha256:bb").await.unwrap());
    assert!(!fixture.store.add_blob(blob("sha256:aa")).await.unwrap(), "uploaded before");
    let one = Served { requests: 1, bytes: 16 };
    fixture.store.count_served(vec![("sha256:aa".to_owned(), one); 2]).await.unwrap();
    assert_eq!(fixture.store.served("sha256:aa").await.unwrap(), Some(Served { requests: 2, bytes: 32 }));
}

#[tokio::test]
async fn deprovisioning_revokes_and_ends_the_session() {
    let fixture = Fixture::new().await;
    let unit = fixture.provisioned().await;
    fixture.store.open_session(&unit.id).await.unwrap();
    let mut signal = fixture.store.watch_unit(&unit.id).await.unwrap();
    assert!(matches!(fixture.store.deprovision(&unit.id, false).await, Err(StoreError::Conflict(_))));
    assert!(matches!(fixture.store.delete_unit(&unit.id).await, Err(StoreError::Conflict(_))));
    fixture.store.deprovision(&unit.id, true).await.unwrap();
    signal.wait_for(|signal| !signal.admitted).await.unwrap();
    let revoked = fixture.store.certificate(b"issuer", "a1").await.unwrap().unwrap();
    assert!(!revoked.is_good(NOW));
    assert!(matches!(fixture.store.open_session(&unit.id).await, Err(StoreError::NotFound(_))));
    fixture.store.delete_unit(&unit.id).await.unwrap();
    assert!(fixture.store.unit(&unit.id).await.unwrap().is_none());
    let orphan = fixture.store.certificate(b"issuer", "a1").await.unwrap().unwrap();
    assert_eq!(orphan.holder, Holder::Nobody);
}

#[tokio::test]
async fn sessions_of_an_earlier_life_say_nothing_about_the_next() {
    let fixture = Fixture::new().await;
    let store = &fixture.store;
    let unit = fixture.provisioned().await.id;
    let old = store.open_session(&unit).await.unwrap();
    store.deprovision(&unit, true).await.unwrap();
    let late = store.receive(receipt(&unit, "late"), |_| Ok::<_, StoreError>(())).await;
    assert!(matches!(late, Err(StoreError::NotFound(_))), "{late:?}");
    store.deprovision(&unit, true).await.unwrap();
    // As before its first session, it may come with other keys.
    store.provision(fixture.unit(), vec![certificate("online", 7, "f7")], NOW).await.unwrap();
    store.provision(fixture.unit(), vec![certificate("online", 8, "f8")], NOW).await.unwrap();
    let new = store.open_session(&unit).await.unwrap();
    assert!(new > old);
    store.close_session(&unit, old).await.unwrap();
    assert_eq!(store.unit(&unit).await.unwrap().unwrap().online, OnlineStatus::Connected);
    let late = store.receive(receipt(&unit, "late"), |_| Ok::<_, StoreError>(())).await.unwrap();
    assert_eq!(late, Received::Now(()));
}

#[tokio::test]
async fn only_what_was_good_is_revoked_and_ends_a_session() {
    let fixture = Fixture::new().await;
    let store = &fixture.store;
    let unit = fixture.provisioned().await.id;
    assert!(store.revoke(b"issuer", "a1").await.unwrap());
    assert_eq!(store.unit(&unit).await.unwrap().unwrap().session, 0, "it never connected");
    let session = store.open_session(&unit).await.unwrap();
    assert!(!store.revoke(b"issuer", "a1").await.unwrap());
    assert_eq!(store.unit(&unit).await.unwrap().unwrap().session, session, "revoked before");
}

#[test]
fn words_of_a_unit_are_cut_and_cannot_forge_lines_of_a_log() {
    assert_eq!(brief("no\nERROR root\u{1b}[2Kdone"), "no ERROR root [2Kdone");
    assert_eq!(brief(&"ü".repeat(500)), "ü".repeat(500));
    assert_eq!(brief(&"ü".repeat(501)), format!("{}…", "ü".repeat(500)));
}

#[tokio::test]
async fn events_and_audit_are_bounded() {
    let fixture = Fixture::new().await;
    let unit = fixture.provisioned().await;
    for number in 0..300 {
        fixture.store.add_event(&unit.id, "alerts", number.to_string()).await.unwrap();
    }
    let kept = fixture.store.events_latest(&unit.id, "alerts", 1000).await.unwrap();
    assert_eq!(kept.len(), 256);
    assert_eq!(kept[255].body, "299");
    let large = "x".repeat(1_500_000);
    for _ in 0..4 {
        fixture.store.add_event(&unit.id, "alerts", large.clone()).await.unwrap();
    }
    let kept = fixture.store.events_latest(&unit.id, "alerts", 1000).await.unwrap();
    let bytes: usize = kept.iter().map(|row| row.body.len()).sum();
    assert_eq!((kept.len(), bytes), (2, 3_000_000), "bytes count as well");
}
