//! Units that send too much, too fast, too slowly or take nothing, over real connections.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test that fails panics")]

mod support;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use aos_cloud_broker::{Answer, Outcome};
use aos_cloud_gateway::{RateLimits, Settings};
use aos_cloud_listener::Limits;
use aos_cloud_protocol::discovery::ErrorCode;
use aos_cloud_protocol::{BlobUrls, Body};
use aos_cloud_websocket::{Frame, encode};
use aos_sim::{SimError, Unit, full_status, monitoring};
use support::{LIMIT, World, limits, until};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpSocket, TcpStream};

const HANDLING: &str = "aos_gateway_handling";

fn reason(why: &str) -> String {
    format!("aos_gateway_closed_total{{reason=\"{why}\"}}")
}

fn refused(why: &str) -> String {
    format!("aos_gateway_refused_total{{reason=\"{why}\"}}")
}

/// Runs a Unit until its connection has ended; returns the code it was closed with.
async fn ended(mut unit: Unit) -> Option<u16> {
    tokio::time::timeout(LIMIT, async { while unit.step().await.is_ok() {} }).await.expect("it is closed");
    unit.closed()
}

#[tokio::test]
async fn a_unit_whose_messages_are_not_handled_is_not_read() {
    let mut world = World::start(2, Settings::default()).await;
    let mut unit = world.connect(0).await;
    let mut wanted = vec![];
    for _ in 0..100 {
        wanted.push(unit.post(monitoring().unwrap()).await.unwrap());
    }
    // Its own window of 32 leaves the status and 31 samples, or 32 samples: no more is read.
    world.metric_reaches(HANDLING, 32.0).await;
    assert!((world.metric(HANDLING) - 32.0).abs() < 1e-9);
    let mut acknowledged = vec![];
    let work = async {
        while acknowledged.len() < 101 {
            assert!(world.metric(HANDLING) <= 32.0);
            while let Ok(inbound) = world.messages.try_recv() {
                inbound.into_parts().2.tell(Outcome::Done(vec![]));
            }
            // A step may have to wait for what the next message brings.
            let _ = tokio::time::timeout(Duration::from_millis(20), unit.step()).await;
            acknowledged.extend(unit.acknowledged());
        }
    };
    tokio::time::timeout(LIMIT, work).await.unwrap();
    assert!(wanted.iter().all(|txn| acknowledged.contains(txn)));
    assert!(world.metric("aos_gateway_nacks_total") < 0.5);
    assert!(world.metric(HANDLING) < 0.5 && world.metric("aos_gateway_handling_bytes") < 0.5);
}

#[tokio::test]
async fn a_full_queue_holds_up_its_senders_and_loses_nothing() {
    let mut world = World::start_with(20, Settings::default(), limits(), 1, LIMIT).await;
    let mut units = vec![];
    for number in 0..20 {
        units.push(world.connect(number).await);
    }
    world.metric_reaches(HANDLING, 20.0).await;
    world.handle_all();
    let settled = units.iter_mut().map(Unit::settle);
    for outcome in futures_util::future::join_all(settled).await {
        outcome.unwrap();
    }
    assert!(world.metric("aos_gateway_nacks_total") < 0.5);
    assert!(world.metric(HANDLING) < 0.5);
}

#[tokio::test]
async fn too_much_is_read_slowly_then_turned_away_then_cut() {
    let rate = RateLimits {
        messages_per_second: 50.0,
        message_burst: 60.0,
        patience: Duration::from_secs(1),
        abuse: Duration::from_secs(2),
        ..RateLimits::default()
    };
    let mut world = World::start(2, Settings { rate, ..Settings::default() }).await;
    world.handle_all();
    let (mut calm, mut flood) = (world.connect(0).await, world.connect(1).await);
    calm.settle().await.unwrap();
    let start = Instant::now();
    let flooding = async {
        // As many unreadable frames as fit: nothing makes it stop by itself.
        while flood.raw(b"{}").await.is_ok() {}
        ended(flood).await
    };
    let (code, waits) = tokio::join!(flooding, async {
        let mut waits = vec![];
        for _ in 0..10 {
            waits.push(calm.send(monitoring().unwrap()).await.unwrap());
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        waits
    });
    assert!(matches!(code, Some(1008) | None), "{code:?}");
    assert!(start.elapsed() >= Duration::from_secs(3) && start.elapsed() < LIMIT / 2);
    world.metric_reaches(&reason("rate"), 1.0).await;
    // What came in is what the bucket allows in that time.
    let unreadable = world.metric(&refused("unreadable"));
    assert!((100.0..350.0).contains(&unreadable), "{unreadable}");
    assert!(waits.iter().all(|wait| *wait < Duration::from_secs(2)), "another Unit suffers: {waits:?}");
}

// REL-15
#[tokio::test]
async fn readable_messages_beyond_the_rate_get_nacks() {
    let rate = RateLimits {
        messages_per_second: 20.0,
        message_burst: 20.0,
        patience: Duration::ZERO,
        ..RateLimits::default()
    };
    let mut world = World::start(1, Settings { rate, ..Settings::default() }).await;
    world.handle_all();
    let mut unit = world.connect(0).await;
    unit.settle().await.unwrap();
    let mut wanted = vec![];
    for _ in 0..40 {
        wanted.push(unit.post(monitoring().unwrap()).await.unwrap());
    }
    let mut acknowledged = vec![];
    let work = async {
        while acknowledged.len() < 40 {
            unit.step().await.unwrap();
            acknowledged.extend(unit.acknowledged());
        }
    };
    tokio::time::timeout(LIMIT, work).await.unwrap();
    assert!(wanted.iter().all(|txn| acknowledged.contains(txn)));
    assert!(world.metric("aos_gateway_nacks_total") >= 1.0);
    assert!(world.metric(&refused("rate")) >= 1.0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_unit_that_takes_no_bytes_is_cut_in_time() {
    let rate = RateLimits { messages_per_second: 1e6, message_burst: 1e6, ..RateLimits::default() };
    let settings = Settings { rate, frame_time: Duration::from_millis(500), ..Settings::default() };
    let mut world = World::start(2, settings).await;
    // The first samples are answered with 64 KiB that the Unit does not read.
    let answered = AtomicUsize::new(0);
    let urls = vec!["x".repeat(4000); 8];
    world.handle(move |body| {
        if !matches!(body, Body::MonitoringData(_)) || answered.fetch_add(1, Ordering::Relaxed) >= 40 {
            return vec![];
        }
        let item = serde_json::json!({
            "digest": format!("sha256:{}", "0".repeat(64)), "urls": urls, "sha256": "0".repeat(64), "size": 1,
        });
        let items = serde_json::from_value(serde_json::json!([item, item])).unwrap();
        vec![Answer { body: Body::BlobUrls(BlobUrls { items }), correlation_id: None }]
    });
    let identity = world.fleet.identity(0).unwrap();
    let socket = TcpSocket::new_v4().unwrap();
    socket.set_recv_buffer_size(4096).unwrap();
    let stream = socket.connect(([127, 0, 0, 1], world.target.port).into()).await.unwrap();
    let connector = tokio_rustls::TlsConnector::from(Arc::clone(&identity.config));
    let stream = connector.connect("localhost".try_into().unwrap(), stream).await.unwrap();
    let mut unit = Unit::connect_over(stream, identity, full_status(1).unwrap()).await.unwrap();
    unit.settle().await.unwrap();
    let flood = async { while unit.force(monitoring().unwrap()).await.is_ok() {} };
    tokio::time::timeout(LIMIT, flood).await.expect("it is cut off");
    world.metric_reaches(&reason("slow"), 1.0).await;
}

#[tokio::test]
async fn who_trickles_a_frame_is_cut_in_time() {
    let settings = Settings { frame_time: Duration::from_millis(500), ..Settings::default() };
    let mut world = World::start(1, settings).await;
    world.handle_all();
    let mut unit = world.connect(0).await;
    unit.settle().await.unwrap();
    let frame = encode(Frame::Binary(&[b' '; 1000]), Some([1, 2, 3, 4]));
    let start = Instant::now();
    for byte in frame {
        if unit.bytes(&[byte]).await.is_err() || unit.closed().is_some() {
            break;
        }
        // Reading shows whether the cloud has closed.
        if let Ok(Err(_)) = tokio::time::timeout(Duration::from_millis(20), unit.step()).await {
            break;
        }
    }
    assert_eq!(unit.closed(), Some(1008));
    assert!(start.elapsed() < Duration::from_secs(5), "{:?}", start.elapsed());
    world.metric_reaches(&reason("slow"), 1.0).await;
}

#[tokio::test]
async fn who_trickles_its_headers_or_says_nothing_is_cut_in_time() {
    let header_time = Duration::from_millis(400);
    let world = World::start_with(1, Settings::default(), limits(), 16, header_time).await;
    let identity = world.fleet.identity(0).unwrap();
    for trickle in [true, false] {
        let mut stream = world.target.open(&identity).await.unwrap();
        let start = Instant::now();
        let work = async {
            for byte in b"GET /ws/v7/ HTTP/1.1\r\nHost: localhost\r\n".iter().cycle() {
                if trickle && (stream.write_all(&[*byte]).await.is_err() || stream.flush().await.is_err()) {
                    return;
                }
                let mut chunk = [0; 512];
                if let Ok(end) =
                    tokio::time::timeout(Duration::from_millis(20), stream.read(&mut chunk)).await
                    && !matches!(end, Ok(1..))
                {
                    return;
                }
            }
        };
        tokio::time::timeout(LIMIT, work).await.expect("it is cut off");
        assert!(start.elapsed() < Duration::from_secs(5), "{:?}", start.elapsed());
    }
    until("the connections are gone", || world.metric("aos_gateway_connections") < 0.5).await;
}

#[tokio::test]
async fn connections_are_bounded_and_the_next_one_waits() {
    let few = Limits { connections: 2, ..limits() };
    let mut world = World::start_with(3, Settings::default(), few, 16, LIMIT).await;
    world.handle_all();
    let (mut first, mut second) = (world.connect(0).await, world.connect(1).await);
    first.settle().await.unwrap();
    second.settle().await.unwrap();
    let third = world.connect(2);
    tokio::pin!(third);
    // A third one is not even greeted while both are there.
    assert!(tokio::time::timeout(Duration::from_millis(300), third.as_mut()).await.is_err());
    drop(first);
    let mut third = tokio::time::timeout(LIMIT, third).await.unwrap();
    third.settle().await.unwrap();
}

#[tokio::test]
async fn long_messages_share_their_memory() {
    // Room for one frame of the greatest length.
    let settings = Settings { large_frames: 0, ..Settings::default() };
    let mut world = World::start(3, settings).await;
    world.handle_all();
    let mut units = vec![];
    for number in 0..3 {
        let mut unit = world.connect(number).await;
        unit.settle().await.unwrap();
        units.push(unit);
    }
    let large = full_status(12_000).unwrap();
    let sending = units.iter_mut().map(|unit| unit.send(large.clone()));
    for outcome in futures_util::future::join_all(sending).await {
        outcome.unwrap();
    }
    assert!(world.metric("aos_gateway_bytes_in_total") > 3.0 * 1024.0 * 1024.0);
}

// REL-21
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_storm_of_units_is_spread_and_everybody_gets_in() {
    const UNITS: usize = 300;
    let settings = Settings { admissions_per_second: 60.0, admission_burst: 60.0, ..Settings::default() };
    let mut world = World::start(UNITS, settings).await;
    world.handle_all();
    let start = Instant::now();
    let arriving = (0..UNITS).map(|number| {
        let world = &world;
        async move {
            let identity = world.fleet.identity(number).unwrap();
            let mut asked = 0;
            loop {
                // Too many handshakes from one address: as with any failure, a Unit comes again.
                let answer = match world.target.discover(&identity).await {
                    Ok(answer) => answer,
                    Err(SimError::Tls(_) | SimError::Connection(_)) => {
                        tokio::time::sleep(Duration::from_millis(100)).await;
                        continue;
                    }
                    Err(error) => panic!("{error}"),
                };
                asked += 1;
                let delay = Duration::from_millis(answer.next_request_delay);
                assert!(delay >= Duration::from_secs(1) && delay <= Duration::from_mins(10));
                if answer.error_code == ErrorCode::NoError {
                    assert_eq!(answer.connection_info.len(), 1);
                    break;
                }
                assert_eq!(answer.error_code, ErrorCode::RepeatLater);
                assert!(answer.connection_info.is_empty());
                tokio::time::sleep(delay).await;
            }
            loop {
                let connected = Unit::connect(&world.target, identity.clone(), full_status(1).unwrap()).await;
                match connected {
                    Ok(mut unit) => {
                        unit.settle().await.unwrap();
                        return (asked, unit);
                    }
                    Err(SimError::Tls(_) | SimError::Connection(_)) => {
                        tokio::time::sleep(Duration::from_millis(100)).await;
                    }
                    Err(error) => panic!("welcome, and then: {error}"),
                }
            }
        }
    });
    let arrived = tokio::time::timeout(LIMIT, futures_util::future::join_all(arriving)).await.unwrap();
    assert!(arrived.iter().all(|(asked, _)| *asked <= 2), "put off twice");
    // (300 - 60) / 60 s.
    assert!(start.elapsed() >= Duration::from_secs(3), "{:?}", start.elapsed());
    assert!(world.metric("aos_gateway_deferred_total") >= 100.0);
    assert!((world.metric("aos_gateway_sessions") - 300.0).abs() < 1e-9);
}

#[tokio::test]
async fn silent_strangers_keep_nobody_out() {
    let few = Limits { handshakes: 8, handshakes_per_address: 4, ..limits() };
    let mut world = World::start_with(1, Settings::default(), few, 16, LIMIT).await;
    world.handle_all();
    let mut silent = vec![];
    for _ in 0..4 {
        let socket = TcpSocket::new_v4().unwrap();
        socket.bind("127.0.0.9:0".parse().unwrap()).unwrap();
        silent.push(socket.connect(([127, 0, 0, 1], world.target.port).into()).await.unwrap());
    }
    let mut unit = world.connect(0).await;
    unit.settle().await.unwrap();
    // One more from there is turned away at once.
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind("127.0.0.9:0".parse().unwrap()).unwrap();
    let mut more: TcpStream = socket.connect(([127, 0, 0, 1], world.target.port).into()).await.unwrap();
    let read = tokio::time::timeout(LIMIT, more.read(&mut [0; 8])).await.unwrap();
    assert!(!matches!(read, Ok(1..)));
    world.metric_reaches("aos_gateway_handshakes_failed_total{reason=\"address\"}", 1.0).await;
}
