//! Networks of instances: who reaches whom, by real connections of threads inside the instances' namespaces.
//!
//! Two providers: instances 0 and 1 belong to `one`, 2 and 3 to `two`. A host `outside` with a public address
//! hangs on the box's own uplink. Listeners are everywhere on the same ports, so that a connection that is not
//! made was stopped and not just refused.

mod bounds;
mod flows;
mod reach;
mod traffic;

use std::fs::File;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::path::PathBuf;
use std::process::Command;
use std::thread::JoinHandle;
use std::time::Duration;

use aos_unit_api::servicemanager::v5 as wire;
use nix::sched::{CloneFlags, setns};
use serde_json::{Value, json};

use crate::cm::wait_for;
use crate::image::{Image, base_layer, wish};
use crate::sm::Sm;

pub use bounds::*;
pub use flows::*;
pub use reach::*;
pub use traffic::*;

pub(super) const SLEEP: &str = "exec /bin/busybox sleep 100000";
/// A connection that is allowed is made in this time.
pub(super) const PATIENCE: Duration = Duration::from_secs(20);
/// One that is not allowed is given up after this time.
pub(super) const DENIED: Duration = Duration::from_millis(400);
pub(super) const OUTSIDE: &str = "203.0.113.2";
pub(super) const UPLINK: &str = "203.0.113.1";
pub const OPEN: u16 = 8080;
pub const CLOSED: u16 = 7000;
pub(super) const UDP: u16 = 5353;

/// A network namespace: of an instance, or the host outside, or the box itself.
#[derive(Clone)]
pub struct Space(Option<PathBuf>);

impl Space {
    pub fn of(id: &str) -> Self {
        Self(Some(format!("/run/aos/runtime/netns/{id}").into()))
    }

    /// One that `ip netns` made.
    pub fn named(name: &str) -> Self {
        Self(Some(format!("/run/netns/{name}").into()))
    }

    pub(super) fn outside() -> Self {
        Self::named("outside")
    }

    pub(super) fn here() -> Self {
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
    pub(super) fn connect(&self, to: &str, port: u16, patience: Duration) -> Option<String> {
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

    pub fn reaches(&self, to: &str, port: u16) -> String {
        self.connect(to, port, PATIENCE).unwrap_or_else(|| panic!("{to}:{port} is not reached"))
    }

    pub fn reaches_not(&self, to: &str, port: u16) {
        assert_eq!(self.connect(to, port, DENIED), None, "{to}:{port} is reached");
    }

    /// True when a datagram comes back from `to`.
    pub(super) fn echo(&self, to: &str, patience: Duration) -> bool {
        let to: SocketAddr = format!("{to}:{UDP}").parse().unwrap();
        end(self.run(move || ping(to, patience)))
    }

    /// Servers on all ports of these tests.
    pub fn serve(&self) {
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
pub(super) fn end<T>(thread: JoinHandle<T>) -> T {
    tokio::task::block_in_place(|| thread.join().unwrap())
}

pub(super) fn ping(to: SocketAddr, patience: Duration) -> bool {
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

pub fn lay_uplink() {
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

pub(super) fn item(quotas: &Value) -> Value {
    json!({"created": "2026-01-01T00:00:00Z", "quotas": quotas})
}

pub(super) fn image(sm: &Sm, ports: &[&str], quotas: &Value) -> Image {
    sm.blobs.exposing(&[base_layer()], SLEEP, item(quotas), ports)
}

/// An image that offers these ports.
pub fn exposing(sm: &Sm, ports: &[&str]) -> Image {
    image(sm, ports, &json!({}))
}

/// An image that offers none.
pub fn closed(sm: &Sm) -> Image {
    exposing(sm, &[])
}

pub(super) fn owner(instance: u64) -> &'static str {
    if instance < 2 { "one" } else { "two" }
}

/// Starts an instance and its servers.
pub async fn start(sm: &Sm, instance: u64, image: &Image) -> (Space, String) {
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
pub(super) async fn launch(sm: &mut Sm) {
    let connections = sm.cm.count("RegisterSM");
    sm.launch();
    wait_for("the connection", || (sm.cm.count("RegisterSM") > connections).then_some(())).await;
    sm.cm.wait_connected().await;
}

pub fn rule(to: &str, port: &str, proto: &str) -> wire::FirewallRule {
    wire::FirewallRule {
        dst_ip: to.into(),
        dst_port: port.into(),
        proto: proto.into(),
        src_ip: String::new(),
    }
}
