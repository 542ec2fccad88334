//! The name server inside the keeper: a real process in a network namespace of the test's own.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "helpers of tests fail the test")]

use std::collections::{BTreeMap, BTreeSet};
use std::net::{Ipv4Addr, SocketAddrV4, UdpSocket};
use std::path::Path;
use std::process::{Child, Command};
use std::time::{Duration, Instant};

use aos_keep::protocol::{Op, Outcome, Zone};
use aos_keep::{Client, ClientError};

const LONG: Duration = Duration::from_secs(30);
const BRIDGE: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 1);
const WEB: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 9);

struct Keeper(Child);

impl Keeper {
    fn start(dir: &Path) -> Self {
        Self(Command::new(env!("CARGO_BIN_EXE_aos-keep")).arg("--dir").arg(dir).spawn().unwrap())
    }

    fn kill(&mut self) {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }
}

impl Drop for Keeper {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn ip(words: &str) {
    let status = Command::new("ip").args(words.split(' ')).status().unwrap();
    assert!(status.success(), "ip {words}");
}

#[allow(clippy::disallowed_methods, reason = "polls a condition with a deadline")]
fn connected(dir: &Path) -> Client {
    let deadline = Instant::now() + LONG;
    loop {
        match Client::connect(dir) {
            Ok(client) => return client,
            Err(error) => assert!(Instant::now() < deadline, "{error}"),
        }
        std::thread::sleep(Duration::from_millis(2));
    }
}

fn zone(network: &str, listen: Ipv4Addr, names: &[(&str, Ipv4Addr)]) -> Zone {
    let names = names.iter().map(|(name, address)| ((*name).to_owned(), *address)).collect();
    Zone { network: network.into(), listen, prefix: 24, names, upstream: vec![] }
}

/// Asks for the address of a name of one label; `None` when nobody answers in time.
fn ask(name: &str, time: Duration) -> Option<Vec<u8>> {
    let socket = UdpSocket::bind((Ipv4Addr::new(10, 77, 0, 5), 0)).unwrap();
    socket.set_read_timeout(Some(time)).unwrap();
    let mut packet = vec![7, 7, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0, u8::try_from(name.len()).unwrap()];
    packet.extend_from_slice(name.as_bytes());
    packet.extend_from_slice(&[0, 0, 1, 0, 1]);
    socket.send_to(&packet, SocketAddrV4::new(BRIDGE, 53)).ok()?;
    let mut room = [0; 512];
    let count = socket.recv(&mut room).ok()?;
    Some(room[..count].to_vec())
}

/// Waits until the name has this address.
fn resolves(name: &str, address: Ipv4Addr) {
    let deadline = Instant::now() + LONG;
    loop {
        if let Some(answer) = ask(name, Duration::from_millis(200)) {
            assert_eq!(answer[answer.len() - 4..], address.octets(), "a wrong answer: {answer:?}");
            return;
        }
        assert!(Instant::now() < deadline, "{name} does not resolve");
    }
}

#[test]
fn names_resolve_for_whoever_is_in_charge_and_after_the_keepers_death() {
    if !nix::unistd::Uid::effective().is_root() {
        println!("skipped: needs root");
        return;
    }
    nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNET).unwrap();
    ip("link set lo up");
    let folder = tempfile::tempdir().unwrap();
    let mut keeper = Keeper::start(folder.path());
    let mut client = connected(folder.path());
    // The bridge is not there yet.
    let table = zone("owner", BRIDGE, &[("web", WEB)]);
    assert_eq!(client.request(Op::SetNames { zone: table }).unwrap(), Outcome::Acked);
    client.request(Op::SetNames { zone: zone("other", Ipv4Addr::new(10, 78, 0, 1), &[]) }).unwrap();
    // Whoever asked for it may go.
    drop(client);
    ip("link add br0 type bridge");
    ip("addr add 10.77.0.1/24 dev br0");
    ip("addr add 10.77.0.5/24 dev br0");
    ip("link set br0 up");
    resolves("web", WEB);
    // The bridge goes and comes back.
    ip("link del br0");
    ip("link add br0 type bridge");
    ip("addr add 10.77.0.1/24 dev br0");
    ip("addr add 10.77.0.5/24 dev br0");
    ip("link set br0 up");
    resolves("web", WEB);

    keeper.kill();
    assert_eq!(ask("web", Duration::from_millis(20)), None);
    let mut keeper = Keeper::start(folder.path());
    resolves("web", WEB);

    let mut client = connected(folder.path());
    client.request(Op::KeepNames { networks: BTreeSet::from(["owner".to_owned()]) }).unwrap();
    let refused = client.request(Op::SetNames { zone: zone("", BRIDGE, &[]) }).unwrap_err();
    assert!(matches!(refused, ClientError::Refused(_)), "{refused}");
    let moved = Ipv4Addr::new(10, 77, 0, 10);
    client.request(Op::SetNames { zone: zone("owner", BRIDGE, &[("web", moved)]) }).unwrap();
    resolves("web", moved);
    // A long table fits into one request.
    let long = format!("{}.{}", "s".repeat(60), "i".repeat(60));
    let names: BTreeMap<String, Ipv4Addr> =
        (0..512u32).map(|n| (format!("{n}.{long}"), Ipv4Addr::from(n))).collect();
    let mut table = zone("owner", BRIDGE, &[("web", WEB)]);
    table.names.extend(names);
    client.request(Op::SetNames { zone: table }).unwrap();
    resolves("web", WEB);
    client.request(Op::DropNames { network: "owner".into() }).unwrap();
    client.request(Op::DropNames { network: "unknown".into() }).unwrap();
    keeper.kill();
    assert_eq!(std::fs::read_dir(folder.path().join("names")).unwrap().count(), 0);
}
