//! Connections that are open already: they end with the rule or the instance that let them begin, and only they.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::time::Duration;

use super::{DENIED, OUTSIDE, PATIENCE, Space, UPLINK};
use super::{closed, end, exposing, launch, lay_uplink, rule, run, start};
use crate::cm::wait_for;
use crate::sm::Sm;

const KEPT: u16 = 6100;
const WITHDRAWN: u16 = 6101;

/// Both ends of an open TCP connection.
struct Line(TcpStream, TcpStream);

impl Line {
    fn open(from: &Space, to: &Space, ip: &str, port: u16) -> Self {
        let (ready, is_ready) = std::sync::mpsc::channel();
        let server = to.run(move || {
            let listener = TcpListener::bind(("0.0.0.0", port)).unwrap();
            ready.send(()).unwrap();
            listener.accept().unwrap().0
        });
        is_ready.recv().unwrap();
        let address: SocketAddr = format!("{ip}:{port}").parse().unwrap();
        let client = end(from.run(move || TcpStream::connect_timeout(&address, PATIENCE).unwrap()));
        let line = Self(client, end(server));
        assert!(line.carries(PATIENCE));
        line
    }

    /// True when a byte goes through, each way.
    fn carries(&self, patience: Duration) -> bool {
        arrives(&self.0, &self.1, patience) && arrives(&self.1, &self.0, patience)
    }

    /// True when nothing goes through, neither way.
    fn is_dead(&self) -> bool {
        !arrives(&self.0, &self.1, DENIED) && !arrives(&self.1, &self.0, DENIED)
    }
}

fn arrives(mut from: &TcpStream, mut to: &TcpStream, patience: Duration) -> bool {
    to.set_read_timeout(Some(patience)).unwrap();
    tokio::task::block_in_place(|| from.write_all(b"x").is_ok() && matches!(to.read(&mut [0; 1]), Ok(1)))
}

/// A UDP socket of a namespace.
fn socket(space: &Space, port: u16) -> UdpSocket {
    end(space.run(move || UdpSocket::bind(("0.0.0.0", port)).unwrap()))
}

/// Who sent what comes next, if anything does.
fn heard(socket: &UdpSocket, patience: Duration) -> Option<SocketAddr> {
    socket.set_read_timeout(Some(patience)).unwrap();
    tokio::task::block_in_place(|| socket.recv_from(&mut [0; 16]).ok().map(|(_, from)| from))
}

/// Sends from `socket` to a listener, which answers where it came from.
fn begin(socket: &UdpSocket, to: &UdpSocket, ip: &str) -> SocketAddr {
    socket.send_to(b"begin", (ip, to.local_addr().unwrap().port())).unwrap();
    let from = heard(to, PATIENCE).expect("the first packet");
    to.send_to(b"answer", from).unwrap();
    assert!(heard(socket, PATIENCE).is_some(), "no answer");
    from
}

// SM-51, REL-29, REL-43: what a rule let begin ends with the rule; a connection of another rule, of the same network or to the
// outside does not notice.
pub async fn a_withdrawn_rule_ends_what_it_let_begin() {
    lay_uplink();
    let sm = Sm::start("crun").await;
    let open = exposing(&sm, &["6100-6101/tcp", "5400/udp"]);
    let (server, to) = start(&sm, 2, &open).await;
    let kept = [rule(&to, "6100", "tcp")];
    let all = [&kept[..], &[rule(&to, "6101", "tcp"), rule(&to, "5400", "udp")]].concat();
    sm.cm.set_rules(0, all);
    let closed = closed(&sm);
    let (client, own) = start(&sm, 0, &closed).await;
    let (neighbour, next) = start(&sm, 1, &closed).await;
    let outside = Space::outside();

    let untouched = [
        Line::open(&client, &server, &to, KEPT),
        Line::open(&client, &neighbour, &next, KEPT),
        Line::open(&client, &outside, OUTSIDE, KEPT),
        Line::open(&Space::here(), &client, &own, KEPT),
        Line::open(&outside, &server, &to, WITHDRAWN),
    ];
    let doomed = Line::open(&client, &server, &to, WITHDRAWN);
    let (asking, answering) = (socket(&client, 5401), socket(&server, 5400));
    let from = begin(&asking, &answering, &to);

    // What is left of the rules: CM is asked for all of them after a hint.
    sm.cm.set_rules(0, kept.to_vec());
    sm.cm.push_rules(0, kept.to_vec()).await;
    wait_for("the end of a connection", || doomed.is_dead().then_some(())).await;
    // What the one sends to the other does not arrive, whoever speaks first.
    answering.send_to(b"more", from).unwrap();
    assert_eq!(heard(&asking, DENIED), None, "the server speaks on");
    asking.send_to(b"more", (to.as_str(), 5400)).unwrap();
    assert_eq!(heard(&answering, DENIED), None, "the client speaks on");
    client.reaches_not(&to, WITHDRAWN);
    for (number, line) in untouched.iter().enumerate() {
        assert!(line.carries(PATIENCE), "connection {number} is cut");
    }
    assert!(doomed.is_dead());
}

// SM-06, DIS-16, REL-43: neither the outside nor another network goes on talking to whoever has the address next.
pub async fn an_address_that_changes_hands_brings_no_connections_along() {
    lay_uplink();
    let mut sm = Sm::start("crun").await;
    let open = exposing(&sm, &["5353/udp", "5400/udp"]);
    let closed = closed(&sm);
    let (first, ip) = start(&sm, 0, &open).await;
    sm.cm.set_rules(2, vec![rule(&ip, "5400", "udp")]);
    let (other, _) = start(&sm, 2, &closed).await;
    let far = socket(&Space::outside(), 6200);
    let (to_far, to_other) = (socket(&first, 4444), socket(&first, 5400));
    let speaker = socket(&other, 4445);
    let mapped = begin(&to_far, &far, OUTSIDE);
    assert_eq!(mapped.ip().to_string(), UPLINK);
    begin(&speaker, &to_other, &ip);
    let bystander = socket(&other, 4446);
    let kept = begin(&bystander, &far, OUTSIDE);

    // A manager that died between the rules and their consequences: its successor sees to them.
    let id = sm.instance(0).await["id"].as_str().unwrap().to_owned();
    sm.kill();
    run(&format!(
        "for map in aos_targets aos_sources aos_inside; do nft delete element inet aos $map '{{ {ip} }}'; done
         for chain in instance_{id} instance_{id}_out; do nft flush chain inet aos $chain; nft delete chain inet aos $chain; done"
    ));
    launch(&mut sm).await;
    sm.cm.wait_state(0, "active").await;
    far.send_to(b"after death", mapped).unwrap();
    assert_eq!(heard(&to_far, DENIED), None, "an old connection goes on after all was built anew");
    assert!(first.echo(OUTSIDE, PATIENCE), "new ones can be made");
    let mapped = begin(&to_far, &far, OUTSIDE);
    begin(&speaker, &to_other, &ip);

    sm.cm.update(vec![], vec![0]).await;
    wait_for("the release", || (sm.cm.count("ReleaseInstanceNetwork") == 1).then_some(())).await;
    sm.cm.give_address("one", 1, &ip);
    let (heir, inherited) = start(&sm, 1, &closed).await;
    assert_eq!(inherited, ip);
    let (from_far, from_other) = (socket(&heir, 4444), socket(&heir, 5400));
    for _ in 0..3 {
        far.send_to(b"still there?", mapped).unwrap();
        speaker.send_to(b"still there?", (ip.as_str(), 5400)).unwrap();
    }
    assert_eq!(heard(&from_far, DENIED), None, "the outside's connection was inherited");
    assert_eq!(heard(&from_other, DENIED), None, "another network's connection was inherited");
    far.send_to(b"still there?", kept).unwrap();
    assert!(heard(&bystander, PATIENCE).is_some(), "somebody else's connection is cut");
    assert!(heir.echo(OUTSIDE, PATIENCE));
}
