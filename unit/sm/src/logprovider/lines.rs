//! Which lines of a log an answer holds, and when they were written. Pure.
//!
//! Times are whole seconds, as they are shown. A line belongs to the mark that covers its first byte.

use std::io::{self, BufRead, Read};
use std::iter::Peekable;
use std::ops::Range;

use aos_keep::index::{Event, Record};
use prost_types::Timestamp;

/// A span of time, whole seconds since 1970: the first in it, and the first no longer in it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Window {
    /// First second.
    pub from: u64,
    /// First second after.
    pub till: u64,
}

impl Window {
    /// What a request asks for: `from` is in it, `till` is not. A second that is in it in part is in it.
    pub fn new(from: Option<Timestamp>, till: Option<Timestamp>) -> Self {
        let second = |time: Timestamp, up: bool| {
            let seconds = u64::try_from(time.seconds).unwrap_or(0);
            if up && time.seconds >= 0 && time.nanos > 0 { seconds + 1 } else { seconds }
        };
        Self {
            from: from.map_or(0, |time| second(time, false)),
            till: till.map_or(u64::MAX, |time| second(time, true)),
        }
    }

    /// Whether a second is in it.
    pub fn contains(self, at: u64) -> bool {
        (self.from..self.till).contains(&at)
    }
}

/// The lines in a span of a log, each with its time. What no mark covers was written at `last_write`. Lines
/// longer than `longest` bytes come in pieces.
pub struct Lines<T, I: Iterator<Item = Record>> {
    text: T,
    marks: Peekable<I>,
    offset: u64,
    end: u64,
    last_write: u64,
    longest: u64,
    /// The piece before was not the end of its line.
    cut: bool,
}

impl<T: BufRead, I: Iterator<Item = Record>> Lines<T, I> {
    /// `text` stands at the start of `span`.
    pub fn new(text: T, records: I, span: Range<u64>, last_write: u64, longest: usize) -> Self {
        let (offset, end) = (span.start, span.end);
        let longest = longest.max(1) as u64;
        Self { text, marks: records.peekable(), offset, end, last_write, longest, cut: false }
    }

    /// The next line: its time; its text without the line feed in `line`.
    pub fn next(&mut self, line: &mut Vec<u8>) -> io::Result<Option<u64>> {
        while self.offset < self.end {
            line.clear();
            let room = (self.end - self.offset).min(self.longest);
            let count = self.text.by_ref().take(room).read_until(b'\n', line)? as u64;
            if count == 0 {
                break;
            }
            let past = |mark: &Record| mark.event != Event::Written || mark.offset <= self.offset;
            while self.marks.next_if(past).is_some() {}
            let at = self.marks.peek().map_or(self.last_write, |mark| mark.at);
            self.offset += count;
            let whole = line.last() == Some(&b'\n');
            if whole {
                line.pop();
            }
            // The end of a line of which all else has been handed on.
            let rest = self.cut && line.is_empty();
            self.cut = !whole;
            if !rest {
                return Ok(Some(at));
            }
        }
        Ok(None)
    }
}

/// A place in the files of a log, which follow one another.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Place {
    /// Which file, oldest first.
    pub file: usize,
    /// Where in it, bytes.
    pub offset: u64,
}

/// A crash of an instance.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Crash {
    /// Where the crashed process began to write; the start of what is kept when that is no longer known.
    pub start: Place,
    /// Where it ended.
    pub end: Place,
    /// When.
    pub at: u64,
    /// How.
    pub event: Event,
}

/// Finds the last crash within a window among records given in order.
#[derive(Debug)]
pub struct CrashFinder {
    window: Window,
    started: Place,
    /// The last one so far.
    pub found: Option<Crash>,
}

impl CrashFinder {
    /// Looks for crashes in `window`.
    pub fn new(window: Window) -> Self {
        Self { window, started: Place::default(), found: None }
    }

    /// The next record.
    pub fn see(&mut self, file: usize, record: Record) {
        let place = Place { file, offset: record.offset };
        if record.event == Event::Started {
            self.started = place;
        } else if record.event.is_crash() && self.window.contains(record.at) {
            self.found = Some(Crash { start: self.started, end: place, at: record.at, event: record.event });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn window(from: Option<(i64, i32)>, till: Option<(i64, i32)>) -> Window {
        let time = |(seconds, nanos)| Timestamp { seconds, nanos };
        Window::new(from.map(time), till.map(time))
    }

    // D43, SM-39, SM-40: `from` is inclusive, `till` exclusive.
    // PRO-86
    #[test]
    fn a_window_begins_with_from_and_ends_before_till() {
        let whole = window(Some((10, 0)), Some((12, 0)));
        assert_eq!([9, 10, 11, 12].map(|at| whole.contains(at)), [false, true, true, false]);
        let parts = window(Some((10, 900_000_000)), Some((12, 1)));
        assert_eq!([9, 10, 12, 13].map(|at| parts.contains(at)), [false, true, true, false]);
        assert!(window(None, None).contains(0));
        assert!(!window(None, Some((-5, 1))).contains(0));
        assert!(!window(Some((12, 0)), Some((10, 0))).contains(11));
    }

    fn collect(text: &[u8], records: &[Record], span: Range<u64>, longest: usize) -> Vec<(u64, Vec<u8>)> {
        let mut lines = Vec::new();
        let from = text.get(usize::try_from(span.start).unwrap()..).unwrap();
        let mut read = Lines::new(from, records.iter().copied(), span, 99, longest);
        let mut line = Vec::new();
        while let Some(at) = read.next(&mut line).unwrap() {
            lines.push((at, line.clone()));
        }
        lines
    }

    proptest! {
        // Each line comes once, whole, in order, dated by the mark of its first byte.
        #[test]
        fn lines_come_as_written_with_their_times(
            text in proptest::collection::vec(prop_oneof![Just(b'\n'), Just(b'a'), Just(b'b')], 0..80),
            sizes in proptest::collection::vec(1u64..20, 0..8),
            start in 0u64..80, end in 0u64..80, longest in 1usize..12,
        ) {
            let mut records = Vec::new();
            let mut time_of = vec![99; text.len()];
            let mut offset = 0;
            for (at, size) in (1..).zip(sizes) {
                let next = offset + size;
                for index in offset..next.min(text.len() as u64) {
                    time_of[usize::try_from(index).unwrap()] = at;
                }
                offset = next;
                records.push(Record { offset, at, event: Event::Written });
                records.push(Record { offset, at, event: Event::Started });
            }
            let start = start.min(text.len() as u64);
            let end = end.min(text.len() as u64).max(start);
            let range = usize::try_from(start).unwrap()..usize::try_from(end).unwrap();
            let mut expected = Vec::new();
            let mut place = range.start;
            let wanted = &text[range.clone()];
            for line in wanted.strip_suffix(b"\n").unwrap_or(wanted).split(|&byte| byte == b'\n') {
                if !wanted.is_empty() {
                    expected.push((time_of[place], line.to_vec()));
                }
                place += line.len() + 1;
            }
            prop_assert_eq!(collect(&text, &records, start..end, 1000), expected.clone());
            let pieces = collect(&text, &records, start..end, longest);
            prop_assert!(pieces.iter().all(|(_, piece)| piece.len() <= longest));
            let joined = |lines: &[(u64, Vec<u8>)]| lines.iter().flat_map(|(_, line)| line.clone()).collect::<Vec<u8>>();
            prop_assert_eq!(joined(&pieces), joined(&expected));
        }
    }

    // SM-41
    #[test]
    fn the_last_crash_within_the_window_is_found_with_its_run() {
        let history = [
            (0, 0, 1, Event::Started),
            (0, 10, 2, Event::Exited(1)),
            (0, 10, 3, Event::Started),
            (1, 5, 4, Event::Killed(9)),
            (1, 5, 5, Event::Started),
            (1, 8, 6, Event::Exited(0)),
            (1, 8, 7, Event::Started),
            (1, 9, 8, Event::Stopped),
        ];
        let find = |from, till| {
            let mut finder = CrashFinder::new(Window { from, till });
            for (file, offset, at, event) in history {
                finder.see(file, Record { offset, at, event });
            }
            finder.found
        };
        let place = |file, offset| Place { file, offset };
        let last = Crash { start: place(0, 10), end: place(1, 5), at: 4, event: Event::Killed(9) };
        assert_eq!(find(0, u64::MAX), Some(last));
        assert_eq!(find(4, 5), Some(last));
        let first = Crash { start: place(0, 0), end: place(0, 10), at: 2, event: Event::Exited(1) };
        assert_eq!(find(0, 4), Some(first));
        assert_eq!(find(3, 4), None);
        assert_eq!(find(5, u64::MAX), None, "a success and a stop on purpose are no crashes");
    }
}
