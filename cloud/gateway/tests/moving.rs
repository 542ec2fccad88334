//! Units are moved away and sent off without losing anything; what waits for them finds them again.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test that fails panics")]

mod support;

use std::time::{Duration, Instant};

use aos_cloud_broker::Outcome;
use aos_cloud_gateway::Settings;
use aos_cloud_protocol::discovery::ErrorCode;
use aos_cloud_protocol::{Body, Direction, Envelope, MessageType, RequestLog, write};
use aos_cloud_store::{NewOutgoing, StoreError};
use aos_ids::Txn;
use aos_sim::{Unit, full_status, monitoring};
use futures_util::future::join_all;
use jiff::Timestamp;
use support::{LIMIT, World};

/// Steps until the connection has ended; returns its code and when that was.
async fn leave(mut unit: Unit) -> (Option<u16>, Instant, Vec<Txn>) {
    tokio::time::timeout(LIMIT, async { while unit.step().await.is_ok() {} }).await.expect("it ends");
    (unit.closed(), Instant::now(), unit.acknowledged())
}

// REL-21
#[tokio::test]
async fn a_drain_spreads_the_goodbyes_and_every_message_is_acknowledged_before() {
    const UNITS: usize = 20;
    let mut world = World::start(UNITS + 1, Settings::default()).await;
    let mut units = vec![];
    for number in 0..UNITS {
        units.push(world.connect(number).await);
    }
    // One message of each is at its handler when the drain begins.
    world.metric_reaches("aos_gateway_handling", 20.0).await;
    let start = Instant::now();
    let spread = Duration::from_secs(1);
    let gateway = world.gateway.clone();
    let handling = async {
        // The handlers are slow: they are done long after the first should have left.
        tokio::time::sleep(Duration::from_millis(700)).await;
        for _ in 0..UNITS {
            world.messages.recv().await.unwrap().into_parts().2.tell(Outcome::Done(vec![]));
        }
    };
    let (left, (), drained) = tokio::join!(join_all(units.into_iter().map(leave)), handling, async {
        gateway.drain(spread).await;
        Instant::now()
    });
    for (code, at, acknowledged) in &left {
        assert_eq!((*code, acknowledged.len()), (Some(1012), 1), "left before its message was acknowledged");
        assert!(*at - start < Duration::from_secs(5));
    }
    let last = left.iter().map(|(_, at, _)| *at).max().unwrap();
    assert!(last - start >= Duration::from_millis(700) && drained >= last);
    assert!((world.metric("aos_gateway_closed_total{reason=\"moved\"}") - 20.0).abs() < 1e-9);

    // Nobody gets in; discovery tells when to come back.
    let identity = world.fleet.identity(UNITS).unwrap();
    let answer = world.target.discover(&identity).await.unwrap();
    assert_eq!(answer.error_code, ErrorCode::RepeatLater);
    assert!(answer.connection_info.is_empty() && answer.next_request_delay >= 1000);
    let refused = Unit::connect(&world.target, identity.clone(), full_status(1).unwrap()).await;
    assert!(refused.is_err_and(|error| error.to_string().contains("503")));

    world.gateway.resume();
    world.handle_all();
    assert_eq!(world.target.discover(&identity).await.unwrap().error_code, ErrorCode::NoError);
    let mut unit = Unit::connect(&world.target, identity, full_status(1).unwrap()).await.unwrap();
    unit.settle().await.unwrap();
}

#[tokio::test]
async fn idle_units_leave_one_after_another() {
    const UNITS: usize = 12;
    let mut world = World::start(UNITS, Settings::default()).await;
    world.handle_all();
    let mut units = vec![];
    for number in 0..UNITS {
        let mut unit = world.connect(number).await;
        unit.settle().await.unwrap();
        units.push(unit);
    }
    let start = Instant::now();
    let gateway = world.gateway.clone();
    let (left, ()) =
        tokio::join!(join_all(units.into_iter().map(leave)), gateway.drain(Duration::from_secs(2)));
    let mut times: Vec<Duration> = left.iter().map(|(_, at, _)| *at - start).collect();
    times.sort_unstable();
    // Twelve hashed turns in two seconds: never all in one half.
    assert!(times[0] < Duration::from_secs(1) && times[UNITS - 1] > Duration::from_secs(1), "{times:?}");
}

#[tokio::test]
async fn a_stop_is_bounded_whatever_units_and_handlers_do() {
    let world = World::start(3, Settings::default()).await;
    // One whose message is never handled, one that does not even read.
    let (waiting, _silent) = (world.connect(0).await, world.connect(1).await);
    world.metric_reaches("aos_gateway_handling", 2.0).await;
    let start = Instant::now();
    let limit = Duration::from_millis(1500);
    let ((code, ..), ()) = tokio::join!(leave(waiting), world.gateway.stop(limit));
    assert_eq!(code, Some(1001));
    assert!(start.elapsed() < limit + Duration::from_millis(500), "{:?}", start.elapsed());
}

/// Keeps a log request for a Unit.
async fn push(world: &World, unit_id: &str, system_id: &aos_ids::SystemId) -> Txn {
    let body = Body::RequestLog(
        serde_json::from_value::<RequestLog>(serde_json::json!({
            "logType": "systemLog", "filter": {}, "uploadOptions": {"type": "wss"},
        }))
        .unwrap(),
    );
    let envelope = Envelope::new(system_id.clone(), Timestamp::now(), body);
    let txn = envelope.header.txn.clone();
    let new = NewOutgoing {
        txn: txn.clone(),
        kind: MessageType::RequestLog.as_str(),
        correlation_id: None,
        slot: None,
        body: write(&envelope).unwrap().clone(),
        sealed: false,
    };
    let unit_id = unit_id.to_owned();
    world
        .store
        .transact(move |work| work.push(&unit_id, &new))
        .await
        .map_err(|error: StoreError| error)
        .unwrap();
    txn
}

#[tokio::test]
async fn what_waits_for_a_unit_comes_under_its_own_transaction_until_it_is_acknowledged() {
    let mut world = World::start(1, Settings::default()).await;
    world.handle_all();
    let identity = world.fleet.identity(0).unwrap();
    let unit_id = world.store.unit(identity.system_id.as_str()).await.unwrap().unwrap().id;
    let before = push(&world, &unit_id, &identity.system_id).await;
    // This one hears nothing of what it gets.
    let deaf = world.connect(0).await;
    world.metric_reaches("aos_gateway_messages_out_total{type=\"requestLog\"}", 1.0).await;
    drop(deaf);
    world.metric_reaches("aos_gateway_closed_total{reason=\"lost\"}", 1.0).await;
    assert_eq!(world.store.outbox(&unit_id, 0).await.unwrap().len(), 1);

    let mut unit = world.connect(0).await;
    let again = unit.expect(MessageType::RequestLog).await.unwrap();
    assert_eq!(again.header.txn, before);
    let work = async {
        while !world.store.outbox(&unit_id, 0).await.unwrap().is_empty() {
            unit.step().await.unwrap();
        }
    };
    // The acknowledgement is on its way; the Unit has nothing more to do for it.
    let _ = tokio::time::timeout(Duration::from_millis(300), work).await;
    assert!(world.store.outbox(&unit_id, 0).await.unwrap().is_empty());
    // A live session hears of new messages at once.
    let live = push(&world, &unit_id, &identity.system_id).await;
    assert_eq!(unit.expect(MessageType::RequestLog).await.unwrap().header.txn, live);
}

#[tokio::test]
async fn a_recording_shows_both_directions() {
    let mut world = World::start(1, Settings::default()).await;
    world.handle_all();
    let mut unit = world.connect(0).await;
    unit.settle().await.unwrap();
    let unit_id = world.store.unit("swarm-0").await.unwrap().unwrap().id;
    assert_eq!(world.gateway.recorded(&unit_id, 0, 10, Duration::ZERO).await, None);
    world.gateway.record(&unit_id, true).unwrap();
    unit.send(monitoring().unwrap()).await.unwrap();
    let recording = world.gateway.recorded(&unit_id, 1, 10, LIMIT).await.unwrap();
    assert!(recording.frames.iter().all(|frame| frame.seq > 1));
    let all = world.gateway.recorded(&unit_id, 0, 10, Duration::ZERO).await.unwrap();
    for (direction, content) in
        [(Direction::UnitToCloud, "monitoringData"), (Direction::CloudToUnit, "\"ack\"")]
    {
        let shown =
            all.frames.iter().any(|frame| frame.direction == direction && frame.text.contains(content));
        assert!(shown, "no {content} in {all:?}");
    }
}

#[tokio::test]
async fn messages_that_mean_nothing_are_acknowledged_and_told_to_operators() {
    let mut world = World::start(1, Settings::default()).await;
    world.handle_all();
    let mut unit = world.connect(0).await;
    unit.settle().await.unwrap();
    let frame = serde_json::json!({
        "header": {"version": 7, "systemId": "swarm-0", "createdAt": "2026-03-01T10:00:00Z", "txn": "t-1"},
        "data": {"messageType": "newFangled"},
    });
    unit.raw(frame.to_string().as_bytes()).await.unwrap();
    world.metric_reaches("aos_gateway_refused_total{reason=\"invalid\"}", 1.0).await;
    unit.send(monitoring().unwrap()).await.unwrap();
    let unit_id = world.store.unit("swarm-0").await.unwrap().unwrap().id;
    let told = world.store.events_latest(&unit_id, "invalid", 10).await.unwrap();
    assert_eq!(told.len(), 1);
    assert!(format!("{told:?}").contains("newFangled"));
}
