//! Caps log files without a pipe: the container writes the file itself, in append mode; when it has grown
//! past its cap the content is copied to the one old generation (`.1`) and the file is cut to nothing.
//!
//! inotify tells about the first write after a look; then the watch is taken away and the file is looked at
//! once `LOOK_AFTER` later. So a quiet service costs nothing and a talkative one four looks a second. Lines
//! written in the microseconds between the last look and the cut are lost; nothing else is. What a look finds is noted in the log's index (see
//! `index`); an index that grows past half the log's cap has the log cut too. While somebody reads, a log is
//! not cut until it has twice its cap.
//!
//! A service that writes faster than that is flooding: its log is looked at every `FLOOD_LOOK` until it is calm
//! again, and only one cut in a second keeps what was written, all others throw it away. So the disk sees one log
//! file a second at most, and the file itself has no time to grow. How much was lost is written into the log and
//! told to the clients.

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime};

use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify, WatchDescriptor};

use crate::index::{Event, Index, RECORD, Record, index_of, last_write, seconds};
use crate::protocol::Log;

const LOOK_AFTER: Duration = Duration::from_millis(250);
const FLOOD_LOOK: Duration = Duration::from_millis(20);
/// In a flood, what is written is kept this often.
const KEEP_EVERY: Duration = Duration::from_secs(1);
/// A log that ends with more than so many times its cap is cut once more.
const FLOODED: u64 = 2;
/// In a flood, clients are told this often.
const TELL_EVERY: Duration = Duration::from_mins(1);
/// How often a cut looks for what was written while it copied.
const CATCH_UP: usize = 4;
/// An end later than this after the announcement was not what had been announced.
const STOP_TIME: Duration = Duration::from_mins(10);
/// Bytes of log for each record of its index, on average, that are left room for.
const BYTES_PER_RECORD: u64 = 2 * RECORD;
/// Records there is always room for.
const MIN_RECORDS: u64 = 64;

struct Capped {
    log: Log,
    watch: Option<WatchDescriptor>,
    look_at: Option<Instant>,
    /// Second of the first write since the last look.
    written: Option<u64>,
    /// Its process is being stopped on purpose, since then.
    stopping: Option<Instant>,
    /// Last cut that kept the content.
    kept_at: Option<Instant>,
    /// Bytes thrown away since the last calm look.
    lost: u64,
    /// Bytes thrown away that nobody has been told of, and when somebody last was.
    untold: u64,
    told_at: Option<Instant>,
}

/// What a look at a log found.
enum Look {
    /// Room enough.
    Calm,
    /// It has to be cut, but somebody reads it just now.
    Read,
    /// It was cut and so many bytes thrown away.
    Cut { lost: u64 },
}

/// All log files under a cap.
pub struct Logs {
    inotify: Inotify,
    capped: BTreeMap<String, Capped>,
}

impl Logs {
    /// Opens the notification channel.
    pub fn new() -> nix::Result<Self> {
        let inotify = Inotify::init(InitFlags::IN_CLOEXEC | InitFlags::IN_NONBLOCK)?;
        Ok(Self { inotify, capped: BTreeMap::new() })
    }

    /// Descriptor that becomes readable when a log file was written.
    pub fn descriptor(&self) -> BorrowedFd<'_> {
        self.inotify.as_fd()
    }

    /// A process is about to write into `log`.
    pub fn begin(log: &Log) {
        note(log, None, |_| Some(Event::Started));
    }

    /// Caps `log` from now on; `id` names it.
    pub fn add(&mut self, id: &str, log: Log, now: Instant) {
        self.remove(id);
        let capped = Capped {
            log,
            watch: None,
            look_at: Some(now),
            written: None,
            stopping: None,
            kept_at: None,
            lost: 0,
            untold: 0,
            told_at: None,
        };
        self.capped.insert(id.to_owned(), capped);
    }

    /// The process will be ended by whoever started it.
    pub fn stopping(&mut self, id: &str, now: Instant) {
        if let Some(capped) = self.capped.get_mut(id) {
            capped.stopping = Some(now);
        }
    }

    /// The process has ended: notes how and stops capping.
    pub fn end(&mut self, id: &str, event: Event, now: Instant) {
        let Some(capped) = self.remove(id) else { return };
        let asked = capped.stopping.is_some_and(|since| now.saturating_duration_since(since) <= STOP_TIME);
        // What a flood wrote since the last look nobody would cut any more.
        let size = fs::metadata(&capped.log.path).map_or(0, |meta| meta.len());
        if size > FLOODED * capped.log.max_bytes
            && let Err(error) = look(&capped.log, capped.written, true)
        {
            crate::note(&format!("log {} is not cut: {error}", capped.log.path.display()));
        }
        note(&capped.log, capped.written, |_| Some(if asked { Event::Stopped } else { event }));
    }

    /// The process ended while nobody looked.
    pub fn end_unseen(log: &Log) {
        let noted = |last: Option<Record>| {
            last.is_some_and(|record| {
                record.event.is_crash() || matches!(record.event, Event::Exited(_) | Event::Stopped)
            })
        };
        note(log, None, |last| (!noted(last)).then_some(Event::Vanished));
    }

    fn remove(&mut self, id: &str) -> Option<Capped> {
        let mut capped = self.capped.remove(id)?;
        if let Some(watch) = capped.watch.take() {
            let _ = self.inotify.rm_watch(watch);
        }
        Some(capped)
    }

    /// Takes the notifications in.
    pub fn on_written(&mut self, now: Instant) {
        while let Ok(events) = self.inotify.read_events() {
            for event in events {
                let Some(capped) = self.capped.values_mut().find(|c| c.watch == Some(event.wd)) else {
                    continue;
                };
                let _ = self.inotify.rm_watch(event.wd);
                capped.watch = None;
                capped.look_at = Some(now + LOOK_AFTER);
                capped.written = Some(seconds(SystemTime::now()));
            }
        }
    }

    /// When the next look is due.
    pub fn next_look(&self) -> Option<Instant> {
        self.capped.values().filter_map(|c| c.look_at).min()
    }

    /// Looks at the files that are due and cuts the ones past their cap; answers which log lost how many bytes
    /// to a flood and has to be told about.
    pub fn look(&mut self, now: Instant) -> Vec<(String, u64)> {
        let mut floods = Vec::new();
        for (id, capped) in &mut self.capped {
            if capped.look_at.is_none_or(|at| at > now) {
                continue;
            }
            capped.look_at = None;
            let path = capped.log.path.clone();
            // Watched before the look, so that a write in between is not missed.
            match self.inotify.add_watch(&path, AddWatchFlags::IN_MODIFY) {
                Ok(watch) => capped.watch = Some(watch),
                Err(nix::errno::Errno::ENOENT) => continue,
                Err(error) => crate::note(&format!("log {} is not capped: {error}", path.display())),
            }
            let keep = capped.kept_at.is_none_or(|at| now.saturating_duration_since(at) >= KEEP_EVERY);
            match look(&capped.log, capped.written.take(), keep) {
                Ok(Look::Calm) => capped.lost = 0,
                Ok(Look::Read) => capped.look_at = Some(now + LOOK_AFTER),
                Ok(Look::Cut { lost }) => {
                    if keep {
                        capped.kept_at = Some(now);
                    }
                    // The little over the cap that a first cut loses is no flood yet.
                    if !keep || capped.lost > 0 || lost > capped.log.max_bytes {
                        capped.flooded(lost);
                    }
                    capped.look_at = Some(now + FLOOD_LOOK);
                    if let Some(watch) = capped.watch.take() {
                        let _ = self.inotify.rm_watch(watch);
                    }
                }
                Err(error) => crate::note(&format!("log {} is not looked after: {error}", path.display())),
            }
            let due = capped.told_at.is_none_or(|at| now.saturating_duration_since(at) >= TELL_EVERY);
            if capped.untold > 0 && due {
                capped.told_at = Some(now);
                floods.push((id.clone(), std::mem::take(&mut capped.untold)));
            }
        }
        floods
    }
}

impl Capped {
    fn flooded(&mut self, lost: u64) {
        self.untold += lost;
        self.lost += lost;
        if self.lost == 0 {
            return;
        }
        let line =
            format!("[aos] {} bytes of this log were thrown away: it is written too fast\n", self.lost);
        let file = OpenOptions::new().append(true).open(&self.log.path);
        if let Err(error) = file.and_then(|mut file| file.write_all(line.as_bytes())) {
            crate::note(&format!("cannot note a flood in {}: {error}", self.log.path.display()));
        }
    }
}

/// Brings the index up to date and cuts the log when it is time; with `keep`, its end becomes the old generation.
fn look(log: &Log, written: Option<u64>, keep: bool) -> io::Result<Look> {
    let meta = fs::metadata(&log.path)?;
    let mut index = Index::open(&log.path)?;
    index.grown(meta.len(), written.unwrap_or_else(|| last_write(&meta)))?;
    let records = (log.max_bytes / BYTES_PER_RECORD).max(MIN_RECORDS);
    if meta.len() <= log.max_bytes && index.len() <= records * RECORD {
        return Ok(Look::Calm);
    }
    if !index.try_lock()
        && meta.len() <= log.max_bytes.saturating_mul(2)
        && index.len() <= 2 * records * RECORD
    {
        return Ok(Look::Read);
    }
    if keep {
        rotate(log, &mut index, meta.len(), || Ok(()))?;
        return Ok(Look::Cut { lost: meta.len().saturating_sub(log.max_bytes) });
    }
    let begin = index.begin();
    index.clear()?;
    let file = OpenOptions::new().write(true).open(&log.path)?;
    let lost = file.metadata()?.len();
    file.set_len(0)?;
    index.begin_at(begin.wrapping_add(lost))?;
    Ok(Look::Cut { lost })
}

/// Notes what happened at the end of the log; `event` is given the newest record.
fn note(log: &Log, written: Option<u64>, event: impl FnOnce(Option<Record>) -> Option<Event>) {
    let result = Index::open(&log.path).and_then(|mut index| {
        let size = match fs::metadata(&log.path) {
            Ok(meta) => {
                index.grown(meta.len(), written.unwrap_or_else(|| last_write(&meta)))?;
                meta.len()
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                index.clear()?;
                0
            }
            Err(error) => return Err(error),
        };
        let at = seconds(SystemTime::now());
        event(index.last()).map_or(Ok(()), |event| index.put(Record { offset: size, at, event }))
    });
    if let Err(error) = result {
        crate::note(&format!("the index of {} is not kept: {error}", log.path.display()));
    }
}

/// Name of the old generation.
pub fn old_generation(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".1");
    PathBuf::from(name)
}

/// Every file that belongs to a log.
pub fn files_of(log: &Path) -> [PathBuf; 4] {
    let old = old_generation(log);
    [index_of(log), index_of(&old), old, log.to_owned()]
}

/// In an order in which a kill leaves no index beside a text it does not belong to: better none than a wrong
/// one. `on` is asked between two steps whether to go on; tests end it there.
fn rotate(log: &Log, index: &mut Index, size: u64, mut on: impl FnMut() -> io::Result<()>) -> io::Result<()> {
    let old = old_generation(&log.path);
    let mut from = OpenOptions::new().read(true).write(true).open(&log.path)?;
    let shift = size.saturating_sub(log.max_bytes);
    match fs::remove_file(index_of(&old)) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => on()?,
    }
    from.seek(SeekFrom::Start(shift))?;
    let mut to: File = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&old)?;
    on()?;
    io::copy(&mut (&mut from).take(size - shift), &mut to)?;
    on()?;
    index.copy_tail(shift, &index_of(&old))?;
    on()?;
    let begin = index.begin();
    index.clear()?;
    on()?;
    // What was written meanwhile; looked for right before the cut, and not for ever.
    let mut end = size;
    for _ in 0..CATCH_UP {
        let now = from.metadata()?.len();
        if now <= end {
            break;
        }
        io::copy(&mut (&mut from).take(now - end), &mut to)?;
        end = now;
    }
    from.set_len(0)?;
    index.begin_at(begin.wrapping_add(end))
}

#[cfg(test)]
#[path = "logs_tests.rs"]
mod tests;
