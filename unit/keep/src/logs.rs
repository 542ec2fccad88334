//! Caps log files without a pipe: the container writes the file itself, in append mode; when it has grown
//! past its cap the content is copied to the one old generation (`.1`) and the file is cut to nothing.
//!
//! inotify tells about the first write after a look; then the watch is taken away and the file is looked at
//! once `LOOK_AFTER` later. So a quiet service costs nothing and a talkative one four looks a second. Lines
//! written between copy and cut are lost; nothing else is. What a look finds is noted in the log's index (see
//! `index`); an index that grows past half the log's cap has the log cut too. While somebody reads, a log is
//! not cut until it has twice its cap.

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime};

use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify, WatchDescriptor};

use crate::index::{Event, Index, RECORD, Record, index_of, last_write, seconds};
use crate::protocol::Log;

const LOOK_AFTER: Duration = Duration::from_millis(250);
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
        let capped = Capped { log, watch: None, look_at: Some(now), written: None, stopping: None };
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

    /// Looks at the files that are due and cuts the ones past their cap.
    pub fn look(&mut self, now: Instant) {
        for capped in self.capped.values_mut() {
            if capped.look_at.is_none_or(|at| at > now) {
                continue;
            }
            capped.look_at = None;
            // Watched before the look, so that a write in between is not missed.
            match self.inotify.add_watch(&capped.log.path, AddWatchFlags::IN_MODIFY) {
                Ok(watch) => capped.watch = Some(watch),
                Err(nix::errno::Errno::ENOENT) => continue,
                Err(error) => {
                    crate::note(&format!("log {} is not capped: {error}", capped.log.path.display()));
                }
            }
            match look(&capped.log, capped.written.take()) {
                Ok(true) => {}
                // Somebody reads it just now.
                Ok(false) => capped.look_at = Some(now + LOOK_AFTER),
                Err(error) => {
                    crate::note(&format!("log {} is not looked after: {error}", capped.log.path.display()));
                }
            }
        }
    }
}

/// Brings the index up to date and cuts the log when it is time; false when it has to wait.
fn look(log: &Log, written: Option<u64>) -> io::Result<bool> {
    let meta = fs::metadata(&log.path)?;
    let mut index = Index::open(&log.path)?;
    index.grown(meta.len(), written.unwrap_or_else(|| last_write(&meta)))?;
    let records = (log.max_bytes / BYTES_PER_RECORD).max(MIN_RECORDS);
    if meta.len() <= log.max_bytes && index.len() <= records * RECORD {
        return Ok(true);
    }
    if !index.try_lock()
        && meta.len() <= log.max_bytes.saturating_mul(2)
        && index.len() <= 2 * records * RECORD
    {
        return Ok(false);
    }
    rotate(log, &mut index, meta.len(), || Ok(())).map(|()| true)
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
    index.clear()?;
    on()?;
    from.set_len(0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    #[test]
    fn a_file_past_its_cap_becomes_the_old_generation() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("service.log");
        let mut writer = OpenOptions::new().append(true).create(true).open(&path).unwrap();
        let mut logs = Logs::new().unwrap();
        let start = Instant::now();
        logs.add("a", Log { path: path.clone(), max_bytes: 100 }, start);
        logs.look(start);
        assert_eq!(logs.next_look(), None, "a quiet log asks for no look");

        writer.write_all(&[b'x'; 150]).unwrap();
        logs.on_written(start);
        assert_eq!(logs.next_look(), Some(start + LOOK_AFTER));
        logs.look(start + LOOK_AFTER);
        assert_eq!(fs::metadata(&path).unwrap().len(), 0);
        assert_eq!(fs::metadata(old_generation(&path)).unwrap().len(), 100);

        writer.write_all(b"more").unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"more", "the writer goes on at the new start");
    }

    /// Time of every byte of a log, by its index.
    fn dated(path: &Path) -> Vec<u64> {
        let mut times = Vec::new();
        for record in crate::index::Records::new(fs::read(index_of(path)).unwrap_or_default().as_slice()) {
            times.resize(usize::try_from(record.offset).unwrap(), record.at);
        }
        times
    }

    proptest::proptest! {
        // Each byte written is the second of its writing; both generations must agree with their index.
        #[test]
        fn times_stay_right_over_cuts(writes in proptest::collection::vec((0usize..60, 0u8..3), 1..80)) {
            let folder = tempfile::tempdir().unwrap();
            let log = Log { path: folder.path().join("l"), max_bytes: 100 };
            let mut writer = OpenOptions::new().append(true).create(true).open(&log.path).unwrap();
            let mut at = 1;
            for (size, later) in writes {
                at += later;
                writer.write_all(&vec![at; size]).unwrap();
                proptest::prop_assert!(look(&log, Some(u64::from(at))).unwrap());
                for path in [old_generation(&log.path), log.path.clone()] {
                    let bytes: Vec<u64> = fs::read(&path).unwrap_or_default().into_iter().map(u64::from).collect();
                    proptest::prop_assert!(bytes.len() <= 100);
                    proptest::prop_assert_eq!(dated(&path), bytes);
                }
            }
        }
    }

    // Each byte written is its second. A keeper that dies within a cut leaves times that are right or none, and
    // the next one goes on from there: at worst with the time of the file, which is `LATE`.
    #[test]
    fn a_cut_that_is_broken_off_leaves_no_wrong_time() {
        const LATE: u64 = 250;
        let none_wrong = |log: &Log, step| {
            let mut exact = 0;
            for path in [old_generation(&log.path), log.path.clone()] {
                let bytes = fs::read(&path).unwrap();
                for (at, byte) in dated(&path).into_iter().zip(bytes) {
                    assert!(at == u64::from(byte) || at == LATE, "{byte} told as {at} after step {step}");
                    exact += usize::from(at != LATE);
                }
            }
            exact
        };
        for (step, late) in (1..=5).flat_map(|step| [(step, 5), (step, 300)]) {
            let folder = tempfile::tempdir().unwrap();
            let log = Log { path: folder.path().join("l"), max_bytes: 100 };
            let mut writer = OpenOptions::new().append(true).create(true).open(&log.path).unwrap();
            let mut write = |times: std::ops::Range<u8>| {
                for at in times {
                    writer.write_all(&[at; 10]).unwrap();
                    look(&log, Some(u64::from(at))).unwrap();
                }
            };
            write(1..20);
            assert!(fs::metadata(old_generation(&log.path)).unwrap().len() == 100, "cut once before");
            writer.write_all(&[20; 60]).unwrap();
            let size = fs::metadata(&log.path).unwrap().len();
            assert!(size > log.max_bytes);
            let mut index = Index::open(&log.path).unwrap();
            index.grown(size, 20).unwrap();
            let mut left = step;
            let broken = rotate(&log, &mut index, size, || {
                left -= 1;
                if left == 0 { Err(io::ErrorKind::Interrupted.into()) } else { Ok(()) }
            });
            assert!(broken.is_err(), "step {step} exists");
            none_wrong(&log, step);
            // Written while no keeper is there; the next one looks.
            writer.write_all(&vec![250; late]).unwrap();
            look(&log, Some(LATE)).unwrap();
            let exact = none_wrong(&log, step);
            assert!(exact >= 95 || step == 5 || late > 5, "{exact} times are kept after step {step}");
            assert_eq!(fs::metadata(&log.path).unwrap().len(), 0, "the cut is made up for");
        }
    }

    #[test]
    fn an_index_may_not_outgrow_its_log() {
        let folder = tempfile::tempdir().unwrap();
        let log = Log { path: folder.path().join("l"), max_bytes: 4096 };
        let mut writer = OpenOptions::new().append(true).create(true).open(&log.path).unwrap();
        for at in 1..1000 {
            writer.write_all(b"x").unwrap();
            look(&log, Some(at)).unwrap();
            assert!(fs::metadata(index_of(&log.path)).unwrap().len() <= 2048);
        }
        assert_eq!(dated(&log.path).last(), Some(&999));
        assert_eq!(fs::metadata(old_generation(&log.path)).unwrap().len(), 129);
    }

    #[test]
    fn a_log_is_not_cut_under_its_reader_unless_it_floods() {
        let folder = tempfile::tempdir().unwrap();
        let log = Log { path: folder.path().join("l"), max_bytes: 100 };
        fs::write(&log.path, [b'x'; 150]).unwrap();
        Index::open(&log.path).unwrap();
        let reader = File::open(index_of(&log.path)).unwrap();
        reader.lock_shared().unwrap();
        assert!(!look(&log, Some(1)).unwrap());
        assert_eq!(fs::metadata(&log.path).unwrap().len(), 150);
        fs::write(&log.path, [b'x'; 201]).unwrap();
        assert!(look(&log, Some(2)).unwrap());
        fs::write(&log.path, [b'x'; 150]).unwrap();
        assert!(!look(&log, Some(3)).unwrap());
        drop(reader);
        assert!(look(&log, Some(4)).unwrap());
        assert_eq!(fs::metadata(&log.path).unwrap().len(), 0);
    }

    #[test]
    fn ends_are_noted_once_and_as_what_they_were() {
        let folder = tempfile::tempdir().unwrap();
        let log = Log { path: folder.path().join("l"), max_bytes: 100 };
        let (mut logs, now) = (Logs::new().unwrap(), Instant::now());
        let mut run = |asked: Option<Instant>, event| {
            Logs::begin(&log);
            fs::write(&log.path, "words").unwrap();
            logs.add("a", log.clone(), now);
            if let Some(asked) = asked {
                logs.stopping("a", asked);
            }
            logs.end("a", event, now + STOP_TIME);
            logs.end("a", event, now + STOP_TIME);
        };
        run(None, Event::Exited(7));
        run(Some(now), Event::Killed(15));
        run(Some(now.checked_sub(Duration::from_secs(1)).unwrap()), Event::Killed(9));
        Logs::end_unseen(&log);
        Logs::begin(&log);
        Logs::end_unseen(&log);
        let bytes = fs::read(index_of(&log.path)).unwrap();
        let events: Vec<Event> = crate::index::Records::new(bytes.as_slice()).map(|r| r.event).collect();
        let (begin, words) = (Event::Started, Event::Written);
        let ends = [
            begin,
            words,
            Event::Exited(7),
            begin,
            Event::Stopped,
            begin,
            Event::Killed(9),
            begin,
            Event::Vanished,
        ];
        assert_eq!(events, ends);
    }
}
