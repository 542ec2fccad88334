//! The official command-line tools, unmodified, make users and provision Units of ours.
#![allow(clippy::unwrap_used, missing_docs, reason = "tests")]

use std::sync::Arc;
use std::time::Duration;

use aos_testbed::sdk::{self, Sdk};
use aos_testbed::stage::STEP_LIMIT;
use aos_testbed::{Cloud, Daemon, Operator, Secondary, Site, Stage, Unit};

const LIMIT: Duration = Duration::from_secs(30);

fn provision(nodes: usize) -> Vec<String> {
    let nodes = nodes.to_string();
    let words = [
        &["provision", "-u", "localhost:8089", "--nodes", &nodes, "--wait-unit", "20"][..],
        &["--retry-count", "1", "--retry-delay", "1", "--skip-check-version"],
    ];
    words.concat().into_iter().map(str::to_owned).collect()
}

/// A user made by `aos-keys`, a Unit with one or two nodes provisioned by `aos-prov` over the given generation of
/// IAM's interface and refused a second time; then its daemons come online.
fn provisions(version: u32, nodes: usize) {
    let site = Arc::new(Site::new(&format!("e2e-official-{version}-{nodes}")).unwrap());
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
    let mut second = (nodes > 1).then(|| Secondary::new(&site, &unit, "second").unwrap());
    if let Some(second) = &mut second {
        second.start(true).unwrap();
    }
    let provision: Vec<String> = provision(nodes);
    let provision: Vec<&str> = provision.iter().map(String::as_str).collect();
    let told = tools.run(&unit, "aos-prov", &provision).unwrap();
    assert!(told.contains("Finished successfully"), "{told}");
    // What the tool says is the same for all; its gRPC library tells which services it called.
    let called = |version: u32| told.contains(&format!("/iamanager.v{version}.IAMProvisioningService/"));
    let used: Vec<u32> = [4, 5, 6, 7].into_iter().filter(|version| called(*version)).collect();
    assert_eq!(used, [version], "{told}");

    let again = tools.output(&unit, "aos-prov", &provision).unwrap();
    let told = sdk::printed(&again);
    assert!(!again.status.success() && told.contains("Please do deprovisioning first"), "{told}");

    unit.stop(Daemon::Iam).unwrap();
    if let Some(second) = &mut second {
        // As a provisioned node it comes back with its own certificate.
        second.stop().unwrap();
        second.start(false).unwrap();
    }
    let mut stage = Stage { unit, cloud, operator, site };
    stage.unit.start_all().unwrap();
    stage.wait_online(STEP_LIMIT).unwrap();
    if nodes == 1 {
        return;
    }
    let told = stage.wait_status("both nodes to be provisioned", STEP_LIMIT, |status| {
        let list = status["nodes"].as_array().cloned().unwrap_or_default();
        let good = list.iter().filter(|node| node["state"] == "provisioned");
        if good.count() == nodes { Ok(()) } else { Err(format!("{} nodes", list.len())) }
    });
    assert!(told.is_ok(), "{told:?}");
}

// REL-23
#[test]
fn one_node_over_version_5() {
    provisions(5, 1);
}

// REL-23
#[test]
fn one_node_over_version_6() {
    provisions(6, 1);
}

// REL-23
#[test]
fn one_node_over_version_7() {
    provisions(7, 1);
}

// REL-23
#[test]
fn two_nodes_over_version_5() {
    provisions(5, 2);
}

// REL-23
#[test]
fn two_nodes_over_version_6() {
    provisions(6, 2);
}

// REL-23
#[test]
fn two_nodes_over_version_7() {
    provisions(7, 2);
}
