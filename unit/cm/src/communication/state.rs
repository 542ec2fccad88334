//! What the local status tells about the link.

use aos_cloud_session::{DropReason, Rejection};
use serde::Serialize;

/// State of the link, for people.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct CloudState {
    /// `waiting` (for an identity), `connecting` or `connected`.
    pub state: &'static str,
    /// Address of the link, or of the last one.
    pub url: Option<String>,
    /// Since when, UTC.
    pub since: String,
    /// Why the last attempt failed or the last link ended.
    pub last_error: Option<String>,
    /// Messages that the cloud has not acknowledged.
    pub queued: usize,
    /// Those of them that are kept on disk.
    pub kept: usize,
    /// What has happened since the start of the process.
    pub counters: Counters,
}

impl CloudState {
    /// Nothing has happened yet.
    pub fn new() -> Self {
        Self {
            state: "waiting",
            url: None,
            since: now_text(),
            last_error: None,
            queued: 0,
            kept: 0,
            counters: Counters::default(),
        }
    }

    /// Goes to another state, if it is another one.
    pub fn enter(&mut self, state: &'static str) {
        if self.state != state {
            self.state = state;
            self.since = now_text();
        }
    }
}

fn now_text() -> String {
    aos_cloud_protocol::time::to_text(jiff::Timestamp::now())
}

/// Events of the link since the start of the process.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Counters {
    /// Links that stood.
    pub connections: u64,
    /// Messages of the Unit sent, without repetitions and acknowledgements.
    pub sent: u64,
    /// Repetitions of them.
    pub resent: u64,
    /// Messages of the Unit that the cloud has acknowledged.
    pub acknowledged: u64,
    /// Messages that are kept although the cloud does not acknowledge them on a living link.
    pub parked: u64,
    /// Frames of the cloud.
    pub received: u64,
    /// Messages of the Unit given up.
    pub dropped: Dropped,
    /// Frames of the cloud that changed nothing.
    pub refused: Refused,
}

/// Messages given up, by reason.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Dropped {
    /// Not acknowledged after all tries.
    pub no_ack: u64,
    /// Refused by the cloud too often.
    pub nacked: u64,
    /// No room in the queue.
    pub queue_full: u64,
    /// A newer message said all.
    pub superseded: u64,
    /// Could not be written.
    pub unwritable: u64,
}

impl Dropped {
    /// Counts one.
    pub fn count(&mut self, reason: DropReason) {
        *match reason {
            DropReason::NoAck => &mut self.no_ack,
            DropReason::Nacked => &mut self.nacked,
            DropReason::QueueFull => &mut self.queue_full,
            DropReason::Superseded => &mut self.superseded,
            DropReason::Unwritable => &mut self.unwritable,
        } += 1;
    }
}

/// Frames refused, by reason.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Refused {
    /// No message at all.
    pub unreadable: u64,
    /// A message without meaning; acknowledged.
    pub invalid: u64,
    /// For another Unit.
    pub foreign: u64,
    /// Turned away because too many were being processed.
    pub overload: u64,
    /// An envelope that could not be opened.
    pub enveloped: u64,
    /// Broke WebSocket, or was too long: it ended the link.
    pub violated: u64,
}

impl Refused {
    /// Counts one.
    pub fn count(&mut self, rejection: &Rejection) {
        *match rejection {
            Rejection::Unreadable(_) => &mut self.unreadable,
            Rejection::Invalid(_) => &mut self.invalid,
            Rejection::ForeignSystemId { .. } => &mut self.foreign,
            Rejection::Overload { .. } => &mut self.overload,
        } += 1;
    }
}
