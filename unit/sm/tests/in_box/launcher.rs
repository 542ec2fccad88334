//! What the launcher promises, with real containers.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use aos_unit_api::servicemanager::v5 as wire;
use serde_json::json;
use wire::sm_incoming_messages::SmIncomingMessage as ToSm;

use crate::cm::wait_for;
use crate::image::wish;
use crate::sm::Sm;
use crate::tests::with_tmp;

/// More starts hang than there are places; all others are carried out all the same.
pub async fn a_hanging_runtime_holds_nobody_else_up() {
    // An OCI runtime that does not come back for instances whose specification asks for it.
    let script = "#!/bin/sh\nfor word in \"$@\"; do test -e \"$word/config.json\" && bundle=$word; done\n\
        case \"$*\" in *' run '*) grep -q HANGING \"$bundle/config.json\" && exec sleep 1000;; esac\n\
        exec $(command -v crun) \"$@\"\n";
    let program = "/run/slow-crun";
    fs::write(program, script).unwrap();
    fs::set_permissions(program, fs::Permissions::from_mode(0o755)).unwrap();
    let sm =
        Sm::start_with("crun", |config| config["runtimes"][0]["config"]["crunExecutable"] = json!(program));
    let sm = sm.await;
    let image = sm.blobs.simple("exec /bin/busybox sleep 1000", with_tmp());
    let hanging = (0..6).map(|number| {
        let mut info = wish(number, "1.0.0", &image, &sm.runtime);
        info.env_vars = vec![wire::EnvVarInfo { name: "HANGING".into(), value: "1".into() }];
        info.priority = 100;
        info
    });
    let mut wishes: Vec<_> = hanging.collect();
    wishes.extend((6..9).map(|number| wish(number, "1.0.0", &image, &sm.runtime)));
    sm.cm.update(wishes, vec![]).await;
    for number in 6..9 {
        sm.cm.wait_state(number, "active").await;
    }
    for number in 0..6 {
        assert_eq!(sm.instance(number).await["state"], "activating");
    }
}

// SM-50
pub async fn changed_variables_keep_state_and_others() {
    let sm = Sm::start("crun").await;
    let script = "b=/bin/busybox; echo $ONE$TWO >> /storage/runs; echo x >> /state.dat; exec $b sleep 1000";
    let image = sm.blobs.simple(script, with_tmp());
    let variable = |name: &str, value: &str| wire::EnvVarInfo { name: name.into(), value: value.into() };
    let make = |number: u64, env: Vec<wire::EnvVarInfo>| {
        let mut info = wish(number, "1.0.0", &image, &sm.runtime);
        info.storage_path = format!("s{number}");
        info.state_path = format!("t{number}");
        info.env_vars = env;
        info
    };
    let first = vec![variable("ONE", "1"), variable("TWO", "2")];
    sm.cm.update(vec![make(0, first.clone()), make(1, first.clone())], vec![]).await;
    let runs = |number: u64| {
        fs::read_to_string(sm.folder.path().join(format!("work/storages/s{number}/runs"))).unwrap_or_default()
    };
    for number in 0..2 {
        sm.cm.wait_state(number, "active").await;
        wait_for("the first run", || (runs(number) == "12\n").then_some(())).await;
    }
    // Another order, and another priority and monitoring, say the same to the process.
    let mut same = make(1, vec![variable("TWO", "2"), variable("ONE", "1")]);
    same.priority = 5;
    same.monitoring_parameters = Some(wire::MonitoringParameters::default());
    sm.cm.update(vec![make(0, vec![variable("ONE", "9"), variable("TWO", "2")]), same], vec![]).await;
    wait_for("the second run", || (runs(0) == "12\n92\n").then_some(())).await;
    let status = sm.cm.wait_state(0, "active").await;
    assert_eq!(status.env_vars.iter().filter(|status| status.error.is_none()).count(), 2);
    assert_eq!(sm.instance(0).await["starts"], 2);
    assert_eq!(sm.instance(1).await["starts"], 1);
    let state = sm.folder.path().join("work/states/t0");
    wait_for("the state of both", || (fs::read_to_string(&state).unwrap() == "x\nx\n").then_some(())).await;
}

// SM-43, SM-74, SM-75
pub async fn the_time_without_the_cloud_is_kept_over_restarts() {
    let mut sm = Sm::start("crun").await;
    let mut item = with_tmp();
    item["offlineTTL"] = json!("PT2S");
    let image = sm.blobs.simple("exec /bin/busybox sleep 1000", item);
    let lasting = sm.blobs.simple("exec /bin/busybox sleep 1000", with_tmp());
    let cloud = |there: wire::ConnectionEnum| {
        ToSm::ConnectionStatus(wire::ConnectionStatus { cloud_status: there.into() })
    };
    sm.cm.send(cloud(wire::ConnectionEnum::Connected)).await;
    sm.cm
        .update(vec![wish(0, "1.0.0", &image, &sm.runtime), wish(1, "1.0.0", &lasting, &sm.runtime)], vec![])
        .await;
    sm.cm.wait_state(0, "active").await;
    sm.cm.wait_state(1, "active").await;
    sm.cm.send(cloud(wire::ConnectionEnum::Disconnected)).await;
    let status = sm.cm.wait_state(0, "inactive").await;
    assert!(status.error.is_none_or(|error| error.aos_code == 0), "being without the cloud is no error");
    assert_eq!(sm.instance(1).await["state"], "active");
    // The time is over already when the Service Manager comes back.
    sm.kill();
    sm.cm.clear();
    sm.launch();
    wait_for("another stream", || (sm.cm.count("RegisterSM") == 1).then_some(())).await;
    // What was heard before the kill still counts as the newest status; the history begins anew.
    let last = |instance| sm.cm.history(instance).last().map(|(state, _)| state.clone());
    wait_for("the end of the wait", || (last(0).as_deref() == Some("inactive")).then_some(())).await;
    wait_for("the other one", || (last(1).as_deref() == Some("active")).then_some(())).await;
    assert!(!sm.cm.history(0).iter().any(|(state, _)| state == "active"), "{:?}", sm.cm.history(0));
    assert_eq!(sm.instance(0).await["starts"], 1);
    sm.cm.send(cloud(wire::ConnectionEnum::Connected)).await;
    sm.cm.wait_state(0, "active").await;
    assert_eq!(sm.instance(0).await["starts"], 2);
}
