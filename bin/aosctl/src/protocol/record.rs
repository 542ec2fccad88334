//! Recordings: what the cloud saw pass, or what a Unit wrote into its message log.

use std::fs::OpenOptions;
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use aos_cloud_protocol::{Direction, MessageType, time};
use jiff::Timestamp;
use serde_json::{Value, json};

use super::frames::{self, Frame};
use crate::args::Record;
use crate::cloud::{Cloud, Refused, segment};
use crate::output::{Output, elements};

/// Longest time that the cloud is asked to hold one question, seconds.
const ONE_POLL: u64 = 20;
/// Between two attempts while the cloud does not answer.
const RETRY_PAUSE: Duration = Duration::from_secs(2);

/// `aosctl protocol record UNIT`.
pub async fn record(cloud: &Cloud, arguments: &Record, out: &Output) -> Result<()> {
    let unit = segment(arguments.unit.as_deref().unwrap_or_default())?;
    let path = format!("units/{unit}/messages/");
    let switch = format!("{path}recording/");
    let mut file = target(arguments.file.as_ref())?;
    cloud.put(&switch, &json!({"recording": true})).await?;
    out.progress(match arguments.duration {
        Some(_) => "recording",
        None => "recording until Ctrl-C",
    });
    let outcome = tokio::select! {
        outcome = follow(cloud, (&path, &switch), arguments.duration, file.as_mut(), out) => outcome,
        _ = tokio::signal::ctrl_c() => Ok(()),
    };
    let ended = cloud.put(&switch, &json!({"recording": false})).await;
    outcome?;
    ended.map(|_| ())
}

async fn follow(
    cloud: &Cloud,
    (path, switch): (&str, &str),
    duration: Option<Duration>,
    file: &mut dyn Write,
    out: &Output,
) -> Result<()> {
    let until = duration.map(|duration| Instant::now() + duration);
    let (mut after, mut count) = (0, 0_u64);
    // Whether the cloud was away, and may have forgotten what it counted and that it should record.
    let mut doubtful = false;
    loop {
        if doubtful {
            // When it is still away the question below says so.
            let _ = cloud.put(switch, &json!({"recording": true})).await;
        }
        let asked = if doubtful { 0 } else { after };
        let left = until.map(|until| until.saturating_duration_since(Instant::now()));
        let hold = left.map_or(ONE_POLL, |left| left.as_secs().min(ONE_POLL));
        let part = match cloud.get(&format!("{path}?after={asked}&wait={hold}")).await {
            Ok(part) => part,
            Err(error) if error.downcast_ref::<Refused>().is_some() => return Err(error),
            // A cloud that restarts is worth waiting for.
            Err(error) if left.is_none_or(|left| !left.is_zero()) => {
                out.progress(&format!("{error:#}; trying again"));
                doubtful = true;
                tokio::time::sleep(RETRY_PAUSE).await;
                continue;
            }
            Err(error) => return Err(error),
        };
        if std::mem::take(&mut doubtful) {
            after = position(after, elements(&part).iter().filter_map(|message| message["seq"].as_u64()));
        }
        for message in elements(&part) {
            let seq = message["seq"].as_u64().unwrap_or(after + 1);
            if seq <= after {
                continue;
            }
            if seq > after + 1 && after > 0 {
                out.progress(&format!(
                    "{} messages were lost: they came faster than they were fetched",
                    seq - after - 1
                ));
            }
            after = seq;
            count += 1;
            let from = if message["direction"] == "unit-to-cloud" { "unit" } else { "cloud" };
            put(file, &json!({"at": message["at"], "from": from, "frame": message["message"]}))?;
        }
        if left.is_some_and(|left| left.is_zero()) {
            out.progress(&format!("{count} messages recorded"));
            return Ok(());
        }
        if left.is_some_and(|left| left < Duration::from_secs(1)) {
            // The cloud holds questions for whole seconds.
            tokio::time::sleep(left.unwrap_or_default()).await;
        }
    }
}

/// Where to go on after the cloud was away: it counts anew when all it has is older than what we know.
fn position(after: u64, present: impl Iterator<Item = u64>) -> u64 {
    if present.max().unwrap_or(0) < after { 0 } else { after }
}

/// `aosctl protocol record --from-log FILE`.
pub fn from_log(log: &Path, arguments: &Record, out: &Output) -> Result<()> {
    let frames = frames::load(&log.to_string_lossy())?;
    let mut file = target(arguments.file.as_ref())?;
    let mut latest: Option<Timestamp> = None;
    for frame in &frames {
        let message = serde_json::from_slice::<Value>(&frame.bytes);
        latest = latest.max(time_of(frame, message.as_ref().ok()));
        let text = || Value::String(String::from_utf8_lossy(&frame.bytes).into_owned());
        let line = json!({
            "at": latest.map(time::to_text),
            "from": frames::sender(direction_of(frame, message.as_ref().ok())),
            "frame": message.unwrap_or_else(|_| text()),
        });
        put(file.as_mut(), &line)?;
    }
    out.progress(&format!("{} messages recorded", frames.len()));
    Ok(())
}

/// When a frame passed. A message log has no times of its own, but messages say when they were made. For a
/// repetition that is long ago, so callers do not let time go back.
pub fn time_of(frame: &Frame, message: Option<&Value>) -> Option<Timestamp> {
    let made = || message?["header"]["createdAt"].as_str().and_then(time::from_text);
    frame.at.or_else(made)
}

/// Who sent a frame; its kind tells where the file does not.
pub fn direction_of(frame: &Frame, message: Option<&Value>) -> Direction {
    let kind = || message?["data"]["messageType"].as_str().and_then(MessageType::parse);
    frame.direction.or_else(|| kind().map(MessageType::direction)).unwrap_or(Direction::Both)
}

/// A file that only its owner reads, for there are passwords in message logs; or standard output.
fn target(path: Option<&PathBuf>) -> Result<Box<dyn Write>> {
    let Some(path) = path else { return Ok(Box::new(std::io::stdout())) };
    let opened = OpenOptions::new().create(true).write(true).truncate(true).mode(0o600).open(path);
    Ok(Box::new(opened.with_context(|| format!("cannot write {}", path.display()))?))
}

fn put(file: &mut dyn Write, line: &Value) -> Result<()> {
    writeln!(file, "{line}").and_then(|()| file.flush()).context("cannot write the recording")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cloud_that_counts_anew_is_followed_from_its_beginning() {
        assert_eq!(position(7, [5, 6, 7].into_iter()), 7, "it was only away");
        assert_eq!(position(7, [6, 7, 8].into_iter()), 7);
        assert_eq!(position(7, [1, 2].into_iter()), 0, "it was started anew");
        assert_eq!(position(7, std::iter::empty()), 0);
        assert_eq!(position(0, std::iter::empty()), 0);
    }
}
