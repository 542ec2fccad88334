//! The server with real sockets on loopback addresses: instances are other loopback addresses, the next
//! servers are threads of the test.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on ends")]

use std::collections::{BTreeMap, BTreeSet};
use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::AsFd;
use std::path::Path;
use std::sync::mpsc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use aos_names::packet::{Code, Content, answer, kind, read};
use aos_names::{Server, Settings, Zone};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

const PATIENCE: Duration = Duration::from_secs(30);

type Job = Box<dyn FnOnce(&mut Server) + Send>;

/// A server in a loop of its own, as the keeper runs it.
struct Running {
    jobs: Option<mpsc::Sender<Job>>,
    wake: UdpSocket,
    thread: Option<JoinHandle<()>>,
}

impl Running {
    fn start(folder: &Path, port: u16, upstream_port: u16) -> Self {
        let settings = Settings {
            folder: folder.join("names"),
            port,
            upstream_port,
            resolv: folder.join("resolv.conf"),
            note: |text| eprintln!("{text}"),
        };
        let mut server = Server::open(settings).unwrap();
        let (jobs, queue) = mpsc::channel::<Job>();
        let bell = UdpSocket::bind("127.0.0.1:0").unwrap();
        let wake = UdpSocket::bind("127.0.0.1:0").unwrap();
        wake.connect(bell.local_addr().unwrap()).unwrap();
        let thread = std::thread::spawn(move || {
            loop {
                let wait = server.next_deadline().map_or(PollTimeout::NONE, |at| {
                    let left = at.saturating_duration_since(Instant::now());
                    PollTimeout::try_from(left + Duration::from_millis(1)).unwrap()
                });
                let (names, other) = {
                    let mut fds = [
                        PollFd::new(server.descriptor(), PollFlags::POLLIN),
                        PollFd::new(bell.as_fd(), PollFlags::POLLIN),
                    ];
                    poll(&mut fds, wait).unwrap();
                    (fds[0].any().unwrap(), fds[1].any().unwrap())
                };
                if names {
                    server.on_ready(Instant::now());
                }
                server.on_time(Instant::now());
                if other {
                    bell.recv(&mut [0; 1]).unwrap();
                    match queue.recv() {
                        Ok(job) => job(&mut server),
                        Err(_) => return,
                    }
                }
            }
        });
        Self { jobs: Some(jobs), wake, thread: Some(thread) }
    }

    fn with<T: Send + 'static>(&self, job: impl FnOnce(&mut Server) -> T + Send + 'static) -> T {
        let (done, result) = mpsc::channel();
        let job: Job = Box::new(move |server| {
            let _ = done.send(job(server));
        });
        self.jobs.as_ref().unwrap().send(job).unwrap();
        self.wake.send(b"x").unwrap();
        result.recv_timeout(PATIENCE).unwrap()
    }

    fn set(&self, zone: Zone) {
        self.with(move |server| server.set(zone)).unwrap();
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.jobs = None;
        let _ = self.wake.send(b"x");
        if let Some(thread) = self.thread.take() {
            thread.join().unwrap();
        }
    }
}

fn free_port(address: Ipv4Addr) -> u16 {
    loop {
        let port = UdpSocket::bind((address, 0)).unwrap().local_addr().unwrap().port();
        if TcpListener::bind((address, port)).is_ok() {
            return port;
        }
    }
}

fn question(id: u16, name: &str, kind: u16) -> Vec<u8> {
    let mut packet = [id.to_be_bytes(), [1, 0], [0, 1], [0; 2], [0; 2], [0; 2]].concat();
    for label in name.split('.') {
        packet.push(u8::try_from(label.len()).unwrap());
        packet.extend_from_slice(label.as_bytes());
    }
    packet.push(0);
    packet.extend_from_slice(&kind.to_be_bytes());
    packet.extend_from_slice(&[0, 1]);
    packet
}

fn told(id: u16, name: &str, code: Code, address: Option<Ipv4Addr>) -> Vec<u8> {
    let asked = question(id, name, kind::A);
    answer(&read(&asked).unwrap(), code, &address.map_or(Content::None, Content::Address))
}

/// An instance: a socket at its address.
fn instance(address: Ipv4Addr, server: SocketAddr) -> UdpSocket {
    let socket = UdpSocket::bind((address, 0)).unwrap();
    socket.connect(server).unwrap();
    socket
}

fn ask(socket: &UdpSocket, packet: &[u8]) -> Vec<u8> {
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    socket.send(packet).unwrap();
    let mut room = [0; 4096];
    let count = socket.recv(&mut room).unwrap();
    room[..count].to_vec()
}

fn zone(network: &str, listen: Ipv4Addr, names: &[(&str, Ipv4Addr)], upstream: &[Ipv4Addr]) -> Zone {
    Zone {
        network: network.into(),
        listen,
        prefix: 24,
        names: names.iter().map(|(name, address)| ((*name).to_owned(), *address)).collect(),
        upstream: upstream.iter().map(|address| IpAddr::V4(*address)).collect(),
    }
}

// SM-06, CM-49
#[test]
fn names_belong_to_one_network_and_survive_the_server() {
    let folder = tempfile::tempdir().unwrap();
    let (a, b) = (Ipv4Addr::new(127, 81, 1, 1), Ipv4Addr::new(127, 81, 2, 1));
    let port = free_port(a);
    let web = Ipv4Addr::new(127, 81, 1, 7);
    let server = Running::start(folder.path(), port, 9);
    server.set(zone("a", a, &[("Web", web)], &[]));
    server.set(zone("b", b, &[], &[]));
    let in_a = instance(Ipv4Addr::new(127, 81, 1, 5), (a, port).into());
    let in_b = instance(Ipv4Addr::new(127, 81, 2, 5), (b, port).into());
    assert_eq!(ask(&in_a, &question(1, "web", kind::A)), told(1, "web", Code::NoError, Some(web)));
    assert_eq!(ask(&in_b, &question(2, "web", kind::A)), told(2, "web", Code::NxDomain, None));
    // B's instance at A's address gets no answer: whatever comes first on this socket is not for it.
    let astray = instance(Ipv4Addr::new(127, 81, 2, 6), (a, port).into());
    astray.send(&question(3, "web", kind::A)).unwrap();
    let mut over = TcpStream::connect((a, port)).unwrap();
    assert_eq!(over.read(&mut [0; 1]).unwrap_or(0), 0, "127.0.0.1 is outside of both networks");
    assert_eq!(ask(&in_a, &question(4, "web.a", kind::A)), told(4, "web.a", Code::NoError, Some(web)));
    astray.set_nonblocking(true).unwrap();
    assert!(astray.recv(&mut [0; 512]).is_err());

    drop(server);
    let server = Running::start(folder.path(), port, 9);
    assert_eq!(ask(&in_a, &question(5, "web", kind::A)), told(5, "web", Code::NoError, Some(web)));
    // The table is replaced as a whole, sockets stay.
    server.set(zone("a", a, &[("db", web)], &[]));
    assert_eq!(ask(&in_a, &question(6, "web", kind::A)), told(6, "web", Code::NxDomain, None));
    assert_eq!(ask(&in_a, &question(7, "db", kind::A)), told(7, "db", Code::NoError, Some(web)));
    server.with(|server| server.retain(&BTreeSet::from(["b".to_owned()]))).unwrap();
    assert!(UdpSocket::bind((a, port)).is_ok(), "nobody listens for a network that is gone");
    drop(server);
    assert_eq!(std::fs::read_dir(folder.path().join("names")).unwrap().count(), 1);
}

#[test]
fn an_address_that_moves_to_another_network_follows_the_newest_wish() {
    let folder = tempfile::tempdir().unwrap();
    let a = Ipv4Addr::new(127, 82, 1, 1);
    let (one, two) = (Ipv4Addr::new(127, 82, 1, 2), Ipv4Addr::new(127, 82, 1, 3));
    let port = free_port(a);
    let server = Running::start(folder.path(), port, 9);
    server.set(zone("old", a, &[("web", one)], &[]));
    server.set(zone("new", a, &[("web", two)], &[]));
    let asker = instance(one, (a, port).into());
    assert_eq!(ask(&asker, &question(1, "web", kind::A)), told(1, "web", Code::NoError, Some(two)));
    let bad = |change: fn(&mut Zone)| {
        let mut zone = zone("bad", Ipv4Addr::new(127, 82, 9, 1), &[], &[]);
        change(&mut zone);
        server.with(move |server| server.set(zone)).unwrap_err().to_string()
    };
    assert!(bad(|zone| zone.listen = Ipv4Addr::UNSPECIFIED).contains("address"));
    assert!(bad(|zone| zone.prefix = 33).contains("address"));
    assert!(bad(|zone| zone.network.clear()).contains("length"));
    assert!(
        bad(|zone| {
            zone.names = (0..5000u32).map(|n| (n.to_string(), Ipv4Addr::from(n))).collect::<BTreeMap<_, _>>();
        })
        .contains("too many")
    );
}

/// Answers each question with `reply`, over UDP and TCP, until the test ends.
fn upstream(address: Ipv4Addr, port: u16, reply: fn(&[u8]) -> Vec<Vec<u8>>) {
    let socket = UdpSocket::bind((address, port)).unwrap();
    let listener = TcpListener::bind((address, port)).unwrap();
    std::thread::spawn(move || {
        let mut room = [0; 4096];
        while let Ok((count, from)) = socket.recv_from(&mut room) {
            for packet in reply(&room[..count]) {
                let _ = socket.send_to(&packet, from);
            }
        }
    });
    std::thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            let question = read_framed(&mut stream);
            // The whole answer in two pieces.
            let packet = reply(&question).pop().unwrap();
            let framed = [&u16::try_from(packet.len()).unwrap().to_be_bytes()[..], &packet].concat();
            let (front, back) = framed.split_at(framed.len() / 2);
            stream.write_all(front).unwrap();
            stream.write_all(back).unwrap();
        }
    });
}

fn read_framed(stream: &mut TcpStream) -> Vec<u8> {
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    let mut length = [0; 2];
    stream.read_exact(&mut length).unwrap();
    let mut packet = vec![0; usize::from(u16::from_be_bytes(length))];
    stream.read_exact(&mut packet).unwrap();
    packet
}

fn long_answer(question: &[u8]) -> Vec<Vec<u8>> {
    let query = read(question).unwrap();
    let mut foreign = answer(&query, Code::NxDomain, &Content::None);
    foreign[0] ^= 1;
    let mut packet = answer(&query, Code::NoError, &Content::Address(Ipv4Addr::new(192, 0, 2, 5)));
    packet.resize(3000, 7);
    vec![foreign, packet]
}

#[test]
fn what_is_not_known_here_is_asked_elsewhere() {
    let folder = tempfile::tempdir().unwrap();
    let a = Ipv4Addr::new(127, 83, 1, 1);
    let (dead, next) = (Ipv4Addr::new(127, 83, 9, 1), Ipv4Addr::new(127, 83, 9, 2));
    let port = free_port(a);
    let upstream_port = free_port(next);
    upstream(next, upstream_port, long_answer);
    let server = Running::start(folder.path(), port, upstream_port);
    // The first server refuses connections; our own address among them must not make a circle.
    server.set(zone("a", a, &[], &[a, dead, next]));
    let asker = instance(Ipv4Addr::new(127, 83, 1, 5), (a, port).into());
    let asked = question(0x1234, "far.example", kind::A);
    let heard = ask(&asker, &asked);
    // 3000 bytes do not fit into what a plain asker takes: cut, to come again over TCP.
    assert_eq!(heard.len(), asked.len());
    assert_eq!((&heard[..2], heard[2] & 2), (&b"\x12\x34"[..], 2));

    // A connection from inside the network: bind before connecting.
    let mut stream = connect_from(Ipv4Addr::new(127, 83, 1, 5), (a, port));
    for id in [7u16, 8] {
        let asked = question(id, "far.example", kind::A);
        stream.write_all(&u16::try_from(asked.len()).unwrap().to_be_bytes()).unwrap();
        stream.write_all(&asked).unwrap();
        let heard = read_framed(&mut stream);
        assert_eq!(heard.len(), 3000);
        assert_eq!(heard[..2], id.to_be_bytes());
        assert_eq!(heard[2] & 2, 0);
    }
    // Without servers of its own the network uses the host's.
    server.set(zone("a", a, &[], &[]));
    let heard = ask(&asker, &asked);
    assert_eq!(heard[3] & 15, Code::ServFail as u8);
    std::fs::write(folder.path().join("resolv.conf"), format!("nameserver {next}\n")).unwrap();
    let deadline = Instant::now() + PATIENCE;
    while ask(&asker, &asked)[3] & 15 != 0 {
        assert!(Instant::now() < deadline);
    }
}

fn connect_from(from: Ipv4Addr, to: (Ipv4Addr, u16)) -> TcpStream {
    use nix::sys::socket::{AddressFamily, SockFlag, SockType, SockaddrIn, bind, connect, socket};
    use std::os::fd::AsRawFd;
    let fd = socket(AddressFamily::Inet, SockType::Stream, SockFlag::SOCK_CLOEXEC, None).unwrap();
    bind(fd.as_raw_fd(), &SockaddrIn::from(std::net::SocketAddrV4::new(from, 0))).unwrap();
    connect(fd.as_raw_fd(), &SockaddrIn::from(std::net::SocketAddrV4::new(to.0, to.1))).unwrap();
    fd.into()
}

/// Garbage, floods and connections that say nothing leave the server answering.
#[test]
fn a_hostile_instance_does_not_stop_the_others() {
    let folder = tempfile::tempdir().unwrap();
    let (a, b) = (Ipv4Addr::new(127, 84, 1, 1), Ipv4Addr::new(127, 84, 2, 1));
    let port = free_port(a);
    let web = Ipv4Addr::new(127, 84, 2, 7);
    let server = Running::start(folder.path(), port, 9);
    server.set(zone("a", a, &[], &[]));
    server.set(zone("b", b, &[("web", web)], &[]));
    let idle: Vec<TcpStream> =
        (0..20).map(|_| connect_from(Ipv4Addr::new(127, 84, 1, 5), (a, port))).collect();
    let hostile = UdpSocket::bind((Ipv4Addr::new(127, 84, 1, 5), 0)).unwrap();
    hostile.set_nonblocking(true).unwrap();
    let peer = instance(Ipv4Addr::new(127, 84, 2, 5), (b, port).into());
    let mut seed = 1u64;
    for round in 0..200u16 {
        for _ in 0..100 {
            let mut packet = question(round, "other", kind::A);
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            let at = usize::try_from(seed >> 33).unwrap() % packet.len();
            packet[at] = u8::try_from(seed >> 56).unwrap();
            let _ = hostile.send_to(&packet, (a, port));
        }
        let expected = told(round, "web", Code::NoError, Some(web));
        assert_eq!(ask(&peer, &question(round, "web", kind::A)), expected);
    }
    drop(idle);
    // The flood over, its own network is served again.
    let asker = instance(Ipv4Addr::new(127, 84, 1, 6), (a, port).into());
    asker.set_read_timeout(Some(Duration::from_millis(500))).unwrap();
    let deadline = Instant::now() + PATIENCE;
    loop {
        asker.send(&question(9, "x", kind::A)).unwrap();
        let mut room = [0; 512];
        if let Ok(count) = asker.recv(&mut room) {
            assert_eq!(room[..count], told(9, "x", Code::NxDomain, None));
            break;
        }
        assert!(Instant::now() < deadline);
    }
}
