//! Recording the messages of a Unit for support.
//!
//! Off unless asked for, and then in memory only: the newest frames, at most 8 MiB and 4096 for each of at
//! most 16 Units. What is secret in a message is blanked before it is kept: keys, passwords, secrets, tokens,
//! the signed part of download addresses, states of instances and values of their variables. A recording goes on when the Unit connects anew.

use std::collections::{HashMap, VecDeque};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use aos_cloud_protocol::Direction;
use aos_cloud_store::now_micros;
use serde_json::Value;
use tokio::sync::watch;

/// Bytes kept of one Unit.
pub const MAX_BYTES: usize = 8 * 1024 * 1024;
/// Frames kept of one Unit.
pub const MAX_FRAMES: usize = 4096;
/// Units that may be recorded at the same time.
pub const MAX_UNITS: usize = 16;
/// What a frame takes beside its text.
const OVERHEAD: usize = 64;
const BLANK: &str = "***";

/// One recorded frame.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Recorded {
    /// Counts the frames of this recording from 1.
    pub seq: u64,
    /// When it passed, microseconds since 1970 UTC.
    pub at: i64,
    /// Which way.
    pub direction: Direction,
    /// The message, secrets blanked; a note where the frame was no JSON.
    pub text: Arc<str>,
}

/// Part of a recording.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Recording {
    /// Frames, oldest first.
    pub frames: Vec<Recorded>,
    /// Frames so far; those missing before the first one given have been dropped.
    pub newest: u64,
}

/// There are recordings of too many Units already.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{MAX_UNITS} Units are being recorded already")]
pub struct TooManyRecordings;

struct Ring {
    frames: VecDeque<Recorded>,
    bytes: usize,
    newest: watch::Sender<u64>,
}

/// All recordings.
#[derive(Default)]
pub(crate) struct Taps {
    /// Spares sessions the lock as long as nothing is recorded.
    any: AtomicBool,
    rings: Mutex<HashMap<String, Ring>>,
}

impl Taps {
    pub(crate) fn switch(&self, unit_id: &str, on: bool) -> Result<(), TooManyRecordings> {
        let mut rings = self.rings();
        if !on {
            rings.remove(unit_id);
        } else if !rings.contains_key(unit_id) {
            if rings.len() >= MAX_UNITS {
                return Err(TooManyRecordings);
            }
            let ring = Ring { frames: VecDeque::new(), bytes: 0, newest: watch::Sender::new(0) };
            rings.insert(unit_id.to_owned(), ring);
        }
        self.any.store(!rings.is_empty(), Ordering::Relaxed);
        Ok(())
    }

    /// A frame passes.
    pub(crate) fn see(&self, unit_id: &str, direction: Direction, frame: &[u8]) {
        if !self.any.load(Ordering::Relaxed) {
            return;
        }
        // Reading the JSON is left out for all Units that are not recorded.
        if !self.rings().contains_key(unit_id) {
            return;
        }
        let text = blanked(frame);
        let mut rings = self.rings();
        let Some(ring) = rings.get_mut(unit_id) else { return };
        let seq = *ring.newest.borrow() + 1;
        ring.bytes += text.len() + OVERHEAD;
        ring.frames.push_back(Recorded { seq, at: now_micros(), direction, text });
        while ring.bytes > MAX_BYTES || ring.frames.len() > MAX_FRAMES {
            let Some(oldest) = ring.frames.pop_front() else { break };
            ring.bytes -= oldest.text.len() + OVERHEAD;
        }
        ring.newest.send_replace(seq);
    }

    /// Frames after number `after`, at most `limit`; waits up to `wait` for the first. `None` when the Unit
    /// is not recorded.
    pub(crate) async fn read(
        &self,
        unit_id: &str,
        after: u64,
        limit: usize,
        wait: Duration,
    ) -> Option<Recording> {
        let mut newest = self.rings().get(unit_id)?.newest.subscribe();
        // Ends with an error when the recording is switched off, and then there is nothing to give.
        let _ = tokio::time::timeout(wait, newest.wait_for(|newest| *newest > after)).await;
        let rings = self.rings();
        let ring = rings.get(unit_id)?;
        let frames = ring.frames.iter().filter(|frame| frame.seq > after).take(limit).cloned().collect();
        Some(Recording { frames, newest: *ring.newest.borrow() })
    }

    fn rings(&self) -> MutexGuard<'_, HashMap<String, Ring>> {
        self.rings.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The text of a frame without its secrets.
fn blanked(frame: &[u8]) -> Arc<str> {
    match serde_json::from_slice::<Value>(frame) {
        Ok(mut message) => {
            let kind = message.pointer("/data/messageType").and_then(Value::as_str).unwrap_or_default();
            let kind = kind.to_ascii_lowercase();
            blank(&mut message, &kind, false);
            message.to_string().into()
        }
        Err(_) => format!("\"{} bytes that are no JSON\"", frame.len()).into(),
    }
}

fn blank(value: &mut Value, kind: &str, secret: bool) {
    match value {
        Value::Object(members) => {
            for (key, member) in members {
                blank(member, kind, secret || is_secret(kind, key));
            }
        }
        Value::Array(elements) => elements.iter_mut().for_each(|element| blank(element, kind, secret)),
        Value::Null | Value::Bool(_) => {}
        Value::String(text) if !secret => {
            // Download addresses carry a token.
            if let Some((address, _)) = text.split_once('?').filter(|_| text.starts_with("http")) {
                *text = format!("{address}?{BLANK}");
            }
        }
        Value::String(_) | Value::Number(_) => {
            if secret {
                *value = Value::String(BLANK.to_owned());
            }
        }
    }
}

/// `kind` is the kind of the message in lower case.
fn is_secret(kind: &str, key: &str) -> bool {
    let key = key.to_ascii_lowercase();
    match (kind, key.as_str()) {
        ("newstate" | "updatestate", "state") | ("overrideenvvars", "value") => return true,
        _ => {}
    }
    key == "blockkey" || ["password", "secret", "token"].iter().any(|word| key.contains(word))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    const NOW: Duration = Duration::ZERO;

    #[tokio::test]
    async fn secrets_are_blanked() {
        let taps = Taps::default();
        taps.switch("u", true).unwrap();
        let message = json!({"data": {
            "items": [{"decryptInfo": {"blockKey": "a2V5", "blockAlg": "AES256/CBC/pkcs7"},
                       "urls": ["https://cloud/blobs/aa?t=1.sig", "https://cloud/plain"]}],
            "unitSecrets": {"version": "1", "nodes": [{"codename": "main", "secret": "s3"}]},
            "password": "p", "uploadOptions": {"bearerToken": "b", "url": "https://x/y"},
            "authToken": "t", "reason": "why?",
        }});
        taps.see("u", Direction::CloudToUnit, message.to_string().as_bytes());
        let state =
            json!({"data": {"messageType": "newState", "State": "{\"pin\": 1}", "stateChecksum": "aa"}});
        taps.see("u", Direction::UnitToCloud, state.to_string().as_bytes());
        let variables = json!({"data": {"messageType": "overrideEnvVars", "items": [
            {"item": {"id": "i"}, "variables": [{"name": "TOKEN", "value": "t", "ttl": "2030-01-01T00:00:00Z"}]},
        ]}});
        taps.see("u", Direction::CloudToUnit, variables.to_string().as_bytes());
        taps.see("u", Direction::UnitToCloud, b"no json");
        taps.see("other", Direction::UnitToCloud, b"{}");
        let recording = taps.read("u", 0, 10, NOW).await.unwrap();
        assert_eq!((recording.frames.len(), recording.newest), (4, 4));
        let shown: Value = serde_json::from_str(&recording.frames[0].text).unwrap();
        assert_eq!(
            shown["data"],
            json!({
                "items": [{"decryptInfo": {"blockKey": "***", "blockAlg": "AES256/CBC/pkcs7"},
                           "urls": ["https://cloud/blobs/aa?***", "https://cloud/plain"]}],
                "unitSecrets": {"version": "***", "nodes": [{"codename": "***", "secret": "***"}]},
                "password": "***", "uploadOptions": {"bearerToken": "***", "url": "https://x/y"},
                "authToken": "***", "reason": "why?",
            })
        );
        let shown: Value = serde_json::from_str(&recording.frames[1].text).unwrap();
        assert_eq!(shown["data"], json!({"messageType": "newState", "State": "***", "stateChecksum": "aa"}));
        let shown: Value = serde_json::from_str(&recording.frames[2].text).unwrap();
        let variable = json!({"name": "TOKEN", "value": "***", "ttl": "2030-01-01T00:00:00Z"});
        assert_eq!(shown["data"]["items"][0]["variables"][0], variable);
        assert_eq!(&*recording.frames[3].text, "\"7 bytes that are no JSON\"");
        assert_eq!(recording.frames[3].direction, Direction::UnitToCloud);
    }

    #[tokio::test]
    async fn recordings_are_bounded() {
        let taps = Taps::default();
        for number in 0..MAX_UNITS {
            taps.switch(&number.to_string(), true).unwrap();
        }
        assert_eq!(taps.switch("more", true), Err(TooManyRecordings));
        taps.switch("0", true).unwrap();
        let large = format!("\"{}\"", "x".repeat(1024 * 1024));
        for _ in 0..20 {
            taps.see("0", Direction::UnitToCloud, large.as_bytes());
        }
        let kept = taps.read("0", 0, 100, NOW).await.unwrap();
        assert_eq!((kept.frames.len(), kept.frames[0].seq, kept.newest), (7, 14, 20));
        for _ in 0..2 * MAX_FRAMES {
            taps.see("1", Direction::UnitToCloud, b"{}");
        }
        assert_eq!(taps.read("1", 0, usize::MAX, NOW).await.unwrap().frames.len(), MAX_FRAMES);
        taps.switch("0", false).unwrap();
        assert_eq!(taps.read("0", 0, 1, NOW).await, None);
        taps.switch("more", true).unwrap();
    }

    #[tokio::test]
    async fn a_reader_waits_for_the_next_frame() {
        let taps = Taps::default();
        taps.switch("u", true).unwrap();
        taps.see("u", Direction::UnitToCloud, b"1");
        let waiting = taps.read("u", 1, 10, Duration::from_mins(1));
        let (recording, ()) = tokio::join!(waiting, async {
            tokio::task::yield_now().await;
            taps.see("u", Direction::UnitToCloud, b"2");
        });
        assert_eq!(recording.unwrap().frames[0].seq, 2);
    }
}
