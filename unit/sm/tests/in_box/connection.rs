//! The connection to CM: its beginning, its end, and what happens without it.

use std::fs;
use std::time::{Duration, Instant};

use aos_unit_api::servicemanager::v5 as wire;
use serde_json::{Value, json};
use wire::sm_incoming_messages::SmIncomingMessage as ToSm;
use wire::sm_outgoing_messages::SmOutgoingMessage as FromSm;

use crate::cm::wait_for;
use crate::image::wish;
use crate::sm::Sm;
use crate::tests::with_tmp;

/// The pause that `Sm::start` configures.
const PAUSE: Duration = Duration::from_millis(200);
const BEGINNING: [&str; 4] = ["RegisterSM", "SmInfo", "NodeInstancesStatus", "SyncNetworkState"];

fn cloud(connected: bool) -> ToSm {
    let status = if connected { wire::ConnectionEnum::Connected } else { wire::ConnectionEnum::Disconnected };
    ToSm::ConnectionStatus(wire::ConnectionStatus { cloud_status: status.into() })
}

/// Polls the local status.
async fn until(sm: &Sm, what: &str, fits: impl Fn(&Value) -> bool) {
    let deadline = Instant::now() + Duration::from_secs(40);
    while !fits(&sm.status().await) {
        assert!(Instant::now() < deadline, "waited too long for {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// What came, in order; a list of statuses may be followed by a newer one.
fn kinds(sequence: &[(Instant, &'static str)]) -> Vec<&'static str> {
    let mut kinds: Vec<&str> = sequence.iter().map(|(_, kind)| *kind).collect();
    kinds.dedup();
    kinds
}

// SM-15, SM-17, SM-18, SM-20, SM-24, SM-78
pub async fn a_stream_begins_in_order_and_ends_with_a_pause() {
    let sm = Sm::start("crun").await;
    let streams = |count: usize| {
        let cm = sm.cm.clone();
        async move {
            wait_for("a synchronised stream", || {
                let all = cm.sequence();
                let of = |name| all.iter().filter(|(_, kind)| *kind == name).count();
                (of("RegisterSM") >= count && of("SyncNetworkState") >= 1 && all.last()?.1 == BEGINNING[3])
                    .then_some(all)
            })
            .await
        }
    };
    let first = streams(1).await;
    assert_eq!(kinds(&first), BEGINNING);
    let mut seen = first.len();
    for round in 2..6 {
        let ended = Instant::now();
        sm.cm.hang_up();
        let all = streams(round).await;
        let (began, _) = all[seen];
        assert!(began - ended >= PAUSE, "another stream after {:?}", began - ended);
        assert_eq!(kinds(&all[seen..]), BEGINNING);
        seen = all.len();
    }
    // Nobody answers: one attempt after each pause, for ever.
    sm.cm.deaf("RegisterSM", true);
    sm.cm.hang_up();
    wait_for("some attempts", || (sm.cm.sequence().len() >= seen + 5).then_some(())).await;
    sm.cm.deaf("RegisterSM", false);
    sm.cm.wait_connected().await;
    let attempts = &sm.cm.sequence()[seen..];
    let attempts = attempts.iter().filter(|(_, kind)| *kind == "RegisterSM").map(|(at, _)| *at);
    let attempts: Vec<Instant> = attempts.collect();
    for pair in attempts.windows(2) {
        assert!(pair[1] - pair[0] >= PAUSE, "attempts after {:?}", pair[1] - pair[0]);
    }
}

/// A service with a time to live without cloud ends when CM is gone, although CM never said that the cloud is.
// SM-43, SM-70, SM-74
pub async fn cm_and_cloud_are_lost_together() {
    let sm = Sm::start("crun").await;
    let mut item = with_tmp();
    item["offlineTTL"] = json!("300ms");
    let image = sm.blobs.simple("exec /bin/busybox sleep 1000", item);
    sm.cm.send(cloud(true)).await;
    sm.cm.update(vec![wish(0, "1.0.0", &image, &sm.runtime)], vec![]).await;
    sm.cm.wait_state(0, "active").await;
    sm.cm.deaf("RegisterSM", true);
    sm.cm.hang_up();
    until(&sm, "the service to end without cloud", |status| status["instances"][0]["state"] != "active")
        .await;
    sm.cm.deaf("RegisterSM", false);
    sm.cm.wait_connected().await;
    // A connection alone is no cloud.
    sm.cm.send(ToSm::GetNodeConfigStatus(wire::GetNodeConfigStatus {})).await;
    sm.cm.wait_message(|m| matches!(m, FromSm::NodeConfigStatus(_)).then_some(())).await;
    assert_ne!(sm.instance(0).await["state"], "active");
    sm.cm.send(cloud(true)).await;
    sm.cm.wait_state(0, "active").await;
}

/// CM takes its time with an answer; messages both ways go on meanwhile.
// SM-14, SM-35, SM-79
pub async fn a_slow_cm_holds_nothing_up() {
    let sm = Sm::start("crun").await;
    let script = "while ! test -e /storage/go; do /bin/busybox sleep 0.05; done; exit 3";
    let image = sm.blobs.simple(script, with_tmp());
    let mut first = wish(0, "1.0.0", &image, &sm.runtime);
    first.storage_path = "first".into();
    sm.cm.update(vec![first.clone()], vec![]).await;
    sm.cm.wait_state(0, "active").await;
    sm.cm.hold("AllocateInstanceNetwork", true);
    sm.cm.update(vec![first.clone(), wish(1, "1.0.0", &image, &sm.runtime)], vec![]).await;
    sm.cm.wait_state(1, "activating").await;
    // What is no JSON is answered, too.
    let check = |text: &str, version: &str| {
        ToSm::CheckNodeConfig(wire::CheckNodeConfig { node_config: text.into(), version: version.into() })
    };
    sm.cm.send(check("{ this is no JSON", "9.9.9")).await;
    let answer = |version: &'static str| {
        move |m: &FromSm| match m {
            FromSm::NodeConfigStatus(status) if status.version == version => Some(status.clone()),
            _ => None,
        }
    };
    let wrong = sm.cm.wait_message(answer("9.9.9")).await;
    assert_ne!(wrong.error.unwrap_or_default().aos_code, 0);
    sm.cm.send(check(r#"{"nodeGroupSubject":{"codename":"main"}}"#, "1.0.0")).await;
    assert_eq!(sm.cm.wait_message(answer("1.0.0")).await.error.unwrap_or_default().aos_code, 0);
    // A status of another instance goes out.
    fs::write(sm.folder.path().join("work/storages/first/go"), "").unwrap();
    sm.cm.wait_status(0, |status| status.error.as_ref().is_some_and(|error| error.exit_code == 3)).await;
    sm.cm.hold("AllocateInstanceNetwork", false);
    sm.cm.wait_state(1, "active").await;

    // CM compares networks slowly: what we say goes out, what it wants waits for the comparison.
    sm.cm.hold("SyncNetworkState", true);
    let before = sm.cm.sequence().len();
    sm.cm.hang_up();
    wait_for("the comparison", || {
        sm.cm.sequence()[before..].iter().any(|(_, kind)| *kind == "SyncNetworkState").then_some(())
    })
    .await;
    sm.cm.wait_state(1, "active").await;
    sm.cm.update(vec![first], vec![1]).await;
    sm.cm.hold("SyncNetworkState", false);
    wait_for("the release", || (sm.cm.count("ReleaseInstanceNetwork") == 1).then_some(())).await;
}

// SM-33, SM-75, SM-76, DIS-33
pub async fn what_happened_without_cm_is_told_later() {
    let sm = Sm::start("crun").await;
    let script = "while ! test -e /storage/go; do /bin/busybox sleep 0.05; done; exit 7";
    let image = sm.blobs.simple(script, with_tmp());
    let mut info = wish(0, "1.0.0", &image, &sm.runtime);
    info.storage_path = "first".into();
    sm.cm.update(vec![info], vec![]).await;
    sm.cm.wait_state(0, "active").await;
    sm.cm.deaf("RegisterSM", true);
    sm.cm.hang_up();
    until(&sm, "the end of the stream", |status| status["cm"]["connected"] == false).await;
    fs::write(sm.folder.path().join("work/storages/first/go"), "").unwrap();
    until(&sm, "the failure", |status| status["instances"][0]["state"] == "failed").await;
    sm.cm.clear();
    sm.cm.deaf("RegisterSM", false);
    let status = sm.cm.wait_state(0, "failed").await;
    assert_eq!(status.error.unwrap_or_default().exit_code, 7);
    let alert = |m: &FromSm| match m {
        FromSm::Alert(alert) => match &alert.alert_item {
            Some(wire::alert::AlertItem::InstanceAlert(of)) => Some(of.clone()),
            _ => None,
        },
        _ => None,
    };
    let told = sm.cm.wait_message(alert).await;
    assert_eq!(told.instance.unwrap_or_default().item_id, "item");
    let kinds: Vec<FromSm> = sm.cm.messages().into_iter().take(2).collect();
    assert!(matches!(kinds.as_slice(), [FromSm::SmInfo(_), FromSm::NodeInstancesStatus(_)]), "{kinds:?}");
}
