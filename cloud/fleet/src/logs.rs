//! When the logs of a request are complete.
//!
//! Answers come per node, in parts with separate messages. Some Units number parts from 0, others from 1,
//! and a failure may be part 0 of 0: a node is complete when as many different numbers have arrived as it
//! announced, whatever the first one is.

use std::collections::BTreeSet;

use aos_cloud_protocol::{LogStatus, PushLog};

/// Most parts that one node may send.
pub const MAX_LOG_PARTS: u64 = 80;
/// Largest part, bytes as they arrive.
pub const MAX_LOG_PART: usize = 1024 * 1024;

/// State of a log request, or of what one node sends for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogState {
    /// Nothing has come.
    Waiting,
    /// Some of it has come.
    Partial,
    /// All of it has come.
    Done,
    /// It will not come.
    Failed,
    /// Nothing was logged in that time.
    Empty,
    /// No such instance, or no crash.
    Absent,
}

impl LogState {
    const ALL: [Self; 6] =
        [Self::Waiting, Self::Partial, Self::Done, Self::Failed, Self::Empty, Self::Absent];

    /// The word for it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Waiting => "waiting",
            Self::Partial => "partial",
            Self::Done => "done",
            Self::Failed => "failed",
            Self::Empty => "empty",
            Self::Absent => "absent",
        }
    }

    /// The state of a word; an unknown one waits.
    pub fn parse(word: &str) -> Self {
        Self::ALL.into_iter().find(|state| state.as_str() == word).unwrap_or(Self::Waiting)
    }

    /// True when nothing more is waited for.
    pub const fn is_final(self) -> bool {
        !matches!(self, Self::Waiting | Self::Partial)
    }
}

/// What one node has sent for a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodeLog {
    /// Where it stands.
    pub state: LogState,
    /// Parts announced; 0 before the first.
    pub parts_count: u64,
    /// Numbers of the parts that have come.
    pub parts: BTreeSet<u64>,
    /// Why it failed.
    pub reason: Option<String>,
}

impl NodeLog {
    /// Takes a part. True when its content is to be kept.
    pub fn take(&mut self, part: &PushLog) -> bool {
        if self.state.is_final() {
            return false;
        }
        match part.status {
            LogStatus::Ok => self.take_content(part),
            LogStatus::Failed => {
                let told = part.error_info.as_ref().map(|info| info.message.clone());
                self.fail(
                    told.filter(|text| !text.is_empty()).as_deref().unwrap_or("the Unit gave no reason"),
                );
                false
            }
            LogStatus::Empty => self.end(LogState::Empty),
            LogStatus::Absent => self.end(LogState::Absent),
        }
    }

    fn take_content(&mut self, part: &PushLog) -> bool {
        if part.content.0.len() > MAX_LOG_PART {
            self.fail("a part is larger than 1 MiB");
            return false;
        }
        self.take_part(part.part, part.parts_count)
    }

    /// Takes part `number` of `count`, whatever way it came. True when its content is to be kept: a part that
    /// comes again replaces the one before, because a Unit that starts again also cuts its logs again.
    pub fn take_part(&mut self, number: u64, count: u64) -> bool {
        if self.state.is_final() {
            return false;
        }
        // A single part may come without a number of parts.
        let count = count.max(1);
        if count > MAX_LOG_PARTS || number > MAX_LOG_PARTS {
            self.fail("more than 80 parts");
            return false;
        }
        self.parts_count = self.parts_count.max(count);
        self.parts.insert(number);
        let complete = u64::try_from(self.parts.len()).is_ok_and(|have| have >= self.parts_count);
        self.state = if complete { LogState::Done } else { LogState::Partial };
        true
    }

    /// Ends it as failed.
    pub fn fail(&mut self, reason: &str) {
        self.state = LogState::Failed;
        self.reason = Some(reason.to_owned());
    }

    fn end(&mut self, state: LogState) -> bool {
        self.state = state;
        false
    }
}

/// The state of a request whose nodes stand like this, and why it failed.
pub fn log_state<'a>(nodes: impl IntoIterator<Item = (&'a str, &'a NodeLog)>) -> (LogState, Option<String>) {
    let (mut open, mut some, mut done, mut failed, mut empty) = (false, false, false, None, false);
    for (node, log) in nodes {
        some |= !log.parts.is_empty() || log.state.is_final();
        match log.state {
            LogState::Waiting | LogState::Partial => open = true,
            LogState::Done => done = true,
            LogState::Empty => empty = true,
            LogState::Absent => {}
            LogState::Failed => {
                let reason = log.reason.as_deref().unwrap_or("no reason");
                failed.get_or_insert_with(|| format!("node {node}: {reason}"));
            }
        }
    }
    let state = match (open, some, done) {
        (true, true, _) => LogState::Partial,
        (true, false, _) => LogState::Waiting,
        (false, _, true) => LogState::Done,
        (false, ..) if failed.is_some() => LogState::Failed,
        (false, ..) if empty => LogState::Empty,
        (false, ..) => LogState::Absent,
    };
    (state, failed)
}
