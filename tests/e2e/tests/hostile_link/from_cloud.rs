//! A cloud that sends what it should not.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;
use std::time::Duration;

use aos_cloud_protocol::{Direction, MessageType, ReadError, read};
use aos_cloud_websocket::{Frame, Role};
use aos_fuzz_corpus::mutate::{Numbers, mutated};
use aos_testbed::{Daemon, Link, Site, Stage, Unit, wait, wait_for_or_last};
use serde_json::{Value, json};
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;

use crate::bare::{Socket, read_head};
use crate::{GROWTH, TO_UNIT, corpus, lines};

const LIMIT: Duration = Duration::from_secs(30);
const UNIT: &str = "e2e-unit";
const BATCH: usize = 20;

/// Bad input of a cloud that the Unit trusts.
// REL-17
#[test]
fn a_unit_is_not_moved() {
    let site = Arc::new(Site::new("e2e-hostile-cloud").unwrap());
    let mut stage = Stage::provisioned(site, UNIT, &mut |step: &str| eprintln!("{step}")).unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let _link = Link::outward_to(stage.unit.node(), address.port(), address).unwrap();
    let url = format!("http://localhost:{}/sd/v7/", address.port());
    stage
        .unit
        .configure(Daemon::Cm, |document| document["overrideServiceDiscoveryUrl"] = json!(url))
        .unwrap();
    stage.unit.start_all().unwrap();
    let pid = stage.unit.pid(Daemon::Cm);

    let mut attack = Attack::new(&listener);
    attack.messages(TO_UNIT / 10);
    let memory = private_dirty(&stage.unit);
    attack.messages(TO_UNIT - TO_UNIT / 10);
    let violated = attack.violations();

    let expected = (attack.unreadable, attack.invalid, attack.foreign, violated, 1 + violated);
    wait_for_or_last("the counters of the Unit", LIMIT, || {
        let counters = counters(&stage.unit).map_err(|error| error.to_string())?;
        let number = |path: &str| counters.pointer(path).and_then(Value::as_u64).unwrap_or_default();
        let found = (
            number("/refused/unreadable"),
            number("/refused/invalid"),
            number("/refused/foreign"),
            number("/refused/violated"),
            number("/connections"),
        );
        if found == expected { Ok(()) } else { Err(format!("{found:?}, expected {expected:?}")) }
    })
    .unwrap();
    eprintln!("unreadable, invalid, foreign, violated, connections: {expected:?}; good ones {}", attack.good);
    assert!(attack.unreadable > 500 && attack.invalid > 500 && attack.foreign > 50 && attack.good > 300);
    let log = stage.unit.log(Daemon::Cm);
    for (words, count) in [
        ("unreadable frame dropped: ", attack.unreadable),
        ("invalid message", attack.invalid),
        ("message for another Unit", attack.foreign),
        ("link to the cloud lost: ", violated),
    ] {
        assert_eq!(lines(&log, &[words]) as u64, count, "{words} in the log");
    }

    stage.unit.check_running().unwrap();
    assert_eq!(stage.unit.pid(Daemon::Cm), pid);
    for daemon in Daemon::ALL {
        assert_eq!(lines(&stage.unit.log(daemon), &["panicked"]), 0, "{daemon:?}");
    }
    let growth = private_dirty(&stage.unit).saturating_sub(memory);
    eprintln!("memory of CM: {} KiB after a tenth, {} KiB more at the end", memory / 1024, growth / 1024);
    assert!(growth <= GROWTH, "{} KiB more than before", growth / 1024);
}

fn counters(unit: &Unit) -> aos_testbed::Result<Value> {
    Ok(unit.status()?.pointer("/cm/cloud/counters").cloned().unwrap_or_default())
}

fn private_dirty(unit: &Unit) -> u64 {
    unit.memory()["cm"].private_dirty
}

struct Attack<'a> {
    listener: &'a TcpListener,
    socket: Socket<TcpStream>,
    corpus: Vec<Vec<u8>>,
    numbers: Numbers,
    made: u64,
    unreadable: u64,
    invalid: u64,
    foreign: u64,
    good: u64,
}

impl<'a> Attack<'a> {
    fn new(listener: &'a TcpListener) -> Self {
        Self {
            listener,
            socket: accept(listener),
            corpus: corpus(),
            numbers: Numbers::new(7),
            made: 0,
            unreadable: 0,
            invalid: 0,
            foreign: 0,
            good: 0,
        }
    }

    fn message(&mut self) -> Vec<u8> {
        let message = mutated(&self.corpus, &mut self.numbers);
        self.made += 1;
        let Ok(mut value) = serde_json::from_slice::<Value>(&message) else { return message };
        if self.numbers.below(20) > 0
            && let Some(header) = value.get_mut("header").and_then(Value::as_object_mut)
        {
            header.insert("systemId".to_owned(), json!(UNIT));
            header.insert("txn".to_owned(), json!(format!("hostile-{}", self.made)));
        }
        serde_json::to_vec(&value).unwrap()
    }

    /// True when it may be sent: what a good cloud may ask for is not the matter here.
    fn expect(&mut self, message: &[u8]) -> bool {
        match read(message, Direction::CloudToUnit) {
            Err(ReadError::Unreadable(_)) => self.unreadable += 1,
            Err(ReadError::Invalid(invalid)) if invalid.header.system_id.as_str() == UNIT => {
                self.invalid += 1;
            }
            Ok(envelope) if envelope.header.system_id.as_str() == UNIT => {
                // Keys are made for these, each of which takes its time.
                if envelope.body.message_type() == MessageType::RenewCertificatesNotification {
                    return false;
                }
                self.good += 1;
            }
            _ => self.foreign += 1,
        }
        true
    }

    fn messages(&mut self, count: usize) {
        let mut left = count;
        while left > 0 {
            for _ in 0..BATCH.min(left) {
                let message = self.message();
                if self.expect(&message) {
                    self.socket.message(&message).unwrap();
                    left -= 1;
                }
            }
            self.acknowledge();
        }
    }

    /// Waits until all is read, and acknowledges what the Unit says.
    fn acknowledge(&mut self) {
        for message in self.socket.sync().unwrap() {
            let value: Value = serde_json::from_slice(&message).unwrap();
            if value["data"]["messageType"] != "ack" {
                let header = json!({"version": 7, "systemId": UNIT, "txn": value["header"]["txn"]});
                let ack = json!({"header": header, "data": {"messageType": "ack"}});
                self.socket.message(ack.to_string().as_bytes()).unwrap();
            }
        }
    }

    /// Breaks WebSocket in several ways; the Unit ends the link and comes again each time. Returns how many.
    fn violations(&mut self) -> u64 {
        let good = self.socket.framed(Frame::Ping(b"x"));
        let changed = |first: u8| [&[first][..], &good[1..]].concat();
        let all: [Vec<u8>; 3] = [
            changed(0xf9),
            changed(0x83),
            // Seventeen mebibytes are announced.
            [&[0x82, 127][..], &(17_u64 << 20).to_be_bytes()].concat(),
        ];
        for bytes in &all {
            self.socket.raw(bytes).unwrap();
            self.socket = accept(self.listener);
            self.acknowledge();
        }
        all.len() as u64
    }
}

/// Answers discovery until the Unit opens a WebSocket.
fn accept(listener: &TcpListener) -> Socket<TcpStream> {
    listener.set_nonblocking(true).unwrap();
    wait_for_or_last("the Unit to connect", LIMIT * wait::patience(), || {
        let (mut stream, _) = listener.accept().map_err(|error| error.to_string())?;
        stream.set_nonblocking(false).unwrap();
        stream.set_read_timeout(Some(LIMIT)).unwrap();
        let head = read_head(&mut stream).map_err(|error| error.to_string())?;
        let field = |name: &str| {
            let lines = head.lines().filter_map(|line| line.split_once(": "));
            lines.filter(|(key, _)| key.eq_ignore_ascii_case(name)).map(|(_, value)| value.to_owned()).next()
        };
        if head.starts_with("POST") {
            let length = field("content-length").unwrap().parse().unwrap();
            let mut body = vec![0; length];
            stream.read_exact(&mut body).unwrap();
            let port = listener.local_addr().unwrap().port();
            let url = format!("ws://localhost:{port}/ws/v7/");
            let answer = json!({"version": 7, "systemId": UNIT, "connectionInfo": [url], "authToken": "t", "errorCode": 0});
            let answer = answer.to_string();
            let head = "HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Type: application/json";
            write!(stream, "{head}\r\nContent-Length: {}\r\n\r\n{answer}", answer.len()).unwrap();
            return Err("discovery".to_owned());
        }
        let key = field("sec-websocket-key").unwrap();
        let accept = derive_accept_key(key.as_bytes());
        write!(
            stream,
            "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
             Sec-WebSocket-Accept: {accept}\r\n\r\n"
        )
        .unwrap();
        Ok(Socket::new(stream, Role::Server))
    })
    .unwrap()
}
