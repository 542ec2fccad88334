//! Requests of CM beside instances, and its absence.

use std::fs;

use aos_unit_api::servicemanager::v5 as wire;
use wire::sm_incoming_messages::SmIncomingMessage as ToSm;
use wire::sm_outgoing_messages::SmOutgoingMessage as FromSm;

use crate::cm::wait_for;
use crate::image::wish;
use crate::logs::{log_answer, log_filter};
use crate::sm::Sm;
use crate::tests::with_tmp;

// SM-20, SM-23, SM-33, SM-77, SM-10, SM-80
pub async fn cm_may_hang_up_at_any_time() {
    let sm = Sm::start("crun").await;
    let image = sm.blobs.simple("exec /bin/busybox sleep 1000", with_tmp());
    sm.cm.update(vec![wish(0, "1.0.0", &image, &sm.runtime)], vec![]).await;
    sm.cm.wait_state(0, "active").await;
    let pid = sm.instance(0).await["pid"].clone();
    for round in 2..5 {
        sm.cm.hang_up();
        wait_for("another stream", || (sm.cm.count("RegisterSM") == round).then_some(())).await;
        sm.cm.wait_state(0, "active").await;
    }
    assert_eq!(sm.instance(0).await["pid"], pid);
    let infos = sm.cm.messages().iter().filter(|message| matches!(message, FromSm::SmInfo(_))).count();
    assert_eq!(infos, 4);
}

// SM-34, SM-40, SM-42, SM-53, SM-57, SM-59; ARC-07, DIS-29, SM-81: what goes over the wire is called as the
// contract has it, and nothing of the proxy is.
pub async fn requests_beside_instances_are_answered() {
    let sm = Sm::start("crun").await;
    let image = sm.blobs.simple("echo some words; exec /bin/busybox sleep 1000", with_tmp());
    sm.cm.update(vec![wish(0, "1.0.0", &image, &sm.runtime)], vec![]).await;
    sm.cm.wait_state(0, "active").await;
    sm.cm.send(ToSm::GetNodeConfigStatus(wire::GetNodeConfigStatus {})).await;
    let state = |m: &FromSm| match m {
        FromSm::NodeConfigStatus(status) => Some(status.state.clone()),
        _ => None,
    };
    assert_eq!(sm.cm.wait_message(state).await, "absent");
    sm.cm.send(ToSm::GetAverageMonitoring(wire::GetAverageMonitoring {})).await;
    let ram = |m: &FromSm| match m {
        FromSm::AverageMonitoring(average) => average.node_monitoring.as_ref().map(|node| node.ram),
        _ => None,
    };
    assert!(sm.cm.wait_message(ram).await > 0);
    let id = sm.instance(0).await["id"].as_str().unwrap().to_owned();
    wait_for("the words", || sm.log(&id).contains("words").then_some(())).await;
    let request = |name: &str, item: &str| {
        let filter = Some(log_filter(item));
        ToSm::InstanceLogRequest(wire::InstanceLogRequest {
            correlation_id: name.into(),
            filter,
            ..Default::default()
        })
    };
    sm.cm.send(request("one", "item")).await;
    let (status, lines) = log_answer(&sm, "one").await;
    assert_eq!(status, "ok");
    assert_eq!(lines.iter().map(|(_, line)| line.as_str()).collect::<Vec<_>>(), ["some words"]);
    sm.cm.send(request("two", "other")).await;
    assert_eq!(log_answer(&sm, "two").await.0, "absent");

    // It asks and is asked nothing: no socket of this network waits for a connection but those of the test.
    let sockets = |file: &str| {
        let text = fs::read_to_string(file).unwrap();
        let waiting = |line: &&str| line.split_ascii_whitespace().nth(3) == Some("0A");
        let inode = |line: &str| line.split_ascii_whitespace().nth(9).unwrap().to_owned();
        text.lines().filter(waiting).map(inode).collect::<Vec<_>>()
    };
    let waiting = [sockets("/proc/net/tcp"), sockets("/proc/net/tcp6")].concat();
    assert!(!waiting.is_empty(), "the test's own is there");
    let held = fs::read_dir(format!("/proc/{}/fd", sm.pid())).unwrap().flatten();
    for link in held.filter_map(|entry| fs::read_link(entry.path()).ok()) {
        let name = link.to_string_lossy().into_owned();
        assert!(
            !waiting.iter().any(|inode| name == format!("socket:[{inode}]")),
            "{name} waits for connections"
        );
    }

    let of = ["/servicemanager.v5.SMService/", "/servicemanager.v5.NetworkService/"];
    let paths = sm.cm.paths();
    assert!(paths.iter().all(|path| of.iter().any(|service| path.starts_with(service))), "{paths:?}");
    assert!(paths.contains("/servicemanager.v5.SMService/RegisterSM"));
    assert!(paths.contains("/servicemanager.v5.SMService/GetBlobsInfos"), "{paths:?}");
}
