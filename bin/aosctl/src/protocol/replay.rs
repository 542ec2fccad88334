//! A recording shown as a timeline.

use std::fmt::Write as _;
use std::time::Duration;

use anyhow::Result;
use serde_json::{Value, json};

use super::frames;
use super::timeline::{self, Effect, Entry};
use crate::args::Replay;
use crate::output::{Output, table};

/// `aosctl protocol replay FILE`.
pub fn replay(arguments: &Replay, out: &Output) -> Result<()> {
    let entries = timeline::of(&frames::load(&arguments.file)?);
    let summary = Summary::of(&entries);
    let messages: Vec<Value> = entries.iter().map(shown).collect();
    out.show(&json!({"messages": messages, "summary": summary.shown()}), |_| told(&entries, &summary))
}

/// Counts over a recording.
#[derive(Default)]
struct Summary {
    messages: usize,
    repeats: usize,
    answers: usize,
    nacks: u32,
    without_effect: usize,
    open: usize,
    /// Sorted.
    latencies: Vec<Duration>,
}

impl Summary {
    fn of(entries: &[Entry]) -> Self {
        let mut summary = Self::default();
        for entry in entries {
            match &entry.effect {
                Effect::Answer(_) => summary.answers += 1,
                Effect::None(_) => summary.without_effect += 1,
                Effect::Delivered | Effect::Sealed => {}
            }
            summary.messages += usize::from(!entry.silent);
            summary.repeats += entry.repeats.len();
            summary.nacks += entry.nacks;
            summary.open += usize::from(entry.is_open());
            summary.latencies.extend(entry.latency());
        }
        summary.latencies.sort_unstable();
        summary
    }

    fn median(&self) -> Option<Duration> {
        self.latencies.get(self.latencies.len() / 2).copied()
    }

    fn shown(&self) -> Value {
        json!({
            "messages": self.messages,
            "answers": self.answers,
            "repeats": self.repeats,
            "nacks": self.nacks,
            "withoutEffect": self.without_effect,
            "neverAcknowledged": self.open,
            "medianLatencyMs": self.median().map(millis),
            "longestLatencyMs": self.latencies.last().copied().map(millis),
        })
    }
}

fn shown(entry: &Entry) -> Value {
    let (effect, reason, answers) = match &entry.effect {
        Effect::Delivered => ("delivered", None, None),
        Effect::Answer(number) => ("answer", None, Some(number)),
        Effect::Sealed => ("sealed", None, None),
        Effect::None(reason) => ("none", Some(reason), None),
    };
    json!({
        "number": entry.number,
        "atMs": millis(entry.at),
        "from": frames::sender(entry.direction),
        "messageType": entry.kind,
        "txn": entry.txn,
        "correlationId": entry.correlation_id,
        "bytes": entry.bytes,
        "effect": effect,
        "reason": reason,
        "answers": answers,
        "repeatsAtMs": entry.repeats.iter().copied().map(millis).collect::<Vec<_>>(),
        "nacks": entry.nacks,
        "latencyMs": entry.latency().map(millis),
        "acknowledged": if entry.silent { Value::Null } else { json!(entry.acknowledged.is_some()) },
    })
}

fn told(entries: &[Entry], summary: &Summary) -> String {
    let rows: Vec<Vec<String>> = entries
        .iter()
        .map(|entry| {
            let kind = if entry.kind.is_empty() { "(no message)" } else { &entry.kind };
            vec![
                entry.number.to_string(),
                format!("+{:.3}", entry.at.as_secs_f64()),
                frames::sender(entry.direction).to_owned(),
                kind.to_owned(),
                entry.bytes.to_string(),
                entry.txn.chars().take(8).collect(),
                fate(entry),
            ]
        })
        .collect();
    let mut text = table(&["#", "TIME", "FROM", "KIND", "BYTES", "TXN", "WHAT BECAME OF IT"], &rows);
    let delays = match (summary.median(), summary.latencies.last()) {
        (Some(median), Some(longest)) => {
            format!("; acknowledged after {} (median), {} at most", spoken(median), spoken(*longest))
        }
        _ => String::new(),
    };
    let Summary { messages, repeats, answers, without_effect, open, .. } = summary;
    // Writing to a String cannot fail.
    let _ = writeln!(
        text,
        "\n{messages} messages, {answers} acknowledgements and nacks, {repeats} repetitions{delays}"
    );
    let _ = writeln!(text, "{open} never acknowledged, {without_effect} without effect");
    text
}

/// What became of a message, in words.
fn fate(entry: &Entry) -> String {
    let mut parts = Vec::new();
    match &entry.effect {
        Effect::Delivered => {}
        Effect::Answer(number) => parts.push(format!("answers #{number}")),
        Effect::Sealed => parts.push("sealed, only the Unit can read it".to_owned()),
        Effect::None(reason) => parts.push(format!("no effect: {reason}")),
    }
    if entry.nacks > 0 {
        parts.push(format!("put off {} times", entry.nacks));
    }
    if let Some(last) = entry.repeats.last() {
        let times = entry.repeats.len();
        parts.push(format!("repeated {times} times, the last time at +{:.3}", last.as_secs_f64()));
    }
    match entry.latency() {
        Some(latency) => parts.push(format!("acknowledged after {}", spoken(latency))),
        None if entry.is_open() => parts.push("never acknowledged".to_owned()),
        None => {}
    }
    parts.join("; ")
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

fn spoken(time: Duration) -> String {
    if time < Duration::from_secs(10) {
        format!("{} ms", time.as_millis())
    } else {
        format!("{:.1} s", time.as_secs_f64())
    }
}
