//! The official command-line tools, unmodified, make users and provision Units of ours.
#![allow(clippy::unwrap_used, missing_docs, reason = "tests")]

use std::sync::Arc;
use std::time::Duration;

use aos_testbed::sdk::{self, Sdk};
use aos_testbed::stage::STEP_LIMIT;
use aos_testbed::{Cloud, Daemon, Operator, Site, Stage, Unit};

const LIMIT: Duration = Duration::from_secs(30);
const PROVISION: [&str; 12] = [
    "provision",
    "-u",
    "localhost:8089",
    "--nodes",
    "1",
    "--wait-unit",
    "20",
    "--retry-count",
    "1",
    "--retry-delay",
    "1",
    "--skip-check-version",
];

/// A user made by `aos-keys`, a Unit with one node provisioned by `aos-prov` over the given generation of IAM's
/// interface, and its daemons online; then the tool is run once more.
fn provisions_one_node(version: u32) {
    let site = Arc::new(Site::new(&format!("e2e-official-{version}")).unwrap());
    let cloud = Cloud::start(&site).unwrap();
    let operator = Operator::enrol(&site, &cloud).unwrap();
    let mut unit = Unit::new(&site, &cloud, "official-unit").unwrap();
    unit.configure(Daemon::Iam, |config| config["apiVersion"] = version.into()).unwrap();
    let tools = Sdk::new(&unit, &cloud).unwrap();

    let token = operator.user_token("oem", "Demo").unwrap();
    let new_user = ["new-user", "--oem", "-d", "localhost", "-t", &token, "--skip-browser-install"];
    let made = tools.run(&unit, "aos-keys", &new_user).unwrap();
    assert!(tools.home().join(".aos/security/aos-user-oem.p12").is_file(), "{made}");
    let told = tools.run(&unit, "aos-keys", &["info", "--oem"]).unwrap();
    assert!(told.contains("Demo"), "{told}");

    unit.start_provisioning().unwrap();
    unit.wait_up(Daemon::Iam, LIMIT).unwrap();
    let told = tools.run(&unit, "aos-prov", &PROVISION).unwrap();
    assert!(told.contains("Finished successfully"), "{told}");
    // What the tool says is the same for all; its gRPC library tells which services it called.
    let called = |version: u32| told.contains(&format!("/iamanager.v{version}.IAMProvisioningService/"));
    let used: Vec<u32> = [4, 5, 6, 7].into_iter().filter(|version| called(*version)).collect();
    assert_eq!(used, [version], "{told}");

    let again = tools.output(&unit, "aos-prov", &PROVISION).unwrap();
    let told = sdk::printed(&again);
    assert!(!again.status.success() && told.contains("Please do deprovisioning first"), "{told}");

    unit.stop(Daemon::Iam).unwrap();
    let mut stage = Stage { unit, cloud, operator, site };
    stage.unit.start_all().unwrap();
    stage.wait_online(STEP_LIMIT).unwrap();
}

#[test]
fn one_node_is_provisioned_over_version_5() {
    provisions_one_node(5);
}

#[test]
fn one_node_is_provisioned_over_version_6() {
    provisions_one_node(6);
}

#[test]
fn one_node_is_provisioned_over_version_7() {
    provisions_one_node(7);
}
