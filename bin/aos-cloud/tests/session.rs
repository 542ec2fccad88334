//! A scripted Unit over real TLS: from provisioning to the running service and through bad weather.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test that fails panics")]

mod common;

use std::time::SystemTime;

use aos_blob_crypto::{ChainStore, Decryption, Recipe, ServedDigest, SignatureInfo, unpack};
use aos_cloud_protocol::{Body, DesiredStatus, Envelope, InstanceState, MessageType, RequestBlobUrls};
use aos_ids::SystemId;
use common::TestCloud;
use common::client::{request, tls};
use common::operator::Operator;
use common::unit::{Link, TestUnit, delta, full_status};
use http_body_util::Full;
use hyper::{Request, StatusCode};
use jiff::Timestamp;
use serde_json::json;

struct Scene {
    cloud: TestCloud,
    oem: Operator,
    unit: TestUnit,
}

async fn scene() -> Scene {
    let cloud = TestCloud::start().await;
    let admin = Operator::admin(&cloud.endpoints().api, &cloud.data()).await;
    let oem = admin.invited("oem", "Axle Works", "ann").await;
    let unit = TestUnit::provision(&oem, &cloud.data(), &cloud.endpoints().units, "unit-1").await;
    Scene { cloud, oem, unit }
}

async fn desired(link: &mut Link) -> (Envelope, DesiredStatus) {
    let envelope = link.expect_kind(MessageType::DesiredStatus).await;
    let Body::DesiredStatus(status) = envelope.body.clone() else { unreachable!() };
    (envelope, status)
}

// PRO-30, PRO-37, PRO-103, PRO-104, PRO-119, PRO-120, CLO-14, CLO-15, CLO-18, CLO-20, CLO-29, PRO-105, PRO-106, PRO-107, CLO-30
#[tokio::test]
async fn a_service_reaches_a_unit() {
    let Scene { cloud, oem, unit } = scene().await;
    let layer: Vec<u8> = (0..50_000_u32).flat_map(u32::to_le_bytes).collect();
    let (item, digests) = oem.publish("hello", "1.0.0", &layer).await;

    let mut link = unit.connect().await;
    let (first, empty) = desired(&mut link).await;
    assert_eq!(empty.items.as_deref(), Some(&[][..]));
    link.ack(&first).await;
    oem.status_until("unit-1", |status| {
        status["desired"]["acked"] == true && status["online_status"] == "Connected"
    })
    .await;
    let sent = link.send(full_status(None, InstanceState::Active)).await;
    link.acked(&sent).await;
    oem.status_until("unit-1", |status| status["online_status"] == "Online").await;

    oem.assign("unit-1", &item, &json!({})).await;
    let (assigned, status) = desired(&mut link).await;
    link.ack(&assigned).await;
    let items = status.items.clone().unwrap();
    assert_eq!(items[0].index_digest.to_string(), digests[0]);
    assert_eq!(items[0].version, "1.0.0");
    let instances = status.instances.clone().unwrap();
    assert_eq!(instances[0].num_instances, 1);

    fetch_all(&cloud, &mut link, &status, &digests, &layer).await;
    let subject = instances[0].subject.id.clone().unwrap();
    let running = full_status(Some((&item, &subject, "1.0.0")), InstanceState::Active);
    let sent = link.send(running).await;
    link.acked(&sent).await;
    let shown = oem.status_until("unit-1", |status| status["instances"][0]["state"] == "active").await;
    assert_eq!(shown["instances"][0]["item"]["codename"], "hello");
    assert_eq!(shown["nodes"][0]["node_id"], "main");

    // Each blob was fetched once, the layer in two pieces.
    for digest in &digests {
        let served = oem.get(&format!("blobs/{digest}/served/")).await.ok().json();
        let requests = if *digest == digests[4] { 2 } else { 1 };
        assert_eq!((&served["requests"], &served["bytes"]), (&json!(requests), &served["size"]));
    }

    // A new version of what follows the latest goes out by itself; an end of the assignment too.
    oem.publish("hello", "1.1.0", b"other layer").await;
    let (next, status) = desired(&mut link).await;
    link.ack(&next).await;
    assert_eq!(status.items.unwrap()[0].version, "1.1.0");
    oem.call("DELETE", &format!("units/unit-1/assignments/{item}/"), "").await.ok();
    let (last, status) = desired(&mut link).await;
    link.ack(&last).await;
    assert_eq!(status.items.as_deref(), Some(&[][..]));
}

/// Asks for the addresses of all blobs, downloads them as a Unit does and verifies them.
async fn fetch_all(
    cloud: &TestCloud,
    link: &mut Link,
    status: &DesiredStatus,
    digests: &[String],
    layer: &[u8],
) {
    let chains = ChainStore::new(
        status
            .certificates
            .iter()
            .flatten()
            .map(|info| (info.fingerprint.clone(), info.certificate.0.clone())),
        status
            .certificate_chains
            .iter()
            .flatten()
            .map(|chain| (chain.name.clone(), chain.fingerprints.clone())),
        [rustls_pki_types::pem::PemObject::from_pem_file(cloud.data().join("pki/root.pem"))
            .map(|root: rustls_pki_types::CertificateDer<'_>| root.to_vec())
            .unwrap()],
    );
    let wanted: Vec<aos_ids::Digest> = digests.iter().map(|digest| digest.parse().unwrap()).collect();
    let unknown = aos_ids::Digest::from_sha256([1; 32]);
    let mut asked = wanted.clone();
    asked.insert(1, unknown);
    let body = Body::RequestBlobUrls(RequestBlobUrls { digests: asked });
    let system_id = SystemId::new("unit-1").unwrap();
    let question = Envelope::new(system_id, Timestamp::now(), body).with_correlation_id("q-1");
    link.transmit(&question).await;
    link.acked(&question).await;
    let answer = link.expect_kind(MessageType::BlobUrls).await;
    link.ack(&answer).await;
    assert_eq!(answer.correlation_id.as_deref(), Some("q-1"));
    let Body::BlobUrls(urls) = answer.body else { unreachable!() };
    let order: Vec<aos_ids::Digest> = urls.items.iter().map(|item| item.digest).collect();
    assert_eq!(order, wanted, "in the order of the request, without the unknown one");

    let config = tls(&cloud.data(), None);
    let blobs = &cloud.endpoints().blobs;
    let first = &urls.items[0];
    let path = first.urls[0].split_once("localhost:").unwrap().1.split_once('/').unwrap().1;
    let head = common::client::raw_head(blobs, &config, &format!("/{path}")).await;
    assert!(head.contains("Accept-Ranges: bytes\r\n"), "upstream Units look for this text: {head}");
    for info in urls.items {
        let path = info.urls[0].split_once("localhost").unwrap().1.split_once('/').unwrap().1;
        let get = |range: Option<String>| {
            let mut call = Request::get(format!("/{path}"));
            if let Some(range) = range {
                call = call.header("range", range);
            }
            request(blobs, &config, call.body(Full::default()).unwrap())
        };
        let served = if info.digest == wanted[4] {
            let head = get(Some("bytes=0-999".to_owned())).await.unwrap();
            let tail = get(Some("bytes=1000-".to_owned())).await.unwrap();
            assert_eq!(tail.status, StatusCode::PARTIAL_CONTENT);
            [head.body, tail.body].concat()
        } else {
            get(None).await.unwrap().ok().body.to_vec()
        };
        assert_eq!(served.len() as u64, info.size);
        let (decrypt, sign) = (info.decrypt_info.unwrap(), info.sign_info.unwrap());
        let recipe = Recipe {
            digest: info.digest,
            served: Some(ServedDigest::parse(&info.sha256.to_string()).unwrap()),
            decryption: Some(
                Decryption::new(&decrypt.block_alg, &decrypt.block_key.0, &decrypt.block_iv.0).unwrap(),
            ),
            signature: Some((
                SignatureInfo {
                    chain_name: sign.chain_name,
                    alg: sign.alg,
                    value: sign.value.0,
                    trusted_timestamp: sign.trusted_timestamp.map(SystemTime::from),
                },
                &chains,
            )),
        };
        let mut plain = Vec::new();
        unpack(served.as_slice(), &mut plain, &recipe, SystemTime::now()).unwrap();
        if info.digest == wanted[4] {
            assert_eq!(plain, layer);
        }
    }
}

// CLO-13
#[tokio::test]
async fn a_target_is_told_until_it_is_acknowledged_and_not_again() {
    let Scene { cloud: _cloud, oem, unit, .. } = scene().await;
    let (item, _) = oem.publish("hello", "1.0.0", b"layer").await;
    oem.assign("unit-1", "hello", &json!({"num_instances": 1})).await;

    let mut link = unit.connect().await;
    let (_, status) = desired(&mut link).await;
    drop(link);
    // Not acknowledged: told again on the next connection.
    let mut link = unit.connect().await;
    let (again, same) = desired(&mut link).await;
    assert_eq!(same, status);
    link.ack(&again).await;
    oem.status_until("unit-1", |status| status["desired"]["acked"] == true).await;
    drop(link);

    // Acknowledged and reached: silence.
    let subject = status.instances.unwrap()[0].subject.id.clone().unwrap();
    let mut link = unit.connect().await;
    let running = full_status(Some((&item, &subject, "1.0.0")), InstanceState::Active);
    let sent = link.send(running).await;
    link.acked(&sent).await;
    assert!(link.nothing_of(MessageType::DesiredStatus).await);
    drop(link);

    // Acknowledged, but the Unit has lost it.
    let mut link = unit.connect().await;
    let sent = link.send(full_status(None, InstanceState::Active)).await;
    link.acked(&sent).await;
    let (lost, same) = desired(&mut link).await;
    link.ack(&lost).await;
    assert_eq!(same.items.unwrap()[0].version, "1.0.0");
    let sent = link.send(full_status(None, InstanceState::Active)).await;
    link.acked(&sent).await;
    assert!(link.nothing_of(MessageType::DesiredStatus).await, "once per connection");
}

// CLO-20
#[tokio::test]
async fn a_restart_keeps_everything() {
    let Scene { mut cloud, oem, unit } = scene().await;
    let (item, digests) = oem.publish("hello", "1.0.0", b"layer").await;
    oem.assign("unit-1", &item, &json!({})).await;
    let mut link = unit.connect().await;
    let (message, status) = desired(&mut link).await;
    link.ack(&message).await;
    let subject = status.instances.unwrap()[0].subject.id.clone().unwrap();
    let running = || full_status(Some((&item, &subject, "1.0.0")), InstanceState::Active);
    let sent = link.send(running()).await;
    link.acked(&sent).await;
    let before = oem.status_until("unit-1", |status| status["desired"]["acked"] == true).await;

    cloud.restart().await;
    assert_eq!(link.closed().await, 1001);
    let after = oem.get("units/unit-1/status/").await.ok().json();
    assert_eq!(after["instances"], before["instances"]);
    assert_eq!(after["desired"], before["desired"]);
    assert_eq!(after["online_status"], "Offline");
    assert!(oem.call("HEAD", &format!("blobs/{}", digests[4]), "").await.status.is_success());
    let mut link = unit.connect().await;
    let sent = link.send(running()).await;
    link.acked(&sent).await;
    assert!(link.nothing_of(MessageType::DesiredStatus).await, "acknowledged before the restart");
    oem.status_until("unit-1", |status| status["online_status"] == "Online").await;
}

// REL-05
#[tokio::test]
async fn a_message_that_names_another_unit_closes_the_session() {
    let Scene { cloud: _cloud, unit, .. } = scene().await;
    let mut link = unit.connect().await;
    let foreign = Envelope::new(SystemId::new("unit-2").unwrap(), Timestamp::now(), delta());
    link.transmit(&foreign).await;
    assert_eq!(link.closed().await, 1008);
}

// REL-06
#[tokio::test]
async fn an_oversized_frame_closes_the_session() {
    let Scene { cloud: _cloud, unit, .. } = scene().await;
    let mut link = unit.connect().await;
    link.raw(vec![b' '; 16 * 1024 * 1024 + 1]).await;
    assert_eq!(link.closed().await, 1009);
}

// PRO-16, PRO-20, CLO-12, REL-06, CLO-09
#[tokio::test]
async fn bad_messages_change_nothing() {
    let Scene { cloud: _cloud, oem, unit, .. } = scene().await;
    let mut link = unit.connect().await;
    let good = link.send(full_status(None, InstanceState::Active)).await;
    link.acked(&good).await;
    let before = oem.status_until("unit-1", |status| status["online_status"] == "Online").await;
    // Unreadable: dropped without an answer.
    for garbage in [&b"no json"[..], b"{}", b"[]", b"\xff\xfe", br#"{"header":{},"data":{}}"#] {
        link.raw(garbage.to_vec()).await;
    }
    // Readable but invalid: acknowledged, so that the Unit does not repeat it for ever.
    let invalid = json!({
        "header": {"version": 7, "systemId": "unit-1", "createdAt": "2026-01-01T00:00:00Z", "txn": "t-1"},
        "data": {"messageType": "unitStatus", "items": [{"state": "sleepy"}]},
    });
    link.raw(invalid.to_string()).await;
    link.expect("ack of t-1", |envelope| envelope.header.txn.as_str() == "t-1").await;
    // The same full status again, as after a lost acknowledgement: acknowledged, nothing else.
    link.transmit(&good).await;
    link.acked(&good).await;
    let after = oem.get("units/unit-1/status/").await.ok().json();
    assert_eq!(after["nodes"], before["nodes"]);
    assert_eq!(after["items"], before["items"]);
}

// CLO-05
#[tokio::test]
async fn a_newer_session_replaces_an_older_one() {
    let Scene { cloud: _cloud, oem, unit, .. } = scene().await;
    let mut first = unit.connect().await;
    desired(&mut first).await;
    let mut second = unit.connect().await;
    assert_eq!(first.closed().await, 1008);
    let (message, _) = desired(&mut second).await;
    second.ack(&message).await;
    let sent = second.send(full_status(None, InstanceState::Active)).await;
    second.acked(&sent).await;
    oem.status_until("unit-1", |status| status["online_status"] == "Online").await;
    drop(second);
    oem.status_until("unit-1", |status| status["online_status"] == "Offline").await;
}
