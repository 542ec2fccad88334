//! A link that stands: signs of life, kept messages, a new certificate.

use std::collections::BTreeSet;

use aos_cloud_protocol::{AosIdentity, LogStatus, PushLog};
use serde_json::json;

use super::*;

fn part(n: u64) -> Body {
    Body::PushLog(PushLog {
        node: AosIdentity::by_codename("n"),
        part: n,
        parts_count: 1000,
        content: b"line".to_vec().into(),
        status: LogStatus::Ok,
        error_info: None,
    })
}

/// Waits until the state of the link satisfies `wanted`.
async fn until(rig: &Rig, wanted: impl Fn(&CloudState) -> bool) {
    let mut state = rig.way.state.clone();
    in_time(state.wait_for(wanted)).await.unwrap();
}

// PRO-31: a cloud that says nothing at all is given up after the configured time, and not before.
#[tokio::test]
async fn a_silent_cloud_is_given_up() {
    let (discovery, sockets) = cloud().await;
    let keys = json!({"cloudPingInterval": "200ms", "cloudDeadTimeout": "900ms"});
    let mut rig = Rig::new(Setup { discovery: discovery.url(), keys, ..Setup::default() });
    let (mut peer, ()) = tokio::join!(sockets.accept(), rig.greet());
    let connected = Instant::now();
    peer.greeted().await;
    // From here on it reads nothing, so that no ping is answered.
    until(&rig, |state| state.state == "connecting").await;
    let lived = connected.elapsed();
    assert!((0.85..1.5).contains(&lived.as_secs_f64()), "{lived:?}");
    assert_eq!(rig.way.state().last_error.as_deref(), Some("the cloud is silent"));
    assert!(in_time(peer.socket.next()).await.unwrap().unwrap().is_ping());
    let _ = tokio::join!(sockets.accept(), rig.greet());
}

// A cloud that only answers pings lives.
#[tokio::test]
async fn answers_to_pings_keep_a_link() {
    let (discovery, sockets) = cloud().await;
    let keys = json!({"cloudPingInterval": "100ms", "cloudDeadTimeout": "400ms"});
    let mut rig = Rig::new(Setup { discovery: discovery.url(), keys, ..Setup::default() });
    let (mut peer, ()) = tokio::join!(sockets.accept(), rig.greet());
    peer.greeted().await;
    let mut pings = 0;
    while pings < 12 {
        pings += usize::from(in_time(peer.socket.next()).await.unwrap().unwrap().is_ping());
    }
    assert_eq!(rig.way.state().state, "connected");
    assert_eq!(rig.way.state().counters.connections, 1);
}

// What earlier runs left is sent; acknowledgements come to the receiver in batches.
#[tokio::test]
async fn kept_messages_are_sent_until_they_are_acknowledged() {
    let (discovery, sockets) = cloud().await;
    let outbox: Vec<Envelope> = (0..100).map(kept).collect();
    let wanted: BTreeSet<Txn> = outbox.iter().map(|message| message.header.txn.clone()).collect();
    let foreign = Envelope {
        header: aos_cloud_protocol::Header { system_id: "old".parse().unwrap(), ..kept(0).header },
        ..kept(0)
    };
    let gone = foreign.header.txn.clone();
    let stored = Stored { outbox: [vec![foreign], outbox].concat(), remembered: vec![] };
    let mut rig = Rig::new(Setup { discovery: discovery.url(), stored, ..Setup::default() });
    let (mut peer, ()) = tokio::join!(sockets.accept(), rig.greet());
    peer.greeted().await;
    let sent = async {
        for _ in 0..100 {
            let message = peer.next().await.unwrap();
            peer.acknowledge(&message).await;
        }
    };
    let told = async {
        let (mut told, mut batches) = (BTreeSet::new(), 0);
        while told.len() < 101 {
            let Event::Acknowledged(txns) = rig.event().await else { panic!() };
            told.extend(txns);
            batches += 1;
        }
        assert!(told.remove(&gone), "the row of another identity goes too");
        assert_eq!(told, wanted);
        assert!(batches <= 20, "{batches} batches");
    };
    tokio::join!(sent, told);
    until(&rig, |state| state.kept == 0 && state.queued == 0).await;
    let counters = rig.way.state().counters;
    assert_eq!((counters.sent, counters.resent, counters.acknowledged), (101, 0, 101));
}

// D3, DIS-03, CM-21, PRO-26, PRO-27: a message that the cloud never acknowledges is reported once, holds up nobody, is sent again on the next
// link, and leaves the outbox only when it is acknowledged.
#[tokio::test]
async fn a_parked_message_stays_and_is_told_once() {
    let (discovery, sockets) = cloud().await;
    let keys = json!({"cloudResponseWaitTimeout": "100ms"});
    let mut rig = Rig::new(Setup { discovery: discovery.url(), keys, ..Setup::default() });
    let (mut peer, ()) = tokio::join!(sockets.accept(), rig.greet());
    peer.greeted().await;
    let message = kept(0);
    rig.way.send_kept(message.clone());
    let (parked, ()) = tokio::join!(rig.event(), async {
        for _ in 0..4 {
            assert_eq!(peer.about("kept 0").await.header.txn, message.header.txn);
        }
    });
    assert!(
        matches!(&parked, Event::Parked(what) if what.starts_with("overrideEnvVarsStatus")),
        "{parked:?}"
    );
    rig.way.send_kept(kept(1));
    let other = peer.about("kept 1").await;
    peer.acknowledge(&other).await;
    assert!(matches!(rig.event().await, Event::Acknowledged(txns) if txns == [other.header.txn]));
    let state = rig.way.state();
    assert_eq!((state.kept, state.counters.parked, state.counters.resent), (1, 1, 3));

    drop(peer);
    assert!(matches!(rig.event().await, Event::Disconnected));
    let (mut peer, ()) = tokio::join!(sockets.accept(), rig.greet());
    peer.greeted().await;
    assert_eq!(peer.about("kept 0").await, message);
    peer.acknowledge(&message).await;
    assert!(matches!(rig.event().await, Event::Acknowledged(txns) if txns == [message.header.txn]));
}

// What waits on disk and is outdated by a newer message of its topic leaves the disk too.
#[tokio::test]
async fn an_outdated_message_need_not_be_kept() {
    let (discovery, sockets) = cloud().await;
    let keys = json!({"cloudResponseWaitTimeout": "100ms"});
    let mut rig = Rig::new(Setup { discovery: discovery.url(), keys, ..Setup::default() });
    let (mut peer, ()) = tokio::join!(sockets.accept(), rig.greet());
    peer.greeted().await;
    let (old, new) = (kept(0), kept(2));
    rig.way.send_kept(old.clone());
    assert!(matches!(rig.event().await, Event::Parked(_)));
    rig.way.send_kept(new.clone());
    assert!(matches!(rig.event().await, Event::Acknowledged(txns) if txns == [old.header.txn]));
    assert_eq!(rig.way.state().counters.dropped.superseded, 1);
    peer.about("kept 2").await;
    peer.acknowledge(&new).await;
    assert!(matches!(rig.event().await, Event::Acknowledged(txns) if txns == [new.header.txn]));
}

// The queue of the session is full of other messages: what is kept waits for room and arrives.
#[tokio::test]
async fn kept_messages_wait_for_room() {
    let sockets = Sockets::new().await;
    let later = answer(&[], json!({"errorCode": 2, "nextRequestDelay": 1500}));
    let discovery = Discovery::new([later, answer(&[sockets.url()], json!({}))]).await;
    let mut rig = Rig::new(Setup { discovery: discovery.url(), ..Setup::default() });
    discovery.question(0).await;
    for n in 0..1000 {
        while !rig.way.send(part(n), None) {
            tokio::task::yield_now().await;
        }
    }
    until(&rig, |state| state.queued == 1000).await;
    (0..5).for_each(|n| rig.way.send_kept(kept(n)));
    until(&rig, |state| (state.queued, state.kept) == (1005, 5)).await;
    assert_eq!(rig.way.state().counters.dropped.queue_full, 0);
    let (mut peer, ()) = tokio::join!(sockets.accept(), rig.greet());
    peer.greeted().await;
    let mut exchanges = BTreeSet::new();
    for _ in 0..1005 {
        let message = peer.next().await.unwrap();
        peer.acknowledge(&message).await;
        exchanges.extend(message.correlation_id);
    }
    assert_eq!(exchanges.len(), 5);
    until(&rig, |state| state.queued == 0).await;
}

// CM-35, ARC-21, D13: a new certificate is used as soon as what is kept has been acknowledged.
#[tokio::test]
async fn a_new_certificate_waits_for_confirmations() {
    let (discovery, sockets) = cloud().await;
    let mut rig = Rig::new(Setup { discovery: discovery.url(), ..Setup::default() });
    let (mut peer, ()) = tokio::join!(sockets.accept(), rig.greet());
    peer.greeted().await;
    rig.way.send_kept(kept(1));
    let confirmation = peer.about("kept 1").await;
    rig.renew();
    // The link goes on: another message still comes over it.
    rig.way.send_kept(kept(0));
    let other = peer.about("kept 0").await;
    peer.acknowledge(&other).await;
    peer.acknowledge(&confirmation).await;
    let acknowledged = Instant::now();
    assert!(peer.next().await.is_none(), "closed by the Unit");
    let _ = tokio::join!(sockets.accept(), rig.greet());
    assert!(acknowledged.elapsed() < Duration::from_millis(700), "{:?}", acknowledged.elapsed());
    assert_eq!(discovery.asked.lock().unwrap().len(), 2, "discovery with the new certificate");
}

#[tokio::test]
async fn a_new_certificate_does_not_wait_for_ever() {
    let (discovery, sockets) = cloud().await;
    let mut rig = Rig::new(Setup {
        discovery: discovery.url(),
        times: Some(|times| times.settle = Duration::from_millis(300)),
        ..Setup::default()
    });
    let (mut peer, ()) = tokio::join!(sockets.accept(), rig.greet());
    peer.greeted().await;
    rig.way.send_kept(kept(1));
    let confirmation = peer.about("kept 1").await;
    rig.renew();
    assert!(peer.next().await.is_none(), "closed by the Unit");
    let (mut peer, ()) = tokio::join!(sockets.accept(), rig.greet());
    peer.greeted().await;
    assert_eq!(peer.about("kept 1").await, confirmation, "it is sent again, byte for byte");
}

// A new certificate ends a pause and an attempt under way.
#[tokio::test]
async fn a_new_certificate_ends_waiting() {
    let sockets = Sockets::new().await;
    let later = answer(&[], json!({"errorCode": 2, "nextRequestDelay": 600_000}));
    let discovery = Discovery::new([later, answer(&[sockets.url()], json!({}))]).await;
    let mut rig = Rig::new(Setup { discovery: discovery.url(), ..Setup::default() });
    discovery.question(0).await;
    until(&rig, |state| state.last_error.is_some()).await;
    rig.renew();
    // The upgrade of this attempt is not answered.
    let (_unanswered, _) = in_time(sockets.listener.accept()).await.unwrap();
    rig.renew();
    let (mut peer, ()) = tokio::join!(sockets.accept(), rig.greet());
    peer.greeted().await;
}

// D10, PRO-03: text frames and fragments are taken as well as whole binary frames.
#[tokio::test]
async fn messages_come_in_any_frames() {
    use tokio_tungstenite::tungstenite::protocol::frame::Frame;
    use tokio_tungstenite::tungstenite::protocol::frame::coding::{Data, OpCode};
    let (discovery, sockets) = cloud().await;
    let mut rig = Rig::new(Setup { discovery: discovery.url(), ..Setup::default() });
    let (mut peer, ()) = tokio::join!(sockets.accept(), rig.greet());
    peer.greeted().await;
    let wish = || {
        let body = Body::DesiredStatus(aos_cloud_protocol::DesiredStatus::default());
        let envelope = Envelope::new(unit(), jiff::Timestamp::now(), body);
        (envelope.header.txn.clone(), aos_cloud_protocol::write(&envelope).unwrap())
    };
    let (text, bytes) = wish();
    peer.socket.send(Message::text(String::from_utf8(bytes).unwrap())).await.unwrap();
    let (parts, bytes) = wish();
    let thirds: Vec<&[u8]> = bytes.chunks(bytes.len() / 3 + 1).collect();
    for (n, part) in thirds.iter().enumerate() {
        let code = OpCode::Data(if n == 0 { Data::Binary } else { Data::Continue });
        let frame = Frame::message(part.to_vec(), code, n + 1 == thirds.len());
        peer.socket.send(Message::Frame(frame)).await.unwrap();
    }
    for txn in [text, parts] {
        let event = rig.event().await;
        assert!(matches!(&event, Event::Message(message) if message.header.txn == txn), "{event:?}");
    }
}

// Each refusal is counted by its reason.
#[tokio::test]
async fn refused_frames_are_counted() {
    let (discovery, sockets) = cloud().await;
    let mut rig = Rig::new(Setup { discovery: discovery.url(), ..Setup::default() });
    let (mut peer, ()) = tokio::join!(sockets.accept(), rig.greet());
    peer.greeted().await;
    let frame = |system: &str, data: serde_json::Value| {
        let header = json!({"version": 7, "systemId": system, "txn": "t"});
        json!({"header": header, "data": data}).to_string().into_bytes()
    };
    peer.send_raw(b"{".to_vec()).await;
    peer.send_raw(vec![0x30, 0x80]).await;
    peer.send_raw(frame("other", json!({"messageType": "desiredStatus"}))).await;
    peer.send_raw(frame("unit-1", json!({"messageType": "unheardOf"}))).await;
    assert!(matches!(rig.event().await, Event::Refused(_)));
    until(&rig, |state| state.counters.received == 5).await;
    let refused = rig.way.state().counters.refused;
    // Envelopes are not opened unless the configuration says so.
    assert_eq!((refused.unreadable, refused.foreign, refused.invalid, refused.enveloped), (2, 1, 1, 0));
}
