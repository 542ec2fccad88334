//! A Unit of two nodes: what runs on the second one comes from the main node's file server.
#![allow(clippy::unwrap_used, clippy::panic, missing_docs, reason = "tests")]

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use aos_testbed::stage::STEP_LIMIT;
use aos_testbed::{
    Cloud, HttpService, Link, Operator, Secondary, Site, Stage, Unit, http, process, service,
    wait_for_or_last,
};
use serde_json::json;

const LIMIT: Duration = Duration::from_mins(1);

fn page(second: &Secondary) -> Result<String, String> {
    let instances = second.instances().map_err(|error| error.to_string())?;
    let ip = instances.first().and_then(|one| one["ip"].as_str()).unwrap_or_default().to_owned();
    let ip = ip.split('/').next().unwrap_or_default().parse().map_err(|_| format!("{instances:?}"))?;
    let link = Link::inward(second.node(), SocketAddr::new(ip, service::PORT)).map_err(|e| e.to_string())?;
    let answer = http::get(link.address(), "/", Duration::from_secs(2)).map_err(|error| error.to_string())?;
    Ok(answer.text().trim().to_owned())
}

fn expect_page(second: &Secondary, wanted: &str) {
    wait_for_or_last("the page", LIMIT, || match page(second) {
        Ok(found) if found == wanted => Ok(()),
        other => Err(format!("{other:?}")),
    })
    .unwrap_or_else(|error| panic!("{error}: {}", process::tail(&second.sm_log(), 30)));
}

fn publish(stage: &Stage, version: &str, filling: usize) {
    let service = HttpService::new(&stage.site.dir().join(version), "web", version).unwrap();
    service
        .set_config(&json!({
            "hostname": "web",
            "runtimes": [{"codename": "edge"}],
            "quotas": {"ramLimit": 64 << 20, "pidsLimit": 32},
        }))
        .unwrap();
    service.fill(filling).unwrap();
    service.publish(&stage.operator, version).unwrap();
}

// CM-56, ARC-05: fetched through the file server, and after a broken way from there too.
#[test]
fn a_service_on_the_second_node_comes_from_the_main_node() {
    let site = Arc::new(Site::new("e2e-two-blobs").unwrap());
    let cloud = Cloud::start(&site).unwrap();
    let operator = Operator::enrol(&site, &cloud).unwrap();
    let mut unit = Unit::new(&site, &cloud, "two-nodes").unwrap();
    unit.start_provisioning().unwrap();
    unit.wait_up(aos_testbed::Daemon::Iam, LIMIT).unwrap();
    let mut second = Secondary::new(&site, &unit, "second").unwrap();
    second.start(true).unwrap();
    let address = unit.provisioning_address().to_string();
    operator
        .run(&["unit", "provision", "--unit", &address, "--nodes", "2", "--wait", "40"])
        .unwrap_or_else(|error| panic!("{error}: {}", process::tail(&second.log(), 20)));
    unit.stop(aos_testbed::Daemon::Iam).unwrap();
    second.stop().unwrap();
    second.start(false).unwrap();
    let mut stage = Stage { unit, cloud, operator, site };
    stage.unit.start_all().unwrap();
    second.start_sm().unwrap();
    stage.wait_online(STEP_LIMIT).unwrap();
    stage
        .wait_status("both nodes", LIMIT, |status| {
            let nodes = status["nodes"].as_array().cloned().unwrap_or_default();
            let ready = nodes.iter().filter(|node| node["is_connected"] == json!(true)).count();
            if ready == 2 { Ok(()) } else { Err(format!("{nodes:#?}")) }
        })
        .unwrap_or_else(|error| panic!("{error}: {}", process::tail(&second.sm_log(), 30)));

    publish(&stage, "1.0.0", 1 << 20);
    stage.operator.run(&["assign", "two-nodes", "web"]).unwrap();
    let status = stage
        .wait_active("web", "1.0.0", LIMIT)
        .unwrap_or_else(|error| panic!("{error}: {}", process::tail(&second.sm_log(), 30)));
    assert!(status["instances"][0]["node"].to_string().contains("second"), "{}", status["instances"]);
    expect_page(&second, "1.0.0");

    // The way breaks while another version is fetched; the first one runs on, and the second comes when it is back.
    second.files().cut();
    publish(&stage, "2.0.0", 8 << 20);
    stage
        .wait_status("the new version to be tried", LIMIT, |status| {
            let instances = aos_testbed::stage::instances(status);
            if instances.iter().any(|one| one.version == "2.0.0") {
                Ok(())
            } else {
                Err(format!("{instances:?}"))
            }
        })
        .unwrap();
    expect_page(&second, "1.0.0");
    second.files().heal();
    stage
        .wait_active("web", "2.0.0", 2 * LIMIT)
        .unwrap_or_else(|error| panic!("{error}: {}", process::tail(&second.sm_log(), 30)));
    expect_page(&second, "2.0.0");
    second.check_running().unwrap();
}
