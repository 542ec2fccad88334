//! The cloud dies at any moment: every effect and every answer happens once.

use std::collections::{BTreeMap, HashSet};

use aos_cloud_protocol::{InstanceStateData, StateChecksum};
use proptest::prelude::*;
use sha3::Digest as _;

use super::*;

/// When the cloud dies during one message.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Dies {
    /// It does not.
    Never,
    /// After it got the message, before anything is on disk.
    BeforeCommit,
    /// After the effect is on disk, before the acknowledgement.
    BeforeAck,
    /// After the acknowledgement, before the answer left.
    BeforeAnswer,
    /// After the answer left, before its acknowledgement came.
    BeforeAnswerAcked,
}

fn dies() -> impl Strategy<Value = Dies> {
    prop_oneof![
        Just(Dies::Never),
        Just(Dies::BeforeCommit),
        Just(Dies::BeforeAck),
        Just(Dies::BeforeAnswer),
        Just(Dies::BeforeAnswerAcked),
    ]
}

/// What the Unit saw: it remembers transactions as ours does.
#[derive(Default)]
struct Seen {
    txns: HashSet<String>,
    acceptances: BTreeMap<String, usize>,
}

impl Seen {
    fn take(&mut self, envelope: &Envelope) {
        if self.txns.insert(envelope.header.txn.to_string())
            && let Body::StateAcceptance(answer) = &envelope.body
        {
            *self.acceptances.entry(answer.checksum.as_str().to_owned()).or_default() += 1;
        }
    }
}

fn message(number: usize) -> (Body, String) {
    if number.is_multiple_of(2) {
        return (super::statuses::alert(&format!("alert {number}")), String::new());
    }
    let state = format!("state {number}");
    let bytes: [u8; 28] = sha3::Sha3_224::digest(state.as_bytes()).into();
    let state_checksum = StateChecksum::from_bytes(&bytes);
    let checksum = state_checksum.as_str().to_owned();
    let (item, subject) = (Some(AosIdentity::by_id(ITEM)), Some(AosIdentity::by_id(SUBJECT)));
    (Body::NewState(InstanceStateData { item, subject, instance: 0, state_checksum, state }), checksum)
}

async fn story(world: &World, moments: &[Dies]) {
    let mut cloud = world.cloud().await;
    cloud.send(Body::UnitStatus(super::statuses::running())).await;
    let mut seen = Seen::default();
    let (mut alerts, mut checksums) = (0, Vec::new());
    for (number, moment) in moments.iter().enumerate() {
        let (body, checksum) = message(number);
        if checksum.is_empty() {
            alerts += 1;
        } else {
            checksums.push(checksum);
        }
        let envelope = Cloud::message(body, None);
        match moment {
            Dies::BeforeCommit => {
                // The handler never ran; a Unit without acknowledgement sends it again.
                drop(cloud);
                cloud = world.cloud().await;
                cloud.deliver(envelope).await;
            }
            Dies::BeforeAck => {
                cloud.deliver(envelope.clone()).await;
                drop(cloud);
                cloud = world.cloud().await;
                cloud.deliver(envelope).await;
            }
            Dies::BeforeAnswer => {
                cloud.deliver(envelope).await;
                drop(cloud);
                cloud = world.cloud().await;
            }
            Dies::BeforeAnswerAcked => {
                cloud.deliver(envelope).await;
                cloud.waiting().await.iter().for_each(|answer| seen.take(answer));
                drop(cloud);
                cloud = world.cloud().await;
            }
            Dies::Never => {
                cloud.deliver(envelope).await;
            }
        }
        for answer in cloud.waiting().await {
            seen.take(&answer);
            cloud.store.outbox_acked(&cloud.unit.id, &answer.header.txn).await.unwrap();
        }
    }
    let kept = cloud.store.events_after(&cloud.unit.id, "alerts", 0, 1000).await.unwrap();
    assert_eq!(kept.len(), alerts, "every alert once");
    let expected: BTreeMap<String, usize> = checksums.iter().map(|one| (one.clone(), 1)).collect();
    assert_eq!(seen.acceptances, expected, "every answer once");
    assert!(cloud.waiting().await.is_empty());
    let states = cloud.store.states(&cloud.unit.id).await.unwrap();
    assert_eq!(states.first().map(|row| &row.checksum), checksums.last());
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 12, max_shrink_iters: 40, ..ProptestConfig::default() })]
    #[test]
    fn every_effect_and_every_answer_happens_once(moments in prop::collection::vec(dies(), 1..12)) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(story(&World::new(), &moments));
    }
}

/// A crash in the middle of many messages that are handled together: whatever was committed is not repeated,
/// and the rest takes effect when the Unit sends it again.
#[tokio::test]
async fn a_crash_under_load_loses_and_doubles_nothing() {
    let world = World::new();
    let cloud = world.cloud().await;
    let messages: Vec<Envelope> = (0..200)
        .map(|number| Cloud::message(super::statuses::alert(&format!("alert {number}")), None))
        .collect();
    let mut acknowledged = HashSet::new();
    {
        let origin = Origin {
            unit_id: cloud.unit.id.clone(),
            system_id: SystemId::new("unit-1").unwrap(),
            session: 1,
        };
        let sent = messages.iter().map(|envelope| {
            let outcome = cloud.broker.dispatch(origin.clone(), envelope.clone()).unwrap();
            (envelope.header.txn.clone(), outcome)
        });
        for (txn, outcome) in sent.collect::<Vec<_>>().into_iter().take(60) {
            outcome.await.unwrap();
            acknowledged.insert(txn);
        }
    }
    drop(cloud);
    let cloud = world.cloud().await;
    let known = cloud.store.remembered(&cloud.unit.id).await.unwrap();
    assert!(acknowledged.iter().all(|txn| known.contains(txn)), "what was acknowledged is on disk");
    for envelope in messages {
        if !acknowledged.contains(&envelope.header.txn) {
            cloud.deliver(envelope).await;
        }
    }
    let kept = cloud.store.events_after(&cloud.unit.id, "alerts", 0, 1000).await.unwrap();
    let distinct: HashSet<&str> = kept.iter().map(|row| row.body.as_str()).collect();
    assert_eq!((kept.len(), distinct.len()), (200, 200));
}
