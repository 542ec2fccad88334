//! Networks that reach over nodes: the VLAN that joins a network's bridges.

use std::process::Command;

use serde_json::json;

use crate::cm::wait_for;
use crate::image::wish;
use crate::sm::Sm;

fn ip(arguments: &str) -> String {
    let output = Command::new("ip").args(arguments.split(' ')).output().unwrap();
    assert!(output.status.success(), "ip {arguments}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

// Needs a kernel with VLANs: run by `other_kernel`. Beside the box there is another node, as far as cables tell.
pub async fn an_instance_is_reached_over_its_vlan() {
    for step in [
        "netns add far",
        "link add up0 type veth peer name up1 netns far",
        "link set up0 up",
        "addr add 10.77.0.1/24 dev up0",
        "route add default via 10.77.0.2",
        "-n far link set lo up",
        "-n far link set up1 up",
        "-n far link add link up1 name other type vlan id 100",
        "-n far addr add 172.31.200.1/16 dev other",
        "-n far link set other up",
    ] {
        ip(step);
    }
    let sm = Sm::start("crun").await;
    let script = "b=/bin/busybox; $b mkdir -p /tmp/w; echo hello > /tmp/w/index.html; exec $b httpd -f -p 8080 -h /tmp/w";
    let image = sm.blobs.simple(script, json!({"quotas": {"tmpLimit": 1_048_576}}));
    sm.cm.update(vec![wish(0, "1.0.0", &image, &sm.runtime)], vec![]).await;
    sm.cm.wait_state(0, "active").await;
    let vlans = ip("-d -o link show type vlan");
    assert!(
        vlans.contains("@up0") && vlans.contains("802.1Q id 100") && vlans.contains("master br-"),
        "{vlans}"
    );
    let address = sm.instance(0).await["ip"].as_str().unwrap().to_owned();
    let ask = || {
        let script = format!("printf 'GET / HTTP/1.0\\r\\n\\r\\n' | busybox nc -w 3 {address} 8080");
        let output = Command::new("ip").args(["netns", "exec", "far", "sh", "-c", &script]).output().unwrap();
        output.stdout.ends_with(b"hello\n").then_some(())
    };
    wait_for("an answer over the VLAN", ask).await;
    // Other VLANs of the same cable see nothing of it.
    ip("-n far link set other down");
    assert_eq!(ask(), None);
    ip("-n far link set other up");
    wait_for("an answer again", ask).await;
    // With the last instance the VLAN goes.
    sm.cm.update(vec![], vec![0]).await;
    wait_for("the end of the VLAN", || ip("-o link show type vlan").is_empty().then_some(())).await;
}
