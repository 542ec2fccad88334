//! A recording run through the session cores of both ends, in the time of the recording.
//!
//! The core of each end gets the frames of the other, accepts at once whatever it delivers, and so tells what
//! took effect, what was a repetition and what was turned away and why. Beside them a ledger ties
//! acknowledgements to messages. No socket, no clock: the same recording gives the same timeline.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use aos_cloud_protocol::{Body, Direction, Envelope, is_enveloped, read};
use aos_cloud_session::{Action, Config, Event, Now, Session};
use aos_ids::SystemId;
use jiff::Timestamp;
use serde_json::Value;

use super::frames::Frame;
use super::record::{direction_of, time_of};

/// One message with all that became of it.
#[derive(Debug, Clone)]
pub struct Entry {
    pub number: usize,
    /// Since the beginning.
    pub at: Duration,
    pub direction: Direction,
    /// Empty for frames that cannot be read.
    pub kind: String,
    pub txn: String,
    pub correlation_id: Option<String>,
    pub bytes: usize,
    /// What the other end made of it.
    pub effect: Effect,
    /// Repetitions, by the time since the beginning.
    pub repeats: Vec<Duration>,
    /// How often the receiver asked for a repetition.
    pub nacks: u32,
    /// When the acknowledgement came.
    pub acknowledged: Option<Duration>,
    /// Nothing acknowledges it: it is an answer itself, or cannot be read.
    pub silent: bool,
}

/// What a message did at the other end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Effect {
    /// It was processed.
    Delivered,
    /// An acknowledgement or nack that belongs to a message, by the number of that.
    Answer(usize),
    /// Sealed for the Unit: nobody else can tell.
    Sealed,
    /// Nothing, and why.
    None(String),
}

impl Entry {
    /// Time to the acknowledgement.
    pub fn latency(&self) -> Option<Duration> {
        self.acknowledged.map(|at| at.saturating_sub(self.at))
    }

    /// A message that should have been acknowledged and was not.
    pub fn is_open(&self) -> bool {
        !self.silent && self.acknowledged.is_none()
    }
}

/// The entries of a recording in order, repetitions folded into the first copy.
pub fn of(frames: &[Frame]) -> Vec<Entry> {
    let system_id =
        frames.iter().find_map(|frame| Some(read(&frame.bytes, Direction::Both).ok()?.header.system_id));
    let mut ledger = Ledger::default();
    let Some(system_id) = system_id.or_else(|| "unknown".parse().ok()) else { return ledger.entries };
    let mut ends = Ends::new(&system_id);
    let (mut first, mut latest): (Option<Timestamp>, Option<Timestamp>) = (None, None);
    for frame in frames {
        let message = serde_json::from_slice::<Value>(&frame.bytes).ok();
        latest = latest.max(time_of(frame, message.as_ref()));
        first = first.or(latest);
        let passed = match (first, latest) {
            (Some(first), Some(latest)) => latest.duration_since(first).unsigned_abs(),
            _ => Duration::ZERO,
        };
        ledger.take(frame, message.as_ref(), passed, &mut ends);
    }
    ledger.entries
}

/// The cores, both connected from the beginning.
struct Ends {
    start: Instant,
    unit: Session,
    cloud: Session,
}

impl Ends {
    fn new(system_id: &SystemId) -> Self {
        let start = Instant::now();
        let now = Now { instant: start, wall: Timestamp::UNIX_EPOCH };
        let mut unit = Session::new(Config::unit(system_id.clone()), []);
        let mut cloud = Session::new(Config::cloud(system_id.clone()), []);
        unit.on(now, Event::connected(None));
        cloud.on(now, Event::connected(None));
        Self { start, unit, cloud }
    }

    /// What the receiver of a frame makes of it; nothing when it is a repetition.
    fn receive(&mut self, frame: &Frame, direction: Direction, passed: Duration) -> Option<Effect> {
        let now = Now { instant: self.start + passed, wall: Timestamp::UNIX_EPOCH };
        let end = if direction == Direction::CloudToUnit { &mut self.unit } else { &mut self.cloud };
        let mut effect = None;
        for action in end.on(now, Event::Frame(&frame.bytes)) {
            match action {
                Action::Deliver(envelope) => {
                    end.on(now, Event::Accepted(envelope.header.txn.clone()));
                    effect = Some(Effect::Delivered);
                }
                Action::Rejected(reason) => effect = Some(Effect::None(reason.to_string())),
                _ => {}
            }
        }
        effect
    }
}

#[derive(Default)]
struct Ledger {
    entries: Vec<Entry>,
    /// Place of a message by who sent it and its transaction.
    by_txn: HashMap<(bool, String), usize>,
}

impl Ledger {
    fn take(&mut self, frame: &Frame, message: Option<&Value>, passed: Duration, ends: &mut Ends) {
        let direction = direction_of(frame, message);
        let text = |pointer: &str| {
            let text = message.and_then(|message| message.pointer(pointer)).and_then(Value::as_str);
            text.unwrap_or_default().to_owned()
        };
        let mut entry = Entry {
            number: frame.number,
            at: passed,
            direction,
            kind: text("/data/messageType"),
            txn: text("/header/txn"),
            correlation_id: Some(text("/data/correlationId")).filter(|id| !id.is_empty()),
            bytes: frame.bytes.len(),
            effect: Effect::Sealed,
            repeats: Vec::new(),
            nacks: 0,
            acknowledged: None,
            silent: true,
        };
        if is_enveloped(&frame.bytes) {
            self.entries.push(entry);
            return;
        }
        if let Ok(envelope) = read(&frame.bytes, Direction::Both)
            && !envelope.body.message_type().is_acknowledged()
        {
            entry.effect = self.answer(&envelope, direction, passed);
            self.entries.push(entry);
            return;
        }
        let effect = ends.receive(frame, direction, passed);
        let key = (direction == Direction::UnitToCloud, entry.txn.clone());
        let known = self.by_txn.get(&key).filter(|_| !entry.txn.is_empty()).copied();
        if let Some(first) = known.and_then(|at| self.entries.get_mut(at)) {
            first.repeats.push(passed);
            return;
        }
        let unreadable = matches!(&effect, Some(Effect::None(reason)) if reason.starts_with("unreadable"));
        entry.silent = unreadable;
        entry.effect = effect.unwrap_or_else(|| Effect::None("taken for a repetition".to_owned()));
        self.by_txn.insert(key, self.entries.len());
        self.entries.push(entry);
    }

    /// An acknowledgement or nack finds the message of the other end that it belongs to: by its transaction, else
    /// by its correlationId.
    fn answer(&mut self, envelope: &Envelope, direction: Direction, passed: Duration) -> Effect {
        let sender = direction != Direction::UnitToCloud;
        let texts = [Some(envelope.header.txn.as_str()), envelope.correlation_id.as_deref()];
        let found =
            texts.into_iter().flatten().find_map(|txn| self.by_txn.get(&(sender, txn.to_owned())).copied());
        let Some(entry) = found.and_then(|at| self.entries.get_mut(at)) else {
            return Effect::None("belongs to no message of this recording".to_owned());
        };
        match &envelope.body {
            Body::Nack(_) => entry.nacks += 1,
            _ => entry.acknowledged = entry.acknowledged.or(Some(passed)),
        }
        Effect::Answer(entry.number)
    }
}
