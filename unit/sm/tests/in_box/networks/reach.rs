//! Who reaches whom, and that it stays so.

use std::net::{SocketAddr, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::json;

use super::{CLOSED, DENIED, OPEN, OUTSIDE, PATIENCE, Space, UDP, UPLINK};
use super::{end, image, launch, lay_uplink, owner, ping, rule, run, start};
use crate::cm::wait_for;
use crate::sm::Sm;

/// Addresses the played CM gives to instances started in this order.
fn addresses(order: [u64; 4]) -> [String; 4] {
    let mut networks: Vec<&str> = Vec::new();
    let mut addresses = [const { String::new() }; 4];
    for (place, instance) in order.into_iter().enumerate() {
        if !networks.contains(&owner(instance)) {
            networks.push(owner(instance));
        }
        let second = 31 - networks.iter().position(|network| *network == owner(instance)).unwrap();
        addresses[usize::try_from(instance).unwrap()] = format!("172.{second}.0.{}", place + 2);
    }
    addresses
}

// SM-06, SM-51, CM-52, DIS-16, REL-29
pub async fn the_destination_and_the_source_must_both_allow_a_connection() {
    who_reaches_whom([0, 1, 2, 3]).await;
}

// SM-06, CM-52, DIS-16: the same result the other way round.
pub async fn the_order_of_starts_means_nothing_to_the_firewall() {
    who_reaches_whom([3, 2, 1, 0]).await;
}

async fn who_reaches_whom(order: [u64; 4]) {
    lay_uplink();
    let sm = Sm::start("crun").await;
    let expected = addresses(order);
    let to = expected.clone();
    let range = |to: &str| rule(to, "8089-8091", "tcp");
    sm.cm.set_rules(
        0,
        vec![
            rule(&to[2], "8080", ""),
            range(&to[2]),
            rule(&to[2], &UDP.to_string(), "udp"),
            rule(&to[3], "8080", "tcp"),
        ],
    );
    let open = image(&sm, &["8080", "8089-8090/tcp", "5353/udp"], &json!({}));
    let closed = image(&sm, &[], &json!({}));
    let mut started = Vec::new();
    for instance in order {
        let one = start(&sm, instance, if instance == 2 { &open } else { &closed }).await;
        started.push((instance, one));
    }
    started.sort_by_key(|(instance, _)| *instance);
    let spaces: Vec<Space> = started.iter().map(|(_, (space, _))| space.clone()).collect();
    let ips: Vec<String> = started.into_iter().map(|(_, (_, ip))| ip).collect();
    assert_eq!(ips, expected);

    // Within a network everything.
    for (from, target) in [(0, 1), (1, 0), (2, 3), (3, 2)] {
        assert_eq!(spaces[from].reaches(&ips[target], CLOSED), ips[from]);
    }
    assert!(spaces[0].echo(&ips[1], PATIENCE));
    // Between networks what the one exposes and the other may.
    for port in [OPEN, 8089, 8090] {
        assert_eq!(spaces[0].reaches(&ips[2], port), ips[0], "its own address is seen");
    }
    assert!(spaces[0].echo(&ips[2], PATIENCE));
    spaces[0].reaches_not(&ips[2], 8091);
    spaces[0].reaches_not(&ips[2], CLOSED);
    spaces[0].reaches_not(&ips[3], OPEN);
    spaces[1].reaches_not(&ips[2], OPEN);
    assert!(!spaces[1].echo(&ips[2], DENIED));
    spaces[2].reaches_not(&ips[0], OPEN);
    spaces[3].reaches_not(&ips[1], OPEN);
    // From outside only what is exposed; to outside everything, with the node's address.
    let outside = Space::outside();
    assert_eq!(outside.reaches(&ips[2], OPEN), OUTSIDE);
    outside.reaches_not(&ips[2], CLOSED);
    outside.reaches_not(&ips[0], OPEN);
    for space in &spaces {
        assert_eq!(space.reaches(OUTSIDE, CLOSED), UPLINK);
    }
    // Of the node itself nothing but names: neither at the bridge nor at another address of it.
    Space::here().serve();
    let bridges = [ips[0].as_str(), ips[2].as_str()].map(|ip| {
        let (network, _) = ip.rsplit_once('.').unwrap();
        format!("{network}.1")
    });
    for (from, own, other) in [(0, &bridges[0], &bridges[1]), (2, &bridges[1], &bridges[0])] {
        for address in [own, other, UPLINK] {
            spaces[from].reaches_not(address, OPEN);
            assert!(!spaces[from].echo(address, DENIED));
        }
        let question = SocketAddr::new(own.parse().unwrap(), 53);
        let answered = end(spaces[from].run(move || asks_name(question)));
        assert!(answered, "{own} does not answer questions for names");
    }
    // The node itself reaches its instances: it probes them.
    assert!(Space::here().connect(&ips[3], CLOSED, PATIENCE).is_some());
    let clone = sm.cm.calls().iter().filter(|call| call.starts_with("Sync")).count();
    assert_eq!(clone, 1);
}

/// Sends a question for a name that is not there; any answer will do.
fn asks_name(server: SocketAddr) -> bool {
    let socket = UdpSocket::bind("0.0.0.0:0").unwrap();
    socket.set_read_timeout(Some(Duration::from_secs(2))).unwrap();
    let question = b"\x12\x34\x01\x00\x00\x01\x00\x00\x00\x00\x00\x00\x07nothing\x03one\x00\x00\x01\x00\x01";
    let mut buffer = [0; 512];
    (0..10).any(|_| {
        socket.send_to(question, server).is_ok()
            && matches!(socket.recv_from(&mut buffer), Ok((length, _)) if length >= 12 && buffer[..2] == question[..2])
    })
}

// SM-38, SM-79, DIS-15: what is unusable is left out, what comes later still counts.
pub async fn rules_that_come_later_are_appended_once() {
    lay_uplink();
    let sm = Sm::start("crun").await;
    let open = image(&sm, &["8080/tcp", "8089/tcp"], &json!({}));
    let (client, _) = start(&sm, 0, &open).await;
    let (_, server) = start(&sm, 2, &open).await;
    client.reaches_not(&server, OPEN);

    // What comes beside the allocation holds even when the whole list cannot be read again.
    sm.cm.deaf("AllocateInstanceNetwork", true);
    let first = rule(&server, "8080", "tcp");
    sm.cm.push_rules(0, vec![first.clone()]).await;
    assert!(!client.reaches(&server, OPEN).is_empty());
    let second = rule(&server, "8089", "tcp");
    sm.cm.push_rules(0, vec![second.clone(), first.clone(), second.clone()]).await;
    assert!(!client.reaches(&server, 8089).is_empty());
    assert!(!client.reaches(&server, OPEN).is_empty(), "the first rule is still there");
    // Rules of an instance that is not here, and unusable ones, change nothing.
    sm.cm.push_rules(7, vec![first.clone()]).await;
    sm.cm.push_rules(0, vec![rule(&server, "http", "tcp"), rule(&server, "7000", "tcp")]).await;

    sm.cm.hang_up();
    let listed = wait_for("the comparison", || {
        let of_client = sm.cm.synced().into_iter().find(|state| state.network_id == "one");
        of_client.filter(|state| !state.firewall_rules.is_empty())
    })
    .await;
    assert_eq!(listed.firewall_rules, [first.clone(), second]);
    client.reaches_not(&server, CLOSED);

    // When CM can be asked, its whole list counts: what it took back is gone.
    sm.cm.deaf("AllocateInstanceNetwork", false);
    sm.cm.set_rules(0, vec![first.clone()]);
    sm.cm.push_rules(0, vec![first]).await;
    wait_for("the end of a rule", || client.connect(&server, 8089, DENIED).is_none().then_some(())).await;
    assert!(!client.reaches(&server, OPEN).is_empty());

    // A subscription that ends is made again.
    let before = sm.cm.calls().iter().filter(|call| call.starts_with("Sync")).count();
    sm.cm.end_subscription();
    wait_for("another comparison", || {
        (sm.cm.calls().iter().filter(|call| call.starts_with("Sync")).count() > before).then_some(())
    })
    .await;
}

// SM-06: the network does not notice that its manager is away., REL-31
pub async fn no_packet_is_lost_while_the_manager_restarts() {
    lay_uplink();
    let mut sm = Sm::start("crun").await;
    let open = image(&sm, &["5353/udp", "8080/tcp"], &json!({}));
    let to = addresses([0, 2, 1, 3]);
    sm.cm.set_rules(0, vec![rule(&to[2], "5353", "udp")]);
    let (client, _) = start(&sm, 0, &open).await;
    let (server, ip) = start(&sm, 2, &open).await;
    assert_eq!(ip, to[2]);
    let stop = Arc::new(AtomicBool::new(false));
    let (sent, lost) = (Arc::new(AtomicU32::new(0)), Arc::new(AtomicU32::new(0)));
    let pinger = |from: &Space, to: &str, port: u16| {
        let to: SocketAddr = format!("{to}:{port}").parse().unwrap();
        let (stop, sent, lost) = (Arc::clone(&stop), Arc::clone(&sent), Arc::clone(&lost));
        from.run(move || {
            while !stop.load(Ordering::Relaxed) {
                // A new flow each time: rules are asked, not only the memory of connections. Not too many
                // of them, for that memory is bounded.
                std::thread::sleep(Duration::from_millis(1));
                if !ping(to, Duration::from_secs(10)) {
                    lost.fetch_add(1, Ordering::Relaxed);
                }
                sent.fetch_add(1, Ordering::Relaxed);
            }
        })
    };
    let threads = [
        pinger(&client, &ip, UDP),
        pinger(&client, OUTSIDE, UDP),
        pinger(&server, OUTSIDE, UDP + 1),
        pinger(&Space::outside(), &ip, UDP),
    ];
    let rules = || run("nft list table inet aos");
    let before = rules();
    for round in 0..6 {
        let at = sent.load(Ordering::Relaxed);
        if round % 2 == 0 {
            sm.kill();
        } else {
            sm.stop();
        }
        assert_eq!(rules(), before, "everything stays");
        wait_for("packets without manager", || (sent.load(Ordering::Relaxed) > at + 200).then_some(())).await;
        launch(&mut sm).await;
        sm.cm.wait_state(2, "active").await;
        let at = sent.load(Ordering::Relaxed);
        wait_for("packets afterwards", || (sent.load(Ordering::Relaxed) > at + 100).then_some(())).await;
        client.reaches_not(&ip, CLOSED);
        client.reaches_not(&ip, OPEN);
    }
    stop.store(true, Ordering::Relaxed);
    for thread in threads {
        end(thread);
    }
    assert_eq!(lost.load(Ordering::Relaxed), 0, "of {} packets", sent.load(Ordering::Relaxed));
    assert_eq!(sm.instance(0).await["starts"], 1);
    assert_eq!(sm.instance(2).await["starts"], 1);
}

// SM-06, REL-31: a neighbour that ended while the manager was away does not take the network along, whichever of them
// is looked at first.
pub async fn a_dead_neighbour_leaves_the_network_as_it_is() {
    lay_uplink();
    let mut sm = Sm::start("crun").await;
    let open = image(&sm, &["8080/tcp"], &json!({}));
    // Both are of the same owner.
    for instance in [0, 1] {
        start(&sm, instance, &open).await;
    }
    for dead in [0, 1] {
        let (before, pid) = (sm.instance(1 - dead).await, sm.instance(dead).await["pid"].as_i64().unwrap());
        // The namespace itself: its name might belong to another one afterwards.
        let space = Space(Some(format!("/proc/{}/ns/net", before["pid"]).into()));
        sm.kill();
        let pid = Pid::from_raw(i32::try_from(pid).unwrap());
        kill(pid, Signal::SIGKILL).unwrap();
        wait_for("the neighbour's end", || kill(pid, None).is_err().then_some(())).await;
        launch(&mut sm).await;
        let again = async {
            let mut now = sm.instance(dead).await;
            while now["state"] != "active" || now["pid"] == pid.as_raw() {
                tokio::time::sleep(Duration::from_millis(10)).await;
                now = sm.instance(dead).await;
            }
        };
        tokio::time::timeout(PATIENCE, again).await.expect("the neighbour runs again");
        assert_eq!(sm.instance(1 - dead).await["pid"], before["pid"]);
        space.reaches(OUTSIDE, OPEN);
        Space::outside().reaches(before["ip"].as_str().unwrap(), OPEN);
        // It begins with a namespace of its own, in which nobody serves yet.
        Space::of(sm.instance(dead).await["id"].as_str().unwrap()).serve();
    }
}
