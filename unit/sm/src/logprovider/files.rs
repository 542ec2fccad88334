//! Reads the log files of instances, with the index that the keeper maintains beside them.
//!
//! While a log is read its index is locked, so that the keeper does not cut it; nothing is waited for
//! meanwhile but the disk.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{BufReader, ErrorKind, Seek, SeekFrom};
use std::path::{Path, PathBuf};

use aos_keep::index::{Event, Record, Records, index_of, last_write};
use aos_keep::old_generation;

use super::lines::{Crash, CrashFinder, Lines, Place, Window};
use super::merge::Next;
use crate::Error;

/// Memory for what is read ahead of a file, bytes.
const AHEAD: usize = 4096;

/// All that one instance wrote.
pub fn instance(log: &Path, longest: usize) -> Result<Next<'static>, Error> {
    let lock = lock(log)?;
    let end = Place { file: usize::MAX, offset: u64::MAX };
    Ok(lines(log, Place::default(), end, longest, lock))
}

/// What one instance wrote before its last crash within the window, and how it ended; `None` when there was
/// no crash.
pub fn crash(log: &Path, window: Window, longest: usize) -> Result<Option<Next<'static>>, Error> {
    let lock = lock(log)?;
    let mut finder = CrashFinder::new(window);
    for (number, path) in generations(log).iter().enumerate() {
        if let Some(index) = open(&index_of(path))? {
            Records::new(BufReader::new(index)).for_each(|record| finder.see(number, record));
        }
    }
    let Some(Crash { start, end, at, event }) = finder.found else { return Ok(None) };
    let mut written = lines(log, start, end, longest, lock);
    let mut last = Some(match event {
        Event::Exited(code) => format!("process exited with code {code}"),
        Event::Killed(signal) => format!("process killed by signal {signal}"),
        _ => "process ended, its exit status is not known".to_owned(),
    });
    Ok(Some(Box::new(move |line| {
        if let Some(at) = written(line)? {
            return Ok(Some(at));
        }
        let Some(text) = last.take() else { return Ok(None) };
        line.clear();
        line.extend_from_slice(text.as_bytes());
        Ok(Some(at))
    })))
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

type FileLines = Lines<BufReader<File>, Box<dyn Iterator<Item = Record>>>;

/// From one place to another, through both files; the second is opened when the first has ended. `lock` is
/// held as long.
fn lines(log: &Path, start: Place, end: Place, longest: usize, lock: Option<File>) -> Next<'static> {
    let mut files: VecDeque<(usize, PathBuf)> = generations(log)
        .into_iter()
        .enumerate()
        .filter(|(number, _)| (start.file..=end.file).contains(number))
        .collect();
    let mut reading: Option<(PathBuf, FileLines)> = None;
    Box::new(move |line| {
        let _held = &lock;
        loop {
            if let Some((path, lines)) = &mut reading
                && let Some(at) = lines.next(line).map_err(Error::file("read", path.clone()))?
            {
                return Ok(Some(at));
            }
            let Some((number, path)) = files.pop_front() else { return Ok(None) };
            let from = if number == start.file { start.offset } else { 0 };
            let till = if number == end.file { end.offset } else { u64::MAX };
            reading = file_lines(&path, from, till, longest)?.map(|lines| (path, lines));
        }
    })
}

fn file_lines(path: &Path, from: u64, till: u64, longest: usize) -> Result<Option<FileLines>, Error> {
    let Some(mut file) = open(path)? else { return Ok(None) };
    let meta = file.metadata().map_err(Error::file("look at", path))?;
    file.seek(SeekFrom::Start(from)).map_err(Error::file("read", path))?;
    let records: Box<dyn Iterator<Item = Record>> = match open(&index_of(path))? {
        Some(index) => Box::new(Records::new(BufReader::with_capacity(AHEAD, index))),
        None => Box::new(std::iter::empty()),
    };
    let text = BufReader::with_capacity(AHEAD, file);
    Ok(Some(Lines::new(text, records, from..till.min(meta.len()), last_write(&meta), longest)))
}
