//! Shared commits: what one job does, fails or breaks must not show in another.

use std::sync::mpsc as gate;

use proptest::prelude::*;

use super::tests::{Fixture, receipt};
use super::*;

/// A job that holds the thread until the gate opens, so that what follows waits together.
async fn hold(store: &Store) -> (gate::Sender<()>, tokio::task::JoinHandle<()>) {
    let (open, wait) = gate::channel::<()>();
    let (started, running) = tokio::sync::oneshot::channel();
    let store = store.clone();
    let held = tokio::spawn(async move {
        let job = move |_: &mut Work<'_>| {
            started.send(()).unwrap();
            let _ = wait.recv();
            Ok::<_, StoreError>(())
        };
        store.transact(job).await.unwrap();
    });
    running.await.unwrap();
    (open, held)
}

fn note(unit: &str, text: &str) -> impl FnOnce(&mut Work<'_>) -> Result<(), StoreError> + Send + use<> {
    let (unit, text) = (unit.to_owned(), text.to_owned());
    move |work| {
        work.add_events(&unit, "test", &[text])?;
        work.touch(&unit)
    }
}

async fn texts(store: &Store, unit: &str) -> Vec<String> {
    let rows = store.events_after(unit, "test", 0, 1000).await.unwrap();
    rows.into_iter().map(|row| row.body).collect()
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum Doing {
    Works,
    Refuses,
    /// Fails after it has changed something.
    FailsLate,
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]
    #[test]
    fn a_failing_job_undoes_only_itself(
        jobs in prop::collection::vec(
            prop_oneof![4 => Just(Doing::Works), 1 => Just(Doing::Refuses), 2 => Just(Doing::FailsLate)],
            1..40,
        )
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let fixture = Fixture::new().await;
            let unit = fixture.provisioned().await.id;
            let (open, held) = hold(&fixture.store).await;
            let all = jobs.iter().enumerate().map(|(number, doing)| {
                let (unit, doing) = (unit.clone(), *doing);
                fixture.store.transact(move |work| {
                    if doing == Doing::Refuses {
                        return Err(StoreError::Conflict("no".to_owned()));
                    }
                    work.add_events(&unit, "test", &[number.to_string()])?;
                    if doing == Doing::FailsLate { Err(StoreError::NotFound("end")) } else { Ok(()) }
                })
            });
            let all = futures_util::future::join_all(all);
            let release = async {
                tokio::task::yield_now().await;
                open.send(()).unwrap();
            };
            let (outcomes, ()) = tokio::join!(all, release);
            held.await.unwrap();
            let expected: Vec<String> = jobs
                .iter()
                .enumerate()
                .filter(|(_, doing)| **doing == Doing::Works)
                .map(|(number, _)| number.to_string())
                .collect();
            for (outcome, doing) in outcomes.iter().zip(&jobs) {
                assert_eq!(outcome.is_ok(), *doing == Doing::Works);
            }
            assert_eq!(texts(&fixture.store, &unit).await, expected);
            assert_eq!(texts(&fixture.reopened(), &unit).await, expected, "all of it is on disk");
        });
    }
}

#[tokio::test]
async fn a_transaction_that_sqlite_gives_up_fails_all_jobs_in_it_and_no_others() {
    let fixture = Fixture::new().await;
    let unit = fixture.provisioned().await.id;
    let (open, held) = hold(&fixture.store).await;
    let before = fixture.store.transact(note(&unit, "before"));
    let breaking = fixture.store.transact(|work| {
        let again =
            "INSERT OR ROLLBACK INTO companies (id, kind, title) SELECT id, kind, title FROM companies";
        work.sql.execute(again, []).map(|_| ()).map_err(|source| StoreError::Sql { what: "test", source })
    });
    let after = fixture.store.transact(note(&unit, "after"));
    let release = async {
        tokio::task::yield_now().await;
        open.send(()).unwrap();
    };
    let (before, breaking, after, ()) = tokio::join!(before, breaking, after, release);
    held.await.unwrap();
    assert!(matches!(before, Err(StoreError::Commit(_))), "{before:?}");
    assert!(matches!(breaking, Err(StoreError::Sql { .. })));
    after.unwrap();
    assert_eq!(texts(&fixture.store, &unit).await, ["after"]);
}

#[tokio::test]
async fn a_failed_commit_fails_every_job_and_tells_no_watcher() {
    let fixture = Fixture::new().await;
    let unit = fixture.provisioned().await.id;
    let mut signal = fixture.store.watch_unit(&unit).await.unwrap();
    let (open, held) = hold(&fixture.store).await;
    let first = fixture.store.transact(note(&unit, "first"));
    // A reference that is checked only at the commit.
    let broken = fixture.store.transact(|work| {
        let failed = |source| StoreError::Sql { what: "test", source };
        work.sql.execute_batch("PRAGMA defer_foreign_keys = ON").map_err(failed)?;
        let orphan =
            "INSERT INTO unit_configs (unit_id, version, document, set_at) VALUES ('no', '1', '', 1)";
        work.sql.execute(orphan, []).map(|_| ()).map_err(failed)
    });
    let release = async {
        tokio::task::yield_now().await;
        open.send(()).unwrap();
    };
    let (first, broken, ()) = tokio::join!(first, broken, release);
    held.await.unwrap();
    assert!(matches!(first, Err(StoreError::Commit(_))), "{first:?}");
    assert!(matches!(broken, Err(StoreError::Commit(_))));
    assert!(!signal.has_changed().unwrap());
    fixture.store.transact(note(&unit, "next")).await.unwrap();
    assert_eq!(texts(&fixture.store, &unit).await, ["next"], "the next batch is not harmed");
    signal.changed().await.unwrap();
}

#[tokio::test]
async fn callers_and_watchers_hear_of_it_after_the_commit_and_a_crash_before_it_leaves_nothing() {
    let fixture = Fixture::new().await;
    let unit = fixture.provisioned().await.id;
    let mut signal = fixture.store.watch_unit(&unit).await.unwrap();
    let (open_first, held_first) = hold(&fixture.store).await;
    let (reached, at_the_end) = gate::channel::<()>();
    let (open_last, wait_last) = gate::channel::<()>();
    let store = fixture.store.clone();
    let id = unit.clone();
    let message =
        tokio::spawn(async move { store.receive(receipt(&id, "message-1"), note(&id, "effect")).await });
    tokio::task::yield_now().await;
    let store = fixture.store.clone();
    let last = tokio::spawn(async move {
        let job = move |_: &mut Work<'_>| {
            reached.send(()).unwrap();
            let _ = wait_last.recv();
            Ok::<_, StoreError>(())
        };
        store.transact(job).await
    });
    tokio::task::yield_now().await;
    open_first.send(()).unwrap();
    held_first.await.unwrap();
    tokio::task::spawn_blocking(move || at_the_end.recv().unwrap()).await.unwrap();

    // The effect has run, its commit has not: as a crash would find it.
    assert!(!message.is_finished());
    assert!(!signal.has_changed().unwrap());
    let crashed = fixture.copied();
    assert!(texts(&crashed.1, &unit).await.is_empty());
    assert!(crashed.1.remembered(&unit).await.unwrap().is_empty());
    let again = crashed.1.receive(receipt(&unit, "message-1"), note(&unit, "effect")).await.unwrap();
    assert_eq!(again, Received::Now(()), "the Unit repeats it, and it takes effect once");
    assert_eq!(texts(&crashed.1, &unit).await, ["effect"]);

    open_last.send(()).unwrap();
    assert_eq!(message.await.unwrap().unwrap(), Received::Now(()));
    last.await.unwrap().unwrap();
    signal.changed().await.unwrap();
    // Committed, not acknowledged: as a crash a moment later would find it.
    let crashed = fixture.copied();
    let again = crashed.1.receive(receipt(&unit, "message-1"), note(&unit, "effect")).await.unwrap();
    assert_eq!(again, Received::AlreadyDone);
    assert_eq!(texts(&crashed.1, &unit).await, ["effect"]);
}
