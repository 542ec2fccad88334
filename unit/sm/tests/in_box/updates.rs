//! Requests for updates: versions side by side, requests that come meanwhile, and what cannot be carried out.

use std::fs;

use aos_unit_api::common::v2;
use aos_unit_api::servicemanager::v5 as wire;
use serde_json::json;
use wire::sm_outgoing_messages::SmOutgoingMessage as FromSm;

use crate::cm::{Cm, wait_for};
use crate::image::{Image, Tar, base_layer, wish};
use crate::sm::Sm;
use crate::tests::with_tmp;

/// The newest list of all statuses, by instance.
fn newest_list(cm: &Cm) -> Option<Vec<(u64, String)>> {
    cm.messages().iter().rev().find_map(|message| match message {
        FromSm::NodeInstancesStatus(list) => {
            let mut all: Vec<_> = list
                .instances
                .iter()
                .map(|one| (one.instance.as_ref().unwrap().instance, one.state.clone()))
                .collect();
            all.sort();
            Some(all)
        }
        _ => None,
    })
}

async fn wait_list(cm: &Cm, expected: &[(u64, &str)]) {
    let expected: Vec<_> =
        expected.iter().map(|(instance, state)| (*instance, (*state).to_owned())).collect();
    wait_for(&format!("the list {expected:?}"), || (newest_list(cm)? == expected).then_some(())).await;
}

/// An image with a layer of its own above the one with busybox; that layer is not packed, so that its digest is
/// the name of its tree.
fn version(sm: &Sm, name: &str) -> Image {
    let own = Tar::new().file("data/version", name.as_bytes(), 0o644).done();
    sm.blobs.image(&[base_layer(), own], "exec /bin/busybox sleep 1000", with_tmp())
}

// SM-03, SM-37, SM-69: an update keeps the version before on disk, the way back fetches nothing, and a third
// version takes the place of the one that is unwanted for longest.
pub async fn an_update_keeps_the_version_before() {
    let sm = Sm::start("crun").await;
    let images = ["1.0.0", "2.0.0", "3.0.0"].map(|name| (name, version(&sm, name)));
    let tree = |image: &Image| {
        let hex = image.layers[1].trim_start_matches("sha256:").to_owned();
        sm.folder.path().join("work/images/layers/sha256").join(hex).join("layer")
    };
    let run = |index: usize| {
        let (name, image) = images[index].clone();
        let sm = &sm;
        async move {
            sm.cm.update(vec![wish(0, name, &image, &sm.runtime)], vec![]).await;
            sm.cm.wait_status(0, |status| status.state == "active" && status.version == name).await;
        }
    };
    run(0).await;
    run(1).await;
    assert!(tree(&images[0].1).exists() && tree(&images[1].1).exists(), "both versions are here");
    sm.cm.clear();
    run(0).await;
    let fetched = sm.cm.calls().iter().filter(|call| call.starts_with("blob")).count();
    assert_eq!(fetched, 0, "the way back needs nothing");
    run(2).await;
    wait_for("the second version to go", || (!tree(&images[1].1).exists()).then_some(())).await;
    assert!(tree(&images[0].1).exists() && tree(&images[2].1).exists());
}

// SM-37: nothing of a request is lost because another one is being carried out.
pub async fn a_request_during_a_launch_is_carried_out_too() {
    let sm = Sm::start("crun").await;
    let image = sm.blobs.simple("echo colour=$COLOUR; exec /bin/busybox sleep 1000", with_tmp());
    let make = |number: u64| wish(number, "1.0.0", &image, &sm.runtime);
    sm.cm.hold("AllocateInstanceNetwork", true);
    sm.cm.update(vec![make(0), make(1)], vec![]).await;
    sm.cm.wait_state(0, "activating").await;
    let mut changed = make(0);
    changed.env_vars = vec![wire::EnvVarInfo { name: "COLOUR".into(), value: "red".into() }];
    sm.cm.update(vec![changed], vec![1]).await;
    sm.cm.update(vec![make(2)], vec![]).await;
    sm.cm.hold("AllocateInstanceNetwork", false);
    wait_list(&sm.cm, &[(0, "active"), (2, "active")]).await;
    let id = sm.instance(0).await["id"].as_str().unwrap().to_owned();
    wait_for("the last wish", || sm.log(&id).lines().last().filter(|line| *line == "colour=red").map(drop))
        .await;
}

// SM-45: what is not here is stopped without harm, and that is all that is said about it.
pub async fn the_stop_of_an_unknown_instance_harms_nobody() {
    let sm = Sm::start("crun").await;
    let image = sm.blobs.simple("exec /bin/busybox sleep 1000", with_tmp());
    sm.cm.update(vec![wish(0, "1.0.0", &image, &sm.runtime)], vec![]).await;
    sm.cm.wait_state(0, "active").await;
    let pid = sm.instance(0).await["pid"].clone();
    sm.cm.clear();
    sm.cm.update(vec![], vec![77]).await;
    wait_list(&sm.cm, &[(0, "active")]).await;
    assert_eq!(sm.instance(0).await["pid"], pid);
    assert!(sm.cm.history(77).is_empty());
}

// SM-44, SM-45, SM-54: who asks for what cannot be read gets an answer, also with every later list, until it asks
// for something else; the others are carried out.
pub async fn what_cannot_be_read_is_answered_as_failed() {
    let sm = Sm::start("crun").await;
    let image = sm.blobs.simple("exec /bin/busybox sleep 1000", with_tmp());
    sm.cm.update(vec![wish(0, "1.0.0", &image, &sm.runtime)], vec![]).await;
    sm.cm.wait_state(0, "active").await;
    let pid = sm.instance(0).await["pid"].clone();
    let mut digestless = wish(0, "2.0.0", &image, &sm.runtime);
    digestless.manifest_digest = "md5:00".into();
    let mut ownerless = wish(1, "1.0.0", &image, &sm.runtime);
    ownerless.owner_id = String::new();
    let mut nameless = wish(3, "1.0.0", &image, &sm.runtime);
    nameless.instance = None;
    sm.cm.update(vec![digestless, ownerless, nameless, wish(2, "1.0.0", &image, &sm.runtime)], vec![]).await;
    let status = sm.cm.wait_state(0, "failed").await;
    assert_eq!((status.version.as_str(), status.manifest_digest.as_str()), ("2.0.0", "md5:00"));
    let error = status.error.unwrap();
    assert_eq!(error.aos_code, 6, "{}", error.message);
    assert!(error.message.contains("digest"), "{}", error.message);
    let owner = sm.cm.wait_state(1, "failed").await.error.unwrap();
    assert!(owner.message.contains("owner"), "{}", owner.message);
    let told = [(0, "failed"), (1, "failed"), (2, "active")];
    wait_list(&sm.cm, &told).await;
    assert_eq!(sm.instance(0).await["pid"], pid, "what ran before goes on");
    sm.cm.clear();
    sm.cm.hang_up();
    wait_list(&sm.cm, &told).await;
    sm.cm.update(vec![wish(0, "1.0.0", &image, &sm.runtime)], vec![1]).await;
    wait_list(&sm.cm, &[(0, "active"), (2, "active")]).await;
    assert_eq!(sm.instance(0).await["pid"], pid);
}

// SM-46, DIS-17: what is for a runtime of components is nothing for the ones that run services.
pub async fn what_is_of_a_component_is_refused() {
    let sm = Sm::start("crun").await;
    let content = b"the root file system of another world";
    let manifest = json!({"schemaVersion": 2,
        "config": {"mediaType": "application/vnd.oci.empty.v1+json", "digest": sm.blobs.put(b"{}"), "size": 2},
        "layers": [{"mediaType": "application/vnd.aos.image.component.full.v1+squashfs",
            "digest": sm.blobs.put(content), "size": content.len()}]});
    let image = Image { manifest: sm.blobs.put(manifest.to_string().as_bytes()), layers: vec![] };
    let good = sm.blobs.simple("exec /bin/busybox sleep 1000", with_tmp());
    let mut component = wish(1, "1.0.0", &good, &sm.runtime);
    component.instance.as_mut().unwrap().r#type = v2::ItemType::Component.into();
    sm.cm.update(vec![wish(0, "1.0.0", &image, &sm.runtime), component], vec![]).await;
    for instance in 0..2 {
        let error = sm.cm.wait_state(instance, "failed").await.error.unwrap();
        assert_eq!(error.aos_code, 12, "{}", error.message);
        assert!(error.message.contains("component"), "{}", error.message);
    }
    assert_eq!(fs::read_dir("/run/oci").unwrap().count(), 0);
}

// SM-37: an installation ends with the wish for it, however long CM takes with its answer.
pub async fn an_installation_nobody_wants_any_more_ends() {
    let sm = Sm::start("crun").await;
    let image = sm.blobs.simple("exec /bin/busybox sleep 1000", with_tmp());
    sm.cm.hold("GetBlobsInfos", true);
    sm.cm.update(vec![wish(0, "1.0.0", &image, &sm.runtime)], vec![]).await;
    sm.cm.wait_state(0, "activating").await;
    sm.cm.clear();
    sm.cm.update(vec![], vec![0]).await;
    wait_list(&sm.cm, &[]).await;
    sm.cm.hold("GetBlobsInfos", false);
    sm.cm.update(vec![wish(0, "1.0.0", &image, &sm.runtime)], vec![]).await;
    sm.cm.wait_state(0, "active").await;
}
