//! Overridden variables: from the cloud's set to the node, its answer, the end of a variable, and crashes.

use aos_cloud_protocol::{AosIdentity, EnvVar, EnvVarsFilter, OverrideEnvVars, OverrideEnvVarsStatus};
use aos_unit_api::servicemanager::v5::UpdateInstances;

use super::*;

const ITEM: &str = "3f0c6a52-8d1e-4b7a-9c35-6e2f1d0a7b41";
const SUBJECT: &str = "c5a9e1b3-7264-4d08-b1f6-90e8d3a2c714";
const ID: Option<&str> = Some("0ad3f7c6-91b2-4e58-a7d4-3c8e5b6f2a19");

fn variable(name: &str, value: &str, ttl: Option<jiff::Timestamp>) -> EnvVar {
    EnvVar { name: name.into(), value: value.into(), ttl }
}

fn set(instance: Option<u64>, variables: Vec<EnvVar>) -> EnvVarsFilter {
    let (item, subject) = (AosIdentity::by_id(ITEM), AosIdentity::by_id(SUBJECT));
    EnvVarsFilter { item: Some(item), subject: Some(subject), instance, variables }
}

fn environment(update: &UpdateInstances) -> Vec<(&str, &str)> {
    assert_eq!((update.start_instances.len(), update.stop_instances.len()), (1, 0));
    let variables = update.start_instances[0].env_vars.iter();
    variables.map(|one| (one.name.as_str(), one.value.as_str())).collect()
}

fn lines(answer: &OverrideEnvVarsStatus) -> Vec<String> {
    let line = |one: &aos_cloud_protocol::EnvVarStatus| {
        let outcome = one.error_info.as_ref().map_or("ok", |error| &error.message);
        format!("{} {} {outcome}", one.instance, one.name)
    };
    answer.statuses.iter().map(line).collect()
}

impl World {
    async fn override_variables(&mut self, items: Vec<EnvVarsFilter>) -> String {
        self.cloud.send_as(Body::OverrideEnvVars(OverrideEnvVars { items }), ID).await
    }

    async fn variables_told(&mut self) -> Vec<String> {
        let envelope = self.cloud.answer().await;
        assert_eq!(envelope.correlation_id.as_deref(), ID);
        match envelope.body {
            Body::OverrideEnvVarsStatus(answer) => lines(&answer),
            other => panic!("{other:?}"),
        }
    }
}

// PRO-108, PRO-110, PRO-111, D33, D63: a set reaches the node, is answered when the node has it, and a
// variable that ends is taken back; a set replaces the one before.
#[tokio::test]
async fn variables_reach_the_instance_and_end() {
    in_time!(async {
        let (mut world, _) = World::with_service(&[5; 1000]).await;
        let soon = jiff::Timestamp::now() + Duration::from_millis(1500);
        let past = jiff::Timestamp::now() - Duration::from_mins(1);
        world
            .override_variables(vec![
                set(None, vec![variable("LOG", "info", None), variable("OLD", "x", Some(past))]),
                set(Some(0), vec![variable("LOG", "debug", None), variable("SHORT", "1", Some(soon))]),
                set(Some(1), vec![variable("LOG", "trace", None)]),
            ])
            .await;
        let (update, told) = tokio::join!(world.sm.update(), async {
            let envelope = world.cloud.answer().await;
            match envelope.body {
                Body::OverrideEnvVarsStatus(answer) => lines(&answer),
                other => panic!("{other:?}"),
            }
        });
        assert_eq!(environment(&update), [("LOG", "debug"), ("SHORT", "1")]);
        assert_eq!(
            told,
            ["1 LOG instance not found", "0 OLD the override has ended", "0 LOG ok", "0 SHORT ok"]
        );
        let update = world.sm.update().await;
        assert_eq!(environment(&update), [("LOG", "debug")], "its time is over");
        assert!(jiff::Timestamp::now() >= soon);

        world.override_variables(vec![]).await;
        let update = world.sm.update().await;
        assert_eq!(environment(&update), []);
        assert_eq!(world.variables_told().await, [""; 0]);
    });
}

// REL-02: what a node was told is not told again after a crash; what it was not told is, and answered once.
#[tokio::test]
async fn variables_survive_crashes() {
    in_time!(async {
        let (mut world, _) = World::with_service(&[5; 1000]).await;
        let txn = world.override_variables(vec![set(None, vec![variable("A", "1", None)])]).await;
        // The node has not answered yet, so this drops no answer.
        world.cloud.acknowledged(&txn).await;
        world.kill().await;
        world.start();
        world.cloud.connected().await;
        world.connect_node().await;
        let update = world.sm.update().await;
        assert_eq!(environment(&update), [("A", "1")]);
        assert_eq!(world.variables_told().await, ["0 A ok"]);

        world.kill().await;
        world.start();
        world.cloud.connected().await;
        world.connect_node().await;
        let updates = world.sm.updates.len();
        world.until(|document| document["instances"][0]["state"] == "active").await;
        world.override_variables(vec![set(None, vec![variable("A", "1", None)])]).await;
        assert_eq!(world.variables_told().await, ["0 A ok"], "it has it already");
        assert_eq!(world.sm.updates.len(), updates);
    });
}

// A newer set before the node has the older one: both are answered, in order. What ends while the program is
// away has ended when it is back.
#[tokio::test]
async fn a_newer_set_answers_the_older_one() {
    in_time!(async {
        let (mut world, _) = World::with_service(&[5; 1000]).await;
        let soon = jiff::Timestamp::now() + Duration::from_millis(300);
        world.override_variables(vec![set(None, vec![variable("A", "1", Some(soon))])]).await;
        world.override_variables(vec![set(None, vec![variable("A", "2", Some(soon))])]).await;
        assert_eq!(world.variables_told().await, ["0 A replaced by a newer set"]);
        world.kill().await;
        while jiff::Timestamp::now() < soon {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        world.start();
        world.cloud.connected().await;
        world.connect_node().await;
        // The node may have heard of either set before.
        let update = world.sm.update().await;
        assert_eq!(environment(&update), []);
        assert_eq!(world.variables_told().await, [""; 0], "nothing is overridden any more");
        let mut filters = vec![set(None, vec![]); crate::envvars::MAX_FILTERS + 1];
        filters[0].variables.push(variable("A", "3", None));
        world.override_variables(filters).await;
        assert_eq!(world.variables_told().await, [""; 0], "refused as a whole");
        assert!(world.sm.updates.iter().all(|update| update.start_instances[0].env_vars.is_empty()));
    });
}
