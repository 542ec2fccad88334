//! Logs for whoever sits at the node (`aos logs`): the same files, without asking anybody.
//!
//! Following is the work of [`follow`](super::follow).

use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use aos_keep::index::seconds;

use super::follow::Watch;
use super::lines::Window;
use super::merge::{MAX_SOURCES, Next, merged};
use super::{files, own, parts};
use crate::Error;
use crate::ownlog;

/// Longest line in one piece, bytes.
pub(super) const LONGEST: usize = 8192;

/// What is shown.
#[derive(Debug, Clone)]
pub enum Shown {
    /// What instances wrote; the log files as the local status names them.
    Instances(Vec<PathBuf>),
    /// What the core components wrote, on a node without journal; the folder of their log files.
    Components(PathBuf),
}

/// Prints every line written since `since` (seconds since 1970), oldest first; with `follow` goes on with what
/// is written, for ever.
pub fn print_log(shown: &Shown, since: u64, follow: bool, out: &mut dyn Write) -> Result<(), Error> {
    // Watched before it is read: nothing is missed in between.
    let mut watch = follow.then(|| Watch::start(shown)).transpose()?;
    let window = Window { from: since, till: u64::MAX };
    let sources: Vec<Next<'_>> = match shown {
        Shown::Instances(logs) if logs.len() > MAX_SOURCES => {
            let what = "the number of logs that are put together (name an instance)".to_owned();
            return Err(Error::Limit { what, limit: MAX_SOURCES as u64 });
        }
        Shown::Instances(logs) => {
            let source = |log: &PathBuf| match &mut watch {
                None => files::instance(log, LONGEST),
                Some(watch) => watch.instance(log),
            };
            logs.iter().map(source).collect::<Result<_, _>>()?
        }
        Shown::Components(dir) => match &mut watch {
            None => own::sources(dir, LONGEST),
            Some(watch) => watch.components(dir),
        },
    };
    merged(sources, window, |at, line| print(out, at, line))?;
    out.flush().map_err(Error::system("print a log"))?;
    watch.map_or(Ok(()), |watch| watch.run(out))
}

/// A time given as RFC 3339 or as a duration before now, such as `30m`: seconds since 1970.
pub fn since(text: &str) -> Result<u64, Error> {
    if let Ok(time) = text.parse::<jiff::Timestamp>() {
        return Ok(u64::try_from(time.as_second()).unwrap_or(0));
    }
    let length = aos_duration_text::parse(text).map_err(|_| {
        let reason = "it is neither a time such as 2026-01-31T12:00:00Z nor a duration such as 30m";
        Error::invalid(format!("'{text}'"), reason)
    })?;
    Ok(seconds(SystemTime::now()).saturating_sub(length.as_secs()))
}

/// True when the folder has log files of core components.
pub fn has_components(dir: &Path) -> bool {
    !ownlog::present(dir).is_empty()
}

pub(super) fn print(out: &mut dyn Write, at: u64, line: &[u8]) -> Result<(), Error> {
    let mut text = parts::stamp(at).into_bytes();
    text.push(b' ');
    text.extend_from_slice(line);
    text.push(b'\n');
    out.write_all(&text).map_err(Error::system("print a log"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_is_read_in_both_forms() {
        let folder = tempfile::tempdir().unwrap();
        let log = folder.path().join("a.log");
        std::fs::write(&log, "one\n").unwrap();
        assert_eq!(since("1970-01-02T00:00:01Z").unwrap(), 86_401);
        let minute = seconds(SystemTime::now()) - since("1m").unwrap();
        assert!((60..=61).contains(&minute), "{minute}");
        assert!(since("soon").unwrap_err().to_string().contains("30m"));
        let mut out = Vec::new();
        print_log(&Shown::Instances(vec![log]), u64::MAX, false, &mut out).unwrap();
        assert_eq!(out, b"", "nothing that late");
    }
}
