//! Networks of instances: who reaches whom, by real connections of threads inside the instances' namespaces.
//!
//! Two providers: instances 0 and 1 belong to `one`, 2 and 3 to `two`. A host `outside` with a public address
//! hangs on the box's own uplink. Listeners are everywhere on the same ports, so that a connection that is not
//! made was stopped and not just refused.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::path::PathBuf;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use aos_unit_api::servicemanager::v5 as wire;
use nix::sched::{CloneFlags, setns};
use serde_json::{Value, json};

use crate::cm::wait_for;
use crate::image::{Image, base_layer, wish};
use crate::sm::Sm;

const SLEEP: &str = "exec /bin/busybox sleep 100000";
/// A connection that is allowed is made in this time.
const PATIENCE: Duration = Duration::from_secs(20);
/// One that is not allowed is given up after this time.
const DENIED: Duration = Duration::from_millis(400);
const OUTSIDE: &str = "203.0.113.2";
const UPLINK: &str = "203.0.113.1";
const OPEN: u16 = 8080;
const CLOSED: u16 = 7000;
const UDP: u16 = 5353;

/// A network namespace: of an instance, or the host outside, or the box itself.
#[derive(Clone)]
pub struct Space(Option<PathBuf>);

impl Space {
    pub fn of(id: &str) -> Self {
        Self(Some(format!("/run/aos/runtime/netns/{id}").into()))
    }

    fn outside() -> Self {
        Self(Some("/run/netns/outside".into()))
    }

    fn here() -> Self {
        Self(None)
    }

    pub fn run<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> JoinHandle<T> {
        let path = self.0.clone();
        std::thread::spawn(move || {
            if let Some(path) = path {
                setns(File::open(path).unwrap(), CloneFlags::CLONE_NEWNET).unwrap();
            }
            work()
        })
    }

    /// What a server at `to` says, which is the address it sees.
    fn connect(&self, to: &str, port: u16, patience: Duration) -> Option<String> {
        let to: SocketAddr = format!("{to}:{port}").parse().unwrap();
        let connection = self.run(move || {
            let mut stream = TcpStream::connect_timeout(&to, patience).ok()?;
            stream.set_read_timeout(Some(PATIENCE)).unwrap();
            let mut text = String::new();
            stream.read_to_string(&mut text).ok()?;
            Some(text)
        });
        end(connection)
    }

    fn reaches(&self, to: &str, port: u16) -> String {
        self.connect(to, port, PATIENCE).unwrap_or_else(|| panic!("{to}:{port} is not reached"))
    }

    fn reaches_not(&self, to: &str, port: u16) {
        assert_eq!(self.connect(to, port, DENIED), None, "{to}:{port} is reached");
    }

    /// True when a datagram comes back from `to`.
    fn echo(&self, to: &str, patience: Duration) -> bool {
        let to: SocketAddr = format!("{to}:{UDP}").parse().unwrap();
        end(self.run(move || ping(to, patience)))
    }

    /// Servers on all ports of these tests.
    fn serve(&self) {
        let ready = self.run(|| {
            for port in [OPEN, CLOSED, 8089, 8090, 8091] {
                let listener = TcpListener::bind(("0.0.0.0", port)).unwrap();
                std::thread::spawn(move || {
                    while let Ok((mut stream, peer)) = listener.accept() {
                        let _ = stream.write_all(peer.ip().to_string().as_bytes());
                    }
                });
            }
            for port in [UDP, UDP + 1] {
                let socket = UdpSocket::bind(("0.0.0.0", port)).unwrap();
                std::thread::spawn(move || {
                    let mut buffer = [0; 64];
                    while let Ok((length, peer)) = socket.recv_from(&mut buffer) {
                        let _ = socket.send_to(&buffer[..length], peer);
                    }
                });
            }
        });
        end(ready);
    }
}

/// The result of a thread; the played CM goes on meanwhile.
fn end<T>(thread: JoinHandle<T>) -> T {
    tokio::task::block_in_place(|| thread.join().unwrap())
}

fn ping(to: SocketAddr, patience: Duration) -> bool {
    let socket = UdpSocket::bind("0.0.0.0:0").unwrap();
    socket.set_read_timeout(Some(patience)).unwrap();
    let _ = socket.send_to(b"ping", to);
    let mut buffer = [0; 64];
    matches!(socket.recv_from(&mut buffer), Ok((4, from)) if from == to)
}

pub fn run(command: &str) -> String {
    let output = Command::new("sh").args(["-c", command]).output().unwrap();
    assert!(output.status.success(), "{command}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

fn lay_uplink() {
    run("ip netns add outside
        ip link add up0 type veth peer name eth0 netns outside
        ip addr add 203.0.113.1/24 dev up0
        ip link set up0 up
        ip -n outside link set lo up
        ip -n outside addr add 203.0.113.2/24 dev eth0
        ip -n outside link set eth0 up
        ip -n outside route add 172.16.0.0/12 via 203.0.113.1
        ip route add default via 203.0.113.2");
    Space::outside().serve();
}

fn item(quotas: &Value) -> Value {
    json!({"created": "2026-01-01T00:00:00Z", "quotas": quotas})
}

fn image(sm: &Sm, ports: &[&str], quotas: &Value) -> Image {
    sm.blobs.exposing(&[base_layer()], SLEEP, item(quotas), ports)
}

fn owner(instance: u64) -> &'static str {
    if instance < 2 { "one" } else { "two" }
}

/// Starts an instance and its servers.
async fn start(sm: &Sm, instance: u64, image: &Image) -> (Space, String) {
    let info = wire::InstanceInfo {
        owner_id: owner(instance).into(),
        ..wish(instance, "1.0.0", image, &sm.runtime)
    };
    sm.cm.update(vec![info], vec![]).await;
    sm.cm.wait_state(instance, "active").await;
    let local = sm.instance(instance).await;
    let space = Space::of(local["id"].as_str().unwrap());
    space.serve();
    (space, local["ip"].as_str().unwrap().to_owned())
}

/// Starts a manager that is gone, and waits until it is connected.
async fn launch(sm: &mut Sm) {
    let connections = sm.cm.count("RegisterSM");
    sm.launch();
    wait_for("the connection", || (sm.cm.count("RegisterSM") > connections).then_some(())).await;
    sm.cm.wait_connected().await;
}

fn rule(to: &str, port: &str, proto: &str) -> wire::FirewallRule {
    wire::FirewallRule {
        dst_ip: to.into(),
        dst_port: port.into(),
        proto: proto.into(),
        src_ip: String::new(),
    }
}

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

// SM-06, CM-52, DIS-16: the result does not depend on the order of starts.
pub async fn the_destination_and_the_source_must_both_allow_a_connection() {
    who_reaches_whom([0, 1, 2, 3]).await;
}

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

// Section 15 of the sheet, line 9: a pending update is appended, each rule once; CM-52.
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

// SM-79, SM-80; section 15, lines 6 and 9: the network does not notice that its manager is away.
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

// SM-06: what was made for instances goes with the last of them; section 15, line 9: the table stays and denies.
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
fn transfer(from: &Space, to: &Space, ip: &str, bytes: usize) -> Duration {
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

// SM-06: 1000 kbit/s are 125 000 bytes a second, both ways.
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

fn counted(direction: &str, id: &str) -> u64 {
    let text = run(&format!("nft list counter inet aos-traffic {direction}_{id}"));
    let (_, bytes) = text.split_once("bytes ").unwrap();
    bytes.split_whitespace().next().unwrap().parse().unwrap()
}

/// Reads `bytes` from a server outside; false when they do not come.
fn download(space: &Space, bytes: usize) -> bool {
    let (ready, is_ready) = std::sync::mpsc::channel();
    let server = Space::outside().run(move || {
        let listener = TcpListener::bind("0.0.0.0:6001").unwrap();
        ready.send(listener.try_clone().unwrap()).unwrap();
        listener.set_nonblocking(false).unwrap();
        let Ok((mut stream, _)) = listener.accept() else { return };
        stream.set_write_timeout(Some(Duration::from_secs(2))).unwrap();
        let _ = stream.write_all(&vec![7; bytes]);
    });
    let listener: TcpListener = is_ready.recv().unwrap();
    let client = space.run(move || {
        let to: SocketAddr = format!("{OUTSIDE}:6001").parse().unwrap();
        let Ok(mut stream) = TcpStream::connect_timeout(&to, Duration::from_secs(2)) else { return 0 };
        stream.set_read_timeout(Some(Duration::from_secs(2))).unwrap();
        let mut total = 0;
        let mut buffer = [0; 4096];
        while let Ok(length) = stream.read(&mut buffer) {
            if length == 0 {
                break;
            }
            total += length;
        }
        total
    });
    let total = end(client);
    // Nobody may have come: let the server end.
    nix::sys::socket::shutdown(std::os::fd::AsRawFd::as_raw_fd(&listener), nix::sys::socket::Shutdown::Both)
        .unwrap();
    end(server);
    total >= bytes
}

fn set_day_back(sm: &Sm) {
    let database = rusqlite::Connection::open(sm.folder.path().join("work/sm.db")).unwrap();
    let text: Vec<u8> =
        database.query_row("SELECT value FROM facts WHERE name = 'traffic'", [], |row| row.get(0)).unwrap();
    let mut ledger: Value = serde_json::from_slice(&text).unwrap();
    ledger["day"] = json!(ledger["day"].as_u64().unwrap() - 1);
    let text = serde_json::to_vec(&ledger).unwrap();
    database.execute("UPDATE facts SET value = ?1 WHERE name = 'traffic'", [text]).unwrap();
}

// Section 15, line 10: private peers are not counted, the value survives restarts, the limit drops, a new day
// starts at zero and lets through again. SM-52.
pub async fn public_traffic_is_counted_bounded_and_kept() {
    lay_uplink();
    let mut sm = Sm::start("crun").await;
    let bounded = image(&sm, &[], &json!({"downloadLimit": 400_000}));
    let free = image(&sm, &[], &json!({}));
    let (space, ip) = start(&sm, 0, &bounded).await;
    let (peer, peer_ip) = start(&sm, 1, &free).await;
    let id = sm.instance(0).await["id"].as_str().unwrap().to_owned();
    transfer(&peer, &space, &ip, 300_000);
    transfer(&space, &peer, &peer_ip, 300_000);
    assert_eq!((counted("in", &id), counted("out", &id)), (0, 0), "private peers do not count");
    assert!(download(&space, 250_000));
    let first = counted("in", &id);
    assert!((250_000..330_000).contains(&first), "{first}");
    assert!((1..100_000).contains(&counted("out", &id)));

    // The value survives: a death, then a stop of the instance, then the loss of the kernel's tables.
    sm.kill();
    launch(&mut sm).await;
    sm.cm.wait_state(0, "active").await;
    assert_eq!(counted("in", &id), first);
    sm.cm.update(vec![], vec![1]).await;
    wait_for("the end of the other", || (sm.cm.count("ReleaseInstanceNetwork") == 1).then_some(())).await;
    let changed = wire::InstanceInfo {
        owner_id: "one".into(),
        env_vars: vec![wire::EnvVarInfo { name: "A".into(), value: "B".into() }],
        ..wish(0, "1.0.0", &bounded, &sm.runtime)
    };
    sm.cm.update(vec![changed], vec![]).await;
    let starts = || async { sm.instance(0).await["starts"].as_u64() == Some(2) };
    let deadline = Instant::now() + PATIENCE * 2;
    while !(starts().await && sm.instance(0).await["state"] == "active") {
        assert!(Instant::now() < deadline, "no second start");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    assert_eq!(counted("in", &id), first);

    // Too much is stopped while it happens, in this direction only.
    assert!(!download(&space, 300_000));
    let full = counted("in", &id);
    // Packets are dropped whole, and the kernel makes them up to 64 KiB long.
    assert!((330_000..=400_000).contains(&full), "{full}");
    assert!(!download(&space, 10));
    assert!(transfer(&Space::here(), &space, &ip, 1000) < PATIENCE, "private peers go on");
    sm.kill();
    launch(&mut sm).await;
    sm.cm.wait_state(0, "active").await;
    assert!(!download(&space, 10));

    // Another day.
    sm.kill();
    set_day_back(&sm);
    launch(&mut sm).await;
    let reset = || (counted("in", &id) < 1000).then_some(());
    wait_for("the new day", reset).await;
    assert!(download(&space, 100_000));
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
