//! Bounds and figures, the clean end, and what goes wrong.

use std::collections::BTreeSet;
use std::fs;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::time::{Duration, Instant};

use aos_unit_api::servicemanager::v5 as wire;
use serde_json::json;

use super::{CLOSED, OPEN, OUTSIDE, PATIENCE, Space};
use super::{end, image, lay_uplink, rule, run, start};
use crate::cm::wait_for;
use crate::image::wish;
use crate::sm::Sm;

fn picture() -> String {
    let links: BTreeSet<String> =
        run("ip -o link").lines().filter_map(|line| line.split(": ").nth(1)).map(str::to_owned).collect();
    let spaces: Vec<_> =
        fs::read_dir("/run/aos/runtime/netns").unwrap().flatten().map(|e| e.path()).collect();
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
    let mounts = mounts.lines().filter(|line| line.contains("nsfs")).count();
    let rules = run("nft list ruleset");
    // The node's own traffic goes on.
    let rules: Vec<&str> = rules.lines().filter(|line| !line.contains("packets")).collect();
    format!("{links:?}\n{spaces:?}\n{mounts}\n{}", rules.join("\n"))
}

// SM-06: what was made for instances goes with the last of them; the table stays and denies.
pub async fn the_last_stop_leaves_no_network() {
    lay_uplink();
    let mut sm = Sm::start("crun").await;
    let before = picture();
    assert!(before.contains("policy drop"));
    let some = image(
        &sm,
        &["8080"],
        &json!({"uploadSpeed": 1000, "downloadSpeed": 1000, "downloadLimit": 1_000_000}),
    );
    for instance in [0, 1, 2] {
        start(&sm, instance, &some).await;
    }
    assert_ne!(picture(), before);
    // Nobody hears of the end at first.
    for call in ["ReleaseInstanceNetwork", "ReleaseNodeNetwork"] {
        sm.cm.deaf(call, true);
    }
    sm.cm.update(vec![], vec![0, 1, 2]).await;
    wait_for("the end of the network", || (picture() == before).then_some(())).await;
    for call in ["ReleaseInstanceNetwork", "ReleaseNodeNetwork"] {
        assert_eq!(sm.cm.count(call), 0);
        sm.cm.deaf(call, false);
    }
    // At the next connection CM learns what it missed.
    sm.cm.hang_up();
    wait_for("the networks' release", || (sm.cm.count("ReleaseNodeNetwork") == 2).then_some(())).await;
    assert_eq!(sm.cm.synced(), []);

    // What nobody wants is found at the next start; what others made stays.
    sm.kill();
    run("nft add rule inet aos forward iifname keepme accept
        nft add chain inet aos instance_0123
        nft add rule inet aos forward ip daddr 172.31.0.9 jump instance_0123
        nft add rule inet aos postrouting ip saddr 172.31.0.0/16 masquerade
        nft add counter inet aos-traffic in_0123
        nft add table inet others
        ip link add veth0123abcd type veth peer name other0
        ip link add br-0123abcd type bridge
        ip link add br-others type bridge
        touch /run/aos/runtime/netns/0123");
    sm.launch();
    sm.status().await;
    let after = picture();
    for gone in ["instance_0123", "in_0123", "veth0123abcd", "br-0123abcd", "172.31.0.0", "netns/0123"] {
        assert!(!after.contains(gone), "{gone} is still there:\n{after}");
    }
    for kept in ["keepme", "table inet others", "br-others"] {
        assert!(after.contains(kept), "{kept} is gone:\n{after}");
    }
}

/// Bytes that arrive at `to` when `from` sends for as long as it takes, and how long that was.
pub(super) fn transfer(from: &Space, to: &Space, ip: &str, bytes: usize) -> Duration {
    let (ready, is_ready) = std::sync::mpsc::channel();
    let receiver = to.run(move || {
        let listener = TcpListener::bind("0.0.0.0:6000").unwrap();
        ready.send(()).unwrap();
        let (mut stream, _) = listener.accept().unwrap();
        let mut total = 0;
        let mut buffer = vec![0; 65536];
        while let Ok(length) = stream.read(&mut buffer) {
            if length == 0 {
                break;
            }
            total += length;
        }
        total
    });
    is_ready.recv().unwrap();
    let to: SocketAddr = format!("{ip}:6000").parse().unwrap();
    let sender = from.run(move || {
        let began = Instant::now();
        let mut stream = TcpStream::connect_timeout(&to, PATIENCE).unwrap();
        stream.write_all(&vec![7; bytes]).unwrap();
        stream.shutdown(std::net::Shutdown::Write).unwrap();
        // Closed by the other side when everything was read.
        let _ = stream.read(&mut [0; 1]);
        began.elapsed()
    });
    let took = end(sender);
    assert_eq!(end(receiver), bytes);
    took
}

// SM-06: 1000 kbit/s are 125 000 bytes a second, both ways., REL-28
pub async fn bandwidth_is_bounded_both_ways() {
    let sm = Sm::start("crun").await;
    let slow = image(&sm, &[], &json!({"uploadSpeed": 2000, "downloadSpeed": 1000}));
    let free = image(&sm, &[], &json!({}));
    let (bounded, bounded_ip) = start(&sm, 0, &slow).await;
    let (peer, peer_ip) = start(&sm, 1, &free).await;
    let queues = run("tc qdisc show");
    assert!(queues.contains("rate 1Mbit"), "{queues}");
    // A busy machine makes it slower, nothing makes it faster.
    let up = transfer(&bounded, &peer, &peer_ip, 500_000);
    assert!(up > Duration::from_millis(1700), "500 kB at 250 kB/s took {up:?}");
    let down = transfer(&peer, &bounded, &bounded_ip, 250_000);
    assert!(down > Duration::from_millis(1700), "250 kB at 125 kB/s took {down:?}");
}

// A port nobody can mean fails the start and says why; others start.
pub async fn an_impossible_rule_fails_its_instance_alone() {
    let sm = Sm::start("crun").await;
    let some = image(&sm, &[], &json!({}));
    sm.cm.set_rules(0, vec![rule("172.30.0.9", "http; accept", "tcp")]);
    let info = wire::InstanceInfo { owner_id: "one".into(), ..wish(0, "1.0.0", &some, &sm.runtime) };
    sm.cm.update(vec![info], vec![]).await;
    let status = sm.cm.wait_state(0, "failed").await;
    let error = status.error.unwrap();
    assert!(error.message.contains("http; accept"), "{error:?}");
    start(&sm, 1, &some).await;
    assert!(!run("nft list ruleset").contains("http"));
}

// Somebody else empties the packet filter: the next change puts everything back.
pub async fn a_filter_that_was_emptied_is_filled_again() {
    lay_uplink();
    let sm = Sm::start("crun").await;
    let open = image(&sm, &["8080"], &json!({}));
    let (_, first) = start(&sm, 0, &open).await;
    run("nft flush ruleset");
    let (_, second) = start(&sm, 1, &open).await;
    let outside = Space::outside();
    for ip in [&first, &second] {
        assert_eq!(outside.reaches(ip, OPEN), OUTSIDE);
        outside.reaches_not(ip, CLOSED);
    }
}
