//! Reads the log files of instances, with the index that the keeper maintains beside them.
//!
//! While a log is read its index is locked, so that the keeper does not cut it; nothing is waited for
//! meanwhile but the disk.

use std::fs::File;
use std::io::{BufReader, ErrorKind, Seek, SeekFrom};
use std::path::{Path, PathBuf};

use aos_keep::index::{Event, Record, Records, index_of, last_write};
use aos_keep::old_generation;

use super::lines::{CrashFinder, Place, Window, dated};
use super::parts::Parts;
use crate::Error;

/// Adds the lines of one instance within the window.
pub fn instance(log: &Path, window: Window, parts: &mut Parts) -> Result<(), Error> {
    let _lock = lock(log)?;
    let end = Place { file: usize::MAX, offset: u64::MAX };
    lines(log, Place::default(), end, window, parts)
}

/// Adds the lines of the last crash of one instance within the window; false when there was none.
pub fn crash(log: &Path, window: Window, parts: &mut Parts) -> Result<bool, Error> {
    let _lock = lock(log)?;
    let mut finder = CrashFinder::new(window);
    for (number, path) in generations(log).iter().enumerate() {
        if let Some(index) = open(&index_of(path))? {
            Records::new(BufReader::new(index)).for_each(|record| finder.see(number, record));
        }
    }
    let Some(crash) = finder.found else { return Ok(false) };
    lines(log, crash.start, crash.end, window, parts)?;
    let end = match crash.event {
        Event::Exited(code) => format!("process exited with code {code}"),
        Event::Killed(signal) => format!("process killed by signal {signal}"),
        _ => "process ended, its exit status is not known".to_owned(),
    };
    parts.line(crash.at, end.as_bytes())?;
    Ok(true)
}

fn generations(log: &Path) -> [PathBuf; 2] {
    [old_generation(log), log.to_owned()]
}

fn open(path: &Path) -> Result<Option<File>, Error> {
    match File::open(path) {
        Ok(file) => Ok(Some(file)),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(error) => Err(Error::file("open", path)(error)),
    }
}

/// A log without index is written by nobody who would cut it.
fn lock(log: &Path) -> Result<Option<File>, Error> {
    let path = index_of(log);
    let index = open(&path)?;
    if let Some(index) = &index {
        index.lock_shared().map_err(Error::file("lock", path))?;
    }
    Ok(index)
}

fn lines(log: &Path, start: Place, end: Place, window: Window, parts: &mut Parts) -> Result<(), Error> {
    let longest = parts.limits().longest();
    for (number, path) in generations(log).iter().enumerate() {
        if number < start.file || number > end.file {
            continue;
        }
        let Some(mut file) = open(path)? else { continue };
        let meta = file.metadata().map_err(Error::file("look at", path))?;
        let from = if number == start.file { start.offset } else { 0 };
        let till = if number == end.file { end.offset.min(meta.len()) } else { meta.len() };
        file.seek(SeekFrom::Start(from)).map_err(Error::file("read", path))?;
        let records: Box<dyn Iterator<Item = Record>> = match open(&index_of(path))? {
            Some(index) => Box::new(Records::new(BufReader::new(index))),
            None => Box::new(std::iter::empty()),
        };
        let mut failure = None;
        let read =
            dated(&mut BufReader::new(file), records, from..till, last_write(&meta), longest, |at, line| {
                if window.contains(at)
                    && let Err(error) = parts.line(at, line)
                {
                    failure = Some(error);
                    return Err(std::io::Error::other("stopped"));
                }
                Ok(())
            });
        if let Some(error) = failure {
            return Err(error);
        }
        read.map_err(Error::file("read", path))?;
    }
    Ok(())
}
