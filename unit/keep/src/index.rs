//! Index beside a log file: when which part of it was written, and when its process started and ended.
//!
//! The writer of a log is the container itself, so its lines carry no time. The keeper notes a mark when the
//! file has grown: "up to this offset all was written no earlier than this second". The first write after a
//! look at the file gives the second and looks follow writes by a quarter of one, so a line is dated at
//! most 1.25 seconds early and never late. What was written while no keeper looked carries the time of the last of these writes.
//!
//! The file is `LOG.idx`, records of 16 bytes, appended, at most one mark a second. Marks of which the log
//! knows nothing (power was lost, somebody cut the log) are dropped. Whoever reads holds a shared lock on it:
//! the keeper does not cut the log meanwhile.
//!
//! The index of a log that has been cut begins with how many bytes were cut off so far, so that whoever follows the
//! log finds where he was.

use std::fs::{self, File, OpenOptions};
use std::io::{self, BufReader, BufWriter, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

const LENGTH: usize = 16;
/// Bytes of a record.
pub const RECORD: u64 = LENGTH as u64;
const TIME_BITS: u32 = 40;
/// Kind of the record that tells what was cut off.
const BEGIN: u64 = 7;

/// What a record tells.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Event {
    /// Everything before the offset, up to the mark before, was written from this time on.
    Written,
    /// A process starts to write here.
    Started,
    /// The process ended with this exit status.
    Exited(u8),
    /// A signal ended the process.
    Killed(u8),
    /// The process ended and nobody could tell how.
    Vanished,
    /// The process ended because that was asked for.
    Stopped,
}

impl Event {
    /// True for an end of the process that nobody asked for and that was no success.
    pub fn is_crash(self) -> bool {
        matches!(self, Self::Exited(1..) | Self::Killed(_) | Self::Vanished)
    }

    /// How a process ended, from what its parent was told.
    pub fn of_exit(code: Option<i32>, signal: Option<i32>) -> Self {
        let small = |number: i32| u8::try_from(number).unwrap_or(u8::MAX);
        match (code, signal) {
            (Some(code), _) => Self::Exited(small(code)),
            (None, Some(signal)) => Self::Killed(small(signal)),
            (None, None) => Self::Vanished,
        }
    }
}

/// One record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Record {
    /// Place in the log file, bytes from its start.
    pub offset: u64,
    /// Seconds since 1970, at least 1.
    pub at: u64,
    /// What happened there.
    pub event: Event,
}

impl Record {
    /// Its bytes.
    pub fn encode(self) -> [u8; LENGTH] {
        let (kind, value) = match self.event {
            Event::Written => (1, 0),
            Event::Started => (2, 0),
            Event::Exited(code) => (3, code),
            Event::Killed(signal) => (4, signal),
            Event::Vanished => (5, 0),
            Event::Stopped => (6, 0),
        };
        let at = self.at & ((1 << TIME_BITS) - 1);
        let word = at | u64::from(value) << TIME_BITS | kind << (TIME_BITS + 8);
        (u128::from(self.offset) | u128::from(word) << 64).to_le_bytes()
    }

    /// What bytes mean; `None` when they are none of ours.
    pub fn decode(bytes: [u8; LENGTH]) -> Option<Self> {
        let both = u128::from_le_bytes(bytes);
        let offset = u64::try_from(both & u128::from(u64::MAX)).ok()?;
        let word = u64::try_from(both >> 64).ok()?;
        let value = u8::try_from(word >> TIME_BITS & 0xff).ok()?;
        let event = match (word >> (TIME_BITS + 8), value) {
            (1, 0) => Event::Written,
            (2, 0) => Event::Started,
            (3, code) => Event::Exited(code),
            (4, signal) => Event::Killed(signal),
            (5, 0) => Event::Vanished,
            (6, 0) => Event::Stopped,
            _ => return None,
        };
        let at = word & ((1 << TIME_BITS) - 1);
        (at > 0).then_some(Self { offset, at, event })
    }
}

/// The record at the start of an index that tells how many bytes came before the first one of its log.
pub fn encode_begin(begin: u64) -> [u8; LENGTH] {
    (u128::from(begin) | u128::from(BEGIN << (TIME_BITS + 8)) << 64).to_le_bytes()
}

fn decode_begin(bytes: [u8; LENGTH]) -> Option<u64> {
    let both = u128::from_le_bytes(bytes);
    let begin = u64::try_from(both & u128::from(u64::MAX)).ok()?;
    (both == u128::from_le_bytes(encode_begin(begin))).then_some(begin)
}

/// How many bytes were written before the first one in an open index's log; 0 when nothing has been cut off.
pub fn begin(index: &File) -> u64 {
    let mut bytes = [0; LENGTH];
    index.read_exact_at(&mut bytes, 0).ok().and_then(|()| decode_begin(bytes)).unwrap_or(0)
}

/// The index of a log file.
pub fn index_of(log: &Path) -> PathBuf {
    let mut name = log.as_os_str().to_owned();
    name.push(".idx");
    PathBuf::from(name)
}

/// When the file was last written, seconds since 1970, at least 1.
pub fn last_write(meta: &fs::Metadata) -> u64 {
    seconds(meta.modified().unwrap_or(UNIX_EPOCH))
}

/// Seconds since 1970, at least 1.
pub fn seconds(time: SystemTime) -> u64 {
    time.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs().max(1)
}

/// The records of an index in order; ends at what is not readable, leaves out what goes backwards.
pub struct Records<R> {
    source: R,
    offset: u64,
}

impl<R: Read> Records<R> {
    /// Reads from the beginning of `source`.
    pub fn new(source: R) -> Self {
        Self { source, offset: 0 }
    }
}

impl<R: Read> Iterator for Records<R> {
    type Item = Record;

    fn next(&mut self) -> Option<Record> {
        loop {
            let mut bytes = [0; LENGTH];
            self.source.read_exact(&mut bytes).ok()?;
            if decode_begin(bytes).is_some() {
                continue;
            }
            let record = Record::decode(bytes)?;
            if record.offset >= self.offset {
                self.offset = record.offset;
                return Some(record);
            }
        }
    }
}

/// An index being written; opened for each look, so that nothing of it has to be remembered.
pub(crate) struct Index {
    file: File,
    len: u64,
    last: Option<Record>,
}

impl Index {
    /// Opens the index of `log`, or begins one.
    pub(crate) fn open(log: &Path) -> io::Result<Self> {
        let mut options = OpenOptions::new();
        let file = options.read(true).write(true).create(true).mode(0o600).open(index_of(log))?;
        let size = file.metadata()?.len();
        let mut index = Self { file, len: size / RECORD * RECORD, last: None };
        // The end may be torn after a loss of power.
        while index.len > 0 {
            let mut bytes = [0; LENGTH];
            index.file.read_exact_at(&mut bytes, index.len - RECORD)?;
            index.last = Record::decode(bytes);
            if index.last.is_some() || decode_begin(bytes).is_some() {
                break;
            }
            index.len -= RECORD;
        }
        if index.len != size {
            index.file.set_len(index.len)?;
        }
        Ok(index)
    }

    /// Bytes.
    pub(crate) fn len(&self) -> u64 {
        self.len
    }

    /// The newest record.
    pub(crate) fn last(&self) -> Option<Record> {
        self.last
    }

    /// The log has now `size` bytes; what is new was written from `at` on.
    pub(crate) fn grown(&mut self, size: u64, at: u64) -> io::Result<()> {
        let mut known = self.last.map_or(0, |record| record.offset);
        if size < known {
            // Somebody else has cut the log: nothing noted is true any more.
            self.clear()?;
            known = 0;
        }
        if size == known {
            return Ok(());
        }
        match self.last {
            Some(record) if record.event == Event::Written && record.at == at => {
                self.len -= RECORD;
                self.put(Record { offset: size, ..record })
            }
            _ => self.put(Record { offset: size, at, event: Event::Written }),
        }
    }

    /// Appends a record.
    pub(crate) fn put(&mut self, record: Record) -> io::Result<()> {
        self.file.write_all_at(&record.encode(), self.len)?;
        self.len += RECORD;
        self.last = Some(record);
        Ok(())
    }

    /// Forgets everything.
    pub(crate) fn clear(&mut self) -> io::Result<()> {
        self.len = 0;
        self.last = None;
        self.file.set_len(0)
    }

    /// Bytes that came before the first one of the log.
    pub(crate) fn begin(&self) -> u64 {
        begin(&self.file)
    }

    /// Notes how many bytes came before the first one of a log that has just been cut.
    pub(crate) fn begin_at(&mut self, begin: u64) -> io::Result<()> {
        self.clear()?;
        self.file.write_all_at(&encode_begin(begin), 0)?;
        self.len = RECORD;
        Ok(())
    }

    /// Without waiting: false while somebody reads.
    pub(crate) fn try_lock(&self) -> bool {
        self.file.try_lock().is_ok()
    }

    /// Writes what is noted about the log's bytes from `shift` on to `path`, as an index of these bytes.
    pub(crate) fn copy_tail(&self, shift: u64, path: &Path) -> io::Result<()> {
        let mut options = OpenOptions::new();
        let to = options.write(true).create(true).truncate(true).mode(0o600).open(path)?;
        let mut to = BufWriter::new(to);
        to.write_all(&encode_begin(begin(&self.file).wrapping_add(shift)))?;
        let mut from = &self.file;
        from.seek(SeekFrom::Start(0))?;
        for record in Records::new(BufReader::new(from)) {
            if record.offset > shift || (record.offset == shift && record.event != Event::Written) {
                to.write_all(&Record { offset: record.offset - shift, ..record }.encode())?;
            }
        }
        to.flush()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn event() -> impl Strategy<Value = Event> {
        prop_oneof![
            Just(Event::Written),
            Just(Event::Started),
            Just(Event::Vanished),
            Just(Event::Stopped),
            any::<u8>().prop_map(Event::Exited),
            any::<u8>().prop_map(Event::Killed),
        ]
    }

    fn read(path: &Path) -> Vec<Record> {
        Records::new(fs::read(index_of(path)).unwrap().as_slice()).collect()
    }

    proptest! {
        #[test]
        fn a_record_is_read_as_it_was_written(offset: u64, at in 1u64..1 << 40, event in event()) {
            let record = Record { offset, at, event };
            prop_assert_eq!(Record::decode(record.encode()), Some(record));
        }

        #[test]
        fn any_bytes_give_records_in_order_or_an_end(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let records: Vec<Record> = Records::new(bytes.as_slice()).collect();
            prop_assert!(records.is_sorted_by_key(|record| record.offset));
        }

        // Looks at a growing log: each byte is dated by the look that saw it first, a second gives one mark.
        #[test]
        fn every_byte_has_the_time_of_its_look(
            looks in proptest::collection::vec((0u64..5, 0u64..3), 1..40),
            shift in any::<proptest::sample::Index>(),
        ) {
            let folder = tempfile::tempdir().unwrap();
            let log = folder.path().join("l");
            let (mut size, mut at, mut dated) = (0, 1, Vec::new());
            for (grown, later) in looks {
                size += grown;
                at += later;
                dated.extend(std::iter::repeat_n(at, usize::try_from(grown).unwrap()));
                Index::open(&log).unwrap().grown(size, at).unwrap();
            }
            let records = read(&log);
            let mut found = Vec::new();
            for record in &records {
                found.resize(usize::try_from(record.offset).unwrap(), record.at);
            }
            prop_assert_eq!(&found, &dated);
            prop_assert!(records.is_sorted_by(|one, next| one.at < next.at), "one mark a second");

            // The same from any place on, as after a cut.
            let shift = shift.index(dated.len() + 1);
            let tail = log.with_extension("1");
            Index::open(&log).unwrap().copy_tail(shift as u64, &index_of(&tail)).unwrap();
            let mut found = Vec::new();
            for record in read(&tail) {
                found.resize(usize::try_from(record.offset).unwrap(), record.at);
            }
            prop_assert_eq!(found.as_slice(), &dated[shift..]);
        }
    }

    #[test]
    fn a_torn_end_is_dropped_and_a_cut_log_begins_anew() {
        let folder = tempfile::tempdir().unwrap();
        let log = folder.path().join("l");
        Index::open(&log).unwrap().grown(10, 5).unwrap();
        let mut bytes = fs::read(index_of(&log)).unwrap();
        bytes.extend_from_slice(&[0; 37]);
        fs::write(index_of(&log), bytes).unwrap();
        let mut index = Index::open(&log).unwrap();
        assert_eq!(index.len(), RECORD);
        index.grown(20, 7).unwrap();
        let mark = |offset, at| Record { offset, at, event: Event::Written };
        assert_eq!(read(&log), [mark(10, 5), mark(20, 7)]);
        index.grown(3, 9).unwrap();
        assert_eq!(read(&log), [mark(3, 9)]);
    }

    #[test]
    fn an_index_knows_what_was_cut_off() {
        let folder = tempfile::tempdir().unwrap();
        let log = folder.path().join("l");
        let begins = |path: &Path| begin(&File::open(index_of(path)).unwrap());
        let mut index = Index::open(&log).unwrap();
        assert_eq!(begins(&log), 0);
        for (size, total) in [(30, 30), (12, 42)] {
            index.grown(size, 5).unwrap();
            let tail = log.with_extension("1");
            index.copy_tail(10, &index_of(&tail)).unwrap();
            assert_eq!(begins(&tail), total - size + 10);
            let begin = index.begin();
            index.begin_at(begin + size).unwrap();
            index = Index::open(&log).unwrap();
            assert_eq!((begins(&log), index.last(), read(&log)), (total, None, vec![]));
        }
        index.grown(7, 6).unwrap();
        assert_eq!(read(&log), [Record { offset: 7, at: 6, event: Event::Written }]);
    }
}
