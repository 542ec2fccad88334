//! A crash at any point between the arrival of a message and the acknowledgement of its answer.

use std::collections::BTreeSet;

use aos_cloud_protocol::{Envelope, MessageType, OverrideEnvVars};
use futures_util::FutureExt;

use super::*;

/// Where a crash found the program.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Point {
    /// The message has had no effect.
    BeforeCommit,
    /// Effect and answer are on disk; the cloud has heard nothing of it.
    Committed,
    /// The cloud has the acknowledgement or the answer, and the answer is on disk.
    Told,
    /// The cloud has acknowledged the answer, and it has left the disk.
    Done,
}

pub(super) fn count(world: &World, table: &str, txn: &str) -> i64 {
    let db = rusqlite::Connection::open(world.config.database()).unwrap();
    let sql = format!("SELECT count(*) FROM {table} WHERE ?1 = '' OR txn = ?1");
    db.query_row(&sql, [txn], |row| row.get(0)).unwrap()
}

/// Rounds of the scheduler that bring the answer and its acknowledgement over, with some to spare.
const ROUNDS: usize = 12;

// PRO-23: the program is killed after 0, 1, 2, ... rounds of its scheduler, and after the end of the
// exchange. The cloud sends its message again after each crash. Every time the message takes
// effect once, and all answers that the cloud ever sees are one and the same message.
// REL-16
#[tokio::test]
async fn a_message_takes_effect_once_wherever_the_program_dies() {
    let work = async {
        let mut world = World::new().await;
        world.cloud.connected().await;
        let mut points = BTreeSet::new();
        for rounds in 0..=ROUNDS {
            let body = Body::OverrideEnvVars(OverrideEnvVars { items: vec![] });
            let request = Envelope::new("unit-1".parse().unwrap(), jiff::Timestamp::now(), body)
                .with_correlation_id(format!("exchange {rounds}"));
            let txn = request.header.txn.to_string();
            let frame = aos_cloud_protocol::write(&request).unwrap();
            world.cloud.seen.clear();
            world.cloud.send_raw(frame.clone()).await;
            for _ in 0..rounds {
                // What the cloud reads and acknowledges on the way belongs to the rounds.
                let _ = world.cloud.step().now_or_never();
                tokio::task::yield_now().await;
            }
            while rounds == ROUNDS && count(&world, "outbox", "") + 1 > count(&world, "received", &txn) {
                let _ = tokio::time::timeout(Duration::from_millis(5), world.cloud.step()).await;
            }
            let told = world.cloud.acks.contains(&txn) || !answers(&world).is_empty();
            world.kill().await;
            let point = match (count(&world, "received", &txn), count(&world, "outbox", "")) {
                (0, 0) if !told => Point::BeforeCommit,
                (1, 1) if !told => Point::Committed,
                (1, 1) => Point::Told,
                (1, 0) if told => Point::Done,
                other => panic!("after {rounds} rounds: {other:?}, told: {told}"),
            };
            points.insert(point);
            println!("after {rounds} rounds: {point:?}");

            world.start();
            world.cloud.connected().await;
            world.cloud.send_raw(frame).await;
            world.cloud.acks.retain(|known| *known != txn);
            world.cloud.acknowledged(&txn).await;
            while answers(&world).is_empty() || count(&world, "outbox", "") > 0 {
                let _ = tokio::time::timeout(Duration::from_millis(5), world.cloud.step()).await;
            }
            assert_eq!(answers(&world).len(), 1, "after {rounds} rounds at {point:?}");
            assert_eq!(count(&world, "received", &txn), 1);
        }
        let all = [Point::BeforeCommit, Point::Committed, Point::Told, Point::Done];
        assert_eq!(points, all.into(), "the rounds have met every point");
    };
    tokio::time::timeout(4 * LONG, work).await.expect("in time");
}

/// Different answers that the cloud has seen.
fn answers(world: &World) -> BTreeSet<String> {
    let of = MessageType::OverrideEnvVarsStatus;
    world.cloud.seen.iter().filter(|(kind, _)| *kind == of).map(|(_, txn)| txn.clone()).collect()
}

// An answer that finds no room in the outbox is not lost in silence, and the request is not repeated for it.
#[tokio::test]
async fn an_answer_without_room_is_reported() {
    in_time!(async {
        let mut world = World::new().await;
        world.cloud.connected().await;
        let db = rusqlite::Connection::open(world.config.database()).unwrap();
        let fill = "WITH RECURSIVE n(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM n WHERE n < 1000)
                    INSERT INTO outbox (txn, kind, frame) SELECT 'row ' || n, 'newState', x'' FROM n";
        db.execute(fill, []).unwrap();
        let txn = world.cloud.send(Body::OverrideEnvVars(OverrideEnvVars { items: vec![] })).await;
        loop {
            if let Body::Alerts(alerts) = world.cloud.next().await.body {
                let aos_cloud_protocol::Alert::CoreAlert(alert) = &alerts.items[0] else {
                    panic!("{alerts:?}")
                };
                assert_eq!(alert.core_component, "CM");
                assert!(
                    alert.message.starts_with("overrideEnvVarsStatus for the cloud is lost"),
                    "{alert:?}"
                );
                break;
            }
        }
        world.cloud.acknowledged(&txn).await;
        assert!(answers(&world).is_empty());
        assert_eq!(count(&world, "outbox", ""), 1000);
    });
}

// CM-29: alerts and samples wait where they are while there is no link; with the link they come.
#[tokio::test]
async fn without_a_link_nothing_is_handed_over() {
    in_time!(async {
        let mut world = World::new().await;
        world.cloud.connected().await;
        world.connect_node().await;
        world.cloud.refuse(true);
        world.cloud.disconnect();
        world.until(|document| document["cloud"]["state"] == "connecting").await;
        for n in 0..100 {
            world.sm.alert(&format!("alert {n}")).await;
        }
        // The last one has arrived when its node is answered.
        world.sm.reach().await;
        world.until(|document| document["cloud"]["lastError"].is_string()).await;
        assert!(world.document().await["cloud"]["queued"].as_u64().unwrap() <= 1, "the last full status");
        world.cloud.refuse(false);
        world.cloud.connected().await;
        let mut told = Vec::new();
        while told.len() < 64 {
            if let Body::Alerts(alerts) = world.cloud.next().await.body {
                told.extend(alerts.items.into_iter().map(|alert| match alert {
                    aos_cloud_protocol::Alert::SystemAlert(alert) => alert.message,
                    other => panic!("{other:?}"),
                }));
            }
        }
        assert_eq!(told, (36..100).map(|n| format!("alert {n}")).collect::<Vec<_>>(), "the newest 64");
    });
}
