//! Following logs: asks the Unit again and again for what has been written since, shows each line once.
//!
//! Lines carry their second only, and a Unit may date a line a moment early. So each question begins a little
//! before the last line shown, and lines that have been shown as often as they are told are left out. A
//! request that has been read is dropped from the cloud, which keeps few of them for each Unit.

use std::collections::BTreeMap;
use std::io::Write;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};

use crate::args::Logs;
use crate::cloud::{Cloud, Refused, segment};
use crate::logs::{node_line, reason, request, sink};
use crate::output::{Output, elements, text};

/// Between two questions.
const PAUSE: Duration = Duration::from_secs(1);
const RETRY_PAUSE: Duration = Duration::from_secs(2);
/// How far before the last line the next question begins, seconds.
const OVERLAP: i64 = 3;
/// Longest time that the cloud is asked to hold one question, seconds.
const HOLD: u64 = 20;
/// Most text of one answer, bytes.
const MAX_ANSWER: usize = 64 * 1024 * 1024;

/// Shows what is written until Ctrl-C.
pub async fn follow(cloud: &Cloud, base: &str, logs: &Logs, out: &Output) -> Result<()> {
    let mut following = Following {
        cloud,
        base,
        out,
        sink: sink(logs)?,
        several: false,
        seen: BTreeMap::new(),
        told: String::new(),
        open: None,
    };
    let followed = tokio::select! {
        result = following.run(request(logs)?) => result,
        interrupted = tokio::signal::ctrl_c() => interrupted.context("cannot wait for Ctrl-C"),
    };
    if let Some(id) = following.open.take() {
        // Nobody will read it; without an answer the cloud drops it some day.
        let _ = tokio::time::timeout(RETRY_PAUSE, cloud.delete(&format!("{base}{}/", segment(&id)?))).await;
    }
    followed
}

struct Following<'a> {
    cloud: &'a Cloud,
    base: &'a str,
    out: &'a Output,
    sink: Box<dyn Write>,
    /// More than one node answers: lines name theirs.
    several: bool,
    seen: BTreeMap<String, Seen>,
    /// What has been told last of nodes without a log.
    told: String,
    /// The request that is in the cloud now.
    open: Option<String>,
}

impl Following<'_> {
    async fn run(&mut self, mut request: Value) -> Result<()> {
        let mut any = false;
        loop {
            match self.round(&request, any).await {
                Ok(()) => any = true,
                Err(error) if error.downcast_ref::<Refused>().is_some() || !any => return Err(error),
                // A cloud that restarts is worth waiting for.
                Err(error) => {
                    self.out.progress(&format!("{error:#}; trying again"));
                    tokio::time::sleep(RETRY_PAUSE).await;
                }
            }
            if let Some(from) =
                self.seen.values().map(|seen| seen.newest - OVERLAP).filter(|at| *at > 0).min()
            {
                let from = jiff::Timestamp::from_second(from).context("a line has no usable time")?;
                request["from"] = json!(from.to_string());
            }
            tokio::time::sleep(PAUSE).await;
        }
    }

    /// One question and its answer.
    async fn round(&mut self, request: &Value, any: bool) -> Result<()> {
        let made = self.cloud.post(self.base, request).await.context("the cloud did not take the request")?;
        let id = text(&made, "/id");
        self.open = Some(id.clone());
        let path = format!("{}{}/", self.base, segment(&id)?);
        let document = self.answer(&path).await?;
        let nodes = elements(&document["nodes"]);
        self.several |= nodes.len() > 1;
        if matches!(text(&document, "/state").as_str(), "failed" | "absent") {
            let reason = reason(&document);
            if !any {
                bail!("there is no log: {reason}");
            }
            self.tell(&format!("there is no log now: {reason}"));
        }
        for node in nodes {
            match text(node, "/state").as_str() {
                "empty" => {}
                "failed" | "absent" => self.tell(&node_line(node)),
                _ => self.show(&path, &text(node, "/node")).await?,
            }
        }
        self.open = None;
        // One that stays is dropped by the cloud when there are many.
        let _ = self.cloud.delete(&path).await;
        Ok(())
    }

    async fn answer(&mut self, path: &str) -> Result<Value> {
        let mut seen = String::new();
        let mut rounds = 0;
        loop {
            let after = if seen.is_empty() { String::new() } else { format!("&after={seen}") };
            let document = self.cloud.get(&format!("{path}?wait={HOLD}{after}")).await?;
            if !matches!(text(&document, "/state").as_str(), "waiting" | "partial") {
                return Ok(document);
            }
            rounds += 1;
            if rounds > 1 {
                self.tell("waiting for the Unit; it may be offline");
            }
            seen = text(&document, "/revision");
        }
    }

    /// Once, until something else is to be told.
    fn tell(&mut self, line: &str) {
        if self.told != line {
            line.clone_into(&mut self.told);
            self.out.progress(line);
        }
    }

    async fn show(&mut self, path: &str, node: &str) -> Result<()> {
        let mut answer = self.cloud.open(&format!("{path}content/?node={}", segment(node)?)).await?;
        let mut bytes = Vec::new();
        while let Some(piece) = answer.chunk().await.context("the logs broke off")? {
            if bytes.len() + piece.len() > MAX_ANSWER {
                bail!("too much has been written; begin later with --since");
            }
            bytes.extend_from_slice(&piece);
        }
        let seen = self.seen.entry(node.to_owned()).or_default();
        let mut shown = Vec::new();
        for line in seen.news(&bytes) {
            if self.several {
                shown.extend_from_slice(format!("{node} | ").as_bytes());
            }
            shown.extend_from_slice(line);
            shown.push(b'\n');
        }
        if !shown.is_empty() {
            self.told.clear();
        }
        self.sink.write_all(&shown).and_then(|()| self.sink.flush()).context("cannot write the logs")
    }
}

/// What has been shown of one node, as far back as it may be told again.
#[derive(Debug, Default)]
struct Seen {
    /// The latest second of a line.
    newest: i64,
    /// How often each line was shown, by its second.
    lines: BTreeMap<i64, BTreeMap<Vec<u8>, u32>>,
}

impl Seen {
    /// The lines of an answer that have not been shown yet.
    fn news<'a>(&mut self, answer: &'a [u8]) -> Vec<&'a [u8]> {
        let text = answer.strip_suffix(b"\n").unwrap_or(answer);
        let mut told: BTreeMap<i64, BTreeMap<&[u8], u32>> = BTreeMap::new();
        let mut news = Vec::new();
        let mut at = self.newest;
        for line in text.split(|&byte| byte == b'\n').filter(|_| !text.is_empty()) {
            at = second(line).unwrap_or(at);
            let count = told.entry(at).or_default().entry(line).or_default();
            *count += 1;
            let known = self.lines.entry(at).or_default().entry(line.to_vec()).or_default();
            if *count > *known {
                *known = *count;
                news.push(line);
            }
            self.newest = self.newest.max(at);
        }
        self.lines = self.lines.split_off(&(self.newest - OVERLAP));
        news
    }
}

/// The time before a line, seconds since 1970.
fn second(line: &[u8]) -> Option<i64> {
    let stamp = std::str::from_utf8(line.get(..15)?).ok()?;
    let time = jiff::civil::DateTime::strptime("%Y%m%d%H%M%SZ", stamp).ok()?;
    Some(time.to_zoned(jiff::tz::TimeZone::UTC).ok()?.timestamp().as_second())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn news(seen: &mut Seen, answer: &str) -> Vec<String> {
        let lines = seen.news(answer.as_bytes());
        lines.into_iter().map(|line| String::from_utf8(line.to_vec()).unwrap()).collect()
    }

    // CLO-23
    #[test]
    fn each_line_is_shown_once_and_as_often_as_it_was_written() {
        let mut seen = Seen::default();
        let first = "20260304072505Z a\n20260304072506Z b\n20260304072506Z b\n";
        assert_eq!(news(&mut seen, first), ["20260304072505Z a", "20260304072506Z b", "20260304072506Z b"]);
        assert_eq!(seen.newest, 1_772_609_106);
        assert!(news(&mut seen, first).is_empty());
        assert!(news(&mut seen, "").is_empty());
        // The same words once more, one line dated early, and one without a time.
        let next = format!("{first}20260304072506Z b\n20260304072505Z late\n20260304072509Z c\nno time\n");
        let expected = ["20260304072506Z b", "20260304072505Z late", "20260304072509Z c", "no time"];
        assert_eq!(news(&mut seen, &next), expected);
        assert_eq!(seen.lines.keys().next(), Some(&1_772_609_106), "older ones will not be told again");
    }
}
