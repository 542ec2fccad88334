//! Rows of the flows on a real file.

use aos_ids::Txn;

use super::tests::{Fixture, receipt};
use super::*;

fn outgoing(kind: &'static str, correlation: &str, slot: Option<&str>) -> NewOutgoing {
    NewOutgoing {
        txn: Txn::random(),
        kind,
        correlation_id: Some(correlation.to_owned()),
        slot: slot.map(str::to_owned),
        body: b"{}".to_vec(),
        sealed: false,
    }
}

async fn push(store: &Store, unit: &str, new: NewOutgoing) -> Result<(), StoreError> {
    let unit = unit.to_owned();
    store.transact(move |work| work.push(&unit, &new)).await
}

#[tokio::test]
async fn the_memory_of_messages_ends_at_its_edge() {
    let fixture = Fixture::new().await;
    let unit = fixture.provisioned().await.id;
    let store = &fixture.store;
    let count = usize::try_from(REMEMBERED).unwrap();
    let take = |number: usize| {
        store.receive(receipt(&unit, &format!("message-{number}")), |_| Ok::<_, StoreError>(()))
    };
    let all = futures_util::future::join_all((0..count).map(take)).await;
    assert!(all.into_iter().all(|one| one.unwrap() == Received::Now(())));
    assert_eq!(take(0).await.unwrap(), Received::AlreadyDone, "the oldest one is still known");
    assert_eq!(take(count).await.unwrap(), Received::Now(()));
    let kept = fixture.reopened().remembered(&unit).await.unwrap();
    assert_eq!(kept.len(), count);
    assert_eq!((kept[0].as_str(), kept[count - 1].as_str()), ("message-1", "message-1024"));
    assert_eq!(take(1).await.unwrap(), Received::AlreadyDone, "second oldest");
    assert_eq!(take(0).await.unwrap(), Received::Now(()), "forgotten: beyond the edge it would happen again");
}

#[tokio::test]
async fn the_outbox_keeps_order_and_transactions_until_messages_are_acknowledged() {
    let fixture = Fixture::new().await;
    let unit = fixture.provisioned().await.id;
    let mut signal = fixture.store.watch_unit(&unit).await.unwrap();
    for correlation in ["a", "b"] {
        push(&fixture.store, &unit, outgoing("requestLog", correlation, None)).await.unwrap();
    }
    push(&fixture.store, &unit, outgoing("updateState", "s", Some("updateState/1"))).await.unwrap();
    push(&fixture.store, &unit, outgoing("updateState", "t", Some("updateState/1"))).await.unwrap();
    let rows = fixture.store.outbox(&unit, 0).await.unwrap();
    let order: Vec<_> = rows.iter().filter_map(|row| row.correlation_id.as_deref()).collect();
    assert_eq!(order, ["a", "b", "t"], "the newer state has replaced the older one");
    let newest = rows[2].seq;
    assert_eq!(signal.wait_for(|signal| signal.outbox == newest).await.unwrap().outbox, newest);
    assert_eq!(fixture.store.outbox(&unit, rows[1].seq).await.unwrap().len(), 1);

    let store = fixture.reopened();
    assert_eq!(store.outbox(&unit, 0).await.unwrap(), rows, "the same transactions after a restart");
    store.outbox_parked(&unit, &rows[0].txn, "no acknowledgement").await.unwrap();
    store.outbox_acked(&unit, &rows[1].txn).await.unwrap();
    store.outbox_acked(&unit, &rows[1].txn).await.unwrap();
    store.outbox_failed(&unit, &rows[2].txn, "given up").await.unwrap();
    let left = store.outbox(&unit, 0).await.unwrap();
    assert_eq!(left.len(), 1);
    assert_eq!(left[0].txn, rows[0].txn);
    push(&store, &unit, outgoing("requestLog", "c", None)).await.unwrap();
    assert!(store.outbox(&unit, 0).await.unwrap()[1].seq > newest, "numbers are never used again");
}

#[tokio::test]
async fn the_outbox_of_a_unit_is_bounded() {
    let fixture = Fixture::new().await;
    let unit = fixture.provisioned().await.id;
    for number in 0..MAX_ROWS {
        push(&fixture.store, &unit, outgoing("requestLog", &number.to_string(), None)).await.unwrap();
    }
    let refused = push(&fixture.store, &unit, outgoing("requestLog", "more", None)).await;
    assert!(matches!(refused, Err(StoreError::Conflict(_))));
    let first = fixture.store.outbox(&unit, 0).await.unwrap()[0].txn.clone();
    fixture.store.outbox_acked(&unit, &first).await.unwrap();
    let large = NewOutgoing {
        body: vec![0; usize::try_from(MAX_BYTES).unwrap()],
        ..outgoing("requestLog", "large", None)
    };
    assert!(matches!(push(&fixture.store, &unit, large).await, Err(StoreError::Conflict(_))));
    push(&fixture.store, &unit, outgoing("requestLog", "more", None)).await.unwrap();
}

fn new_log(id: &str, deadline: i64) -> NewLog {
    NewLog {
        id: id.to_owned(),
        log_type: "systemLog".to_owned(),
        filter: "{}".to_owned(),
        upload: "wss".to_owned(),
        token_hash: None,
        nodes: vec!["main".to_owned()],
        deadline,
    }
}

async fn add_log(store: &Store, unit: &str, new: NewLog) {
    let unit = unit.to_owned();
    store.transact(move |work| work.add_log(&unit, &new)).await.unwrap();
}

async fn add_part(store: &Store, unit: &str, id: &str, part: u64, bytes: &[u8], fail: bool) {
    let mut staged = store.stage_log().unwrap();
    staged.write(bytes).unwrap();
    let (unit, id) = (unit.to_owned(), id.to_owned());
    let job = move |work: &mut Work<'_>| {
        let kept = work.add_log_part(&unit, &id, "main", part, staged)?;
        assert!(kept);
        if fail { Err(StoreError::NotFound("end")) } else { Ok(()) }
    };
    assert_eq!(store.transact(job).await.is_err(), fail);
}

fn files(fixture: &Fixture) -> usize {
    std::fs::read_dir(fixture.dir.path().join("logs")).unwrap().count()
}

#[tokio::test]
async fn received_logs_are_files_that_go_with_their_rows() {
    let fixture = Fixture::new().await;
    let unit = fixture.provisioned().await.id;
    let store = &fixture.store;
    add_log(store, &unit, new_log("l0", i64::MAX)).await;
    add_part(store, &unit, "l0", 1, b"first", false).await;
    add_part(store, &unit, "l0", 1, b"again", false).await;
    add_part(store, &unit, "l0", 2, b"lost", true).await;
    drop(store.stage_log().unwrap());
    let parts = store.log_parts("l0").await.unwrap();
    assert_eq!(parts.len(), 1);
    let mut text = String::new();
    std::io::Read::read_to_string(&mut store.open_log_part(&parts[0]).unwrap().unwrap(), &mut text).unwrap();
    assert_eq!(text, "again");
    let request = store.log_request(&unit, "l0").await.unwrap().unwrap();
    assert_eq!((request.bytes, request.nodes[0].parts.as_slice()), (5, [1].as_slice()));

    // What a crash left behind goes at the next start.
    assert_eq!(files(&fixture), 2, "the part that was rolled back");
    let store = fixture.reopened();
    assert_eq!(files(&fixture), 1);
    for number in 1..=MAX_LOG_REQUESTS {
        add_log(&store, &unit, new_log(&format!("l{number}"), i64::MAX)).await;
    }
    assert_eq!(store.log_requests(&unit, 1000, 0).await.unwrap().1, MAX_LOG_REQUESTS);
    assert!(store.log_request(&unit, "l0").await.unwrap().is_none());
    // The file goes after the commit that the caller waited for; one more round is after that.
    store.log_by_id("l0").await.unwrap();
    assert_eq!(files(&fixture), 0);

    add_part(&store, &unit, "l9", 1, b"text", false).await;
    assert_eq!(files(&fixture), 1);
    assert!(store.drop_log_request(&unit, "l9").await.unwrap());
    assert!(!store.drop_log_request(&unit, "l9").await.unwrap());
    assert!(!store.drop_log_request("another", "l8").await.unwrap());
    store.log_by_id("l9").await.unwrap();
    assert_eq!(files(&fixture), 0);
}

#[tokio::test]
async fn flows_end_at_their_deadline_and_their_messages_are_taken_back() {
    let fixture = Fixture::new().await;
    let unit = fixture.provisioned().await.id;
    let store = &fixture.store;
    let mut deadlines = store.watch_deadlines();
    add_log(store, &unit, new_log("soon", 100)).await;
    assert_eq!(*deadlines.borrow_and_update(), 100);
    add_log(store, &unit, new_log("later", 300)).await;
    push(store, &unit, outgoing("requestLog", "soon", None)).await.unwrap();
    push(store, &unit, outgoing("requestLog", "later", None)).await.unwrap();
    let task = NodeTask {
        id: "task".to_owned(),
        node_id: "rear".to_owned(),
        kind: "provision".to_owned(),
        state: "starting".to_owned(),
        reason: None,
        sealed_password: Some(vec![1]),
        created_at: 1,
        deadline: Some(200),
        finished_at: None,
    };
    let (id, row) = (unit.clone(), task.clone());
    store.transact(move |work| work.put_node_task(&id, &row)).await.unwrap();
    let waiting = store.outbox(&unit, 0).await.unwrap();
    store.outbox_parked(&unit, &waiting[0].txn, "sent four times").await.unwrap();

    assert_eq!(store.sweep(99).await.unwrap(), Some(100), "nothing is due");
    assert_eq!(store.sweep(200).await.unwrap(), Some(300));
    let ended = store.log_request(&unit, "soon").await.unwrap().unwrap();
    assert_eq!((ended.state.as_str(), ended.nodes[0].state.as_str()), ("failed", "failed"));
    assert!(ended.reason.unwrap().contains("sent four times"));
    assert_eq!(store.log_request(&unit, "later").await.unwrap().unwrap().state, "waiting");
    let tasks = store.node_tasks(&unit).await.unwrap();
    assert_eq!((tasks[0].state.as_str(), &tasks[0].sealed_password), ("failed", &None));
    let left = store.outbox(&unit, 0).await.unwrap();
    assert_eq!(left.len(), 1);
    assert_eq!(left[0].correlation_id.as_deref(), Some("later"));
    assert_eq!(store.sweep(300).await.unwrap(), None);
}

#[tokio::test]
async fn a_replaced_certificate_is_revoked_when_its_successor_is_used_or_its_grace_is_over() {
    let fixture = Fixture::new().await;
    let unit = fixture.provisioned().await.id;
    let store = &fixture.store;
    let mut newer = super::tests::certificate("online", 8, "a2");
    newer.holder = Holder::Unit(unit.clone());
    let id = unit.clone();
    let install = move |work: &mut Work<'_>| {
        work.add_certificate(&newer)?;
        work.supersede(&id, "main", "online", "a2", 500)
    };
    store.transact(install).await.unwrap();
    let revoked = |store: Store, serial: &'static str| async move {
        store.certificate(b"issuer", serial).await.unwrap().unwrap().revoked_at.is_some()
    };
    // Both open sessions until the new one is seen.
    store.certificate_used(&unit, "a1").await.unwrap();
    assert!(!revoked(store.clone(), "a1").await && !revoked(store.clone(), "a2").await);
    let crashed = fixture.copied();
    store.certificate_used(&unit, "a2").await.unwrap();
    assert!(revoked(store.clone(), "a1").await && !revoked(store.clone(), "a2").await);
    assert_eq!(store.sweep(600).await.unwrap(), None);

    let store = &crashed.1;
    let session = store.open_session(&unit).await.unwrap();
    assert_eq!(store.sweep(499).await.unwrap(), Some(500));
    assert!(!revoked(store.clone(), "a1").await);
    store.sweep(500).await.unwrap();
    assert!(revoked(store.clone(), "a1").await && !revoked(store.clone(), "a2").await);
    let after = store.unit(&unit).await.unwrap().unwrap();
    assert!(after.session > session, "a session by the old certificate ends");
}

#[tokio::test]
async fn deprovisioning_forgets_all_flows() {
    let fixture = Fixture::new().await;
    let unit = fixture.provisioned().await.id;
    let store = &fixture.store;
    add_log(store, &unit, new_log("l", i64::MAX)).await;
    add_part(store, &unit, "l", 1, b"text", false).await;
    push(store, &unit, outgoing("requestLog", "l", None)).await.unwrap();
    let id = unit.clone();
    let put = move |work: &mut Work<'_>| {
        work.set_env(&id, "[]", "e")?;
        work.set_unit_config(&id, "1.0.0", "{}")?;
        let key = StateKey { item: "i".to_owned(), subject: "s".to_owned(), instance: 0 };
        let new = NewState { checksum: "aa".to_owned(), content: String::new(), source: StateSource::Unit };
        work.put_state(&id, &key, &new)
    };
    store.transact(put).await.unwrap();
    store.receive(receipt(&unit, "m"), |_| Ok::<_, StoreError>(())).await.unwrap();
    store.deprovision(&unit, true).await.unwrap();
    assert!(store.outbox(&unit, 0).await.unwrap().is_empty());
    assert!(store.states(&unit).await.unwrap().is_empty());
    assert!(store.env_overrides(&unit).await.unwrap().is_none());
    assert!(store.unit_config(&unit).await.unwrap().is_none());
    assert!(store.remembered(&unit).await.unwrap().is_empty());
    assert_eq!(store.log_requests(&unit, 10, 0).await.unwrap().1, 0);
    assert_eq!(files(&fixture), 0);
}

#[tokio::test]
async fn env_statuses_are_bounded_and_go_with_their_set() {
    let fixture = Fixture::new().await;
    let unit = fixture.provisioned().await.id;
    let store = &fixture.store;
    let id = unit.clone();
    let statuses = move |count: i64| {
        let status = |number: i64| EnvStatus {
            item: "i".to_owned(),
            subject: "s".to_owned(),
            instance: number.unsigned_abs(),
            name: "LEVEL".to_owned(),
            error: None,
            at: 1,
        };
        (0..count).map(status).collect::<Vec<_>>()
    };
    let put = move |work: &mut Work<'_>| {
        work.set_env(&id, "[]", "one")?;
        assert!(work.put_env_statuses(&id, &statuses(MAX_ENV_STATUSES))?);
        work.put_env_statuses(&id, &statuses(MAX_ENV_STATUSES + 1))
    };
    assert!(!store.transact(put).await.unwrap(), "no room for one more");
    let set = store.env_overrides(&unit).await.unwrap().unwrap();
    assert_eq!(i64::try_from(set.statuses.len()).unwrap(), MAX_ENV_STATUSES);
    let id = unit.clone();
    store.transact(move |work| work.set_env(&id, "[]", "two")).await.unwrap();
    assert!(store.env_overrides(&unit).await.unwrap().unwrap().statuses.is_empty());
}

#[tokio::test]
async fn states_are_bounded_in_number_and_bytes() {
    let fixture = Fixture::new().await;
    let unit = fixture.provisioned().await.id;
    let put = |range: std::ops::Range<i64>, bytes: usize| {
        let unit = unit.clone();
        fixture.store.transact(move |work| {
            for number in range {
                let key = StateKey {
                    item: format!("item-{number}"),
                    subject: "subject".to_owned(),
                    instance: number.unsigned_abs(),
                };
                let (checksum, content) = ("aa".to_owned(), "x".repeat(bytes));
                work.put_state(&unit, &key, &NewState { checksum, content, source: StateSource::Unit })?;
            }
            Ok::<_, StoreError>(())
        })
    };
    let kept = async || {
        let states = fixture.store.states(&unit).await.unwrap();
        let first = states.iter().map(|state| state.key.instance).min().unwrap();
        (states.len(), first)
    };
    put(0..20, 1).await.unwrap();
    // Full ones leave no room for the small ones that came before.
    let full = MAX_STATE_BYTES / (8 * 1024 * 1024);
    put(20..20 + full, 8 * 1024 * 1024).await.unwrap();
    assert_eq!(kept().await, (usize::try_from(full).unwrap(), 20));
}
