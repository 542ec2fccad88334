//! Resources of the node: what an instance gets of them, and how many instances may.

use std::fs;

use aos_unit_api::servicemanager::v5 as wire;
use serde_json::json;
use wire::alert::AlertItem;
use wire::sm_outgoing_messages::SmOutgoingMessage as FromSm;

use crate::cm::wait_for;
use crate::image::wish;
use crate::sm::Sm;

/// A Service Manager whose node offers `resources`.
async fn with_resources(resources: serde_json::Value) -> Sm {
    Sm::start_with("crun", |config| {
        let path = config["resourcesConfigFile"].as_str().unwrap();
        fs::write(path, resources.to_string()).unwrap();
    })
    .await
}

fn allocation_alerts(sm: &Sm) -> Vec<(u64, String, String)> {
    let alert = |message: &FromSm| match message {
        FromSm::Alert(wire::Alert { alert_item: Some(AlertItem::ResourceAllocateAlert(alert)), .. }) => {
            Some((alert.instance.as_ref()?.instance, alert.resource.clone(), alert.message.clone()))
        }
        _ => None,
    };
    sm.cm.messages().iter().filter_map(alert).collect()
}

// SM-05, SM-32, SM-63
pub async fn a_shared_resource_is_given_to_as_many_as_it_allows() {
    let mut sm = with_resources(json!([
        {"name": "camera", "sharedCount": 1, "devices": ["/dev/zero:/dev/camera"], "envs": ["CAMERA=/dev/camera"]},
        {"name": "any"}
    ]))
    .await;
    let script = "/bin/busybox dd if=$CAMERA bs=16 count=1 2>/dev/null | /bin/busybox wc -c; exec /bin/busybox sleep 1000";
    let item = json!({"resources": [{"name": "any", "mode": ""}, {"name": "camera", "mode": "r"}]});
    let image = sm.blobs.simple(script, item);
    let one = |number| wish(number, "1.0.0", &image, &sm.runtime);
    sm.cm.update(vec![one(0)], vec![]).await;
    sm.cm.wait_state(0, "active").await;
    let id = sm.instance(0).await["id"].as_str().unwrap().to_owned();
    wait_for("the camera's picture", || sm.log(&id).contains("16\n").then_some(())).await;

    sm.cm.update(vec![one(0), one(1)], vec![]).await;
    let status = sm.cm.wait_status(1, |status| status.state == "failed").await;
    let error = status.error.unwrap();
    assert_eq!(error.message, format!("resource 'camera' is for 1 instance at a time and in use by {id}"));
    let alerts =
        wait_for("the alert", || Some(allocation_alerts(&sm)).filter(|found| !found.is_empty())).await;
    assert_eq!(alerts.first(), Some(&(1, "camera".to_owned(), error.message)));

    // Counted from what runs after a restart of ours: the camera is still taken.
    sm.restart().await;
    let one = |number| wish(number, "1.0.0", &image, &sm.runtime);
    sm.cm.clear();
    sm.cm.update(vec![one(0), one(2)], vec![1]).await;
    sm.cm.wait_status(2, |status| status.state == "failed").await;
    assert_eq!(sm.instance(0).await["state"], "active");

    // Free again, it goes to the next.
    sm.cm.clear();
    sm.cm.update(vec![one(3)], vec![0, 2]).await;
    sm.cm.wait_state(3, "active").await;
}

// SM-05
pub async fn what_a_node_does_not_have_fails_the_instance() {
    let sm = with_resources(json!([{"name": "odd", "groups": ["no-such-group"]}])).await;
    for (number, name, words) in
        [(0, "unknown", "resource 'unknown' is not there"), (1, "odd", "no-such-group")]
    {
        let item = json!({"resources": [{"name": name, "mode": "rw"}],
            "runParameters": {"startInterval": "1h", "startBurst": 1}});
        let image = sm.blobs.simple("exec /bin/busybox sleep 1000", item);
        sm.cm.update(vec![wish(number, "1.0.0", &image, &sm.runtime)], vec![]).await;
        let status = sm.cm.wait_status(number, |status| status.state == "failed").await;
        let message = status.error.unwrap().message;
        assert!(message.contains(words), "{message}");
    }
}

// SM-05: groups, mounts, variables, hosts, and devices of a folder under another name with the rights asked for.
pub async fn an_instance_gets_what_the_resource_says_and_no_more() {
    let group = "nogroup";
    let folder = tempfile::Builder::new().prefix("aos-devices-").tempdir_in("/var/tmp").unwrap();
    let shared = tempfile::Builder::new().prefix("aos-shared-").tempdir_in("/var/tmp").unwrap();
    fs::write(shared.path().join("words"), "from the host\n").unwrap();
    for (name, minor) in [("wide", 5), ("closed", 8)] {
        let node = folder.path().join(name);
        let mode = nix::sys::stat::Mode::from_bits_truncate(0o666);
        nix::sys::stat::mknod(&node, nix::sys::stat::SFlag::S_IFCHR, mode, nix::sys::stat::makedev(1, minor))
            .unwrap();
        fs::set_permissions(&node, std::os::unix::fs::PermissionsExt::from_mode(0o666)).unwrap();
    }
    std::os::unix::fs::symlink("/dev/full", folder.path().join("linked")).unwrap();
    for path in [folder.path(), shared.path()] {
        fs::set_permissions(path, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    }
    let sm = with_resources(json!([{
        "name": "things", "groups": [group], "envs": ["THING=1", "COLOUR=green"],
        "hosts": [{"ip": "10.9.0.5", "hostname": "camhub"}],
        "mounts": [{"destination": "/run/things", "source": shared.path(), "type": "bind", "options": ["bind", "ro"]}],
        "devices": [format!("{}:/dev/things", folder.path().display())],
    }]))
    .await;
    let script = "b=/bin/busybox; $b ls /dev/things; $b cat /run/things/words; $b touch /run/things/new || echo no-new; \
        echo $THING $COLOUR; $b grep camhub /etc/hosts; $b id; \
        $b head -c 4 /dev/things/wide | $b wc -c; echo x > /dev/things/linked; \
        echo done; exec $b sleep 1000";
    let image = sm.blobs.simple(script, json!({"resources": [{"name": "things", "mode": "r"}]}));
    sm.cm.update(vec![wish(0, "1.0.0", &image, &sm.runtime)], vec![]).await;
    sm.cm.wait_state(0, "active").await;
    let id = sm.instance(0).await["id"].as_str().unwrap().to_owned();
    let log = wait_for("the end of the list", || Some(sm.log(&id)).filter(|log| log.contains("done"))).await;
    for words in [
        "closed\nlinked\nwide\n",
        "from the host\n",
        "no-new\n",
        "1 green\n",
        "10.9.0.5\tcamhub",
        "65534",
        "4\n",
    ] {
        assert!(log.contains(words), "'{words}' is not in:\n{log}");
    }
}
