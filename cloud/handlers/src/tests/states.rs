//! States of instances, overridden variables.

use aos_cloud_protocol::{
    EnvVar, EnvVarStatus, EnvVarsFilter, InstanceStateData, MAX_STATE, OverrideEnvVarsStatus,
    StateAcceptance, StateChecksum, StateRequest, StateResult,
};
use aos_cloud_store::{StateKey, StateRow};
use sha3::Digest as _;

use super::*;
use crate::FlowError;

fn checksum(state: &str) -> StateChecksum {
    let bytes: [u8; 28] = sha3::Sha3_224::digest(state.as_bytes()).into();
    StateChecksum::from_bytes(&bytes)
}

fn new_state(state: &str) -> InstanceStateData {
    InstanceStateData {
        item: Some(AosIdentity::by_id(ITEM)),
        subject: Some(AosIdentity::by_id(SUBJECT)),
        instance: 0,
        state_checksum: checksum(state),
        state: state.to_owned(),
    }
}

fn key() -> StateKey {
    StateKey { item: ITEM.to_owned(), subject: SUBJECT.to_owned(), instance: 0 }
}

async fn running(cloud: &Cloud) {
    cloud.send(Body::UnitStatus(super::statuses::running())).await;
}

async fn stored(cloud: &Cloud) -> Option<StateRow> {
    cloud.store.state(&cloud.unit.id, &key()).await.unwrap()
}

async fn acceptance(cloud: &Cloud) -> StateAcceptance {
    match cloud.take().await.body {
        Body::StateAcceptance(answer) => answer,
        other => panic!("{other:?}"),
    }
}

// PRO-99, PRO-102, PRO-124
// CLO-31
#[tokio::test]
async fn a_new_state_is_kept_and_accepted() {
    let world = World::new();
    let cloud = world.cloud().await;
    running(&cloud).await;
    for state in ["one", "two"] {
        cloud.send(Body::NewState(new_state(state))).await;
        let answer = acceptance(&cloud).await;
        assert_eq!((answer.result, answer.checksum), (StateResult::Accepted, checksum(state)));
        assert_eq!(answer.item.id.as_deref(), Some(ITEM));
    }
    let row = stored(&cloud).await.unwrap();
    assert_eq!((row.content.as_str(), row.checksum.as_str()), ("two", checksum("two").as_str()));
    assert_eq!(row.previous.unwrap().0, checksum("one").as_str());
    // D48: a checksum of the documents' kind.
    let hash = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, b"three");
    let state_checksum = StateChecksum::new(hex::encode(hash)).unwrap();
    cloud.send(Body::NewState(InstanceStateData { state_checksum, ..new_state("three") })).await;
    assert_eq!(acceptance(&cloud).await.result, StateResult::Accepted);
}

// PRO-102
// CLO-31
#[tokio::test]
async fn a_state_that_is_wrong_too_large_or_of_nobody_is_rejected_with_a_reason() {
    let world = World::new();
    let cloud = world.cloud().await;
    cloud.send(Body::NewState(new_state("early"))).await;
    assert_eq!(acceptance(&cloud).await.reason, "unknown instance");
    running(&cloud).await;
    cloud.send(Body::NewState(new_state("good"))).await;
    acceptance(&cloud).await;
    let large = "x".repeat(MAX_STATE + 1);
    for state in [
        InstanceStateData { state_checksum: checksum("other"), ..new_state("torn") },
        new_state(&large),
        InstanceStateData { instance: 7, ..new_state("seven") },
    ] {
        cloud.send(Body::NewState(state)).await;
        let answer = acceptance(&cloud).await;
        assert_eq!(answer.result, StateResult::Rejected);
        assert!(!answer.reason.is_empty());
    }
    let row = stored(&cloud).await.unwrap();
    assert_eq!(row.content, "good", "what was rejected is not kept");
    assert!(row.rejected.is_some());
}

#[tokio::test]
async fn a_message_whose_answer_no_unit_would_take_is_noted_and_not_asked_for_again() {
    let world = World::new();
    let cloud = world.cloud().await;
    running(&cloud).await;
    let long = "c".repeat(200);
    let message = Cloud::message(Body::NewState(new_state("good")), Some(&long));
    cloud.deliver(message.clone()).await;
    cloud.deliver(message).await;
    assert!(cloud.waiting().await.is_empty());
    assert!(stored(&cloud).await.is_none(), "all or nothing");
    assert_eq!(cloud.invalid().await.len(), 1);
}

// PRO-100, PRO-101
// CLO-32
#[tokio::test]
async fn a_unit_gets_the_latest_state_or_the_initial_one() {
    let world = World::new();
    let cloud = world.cloud().await;
    running(&cloud).await;
    let ask = async |default| {
        let request = StateRequest {
            item: AosIdentity::by_id(ITEM),
            subject: AosIdentity::by_id(SUBJECT),
            instance: 0,
            default,
        };
        cloud.send(Body::StateRequest(request)).await;
        match cloud.take().await.body {
            Body::UpdateState(update) => update,
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(ask(false).await, new_state(""), "there is none yet");
    cloud.send(Body::NewState(new_state("latest"))).await;
    acceptance(&cloud).await;
    assert_eq!(ask(false).await, new_state("latest"));
    assert_eq!(ask(true).await, new_state(""));
}

#[tokio::test]
async fn a_state_set_here_goes_to_the_unit_and_wins_over_one_under_way() {
    let world = World::new();
    let cloud = world.cloud().await;
    running(&cloud).await;
    let unit = &cloud.unit.id;
    let row = cloud.flows.set_state(unit, key(), "set".to_owned()).await.unwrap();
    assert_eq!(row.delivery, "waiting");
    // The Unit tells of a state that it made before it got ours.
    cloud.send(Body::NewState(new_state("made before"))).await;
    let waiting = cloud.waiting().await;
    let bodies: Vec<&Body> = waiting.iter().map(|envelope| &envelope.body).collect();
    let [Body::UpdateState(update), Body::StateAcceptance(answer)] = bodies.as_slice() else {
        panic!("{bodies:?}")
    };
    assert_eq!(*update, new_state("set"));
    assert_eq!(answer.result, StateResult::Rejected);
    for envelope in &waiting {
        cloud.store.outbox_acked(unit, &envelope.header.txn).await.unwrap();
    }
    assert_eq!(stored(&cloud).await.unwrap().delivery, "delivered");
    cloud.send(Body::NewState(new_state("made after"))).await;
    assert_eq!(acceptance(&cloud).await.result, StateResult::Accepted);

    cloud.flows.reset_state(unit, key()).await.unwrap();
    assert!(matches!(cloud.take().await.body, Body::UpdateState(update) if update == new_state("")));
    let large = cloud.flows.set_state(unit, key(), "x".repeat(MAX_STATE + 1)).await;
    assert!(matches!(large, Err(FlowError::Invalid(_))));
    let strange = StateKey { instance: 9, ..key() };
    assert!(cloud.flows.set_state(unit, strange, String::new()).await.is_err());
}

fn overrides(value: &str) -> Vec<EnvVarsFilter> {
    let variable = EnvVar { name: "LEVEL".to_owned(), value: value.to_owned(), ttl: None };
    vec![EnvVarsFilter {
        item: Some(AosIdentity::by_id(ITEM)),
        variables: vec![variable],
        ..EnvVarsFilter::default()
    }]
}

// D33, D63
// PRO-108, PRO-109, PRO-111
// CLO-33
#[tokio::test]
async fn overrides_replace_each_other_and_keep_what_the_unit_reports() {
    let world = World::new();
    let cloud = world.cloud().await;
    let unit = &cloud.unit.id;
    let old = cloud.flows.set_env_overrides(unit, overrides("info")).await.unwrap();
    let set = cloud.flows.set_env_overrides(unit, overrides("debug")).await.unwrap();
    let sent = cloud.take().await;
    let Body::OverrideEnvVars(body) = &sent.body else { panic!("{sent:?}") };
    assert_eq!(body.items, overrides("debug"), "only the newest set goes out");
    assert_eq!(sent.correlation_id.as_deref(), Some(set.correlation_id.as_str()));
    assert_eq!(cloud.store.env_overrides(unit).await.unwrap().unwrap().state, "delivered");

    let status = |error: Option<&str>| {
        let error_info =
            error.map(|text| aos_status::ErrorInfo { aos_code: 5, exit_code: 0, message: text.to_owned() });
        let (item, subject) = (AosIdentity::by_id(ITEM), AosIdentity::by_id(SUBJECT));
        let status = EnvVarStatus { item, subject, instance: 0, name: "LEVEL".to_owned(), error_info };
        Body::OverrideEnvVarsStatus(OverrideEnvVarsStatus { statuses: vec![status] })
    };
    let of = |body, exchange: Option<&str>| Cloud::message(body, exchange);
    cloud.deliver(of(status(Some("old")), Some(&old.correlation_id))).await;
    assert!(cloud.store.env_overrides(unit).await.unwrap().unwrap().statuses.is_empty());
    cloud.deliver(of(status(Some("no instance")), Some(&set.correlation_id))).await;
    let known = cloud.store.env_overrides(unit).await.unwrap().unwrap();
    assert!(known.statuses[0].error.as_ref().unwrap().contains("no instance"));
    cloud.deliver(of(status(None), None)).await;
    let known = cloud.store.env_overrides(unit).await.unwrap().unwrap();
    assert_eq!((known.statuses.len(), &known.statuses[0].error), (1, &None));
    // Names that cannot have been overridden are not kept, and words are cut.
    let Body::OverrideEnvVarsStatus(mut told) = status(Some(&"no ".repeat(1000))) else { unreachable!() };
    for (name, item) in [("x".repeat(257), ITEM.to_owned()), ("LEVEL".to_owned(), "x".repeat(65))] {
        let item = AosIdentity::by_id(item);
        told.statuses.push(EnvVarStatus { name, item, ..told.statuses[0].clone() });
    }
    cloud.send(Body::OverrideEnvVarsStatus(told)).await;
    let known = cloud.store.env_overrides(unit).await.unwrap().unwrap();
    assert_eq!((known.statuses.len(), cloud.invalid().await.len()), (1, 1));
    assert!(known.statuses[0].error.as_ref().unwrap().len() < 600);
    // What no Unit would take is refused at once.
    let refused = cloud.flows.set_env_overrides(unit, overrides(&"x".repeat(20_000))).await;
    assert!(matches!(refused, Err(FlowError::Limit(_))), "{refused:?}");
    assert_eq!(cloud.store.env_overrides(unit).await.unwrap().unwrap().correlation_id, set.correlation_id);
}
