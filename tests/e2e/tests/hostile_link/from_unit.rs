//! A Unit that sends what it should not.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use aos_cloud_protocol::{Direction, MAX_FRAME, ReadError, read};
use aos_cloud_websocket::{Event, Frame, Reader, Role, Violation, close_code, encode};
use aos_fuzz_corpus::mutate::{Numbers, mutated};
use aos_testbed::{Cloud, Site, Stage, http, wait, wait_for_or_last};
use serde_json::{Value, json};

use crate::bare::{BareUnit, alerts};
use crate::{FRAMES, GROWTH, TO_CLOUD, corpus, lines, private_dirty};

const LIMIT: Duration = Duration::from_secs(20);
/// Fewer than a Unit may send at once.
const PER_CONNECTION: usize = 1200;
const BATCH: usize = 20;

/// Counters of the gateway that a refusal raises.
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord)]
struct Refusals {
    unreadable: u64,
    invalid: u64,
    foreign: u64,
    violated: u64,
    oversize: u64,
}

impl Refusals {
    fn read(cloud: &Cloud) -> Self {
        let text = http::get(cloud.metrics().unwrap(), "/metrics", LIMIT).unwrap().text();
        let metrics: BTreeMap<&str, u64> = text
            .lines()
            .filter_map(|line| line.rsplit_once(' '))
            .filter_map(|(name, value)| Some((name, value.parse().ok()?)))
            .collect();
        let refused =
            |reason: &str| metrics[format!("aos_gateway_refused_total{{reason=\"{reason}\"}}").as_str()];
        let closed =
            |reason: &str| metrics[format!("aos_gateway_closed_total{{reason=\"{reason}\"}}").as_str()];
        Self {
            unreadable: refused("unreadable"),
            invalid: refused("invalid"),
            foreign: refused("foreign"),
            violated: closed("protocol"),
            oversize: closed("oversize"),
        }
    }

    fn since(&self, before: &Self) -> Self {
        Self {
            unreadable: self.unreadable - before.unreadable,
            invalid: self.invalid - before.invalid,
            foreign: self.foreign - before.foreign,
            violated: self.violated - before.violated,
            oversize: self.oversize - before.oversize,
        }
    }
}

/// CLO-09: bad input of a Unit with good credentials.
// REL-17
#[test]
fn the_cloud_and_other_units_are_not_moved() {
    let site = Site::new("e2e-hostile").unwrap();
    let stage = Stage::online(site, "e2e-unit", |step| eprintln!("{step}")).unwrap();
    let provision = |name: &str| BareUnit::provision(&stage.site, &stage.cloud, &stage.operator, name);
    let (hostile, witness) = (provision("hostile"), provision("witness"));
    let pid = stage.cloud.pid().unwrap();

    let quiet = watch(&witness, || wait::pause(Duration::from_secs(3)));
    let before = Refusals::read(&stage.cloud);
    let bystander = shown(&stage);
    let mut attack = Attack::new(&hostile);
    let mut memory = 0;
    let during = watch(&witness, || {
        attack.messages(TO_CLOUD / 10);
        memory = private_dirty(pid);
        attack.messages(TO_CLOUD - TO_CLOUD / 10);
        attack.frames(FRAMES);
    });

    let expected = &attack.expected;
    let found = wait_for_or_last("the counters of the gateway", LIMIT, || {
        let found = Refusals::read(&stage.cloud).since(&before);
        if found == *expected { Ok(found) } else { Err(format!("{found:?}, expected {expected:?}")) }
    })
    .unwrap();
    eprintln!("{found:?}, delivered {}, connections {}", attack.delivered, attack.connections);
    let unit = "unit=\"hostile\"";
    let log = stage.cloud.log();
    for (words, count) in [
        (["unreadable frame dropped: ", unit], found.unreadable),
        (["invalid message", unit], found.invalid),
        (["message for another Unit", unit], found.foreign),
        ([" with 1009: ", unit], found.oversize),
    ] {
        assert_eq!(lines(log, &words) as u64, count, "{words:?} in the log");
    }
    let violated = lines(log, &["WebSocket violated: "]) as u64;
    assert_eq!(violated, found.violated + found.oversize, "violations in the log");
    assert!(
        found.unreadable > 500 && found.invalid > 500 && found.violated > 100 && found.oversize > 0,
        "{found:?}"
    );
    assert!(attack.delivered > 1000, "{} were good enough", attack.delivered);

    assert_eq!(lines(log, &["panicked"]), 0, "a panic in the cloud's log");
    assert_eq!(stage.cloud.pid(), Some(pid));
    let growth = private_dirty(pid).saturating_sub(memory);
    eprintln!("memory: {} KiB after a tenth, {} KiB more at the end", memory / 1024, growth / 1024);
    assert!(growth <= GROWTH, "{} KiB more than before", growth / 1024);
    assert_eq!(shown(&stage), bystander, "another Unit as the cloud sees it");
    eprintln!("acknowledgements of another Unit: quiet {quiet}, during {during}");
    assert!(during.slowest < Duration::from_secs(2) * wait::patience(), "{during}");
    assert!(
        during.median <= quiet.median + Duration::from_millis(200) * wait::patience(),
        "{quiet}, {during}"
    );
}

/// What must not change of the Unit that does nothing: what the cloud knows of it, and its link.
fn shown(stage: &Stage) -> Value {
    let status = stage.status().unwrap();
    let unit = stage.unit.status().unwrap();
    let known = ["online_status", "items", "instances", "nodes", "subjects", "desired"]
        .map(|key| status[key].clone());
    json!({
        "known": known,
        "connections": unit.pointer("/cm/cloud/counters/connections"),
        "state": unit.pointer("/cm/cloud/state"),
        "since": unit.pointer("/cm/cloud/since"),
    })
}

struct Times {
    median: Duration,
    slowest: Duration,
    count: usize,
}

impl std::fmt::Display for Times {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} acks, median {:?}, slowest {:?}", self.count, self.median, self.slowest)
    }
}

/// Numbers of its messages.
static START: AtomicUsize = AtomicUsize::new(0);

/// How long acknowledgements of a Unit take while something else happens. Its connection must hold.
fn watch(unit: &BareUnit, work: impl FnOnce()) -> Times {
    let over = Arc::new(AtomicBool::new(false));
    let ended = Arc::clone(&over);
    let mut socket = unit.connect().unwrap();
    let system_id = unit.system_id.clone();
    let watcher = thread::spawn(move || {
        let mut times = Vec::new();
        while !ended.load(Ordering::Relaxed) {
            let number = START.fetch_add(1, Ordering::Relaxed);
            times.push(socket.exchange(&alerts(&system_id, &format!("witness-{number}"))).unwrap());
            wait::pause(Duration::from_millis(30));
        }
        times
    });
    work();
    over.store(true, Ordering::Relaxed);
    let mut times = watcher.join().unwrap_or_else(|_| panic!("the connection of another Unit broke"));
    times.sort();
    Times { median: times[times.len() / 2], slowest: *times.last().unwrap(), count: times.len() }
}

struct Attack<'a> {
    unit: &'a BareUnit,
    corpus: Vec<Vec<u8>>,
    numbers: Numbers,
    expected: Refusals,
    delivered: usize,
    connections: usize,
    known: HashSet<String>,
    made: usize,
}

/// What the gateway does with a message.
#[derive(Debug, PartialEq, Eq)]
enum Fate {
    Taken,
    Closed,
}

impl<'a> Attack<'a> {
    fn new(unit: &'a BareUnit) -> Self {
        Self {
            unit,
            corpus: corpus(),
            numbers: Numbers::new(2026),
            expected: Refusals::default(),
            delivered: 0,
            connections: 0,
            known: HashSet::new(),
            made: 0,
        }
    }

    /// A mutated message. Most name our Unit and a transaction of their own, or nothing would get far.
    fn message(&mut self) -> Vec<u8> {
        let message = mutated(&self.corpus, &mut self.numbers);
        self.made += 1;
        let Ok(mut value) = serde_json::from_slice::<Value>(&message) else { return message };
        if self.numbers.below(20) > 0
            && let Some(header) = value.get_mut("header").and_then(Value::as_object_mut)
        {
            header.insert("systemId".to_owned(), json!(self.unit.system_id));
            header.insert("txn".to_owned(), json!(format!("hostile-{}", self.made)));
        }
        serde_json::to_vec(&value).unwrap()
    }

    /// Notes what is to be counted.
    fn expect(&mut self, message: &[u8]) -> Fate {
        let (system_id, txn, invalid) = match read(message, Direction::UnitToCloud) {
            Err(ReadError::Unreadable(_)) => {
                self.expected.unreadable += 1;
                return Fate::Taken;
            }
            Err(ReadError::Invalid(invalid)) => (invalid.header.system_id, invalid.header.txn, true),
            Ok(envelope) if envelope.body.message_type().is_acknowledged() => {
                (envelope.header.system_id, envelope.header.txn, false)
            }
            Ok(envelope) if envelope.header.system_id.as_str() == self.unit.system_id => return Fate::Taken,
            Ok(envelope) => (envelope.header.system_id, envelope.header.txn, false),
        };
        if system_id.as_str() != self.unit.system_id {
            self.expected.foreign += 1;
            return Fate::Closed;
        }
        if self.known.insert(txn.to_string()) {
            if invalid {
                self.expected.invalid += 1;
            } else {
                self.delivered += 1;
            }
        }
        Fate::Taken
    }

    fn messages(&mut self, count: usize) {
        let mut left = count;
        while left > 0 {
            self.connections += 1;
            let mut socket = self.unit.connect().unwrap();
            'connection: for _ in 0..PER_CONNECTION / BATCH {
                for _ in 0..BATCH.min(left) {
                    let message = self.message();
                    left -= 1;
                    socket.message(&message).unwrap();
                    if self.expect(&message) == Fate::Closed {
                        assert_eq!(socket.closed().unwrap(), Some(close_code::POLICY));
                        break 'connection;
                    }
                }
                socket.sync().unwrap();
                if left == 0 {
                    break;
                }
            }
        }
    }

    /// Frames that break WebSocket, or just fail to; each on a connection of its own when it ends that.
    fn frames(&mut self, count: usize) {
        let message = alerts(&self.unit.system_id, "frames").to_string();
        let mask = Some([1, 2, 3, 4]);
        let mut fragment = encode(Frame::Binary(b"{\"header\":"), mask);
        fragment[0] = 0x02;
        let seeds = [
            encode(Frame::Binary(message.as_bytes()), mask),
            encode(Frame::Ping(b"x"), mask),
            encode(Frame::Close(&aos_cloud_websocket::close_payload(1000, "")), mask),
            [fragment, encode(Frame::Ping(b""), mask)].concat(),
        ];
        let too_long = [&[0x82, 0xff][..], &(MAX_FRAME as u64 + 1).to_be_bytes(), &[1, 2, 3, 4]].concat();
        let started = Instant::now();
        for number in 0..count {
            self.connections += 1;
            let mut socket = self.unit.connect().unwrap();
            let bytes =
                if number == 0 { too_long.clone() } else { self.changed(&seeds[number % seeds.len()]) };
            match self.judge(&bytes) {
                Judged::Violation(violation) => {
                    socket.raw(&bytes).unwrap();
                    let code = violation.close_code();
                    assert_eq!(socket.closed().unwrap(), Some(code), "{violation}");
                    let size = code == close_code::SIZE;
                    *if size { &mut self.expected.oversize } else { &mut self.expected.violated } += 1;
                }
                Judged::Whole => {
                    socket.raw(&bytes).unwrap();
                    // It ends with an answer to our ping, or with a close when that was what it said.
                    let _ = socket.sync();
                }
                // Whatever follows would be taken for content: the connection just ends.
                Judged::Part => socket.raw(&bytes).unwrap(),
                Judged::WholeAndPart => {}
            }
        }
        eprintln!("{count} frames in {:?}", started.elapsed());
    }

    /// The frame with other bytes in its head, which decides; the content is the business of the other half.
    fn changed(&mut self, frame: &[u8]) -> Vec<u8> {
        let mut bytes = frame.to_vec();
        for _ in 0..=self.numbers.below(3) {
            let at = self.numbers.below(bytes.len().min(8));
            bytes[at] = self.numbers.byte();
        }
        bytes
    }

    /// What our own reader thinks of it. Messages in it will be counted.
    fn judge(&mut self, bytes: &[u8]) -> Judged {
        let mut reader = Reader::new(Role::Server, MAX_FRAME);
        let mut rest = bytes;
        let mut messages = Vec::new();
        let judged = loop {
            match reader.read(&mut rest) {
                Ok(None) if reader.is_idle() => break Judged::Whole,
                Ok(None) if messages.is_empty() => break Judged::Part,
                Ok(None) => return Judged::WholeAndPart,
                Ok(Some(Event::Message(message))) => messages.push(message),
                Ok(Some(Event::Close(_))) => break Judged::Whole,
                Ok(Some(_)) => {}
                Err(violation) => break Judged::Violation(violation),
            }
        };
        for message in messages {
            if self.expect(&message) == Fate::Closed {
                return Judged::Whole;
            }
        }
        judged
    }
}

/// What a string of bytes is to a reader of frames.
enum Judged {
    Violation(Violation),
    Whole,
    Part,
    /// Not sent: it cannot be seen whether the gateway has read the first part.
    WholeAndPart,
}
