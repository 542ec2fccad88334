//! Networks that reach over nodes: the VLAN that joins a network's bridges.

use std::process::Command;

use serde_json::json;

use crate::cm::wait_for;
use crate::image::wish;
use crate::networks::{CLOSED, OPEN, Space, closed, exposing, rule, start};
use crate::sm::Sm;

fn ip(arguments: &str) -> String {
    let output = Command::new("ip").args(arguments.split(' ')).output().unwrap();
    assert!(output.status.success(), "ip {arguments}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

// Needs a kernel with VLANs and nf_tables: run in a virtual machine, as a program of this name. Two nodes of other
// networks hang on the same cable, each in the VLAN of one network.
pub async fn vlans_are_filtered_like_bridges() {
    for step in [
        "netns add far",
        "netns add strange",
        "link add up0 type veth peer name up1 netns far",
        "link set up0 up",
        "addr add 10.77.0.1/24 dev up0",
        "route add default via 10.77.0.2",
        "-n far link set up1 up",
        "-n far link add link up1 name of100 type vlan id 100",
        "-n far addr add 172.31.200.1/16 dev of100",
        "-n far link set of100 up",
        "-n far link add link up1 name of101 type vlan id 101",
        "-n far link set of101 netns strange",
        "-n strange addr add 172.30.200.1/16 dev of101",
        "-n strange link set of101 up",
        "-n strange route add default via 172.30.0.1",
    ] {
        ip(step);
    }
    let sm = Sm::start("crun").await;
    sm.cm.set_rules(1, vec![rule("172.30.200.1", &OPEN.to_string(), "tcp")]);
    let (one, address) = start(&sm, 0, &exposing(&sm, &["8080"])).await;
    let (allowed, _) = start(&sm, 1, &closed(&sm)).await;
    let (_, other) = start(&sm, 2, &closed(&sm)).await;
    let vlans = ip("-d -o link show type vlan");
    assert!(vlans.contains("802.1Q id 100") && vlans.contains("802.1Q id 101"), "{vlans}");
    let (far, strange) = (Space::named("far"), Space::named("strange"));
    far.serve();
    strange.serve();
    // Within a network everything, over the cable too.
    for port in [OPEN, CLOSED] {
        assert_eq!(far.reaches(&address, port), "172.31.200.1");
        assert_eq!(one.reaches("172.31.200.1", port), address);
        assert_eq!(strange.reaches(&other, port), "172.30.200.1");
    }
    // Between networks nothing, neither way, but what a rule allows.
    for port in [OPEN, CLOSED] {
        strange.reaches_not(&address, port);
        one.reaches_not("172.30.200.1", port);
        one.reaches_not(&other, port);
    }
    assert!(!allowed.reaches("172.30.200.1", OPEN).is_empty());
    allowed.reaches_not("172.30.200.1", CLOSED);
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
