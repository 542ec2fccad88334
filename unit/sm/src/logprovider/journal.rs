//! The system's log, from the systemd journal by `journalctl`.
//!
//! The program runs for one request, oldest entries first, and is killed after 45 seconds: whoever asked
//! gives up after a minute. Entries longer than 256 KiB are named but not shown.

use std::io::{BufRead, BufReader, Read};
use std::time::Duration;

use tokio::process::Child;

use super::lines::Window;
use super::parts::Parts;
use crate::Error;
use crate::journal::{self, Entry, MAX_ENTRY, bytes};

/// Time for everything.
pub const LIMIT: Duration = Duration::from_secs(45);

/// Starts to read; the text comes out of the pipe.
pub fn start(window: Window) -> Result<(Child, std::io::PipeReader), Error> {
    let failed = || Error::system("run journalctl");
    let (reader, writer) = std::io::pipe().map_err(failed())?;
    let mut command = journal::command();
    if window.from > 0 {
        command.arg(format!("--since=@{}", window.from));
    }
    // Its end is inclusive and may be no further than its clock goes; the exact one is looked at here.
    if i64::try_from(window.till).is_ok() {
        command.arg(format!("--until=@{}", window.till));
    }
    command.stdout(writer);
    let child = command.spawn().map_err(failed())?;
    Ok((child, reader))
}

/// Adds the entries within the window; every line of a message is a line.
pub fn read(source: impl Read, window: Window, parts: &mut Parts) -> Result<(), Error> {
    let mut source = BufReader::new(source);
    let mut buffer = Vec::new();
    let failed = || Error::system("read the journal");
    loop {
        buffer.clear();
        let count = (&mut source).take(MAX_ENTRY as u64).read_until(b'\n', &mut buffer).map_err(failed())?;
        if count == 0 {
            return Ok(());
        }
        let whole = buffer.last() == Some(&b'\n');
        if whole {
            if let Ok(entry) = serde_json::from_slice::<Entry>(&buffer) {
                add(&entry, window, parts)?;
            }
            continue;
        }
        tracing::debug!("an entry of the journal is too long to be shown");
        source.skip_until(b'\n').map_err(failed())?;
    }
}

fn add(entry: &Entry, window: Window, parts: &mut Parts) -> Result<(), Error> {
    let at = entry.micros / 1_000_000;
    if !window.contains(at) {
        return Ok(());
    }
    let named = [&entry.unit, &entry.identifier].into_iter().map(bytes).find(|name| !name.is_empty());
    let mut line = named.unwrap_or_else(|| b"-".to_vec());
    line.truncate(128);
    line.push(b' ');
    let name = line.len();
    let message = bytes(&entry.message);
    for text in message.split(|&byte| byte == b'\n') {
        for piece in text.chunks(parts.limits().longest().saturating_sub(name).max(1)) {
            line.truncate(name);
            line.extend_from_slice(piece);
            parts.line(at, &line)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::logprovider::parts::Limits;

    #[test]
    fn entries_are_lines_with_unit_and_time() {
        let folder = tempfile::tempdir().unwrap();
        let mut parts = Parts::new(folder.path(), Limits::new(1 << 20, 4)).unwrap();
        let long = format!(r#"{{"__REALTIME_TIMESTAMP":"12000000","MESSAGE":"{}"}}"#, "x".repeat(300_000));
        let text = [
            r#"{"__REALTIME_TIMESTAMP":"9999999","MESSAGE":"early"}"#,
            r#"{"__REALTIME_TIMESTAMP":"10000000","_SYSTEMD_UNIT":"a.service","SYSLOG_IDENTIFIER":"b","MESSAGE":"one\ntwo"}"#,
            "no entry",
            &long,
            r#"{"__REALTIME_TIMESTAMP":"12000001","SYSLOG_IDENTIFIER":"kernel","MESSAGE":[98,255]}"#,
            r#"{"__REALTIME_TIMESTAMP":"12000002","_SYSTEMD_UNIT":["first","second"],"MESSAGE":null}"#,
            r#"{"__REALTIME_TIMESTAMP":"13000000","MESSAGE":"late"}"#,
        ];
        read(text.join("\n").as_bytes(), Window { from: 10, till: 13 }, &mut parts).unwrap();
        let mut plain = Vec::new();
        let data = parts.finish().unwrap().part(0).unwrap();
        flate2::read::GzDecoder::new(data.as_slice()).read_to_end(&mut plain).unwrap();
        let wanted: &[u8] =
            b"19700101000010Z a.service one\n19700101000010Z a.service two\n19700101000012Z kernel b\xff\n";
        assert_eq!(plain, wanted);
    }
}
