//! Follows the journal from where it was left.
//!
//! `journalctl --follow` runs beside us and wakes us for urgent entries only; it ends with its pipe, whatever
//! ends us. When it ends on its own, or does not take the stored place, following begins anew from now
//! on after a pause, which doubles up to ten seconds.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use aos_backoff::Backoff;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, ChildStdout};

use super::judge::Settings;
use crate::Error;
use crate::journal::{self, Entry, MAX_ENTRY};

const FIRST_PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_secs(10);
/// Longest place in the journal that is used, bytes.
pub const MAX_CURSOR: usize = 512;
/// Memory kept for the next entry, bytes.
const KEPT: usize = 8192;

/// The journal, being followed.
pub struct Follower {
    arguments: Vec<String>,
    /// The entry read last, or a time as `@SECONDS`.
    cursor: String,
    running: Option<Running>,
    backoff: Backoff,
    /// When the next try may be made.
    resume: Option<tokio::time::Instant>,
    noted: bool,
}

struct Running {
    _child: Child,
    pipe: BufReader<ChildStdout>,
    text: Vec<u8>,
}

impl Follower {
    /// From after `cursor`, or from now on.
    pub fn new(settings: &Settings, cursor: Option<String>) -> Self {
        // Terms of one field are alternatives, and so is what stands after the plus.
        let mut arguments: Vec<String> =
            (0..=settings.least()).map(|priority| format!("PRIORITY={priority}")).collect();
        arguments.extend(["+".to_owned(), "_SYSTEMD_UNIT=init.scope".to_owned()]);
        let backoff = Backoff::new(FIRST_PAUSE, LONGEST_PAUSE, 0.0);
        let cursor = cursor.filter(|cursor| cursor.len() <= MAX_CURSOR).unwrap_or_else(now);
        Self { arguments, cursor, running: None, backoff, resume: None, noted: false }
    }

    /// Where it reads.
    pub fn place(&self) -> &str {
        &self.cursor
    }

    /// The next entry; may be given up and asked again.
    pub async fn next(&mut self) -> Entry {
        loop {
            if let Some(at) = self.resume {
                tokio::time::sleep_until(at).await;
                self.resume = None;
            }
            let error = match self.try_next().await {
                Ok(entry) => {
                    self.backoff.reset();
                    self.noted = false;
                    if entry.cursor.len() <= MAX_CURSOR {
                        self.cursor.clone_from(&entry.cursor);
                    }
                    return entry;
                }
                Err(error) => error,
            };
            self.running = None;
            if !std::mem::replace(&mut self.noted, true) {
                tracing::info!("the journal is followed anew: {}", error.info().message);
            }
            let pause = self.backoff.next(0.0);
            // A place that is not taken at the second try will not be taken later.
            if pause > FIRST_PAUSE {
                self.cursor = now();
            }
            self.resume = Some(tokio::time::Instant::now() + pause);
        }
    }

    async fn try_next(&mut self) -> Result<Entry, Error> {
        if self.running.is_none() {
            self.running = Some(self.start()?);
        }
        let Some(Running { pipe, text, .. }) = &mut self.running else {
            return Err(Error::Ended("the journal"));
        };
        loop {
            let piece = pipe.fill_buf().await.map_err(Error::system("read the journal"))?;
            if piece.is_empty() {
                return Err(Error::Ended("journalctl"));
            }
            let end = piece.iter().position(|&byte| byte == b'\n');
            let taken = end.unwrap_or(piece.len());
            // One byte too many tells that the entry is too long.
            let room = (MAX_ENTRY + 1).saturating_sub(text.len());
            text.extend_from_slice(piece.get(..taken.min(room)).unwrap_or_default());
            pipe.consume(taken + usize::from(end.is_some()));
            if end.is_none() {
                continue;
            }
            let entry = if text.len() <= MAX_ENTRY { serde_json::from_slice(text).ok() } else { None };
            text.clear();
            text.shrink_to(KEPT);
            if let Some(entry) = entry {
                return Ok(entry);
            }
        }
    }

    fn start(&self) -> Result<Running, Error> {
        let mut command = journal::command();
        let place = if self.cursor.starts_with('@') { "since" } else { "after-cursor" };
        command
            .arg(format!("--{place}={}", self.cursor))
            .args(["--follow", "--no-tail"])
            .args(&self.arguments)
            .stdout(std::process::Stdio::piped());
        let mut child = command.spawn().map_err(Error::system("run journalctl"))?;
        let pipe = child.stdout.take().ok_or(Error::Ended("journalctl"))?;
        Ok(Running { _child: child, pipe: BufReader::with_capacity(8192, pipe), text: Vec::new() })
    }
}

fn now() -> String {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    format!("@{}", since.as_secs())
}
