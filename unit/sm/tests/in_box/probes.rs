//! Readiness and liveness probes against real services.

use std::fs;

use serde_json::json;

use crate::cm::wait_for;
use crate::image::wish;
use crate::native::{native, with_native};
use crate::sm::Sm;
use crate::tests::{number, with_tmp};

/// A service that is ready and lives as files in its storage say.
const HTTP: &str = "b=/bin/busybox; $b mkdir -p /tmp/w; exec $b httpd -f -p 127.0.0.1:8080 -h /storage";

// REL-36
pub async fn probes_decide_about_active_and_restart() {
    let sm = Sm::start("crun").await;
    let item = |probes: serde_json::Value| {
        let mut item = with_tmp();
        item["probes"] = probes;
        item
    };
    // HTTP, on the loopback address of the instance's own network; exec; TCP on its own address only.
    let http = sm.blobs.simple(
        HTTP,
        item(json!({"readiness": {"http": {"port": 8080, "path": "/ready"}, "period": "100ms"},
            "liveness": {"http": {"port": 8080, "path": "/alive"}, "period": "100ms", "failureThreshold": 2}})),
    );
    let exec = sm.blobs.simple(
        "exec /bin/busybox sleep 1000",
        item(
            json!({"readiness": {"exec": ["/bin/busybox", "test", "-e", "/storage/ready"], "period": "200ms",
            "timeout": "5s"}}),
        ),
    );
    let tcp = sm.blobs.simple(
        "b=/bin/busybox; a=$($b ip -o -4 addr show eth0 | $b awk '{print $4}' | $b cut -d/ -f1); \
            exec $b httpd -f -p $a:9000 -h /etc",
        item(json!({"readiness": {"tcp": {"port": 9000}, "period": "100ms"}})),
    );
    let never = sm.blobs.simple(
        "exec /bin/busybox sleep 1000",
        item(json!({"startTimeout": "1s", "readiness": {"tcp": {"port": 1}, "period": "100ms"}})),
    );
    let mut wishes: Vec<_> = [&http, &exec, &tcp, &never]
        .into_iter()
        .zip(0..)
        .map(|(image, number)| wish(number, "1.0.0", image, &sm.runtime))
        .collect();
    for (number, wish) in (0..).zip(&mut wishes) {
        wish.storage_path = format!("s{number}");
    }
    sm.cm.update(wishes, vec![]).await;
    sm.cm.wait_state(2, "active").await;
    let failed = sm.cm.wait_state(3, "failed").await.error.unwrap();
    assert!(failed.message.contains("not ready within 1 s: "), "{}", failed.message);
    let storage = |number: u64| sm.folder.path().join(format!("work/storages/s{number}"));
    wait_for("a process that is not ready", || storage(1).exists().then_some(())).await;
    assert_eq!(sm.instance(0).await["state"], "activating");
    assert_eq!(sm.instance(1).await["state"], "activating");
    fs::write(storage(1).join("ready"), "").unwrap();
    sm.cm.wait_state(1, "active").await;
    assert_eq!(sm.instance(1).await["starts"], 1);

    fs::write(storage(0).join("alive"), "").unwrap();
    fs::write(storage(0).join("ready"), "").unwrap();
    sm.cm.wait_state(0, "active").await;
    let pid = number(&sm.instance(0).await["pid"]);
    fs::remove_file(storage(0).join("alive")).unwrap();
    let failed = sm.cm.wait_state(0, "failed").await.error.unwrap();
    assert!(failed.message.contains("2 probes in a row: HTTP status 404"), "{}", failed.message);
    fs::write(storage(0).join("alive"), "").unwrap();
    sm.cm.wait_state(0, "active").await;
    assert_ne!(number(&sm.instance(0).await["pid"]), pid);
}

// REL-36
pub async fn probes_look_into_native_services() {
    let mut sm = with_native(|config| config["ownNetwork"] = json!(true)).await;
    let script = "b=$AOS_ITEM_DIR/bin/busybox; exec $b httpd -f -p 127.0.0.1:8080 -h $AOS_STORAGE_DIR";
    let item = json!({"probes": {
        "readiness": {"exec": ["sh", "-c", "test -e $AOS_STORAGE_DIR/ready && test $(id -u) = 5001"],
            "period": "200ms", "timeout": "5s"},
        "liveness": {"http": {"port": 8080, "path": "/alive"}, "period": "100ms"}}});
    let image = sm.blobs.simple(script, item);
    let mut info = wish(0, "1.0.0", &image, &native());
    info.storage_path = "s".into();
    sm.cm.update(vec![info], vec![]).await;
    let storage = sm.folder.path().join("work/storages/s");
    wait_for("the start", || storage.exists().then_some(())).await;
    fs::write(storage.join("alive"), "").unwrap();
    fs::write(storage.join("ready"), "").unwrap();
    sm.cm.wait_state(0, "active").await;
    // Once ready it stays active when the Service Manager comes back, whatever the first probe would say.
    fs::remove_file(storage.join("ready")).unwrap();
    let pid = number(&sm.instance(0).await["pid"]);
    let streams = sm.cm.count("RegisterSM");
    sm.kill();
    sm.cm.clear();
    sm.launch();
    wait_for("another stream", || (sm.cm.count("RegisterSM") > 0).then_some(())).await;
    assert!(streams > 0);
    wait_for("the first list", || (!sm.cm.history(0).is_empty()).then_some(())).await;
    assert_eq!(sm.cm.history(0), [("active".to_owned(), 0)]);
    assert_eq!(number(&sm.instance(0).await["pid"]), pid);
    fs::remove_file(storage.join("alive")).unwrap();
    sm.cm.wait_state(0, "failed").await;
    assert_eq!(sm.instance(0).await["starts"], 1);
}
