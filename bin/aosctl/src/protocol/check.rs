//! What is wrong with messages, where, and what peers would do with them.

use std::fmt::Write as _;

use anyhow::{Result, anyhow};
use aos_cloud_protocol::{Body, Direction, Envelope, Problem, ReadError, is_enveloped, limits, read};
use serde_json::{Value, json};

use super::deviations::{self, Finding};
use super::{Status, frames};
use crate::args::Check;
use crate::output::Output;

/// What becomes of a message, best first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Verdict {
    Accepted,
    Tolerated,
    BeyondLimits,
    Sealed,
    Invalid,
    Unreadable,
}

impl Verdict {
    const fn word(self) -> &'static str {
        match self {
            Self::Accepted => "accepted",
            Self::Tolerated => "tolerated",
            Self::BeyondLimits => "not for upstream Units",
            Self::Sealed => "sealed",
            Self::Invalid => "invalid",
            Self::Unreadable => "unreadable",
        }
    }

    /// What peers do with it.
    const fn peers(self, direction: Option<Direction>) -> &'static str {
        match (self, direction) {
            (Self::Accepted, _) => "every known peer takes it",
            (Self::Tolerated, _) => "AosEdge takes it, a strict peer may not",
            (Self::BeyondLimits, _) => {
                "an AosEdge Unit takes it; an upstream Unit drops it unacknowledged or misunderstands it"
            }
            (Self::Sealed, _) => "only the Unit that it is sealed for can read it",
            (Self::Invalid, Some(Direction::UnitToCloud)) => {
                "the cloud acknowledges and reports it; it has no effect"
            }
            (Self::Invalid, _) => {
                "an AosEdge Unit acknowledges and reports it, an upstream Unit drops it unacknowledged; it has no effect"
            }
            (Self::Unreadable, _) => "it is dropped without an answer, so its sender repeats it",
        }
    }

    const fn status(self) -> u8 {
        match self {
            Self::Accepted => 0,
            Self::Tolerated | Self::BeyondLimits | Self::Sealed => 1,
            Self::Invalid | Self::Unreadable => 2,
        }
    }
}

/// A message judged.
struct Judged {
    verdict: Verdict,
    kind: String,
    txn: String,
    system_id: String,
    direction: Option<Direction>,
    findings: Vec<Finding>,
}

/// `aosctl protocol check`.
pub fn check(arguments: &Check, out: &Output) -> Result<()> {
    let default = arguments.from.map(crate::args::Side::direction);
    let frames = frames::load(&arguments.file).map_err(|error| error.context(Status(2)))?;
    let judged: Vec<(usize, Judged)> =
        frames.iter().map(|frame| (frame.number, judge(&frame.bytes, frame.direction.or(default)))).collect();
    let worst = judged.iter().map(|(_, judged)| judged.verdict.status()).max().unwrap_or(0);
    let messages: Vec<Value> = judged.iter().map(|(number, judged)| shown(*number, judged)).collect();
    out.show(&json!({"messages": messages, "status": worst}), |_| {
        judged.iter().fold(String::new(), |text, (number, judged)| text + &told(*number, judged))
    })?;
    if worst == 0 { Ok(()) } else { Err(anyhow!(Status(worst))) }
}

fn judge(bytes: &[u8], direction: Option<Direction>) -> Judged {
    let mut judged = Judged {
        verdict: Verdict::Unreadable,
        kind: String::new(),
        txn: String::new(),
        system_id: String::new(),
        direction,
        findings: Vec::new(),
    };
    if is_enveloped(bytes) {
        judged.verdict = Verdict::Sealed;
        return judged;
    }
    match read(bytes, direction.unwrap_or(Direction::Both)) {
        Ok(envelope) => taken(&mut judged, bytes, &envelope),
        Err(ReadError::Unreadable(reason)) => {
            judged.findings.push(Finding { path: "$".to_owned(), text: reason.to_string() });
        }
        Err(ReadError::Invalid(invalid)) => {
            judged.verdict = Verdict::Invalid;
            judged.txn = invalid.header.txn.to_string();
            judged.system_id = invalid.header.system_id.to_string();
            judged.kind = invalid.message_type.clone().unwrap_or_default();
            let kind = aos_cloud_protocol::MessageType::parse(&judged.kind);
            judged.direction = direction.or(kind.map(aos_cloud_protocol::MessageType::direction));
            judged.findings.push(match &invalid.problem {
                Problem::Content(text) => match text.split_once(": ") {
                    Some((path, text)) => Finding { path: format!("$.data.{path}"), text: text.to_owned() },
                    None => Finding { path: "$.data".to_owned(), text: text.clone() },
                },
                other => Finding { path: "$.data.messageType".to_owned(), text: other.to_string() },
            });
        }
    }
    judged
}

fn taken(judged: &mut Judged, bytes: &[u8], envelope: &Envelope) {
    let Envelope { header, correlation_id, body } = envelope;
    judged.kind = body.message_type().to_string();
    judged.txn = header.txn.to_string();
    judged.system_id = header.system_id.to_string();
    judged.direction = judged.direction.or(Some(body.direction()));
    judged.verdict = Verdict::Accepted;
    if let Body::Alerts(alerts) = body {
        for refused in &alerts.refused {
            let text = format!("an entry is left out: {refused}");
            judged.findings.push(Finding { path: "$.data.items".to_owned(), text });
        }
    }
    let original = serde_json::from_slice(bytes).unwrap_or_default();
    judged.findings.extend(deviations::of(&original, envelope));
    if !judged.findings.is_empty() {
        judged.verdict = Verdict::Tolerated;
    }
    if judged.direction != Some(Direction::UnitToCloud) {
        let fatal = deviations::fatal_for_unit(&original);
        if !fatal.is_empty() {
            judged.verdict = Verdict::BeyondLimits;
        }
        judged.findings.extend(fatal);
        for limit in limits::findings_for_unit(correlation_id.as_deref(), body) {
            judged.verdict = Verdict::BeyondLimits;
            let text = limit.to_string();
            let (path, text) = text.split_once(' ').unwrap_or((&text, ""));
            judged.findings.push(Finding { path: format!("$.data.{path}"), text: text.to_owned() });
        }
    }
}

fn shown(number: usize, judged: &Judged) -> Value {
    let findings = judged.findings.iter().map(|finding| json!({"path": finding.path, "text": finding.text}));
    json!({
        "number": number,
        "messageType": judged.kind,
        "systemId": judged.system_id,
        "txn": judged.txn,
        "from": judged.direction.map(frames::sender),
        "verdict": judged.verdict.word(),
        "peers": judged.verdict.peers(judged.direction),
        "findings": findings.collect::<Vec<_>>(),
    })
}

fn told(number: usize, judged: &Judged) -> String {
    let kind = if judged.kind.is_empty() { "frame" } else { &judged.kind };
    let txn = if judged.txn.is_empty() { String::new() } else { format!(" {}", judged.txn) };
    let peers = judged.verdict.peers(judged.direction);
    let mut text = format!("{number}: {kind}{txn}: {}: {peers}\n", judged.verdict.word());
    for finding in &judged.findings {
        // Writing to a String cannot fail.
        let _ = writeln!(text, "     {} {}", finding.path, finding.text);
    }
    text
}
