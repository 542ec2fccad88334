//! Frames out of files: single messages, message logs of Units, recordings.
//!
//! A file is read whole, up to [`MAX_FILE`] bytes.

use std::io::Read as _;

use anyhow::{Context, Result, bail};
use aos_cloud_protocol::{Direction, time};
use jiff::Timestamp;
use serde::Deserialize;
use serde_json::Value;

use crate::args::Side;

/// Longest file, bytes: some hours of a busy link.
const MAX_FILE: u64 = 256 * 1024 * 1024;
/// What a recording has in place of a secret.
const BLANK: &str = "***";

/// One frame.
pub struct Frame {
    /// Counts from 1.
    pub number: usize,
    /// When it passed, where the file says.
    pub at: Option<Timestamp>,
    /// Which way, where the file says.
    pub direction: Option<Direction>,
    pub bytes: Vec<u8>,
}

/// A line of a recording.
#[derive(Deserialize)]
struct Line {
    at: Option<String>,
    from: String,
    frame: Value,
}

impl Side {
    /// The way of what this end sends.
    pub const fn direction(self) -> Direction {
        match self {
            Self::Unit => Direction::UnitToCloud,
            Self::Cloud => Direction::CloudToUnit,
        }
    }
}

/// `unit` or `cloud`.
pub const fn sender(direction: Direction) -> &'static str {
    match direction {
        Direction::UnitToCloud => "unit",
        Direction::CloudToUnit => "cloud",
        Direction::Both => "either",
    }
}

/// All frames of a file; `-` is standard input.
pub fn load(file: &str) -> Result<Vec<Frame>> {
    let mut text = Vec::new();
    if file == "-" {
        std::io::stdin()
            .lock()
            .take(MAX_FILE + 1)
            .read_to_end(&mut text)
            .context("cannot read standard input")?;
    } else {
        let opened = std::fs::File::open(file).with_context(|| format!("cannot open {file}"))?;
        opened.take(MAX_FILE + 1).read_to_end(&mut text).with_context(|| format!("cannot read {file}"))?;
    }
    if text.len() as u64 > MAX_FILE {
        bail!("{file} is longer than {MAX_FILE} bytes");
    }
    let frames = split(&text);
    if frames.is_empty() {
        bail!("{file} holds no message");
    }
    Ok(frames)
}

/// One frame per line where the first line is one, else all of it is one.
fn split(text: &[u8]) -> Vec<Frame> {
    let trimmed = text.trim_ascii();
    let first = trimmed.split(|&byte| byte == b'\n').next().unwrap_or_default();
    let is_line = |line: &[u8]| logged(line).is_some() || serde_json::from_slice::<Value>(line).is_ok();
    let pieces: Vec<&[u8]> = if is_line(first) {
        text.split(|&byte| byte == b'\n').map(<[u8]>::trim_ascii).filter(|line| !line.is_empty()).collect()
    } else {
        vec![trimmed].into_iter().filter(|whole| !whole.is_empty()).collect()
    };
    pieces.into_iter().zip(1..).map(|(piece, number)| frame(piece, number)).collect()
}

/// What a line of a message log says: CM writes `TX: ` before what it sends.
fn logged(line: &[u8]) -> Option<(Direction, &[u8])> {
    let sent = line.strip_prefix(b"TX:").map(|rest| (Direction::UnitToCloud, rest));
    let (direction, rest) =
        sent.or_else(|| line.strip_prefix(b"RX:").map(|rest| (Direction::CloudToUnit, rest)))?;
    Some((direction, rest.trim_ascii()))
}

fn frame(piece: &[u8], number: usize) -> Frame {
    if let Some((direction, bytes)) = logged(piece) {
        return Frame { number, at: None, direction: Some(direction), bytes: bytes.to_vec() };
    }
    match serde_json::from_slice::<Line>(piece) {
        Ok(mut line) => {
            let direction = match line.from.as_str() {
                "unit" => Some(Direction::UnitToCloud),
                "cloud" => Some(Direction::CloudToUnit),
                _ => None,
            };
            // A blanked key is no base64 any more.
            fill_keys(&mut line.frame);
            let bytes = match line.frame {
                Value::String(text) => text.into_bytes(),
                message => message.to_string().into_bytes(),
            };
            Frame { number, at: line.at.as_deref().and_then(time::from_text), direction, bytes }
        }
        Err(_) => Frame { number, at: None, direction: None, bytes: piece.to_vec() },
    }
}

fn fill_keys(value: &mut Value) {
    match value {
        Value::Object(members) => {
            for (name, member) in members {
                if name == "blockKey" && member == BLANK {
                    *member = Value::String(String::new());
                }
                fill_keys(member);
            }
        }
        Value::Array(entries) => entries.iter_mut().for_each(fill_keys),
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_are_split_by_what_their_first_line_is() {
        let whole = split(b"{\n  \"header\": {}\n}\n");
        assert_eq!((whole.len(), whole[0].direction), (1, None));
        let log = split(b"TX: {\"a\":1}\nRX: {\"b\":2}\nRX: broken\n\n");
        assert_eq!(log.len(), 3);
        assert_eq!(
            (log[0].direction, log[1].direction),
            (Some(Direction::UnitToCloud), Some(Direction::CloudToUnit))
        );
        assert_eq!(log[2].bytes, b"broken");
        let recording = split(
            b"{\"at\":\"2026-01-01T00:00:00Z\",\"from\":\"unit\",\"frame\":{\"data\":{\"blockKey\":\"***\"}}}\n\
              {\"at\":null,\"from\":\"cloud\",\"frame\":\"no JSON\"}",
        );
        assert_eq!(recording[0].bytes, b"{\"data\":{\"blockKey\":\"\"}}");
        assert!(recording[0].at.is_some());
        assert_eq!((recording[1].number, recording[1].bytes.as_slice()), (2, &b"no JSON"[..]));
        assert!(split(b" \n").is_empty());
    }
}
