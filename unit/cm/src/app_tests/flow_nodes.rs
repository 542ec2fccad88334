//! Provisioning, deprovisioning, pausing and resuming of nodes, from the cloud's message to IAM and back.

use aos_cloud_protocol::{
    AosIdentity, CertificateType, DeprovisioningRequest, DesiredNodeState, FinishProvisioningRequest,
    NodeCertificate, NodeDesiredState, NodeOutcome, Secret, StartProvisioningRequest,
    StartProvisioningResponse,
};
use aos_status::{ErrorInfo, NodeState};

use super::*;

const ID: &str = "b46e0f29-7d81-4c5a-9e37-a2f8d1c60b53";

fn start(node: &str) -> Body {
    let password = Secret::new("pw");
    Body::StartProvisioningRequest(StartProvisioningRequest {
        node: AosIdentity::by_codename(node),
        password,
    })
}

fn finish(node: &str) -> Body {
    let certificate = |kind, chain: &str| NodeCertificate { kind, chain: chain.into() };
    Body::FinishProvisioningRequest(FinishProvisioningRequest {
        node: AosIdentity::by_codename(node),
        certificates: vec![certificate(CertificateType::Sm, "one"), certificate(CertificateType::Iam, "two")],
        password: Secret::new("pw"),
    })
}

fn leave(node: &str) -> Body {
    let (node, password) = (AosIdentity::by_codename(node), Secret::new("pw"));
    Body::DeprovisioningRequest(DeprovisioningRequest { node, password })
}

async fn world() -> World {
    let mut world = World::new().await;
    world.iam.orders.with_rear("unprovisioned");
    world.cloud.connected().await;
    world
}

impl World {
    async fn csrs(&mut self) -> StartProvisioningResponse {
        let envelope = self.cloud.answer().await;
        assert_eq!(envelope.correlation_id.as_deref(), Some(ID));
        let Body::StartProvisioningResponse(answer) = envelope.body else { panic!("{envelope:?}") };
        assert_eq!(answer.node.codename.as_deref(), Some("rear"));
        answer
    }

    async fn outcome(&mut self) -> NodeOutcome {
        match self.cloud.answer().await.body {
            Body::FinishProvisioningResponse(answer) | Body::DeprovisioningResponse(answer) => answer,
            other => panic!("{other:?}"),
        }
    }
}

// CM-05, CM-34, PRO-112 to PRO-117, PRO-123: the steps and their order; what fails ends the sequence.
#[tokio::test]
async fn a_node_joins_and_leaves_through_the_cloud() {
    in_time!(async {
        let mut world = world().await;
        world.cloud.send_as(start("rear"), Some(ID)).await;
        let answer = world.csrs().await;
        assert_eq!(answer.error_info, None);
        let csrs: Vec<_> = answer.csrs.iter().map(|one| (one.kind.as_str(), one.csr.as_str())).collect();
        assert_eq!(csrs, [("iam", "csr of rear iam"), ("sm", "csr of rear sm")]);
        assert_eq!(
            world.iam.orders.take(),
            ["start rear pw", "types rear", "key rear iam pw", "key rear sm pw"]
        );

        world.iam.orders.refuse("apply rear iam two", ErrorInfo::new(AosCode::InvalidArgument, "no key"));
        world.cloud.send_as(finish("rear"), Some(ID)).await;
        assert_eq!(world.outcome().await.error_info.unwrap().message, "no key");
        assert_eq!(world.iam.orders.take(), ["apply rear sm one", "apply rear iam two"]);

        world.cloud.send_as(leave("rear"), Some(ID)).await;
        assert_eq!(world.outcome().await.error_info, None, "it is unprovisioned already");
        assert!(world.iam.orders.take().is_empty());
        world.iam.orders.with_rear("provisioned");
        world.cloud.send_as(leave("rear"), Some(ID)).await;
        assert_eq!(world.outcome().await.error_info, None);
        assert_eq!(world.iam.orders.take(), ["leave rear pw"]);

        world.iam.orders.refuse("key rear sm pw", ErrorInfo::new(AosCode::NoMemory, "token is full"));
        world.cloud.send_as(start("rear"), Some(ID)).await;
        let answer = world.csrs().await;
        assert_eq!((answer.csrs.len(), answer.error_info.unwrap().code()), (1, AosCode::NoMemory));
    });
}

#[tokio::test]
async fn the_main_node_and_unknown_ones_are_refused() {
    in_time!(async {
        let mut world = world().await;
        world.cloud.send(leave("main")).await;
        let answer = world.outcome().await;
        let error = answer.error_info.unwrap();
        assert_eq!(
            (error.code(), error.message.as_str()),
            (AosCode::WrongState, "main node can't be deprovisioned")
        );
        world.cloud.send(finish("main")).await;
        assert_eq!(world.outcome().await.error_info.unwrap().code(), AosCode::WrongState);
        world.cloud.send(leave("nobody")).await;
        let error = world.outcome().await.error_info.unwrap();
        assert!(error.message.contains("node not found"), "{error}");
        assert!(world.iam.orders.take().is_empty());
    });
}

// REL-02: killed at each step, and again with the answer ready: one answer for each request.
#[tokio::test]
async fn a_request_is_answered_once_wherever_the_program_dies() {
    in_time!(async {
        let mut world = world().await;
        for step in ["start rear pw", "types rear", "key rear iam pw", "key rear sm pw"] {
            world.iam.orders.take();
            world.iam.orders.hang(Some(step));
            let txn = world.cloud.send_as(start("rear"), Some(ID)).await;
            world.cloud.acknowledged(&txn).await;
            world.iam.orders.wait_for(step).await;
            world.kill().await;
            world.iam.orders.hang(None);
            world.start();
            world.cloud.connected().await;
            assert_eq!(world.csrs().await.csrs.len(), 2, "killed at {step}");
        }
        world.cloud.send_as(leave("rear"), Some(ID)).await;
        assert_eq!(world.outcome().await.error_info, None, "nothing else was answered");

        // The link is not read, so the answer is ready but not acknowledged when the program dies.
        let txn = world.cloud.send_as(start("rear"), Some(ID)).await;
        world.cloud.acknowledged(&txn).await;
        let db = rusqlite::Connection::open(world.config.database()).unwrap();
        let count = |table: &str| -> i64 {
            db.query_row(&format!("SELECT count(*) FROM {table}"), [], |row| row.get(0)).unwrap()
        };
        // The answer takes the place of the task.
        while (count("tasks"), count("outbox")) != (0, 1) {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        world.kill().await;
        world.iam.orders.take();
        world.start();
        world.cloud.connected().await;
        assert_eq!(world.csrs().await.csrs.len(), 2);
        assert!(world.iam.orders.take().is_empty(), "nothing is done again");
        world.cloud.send_as(leave("rear"), Some(ID)).await;
        assert_eq!(world.outcome().await.error_info, None);
        while count("outbox") > 0 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        assert_eq!(count("received"), 7);
    });
}

// The lost answer of an order: the node left, but nobody heard of it.
#[tokio::test]
async fn a_node_that_left_before_the_program_died_has_left() {
    in_time!(async {
        let mut world = world().await;
        world.iam.orders.with_rear("provisioned");
        world.iam.orders.hang(Some("leave rear pw"));
        let txn = world.cloud.send(leave("rear")).await;
        world.cloud.acknowledged(&txn).await;
        world.iam.orders.wait_for("leave rear pw").await;
        world.kill().await;
        world.start();
        world.cloud.connected().await;
        assert_eq!(world.outcome().await.error_info, None);
        assert_eq!(world.iam.orders.take(), ["leave rear pw"]);
    });
}

// PRO-39: the wish pauses and resumes a node, what runs there is stopped and started, and the status says so.
#[tokio::test]
async fn a_node_is_paused_and_resumed() {
    in_time!(async {
        let (mut world, _) = World::with_service(&[5; 1000]).await;
        let wish = |state| {
            let node = NodeDesiredState { item: AosIdentity::by_codename("main"), state };
            Body::DesiredStatus(DesiredStatus { nodes: Some(vec![node]), ..DesiredStatus::default() })
        };
        let told = |state| {
            move |status: &aos_cloud_protocol::UnitStatus| {
                status.nodes.iter().flatten().any(|node| node.state == state)
            }
        };
        world.cloud.send(wish(DesiredNodeState::Paused)).await;
        let (update, _) = tokio::join!(world.sm.update(), world.cloud.status(told(NodeState::Paused)));
        assert_eq!((update.start_instances.len(), update.stop_instances.len()), (0, 1));
        world.cloud.send(wish(DesiredNodeState::Provisioned)).await;
        let (update, _) = tokio::join!(world.sm.update(), world.cloud.status(told(NodeState::Provisioned)));
        assert_eq!((update.start_instances.len(), update.stop_instances.len()), (1, 0));
        assert_eq!(world.iam.orders.take(), ["pause main", "resume main"]);

        world.iam.orders.refuse("pause main", ErrorInfo::new(AosCode::Failed, "not now"));
        world.cloud.send(wish(DesiredNodeState::Paused)).await;
        let refused = |status: &aos_cloud_protocol::UnitStatus| {
            status.nodes.iter().flatten().any(|node| node.error_info.is_some())
        };
        let status = world.cloud.status(refused).await;
        let node = &status.nodes.unwrap()[0];
        let error = node.error_info.as_ref().unwrap();
        assert_eq!((node.state, error.message.as_str()), (NodeState::Provisioned, "not now"));
    });
}

// Requests for one node wait for each other; their number is bounded, and rows that cannot be read stop nothing.
#[tokio::test]
async fn requests_are_bounded_and_unreadable_ones_are_left_out() {
    in_time!(async {
        let mut world = world().await;
        world.iam.orders.hang(Some("start rear pw"));
        for _ in 0..64 {
            world.cloud.send_as(start("rear"), Some(ID)).await;
        }
        world.cloud.send_as(start("rear"), Some(ID)).await;
        assert_eq!(world.csrs().await.error_info.unwrap().message, "too many requests are open");
        world.iam.orders.wait_for("start rear pw").await;
        assert_eq!(world.iam.orders.take(), ["start rear pw"], "one after the other");

        world.kill().await;
        let db = rusqlite::Connection::open(world.config.database()).unwrap();
        db.execute("UPDATE tasks SET body = '{'", []).unwrap();
        world.iam.orders.hang(None);
        world.start();
        world.cloud.connected().await;
        world.cloud.send_as(leave("rear"), Some(ID)).await;
        assert_eq!(world.outcome().await.error_info, None);
        assert!(world.iam.orders.take().is_empty());
        let open: i64 = db.query_row("SELECT count(*) FROM tasks", [], |row| row.get(0)).unwrap();
        assert_eq!(open, 0);
    });
}
