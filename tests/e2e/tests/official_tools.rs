//! The official command-line tools, unmodified, make users and provision Units of ours.
#![allow(clippy::unwrap_used, missing_docs, reason = "tests")]

use std::sync::Arc;
use std::time::Duration;

use aos_testbed::sdk::{self, Sdk};
use aos_testbed::stage::STEP_LIMIT;
use aos_testbed::{Cloud, Daemon, Operator, Site, Stage, Unit};

const LIMIT: Duration = Duration::from_secs(30);

#[test]
fn one_node_is_provisioned_and_a_second_run_is_refused() {
    let site = Arc::new(Site::new("e2e-official").unwrap());
    let cloud = Cloud::start(&site).unwrap();
    let operator = Operator::enrol(&site, &cloud).unwrap();
    let mut unit = Unit::new(&site, &cloud, "official-unit").unwrap();
    let tools = Sdk::new(&unit, &cloud).unwrap();

    let token = operator.user_token("oem", "Demo").unwrap();
    let made = tools
        .run(
            &unit,
            "aos-keys",
            &["new-user", "--oem", "-d", "localhost", "-t", &token, "--skip-browser-install"],
        )
        .unwrap();
    assert!(tools.home().join(".aos/security/aos-user-oem.p12").is_file(), "{made}");
    let told = tools.run(&unit, "aos-keys", &["info", "--oem"]).unwrap();
    assert!(told.contains("Demo"), "{told}");

    unit.start_provisioning().unwrap();
    unit.wait_up(Daemon::Iam, LIMIT).unwrap();
    let provision =
        ["provision", "-u", "localhost:8089", "--nodes", "1", "--wait-unit", "20", "--skip-check-version"];
    let told = tools.run(&unit, "aos-prov", &provision).unwrap();
    assert!(told.contains("Finished successfully"), "{told}");

    // The Unit serves with its certificates from now on; to the tool it is another server.
    let again = tools
        .output(
            &unit,
            "aos-prov",
            &[
                "provision",
                "-u",
                "localhost:8089",
                "--nodes",
                "1",
                "--skip-check-version",
                "--retry-count",
                "1",
                "--retry-delay",
                "0",
            ],
        )
        .unwrap();
    let told_again = sdk::printed(&again);
    assert!(!again.status.success() && told_again.contains("Please do deprovisioning first"), "{told_again}");

    unit.stop(Daemon::Iam).unwrap();
    let mut stage = Stage { unit, cloud, operator, site };
    stage.unit.start_all().unwrap();
    stage.wait_online(STEP_LIMIT).unwrap();
}
