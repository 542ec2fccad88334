//! Reads the log files of instances, with the index that the keeper maintains beside them.
//!
//! While a log is read its index is locked, so that the keeper does not cut it; nothing is waited for
//! meanwhile but the disk.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{BufReader, ErrorKind, Seek, SeekFrom};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use aos_keep::index::{Event, Record, Records, begin, index_of, last_write};
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

/// All whole lines that one instance wrote until now; and their end for [`following`].
pub fn instance_until_now(log: &Path, longest: usize) -> Result<(Next<'static>, u64), Error> {
    let lock = lock(log)?;
    let end = match open(log)? {
        Some(file) => whole_lines(&file, longest).map_err(Error::file("read", log))?,
        None => 0,
    };
    let place = lock.as_ref().map_or(0, begin).wrapping_add(end);
    Ok((lines(log, Place::default(), Place { file: 1, offset: end }, longest, lock), place))
}

/// Bytes up to the last line feed, unless that is too far away.
fn whole_lines(file: &File, longest: usize) -> std::io::Result<u64> {
    let size = file.metadata()?.len();
    let mut end = vec![0; longest.min(usize::try_from(size).unwrap_or(longest))];
    let start = size - end.len() as u64;
    file.read_exact_at(&mut end, start)?;
    let feed = end.iter().rposition(|&byte| byte == b'\n');
    Ok(feed.map_or(if start == 0 { 0 } else { size }, |feed| start + feed as u64 + 1))
}

/// What comes next in a log that is followed.
#[derive(Debug, PartialEq, Eq)]
pub enum Following {
    /// Nothing yet.
    Nothing,
    /// These bytes.
    Bytes(Vec<u8>),
    /// So many bytes that are not there any more.
    Lost(u64),
    /// Somebody has made the log anew.
    Anew,
}

/// What was written from `place` on, counted from the first byte there ever was in the log, also across cuts; at most
/// `most` bytes. `place` is moved on.
pub fn following(log: &Path, place: &mut u64, most: usize) -> Result<Following, Error> {
    let lock = lock(log)?;
    let start = lock.as_ref().map_or(0, begin);
    if *place < start {
        let old = old_generation(log);
        let old_start = open(&index_of(&old))?.as_ref().map(begin);
        let bytes = match old_start {
            Some(old_start) if old_start <= *place => read_at(&old, *place - old_start, most)?,
            _ => Vec::new(),
        };
        if !bytes.is_empty() {
            *place += bytes.len() as u64;
            return Ok(Following::Bytes(bytes));
        }
        let next = old_start.filter(|old_start| old_start > place).unwrap_or(start).min(start);
        let lost = next - *place;
        *place = next;
        return Ok(Following::Lost(lost));
    }
    let size = std::fs::metadata(log).map_or(0, |meta| meta.len());
    if *place - start > size {
        *place = start;
        return Ok(Following::Anew);
    }
    let bytes = read_at(log, *place - start, most)?;
    *place += bytes.len() as u64;
    Ok(if bytes.is_empty() { Following::Nothing } else { Following::Bytes(bytes) })
}

fn read_at(path: &Path, offset: u64, most: usize) -> Result<Vec<u8>, Error> {
    let Some(file) = open(path)? else { return Ok(Vec::new()) };
    let mut bytes = vec![0; most];
    let count = file.read_at(&mut bytes, offset).map_err(Error::file("read", path))?;
    bytes.truncate(count);
    Ok(bytes)
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
