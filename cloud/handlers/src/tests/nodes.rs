//! Provisioning and deprovisioning of nodes.

use aos_cloud_protocol::{
    CertificateType, FinishProvisioningRequest, NodeCsr, NodeOutcome, StartProvisioningResponse,
};
use aos_status::ErrorInfo;

use super::*;
use crate::FlowError;

fn failure(text: &str) -> ErrorInfo {
    ErrorInfo { aos_code: 1, exit_code: 0, message: text.to_owned() }
}

fn started(csrs: Vec<(CertificateType, String)>, error_info: Option<ErrorInfo>) -> Body {
    let csrs = csrs.into_iter().map(|(kind, csr)| NodeCsr { kind, csr }).collect();
    Body::StartProvisioningResponse(StartProvisioningResponse { node: node("rear"), error_info, csrs })
}

fn outcome(error_info: Option<ErrorInfo>) -> NodeOutcome {
    NodeOutcome { node: node("rear"), error_info }
}

fn two() -> Vec<(CertificateType, String)> {
    vec![(CertificateType::Iam, csr(None)), (CertificateType::Sm, csr(Some("unit-1")))]
}

async fn begin(cloud: &Cloud) -> Envelope {
    let pin = Some("pin-rear".to_owned());
    cloud.flows.provision_node(&cloud.unit.id, "rear", pin).await.unwrap();
    cloud.take().await
}

async fn state(cloud: &Cloud) -> (String, Option<String>) {
    let task = cloud.store.node_tasks(&cloud.unit.id).await.unwrap().remove(0);
    assert_eq!(task.deadline.is_none(), task.sealed_password.is_none(), "the password goes at the end");
    (task.state, task.reason)
}

async fn of_rear(cloud: &Cloud) -> usize {
    cloud.certificates().await.iter().filter(|one| one.node_id == "rear").count()
}

// PRO-112, PRO-113, PRO-114, PRO-115, PRO-116, PRO-117, PRO-123
// CLO-28
#[tokio::test]
async fn a_node_is_provisioned_and_deprovisioned() {
    let world = World::new();
    let cloud = world.cloud().await;
    let unit = &cloud.unit.id;
    let start = begin(&cloud).await;
    let Body::StartProvisioningRequest(request) = &start.body else { panic!("{start:?}") };
    assert_eq!((request.node.codename.as_deref(), request.password.expose()), (Some("rear"), "pin-rear"));
    let busy = cloud.flows.deprovision_node(unit, "rear", Some("x".to_owned())).await;
    assert!(busy.is_err(), "one thing at a time");

    let message = Cloud::message(started(two(), None), start.correlation_id.as_deref());
    cloud.deliver(message.clone()).await;
    cloud.deliver(message).await;
    let finish = cloud.take().await;
    assert_eq!(finish.correlation_id, start.correlation_id);
    let Body::FinishProvisioningRequest(FinishProvisioningRequest { certificates, password, .. }) =
        &finish.body
    else {
        panic!("{finish:?}")
    };
    assert_eq!(password.expose(), "pin-rear");
    let kinds: Vec<&str> = certificates.iter().map(|one| one.kind.as_str()).collect();
    assert_eq!(kinds, ["iam", "sm"], "in the order of the requests");
    assert_eq!((state(&cloud).await.0.as_str(), of_rear(&cloud).await), ("finishing", 2));
    cloud.answer(Body::FinishProvisioningResponse(outcome(None)), &finish).await;
    assert_eq!(state(&cloud).await, ("done".to_owned(), None));
    let nodes = cloud.store.nodes(unit).await.unwrap();
    assert_eq!(nodes.iter().find(|one| one.node_id == "rear").unwrap().status, "provisioned");

    // The password is known from provisioning.
    cloud.store.set_node_wish(unit, "rear", true).await.unwrap();
    cloud.flows.deprovision_node(unit, "rear", None).await.unwrap();
    let gone = cloud.take().await;
    assert!(matches!(&gone.body, Body::DeprovisioningRequest(body) if body.password.expose() == "pin-rear"));
    cloud.answer(Body::DeprovisioningResponse(outcome(None)), &gone).await;
    assert_eq!((state(&cloud).await.0.as_str(), of_rear(&cloud).await), ("done", 0));
    assert!(cloud.store.node_wishes(unit).await.unwrap().is_empty());
    // A late repetition under another transaction has no effect.
    cloud.answer(Body::FinishProvisioningResponse(outcome(None)), &finish).await;
    assert_eq!(cloud.invalid().await.len(), 1);
}

// PRO-113, PRO-115
// CLO-28
#[tokio::test]
async fn every_failure_ends_the_task_with_its_reason() {
    let world = World::new();
    let cloud = world.cloud().await;
    let start = begin(&cloud).await;
    cloud
        .answer(started(vec![(CertificateType::Iam, String::new())], Some(failure("no token"))), &start)
        .await;
    assert_eq!(state(&cloud).await, ("failed".to_owned(), Some("no token".to_owned())));

    let start = begin(&cloud).await;
    let wrong = vec![(CertificateType::Iam, csr(None)), (CertificateType::Sm, csr(Some("other")))];
    cloud.answer(started(wrong, None), &start).await;
    let (word, reason) = state(&cloud).await;
    assert_eq!((word.as_str(), of_rear(&cloud).await), ("failed", 0), "all or nothing");
    assert!(reason.unwrap().contains("common name"));

    let start = begin(&cloud).await;
    cloud.answer(started(vec![], None), &start).await;
    assert_eq!(state(&cloud).await.0, "failed");

    let start = begin(&cloud).await;
    cloud.answer(started([two(), two()].concat(), None), &start).await;
    let (word, reason) = state(&cloud).await;
    assert_eq!((word.as_str(), of_rear(&cloud).await), ("failed", 0));
    assert!(reason.unwrap().contains("twice"));

    let start = begin(&cloud).await;
    cloud.answer(started(vec![], Some(failure(&"long\n".repeat(1000)))), &start).await;
    let reason = state(&cloud).await.1.unwrap();
    assert!(reason.starts_with("long long ") && reason.chars().count() == 501, "{reason}");

    let start = begin(&cloud).await;
    cloud.answer(started(two(), None), &start).await;
    let finish = cloud.take().await;
    cloud.answer(Body::FinishProvisioningResponse(outcome(Some(failure("token is full")))), &finish).await;
    assert_eq!(state(&cloud).await, ("failed".to_owned(), Some("token is full".to_owned())));
    assert_eq!(of_rear(&cloud).await, 0, "certificates without a key are revoked");
    assert!(cloud.waiting().await.is_empty());
}

#[tokio::test]
async fn a_task_that_gets_no_answer_fails() {
    let patience = Patience { node_task: Duration::from_millis(50), ..Patience::default() };
    let world = World::patient(patience);
    let cloud = world.cloud().await;
    let pin = Some("pin".to_owned());
    cloud.flows.provision_node(&cloud.unit.id, "rear", pin).await.unwrap();
    cloud.until(async || state(&cloud).await.0 == "failed").await;
    assert!(cloud.waiting().await.is_empty());
    let start = begin(&cloud).await;
    cloud.until(async || state(&cloud).await.0 == "failed").await;
    cloud.answer(started(two(), None), &start).await;
    assert_eq!(of_rear(&cloud).await, 0, "too late");
}

#[tokio::test]
async fn only_a_known_secondary_node_with_a_known_password_is_touched() {
    let world = World::new();
    let cloud = world.cloud().await;
    let unit = &cloud.unit.id;
    let pin = || Some("pin".to_owned());
    assert!(cloud.flows.deprovision_node(unit, "main", pin()).await.is_err());
    assert!(cloud.flows.provision_node(unit, "front", pin()).await.is_err());
    let unknown = cloud.flows.deprovision_node(unit, "rear", None).await;
    assert!(matches!(unknown, Err(FlowError::Invalid(_))));
    let long = cloud.flows.provision_node(unit, "rear", Some("x".repeat(65))).await;
    assert!(matches!(long, Err(FlowError::Limit(_))), "no Unit takes that: {long:?}");
    assert!(cloud.store.node_tasks(unit).await.unwrap().is_empty(), "nothing was begun");
    assert!(cloud.store.set_node_wish(unit, "front", true).await.is_err());
    // A new token gets a fresh password, which is the known one from then on.
    cloud.flows.provision_node(unit, "rear", None).await.unwrap();
    let start = cloud.take().await;
    let Body::StartProvisioningRequest(request) = &start.body else { panic!("{start:?}") };
    cloud.answer(started(vec![], Some(failure("no token"))), &start).await;
    cloud.flows.deprovision_node(unit, "rear", None).await.unwrap();
    let gone = cloud.take().await;
    assert!(matches!(&gone.body, Body::DeprovisioningRequest(body) if body.password == request.password));
}
