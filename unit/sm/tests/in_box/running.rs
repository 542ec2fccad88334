//! An instance as it is asked for: its process, files, variables, network and data.

use std::io::{Read, Write};
use std::net::TcpStream;

use aos_unit_api::servicemanager::v5 as wire;
use serde_json::json;
use wire::sm_outgoing_messages::SmOutgoingMessage as FromSm;

use crate::cm::wait_for;
use crate::image::wish;
use crate::sm::Sm;
use crate::tests::with_tmp;

/// A service that answers with one page.
pub const HTTP: &str =
    "mkdir -p /tmp/w; echo hello > /tmp/w/index.html; exec /bin/busybox httpd -f -p 8080 -h /tmp/w";

pub fn get(ip: &str) -> Option<String> {
    let mut stream = TcpStream::connect((ip, 8080)).ok()?;
    stream.write_all(b"GET /index.html HTTP/1.0\r\n\r\n").ok()?;
    let mut text = String::new();
    stream.read_to_string(&mut text).ok()?;
    text.ends_with("hello\n").then_some(text)
}

// SM-30, SM-31, SM-68, ARC-07, SM-13, SM-14, SM-17, SM-18, SM-19, SM-28, SM-29, SM-37, SM-47, SM-50, SM-51, SM-54
pub async fn crun_runs_an_instance_as_asked() {
    runs_an_instance_as_asked("crun").await;
}

pub async fn runc_runs_an_instance_as_asked() {
    runs_an_instance_as_asked("runc").await;
}

async fn runs_an_instance_as_asked(runtime: &str) {
    let sm = Sm::start(runtime).await;
    let script = format!(
        "b=/bin/busybox; for c in id hostname env; do $b $c; done; $b ls -a /; $b grep -E 'Cap(Eff|Bnd)|NoNewPrivs' /proc/self/status; \
         $b touch /x || echo read-only; $b cat /etc/hosts /etc/resolv.conf; $b ip route; {}",
        HTTP.replace("mkdir", "$b mkdir")
    );
    let mut item = with_tmp();
    item["hostname"] = json!("webby");
    item["allowedConnections"] = json!({"other/80/tcp": {}});
    let image = sm.blobs.simple(&script, item);
    let mut info = wish(0, "1.0.0", &image, &sm.runtime);
    info.env_vars = vec![wire::EnvVarInfo { name: "COLOUR".into(), value: "red".into() }];
    sm.cm.update(vec![info], vec![]).await;
    let status = sm.cm.wait_state(0, "active").await;
    assert_eq!(status.error, None);
    assert_eq!((status.version.as_str(), status.runtime_id.as_str()), ("1.0.0", sm.runtime.as_str()));
    assert_eq!(status.manifest_digest, image.manifest);
    assert_eq!(status.env_vars.len(), 1);
    assert_eq!(sm.cm.history(0), [("activating".into(), 0), ("active".into(), 0)]);

    let local = sm.instance(0).await;
    let ip = local["ip"].as_str().unwrap().to_owned();
    assert_eq!(local["starts"], 1);
    wait_for("the service's answer", || get(&ip)).await;

    let log = sm.log(local["id"].as_str().unwrap());
    for line in [
        "uid=5001 gid=5002",
        "webby\n",
        "COLOUR=red\n",
        "AOS_ITEM_ID=mine\n",
        "AOS_SUBJECT_ID=subject\n",
        "AOS_INSTANCE_INDEX=0\n",
        "NoNewPrivs:\t1\n",
        "CapEff:\t0000000000000000\n",
        "CapBnd:\t0000000020000420\n",
        "read-only\n",
        &format!("{ip}\towner webby\n"),
        "nameserver 172.31.0.1\nnameserver 10.1.1.1\n",
        "default via 172.31.0.1 dev eth0",
    ] {
        assert!(log.contains(line), "'{line}' is not in:\n{log}");
    }
    for host in ["home\n", "root\n", "usr\n", "var\n"] {
        assert!(!log.contains(host), "the host's {host} is in the container:\n{log}");
    }

    let kinds: Vec<&str> = sm
        .cm
        .messages()
        .iter()
        .take(2)
        .map(|message| match message {
            FromSm::SmInfo(info) => {
                assert_eq!((info.node_id.as_str(), info.runtimes.len()), ("node1", 1));
                let told = &info.runtimes[0];
                assert_eq!((told.r#type.as_str(), told.max_instances), (runtime, 256));
                assert_eq!((told.max_dmips, told.allowed_dmips), (10_000, 10_000));
                assert_eq!((told.total_ram, told.allowed_ram), (1 << 30, 1 << 30));
                assert_eq!(told.arch_info.as_ref().unwrap().architecture, "arm64");
                assert_eq!(told.os_info.as_ref().unwrap().os, "linux");
                "info"
            }
            FromSm::NodeInstancesStatus(_) => "instances",
            _ => "other",
        })
        .collect();
    assert_eq!(kinds, ["info", "instances"]);
    let calls = sm.cm.calls();
    assert_eq!(calls[..2], ["RegisterSM".to_owned(), "SyncNetworkState 0".to_owned()]);
    let allocated = calls.iter().find(|call| call.starts_with("Allocate")).unwrap();
    assert!(allocated.contains("webby,0.subject.item.owner,0.subject.item"), "{allocated}");

    // The same wish again touches nothing.
    let mut again = wish(0, "1.0.0", &image, &sm.runtime);
    again.env_vars = vec![wire::EnvVarInfo { name: "COLOUR".into(), value: "red".into() }];
    sm.cm.clear();
    sm.cm.update(vec![again], vec![]).await;
    sm.cm.wait_message(|m| matches!(m, FromSm::NodeInstancesStatus(_)).then_some(())).await;
    assert_eq!(sm.instance(0).await["pid"], local["pid"]);

    // A change of the environment alone restarts it.
    sm.cm.update(vec![wish(0, "1.0.0", &image, &sm.runtime)], vec![]).await;
    wait_for("the other colour", || {
        sm.log(local["id"].as_str().unwrap()).contains("COLOUR=blue\n").then_some(())
    })
    .await;
    sm.cm.wait_state(0, "active").await;
    let after = sm.instance(0).await;
    assert_eq!((after["starts"].as_u64(), &after["ip"]), (Some(2), &local["ip"]));
}

// SM-49
pub async fn state_and_storage_belong_to_the_instance_and_last() {
    let sm = Sm::start("crun").await;
    let script = "echo state=$(/bin/busybox cat /state.dat); echo s >> /state.dat; /bin/busybox touch /storage/f && echo ok; exec /bin/busybox sleep 1000";
    let image = sm.blobs.simple(script, with_tmp());
    let mut info = wish(0, "1.0.0", &image, &sm.runtime);
    info.state_path = "a/state.dat".into();
    info.storage_path = "a/storage".into();
    sm.cm.update(vec![info.clone()], vec![]).await;
    sm.cm.wait_state(0, "active").await;
    let id = sm.instance(0).await["id"].as_str().unwrap().to_owned();
    wait_for("the first run", || sm.log(&id).contains("state=\nok").then_some(())).await;
    info.version = "1.0.1".into();
    sm.cm.update(vec![info.clone()], vec![]).await;
    wait_for("the second run", || sm.log(&id).contains("state=s\nok").then_some(())).await;
    assert!(sm.folder.path().join("work/storages/a/storage/f").exists());
    info.storage_path = "../outside".into();
    sm.cm.update(vec![info], vec![]).await;
    sm.cm.wait_state(0, "failed").await;
    assert!(!sm.folder.path().join("work/outside").exists());
}
