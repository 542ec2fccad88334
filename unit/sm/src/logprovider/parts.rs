//! Dated lines in gzip parts, kept in a file without a name until the number of parts is known.
//!
//! A part is closed before its plain text would exceed the limit; each is a gzip stream of its own. More parts
//! than allowed are an error: a log with a hole would be taken for a whole one.

use std::fs::{File, OpenOptions};
use std::io::{Seek, Write};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};

use flate2::Compression;
use flate2::write::GzEncoder;

use crate::Error;

/// Bytes of the time before a line, the blank after it and the line feed.
const FRAME: usize = 17;
/// Most plain bytes of a part: with what gzip adds to bytes it cannot pack it fits the field of peers, 256 KiB.
const MAX_PART: usize = 256 * 1024 - 512;
const MIN_PART: usize = 256;

/// Bounds of an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    size: usize,
    count: usize,
}

impl Limits {
    /// `size`: plain bytes of a part, brought into 256..=261632; `count`: most parts, at least 1.
    pub fn new(size: u64, count: u64) -> Self {
        let number = |value| usize::try_from(value).unwrap_or(usize::MAX);
        Self { size: number(size).clamp(MIN_PART, MAX_PART), count: number(count).max(1) }
    }

    /// Longest line that is taken.
    pub fn longest(self) -> usize {
        self.size.min(8192) - FRAME
    }
}

/// An answer being made.
pub struct Parts {
    limits: Limits,
    file: File,
    open: Option<GzEncoder<File>>,
    /// Plain bytes of the open part.
    used: usize,
    ends: Vec<u64>,
    stamp: (u64, String),
}

impl Parts {
    /// Nothing yet; the file is made in `dir`.
    pub fn new(dir: &Path, limits: Limits) -> Result<Self, Error> {
        static NUMBER: AtomicU64 = AtomicU64::new(0);
        let path = dir.join(format!("log-answer-{}", NUMBER.fetch_add(1, Ordering::Relaxed)));
        aos_durable::remove_durably(&path)?;
        let mut options = OpenOptions::new();
        let file = options.read(true).write(true).create_new(true).mode(0o600).open(&path);
        let file = file.map_err(Error::file("make", &path))?;
        std::fs::remove_file(&path).map_err(Error::file("remove", &path))?;
        Ok(Self { limits, file, open: None, used: 0, ends: Vec::new(), stamp: (0, String::new()) })
    }

    /// Bounds of this answer.
    pub fn limits(&self) -> Limits {
        self.limits
    }

    /// Adds `YYYYMMDDhhmmssZ text`; `text` must not exceed [`Limits::longest`] bytes.
    pub fn line(&mut self, at: u64, text: &[u8]) -> Result<(), Error> {
        let size = FRAME + text.len();
        if self.used > 0 && self.used + size > self.limits.size {
            self.close()?;
        }
        if self.stamp.0 != at || self.stamp.1.is_empty() {
            self.stamp = (at, stamp(at));
        }
        let write = |failed| Error::system("pack a log")(failed);
        let mut encoder = match self.open.take() {
            Some(encoder) => encoder,
            None if self.ends.len() >= self.limits.count => {
                return Err(Error::Limit {
                    what: "the number of parts of a log (ask for a shorter time)".to_owned(),
                    limit: self.limits.count as u64,
                });
            }
            None => GzEncoder::new(self.file.try_clone().map_err(write)?, Compression::default()),
        };
        for piece in [self.stamp.1.as_bytes(), b" ", text, b"\n"] {
            encoder.write_all(piece).map_err(write)?;
        }
        self.open = Some(encoder);
        self.used += size;
        Ok(())
    }

    fn close(&mut self) -> Result<(), Error> {
        if let Some(encoder) = self.open.take() {
            let end = encoder.finish().and_then(|mut file| file.stream_position());
            self.ends.push(end.map_err(Error::system("pack a log"))?);
            self.used = 0;
        }
        Ok(())
    }

    /// The whole answer.
    pub fn finish(mut self) -> Result<Packed, Error> {
        self.close()?;
        Ok(Packed { file: self.file, ends: self.ends })
    }
}

/// A finished answer.
#[derive(Debug)]
pub struct Packed {
    file: File,
    ends: Vec<u64>,
}

impl Packed {
    /// Number of parts.
    pub fn count(&self) -> usize {
        self.ends.len()
    }

    /// A part, counted from 0.
    pub fn part(&self, index: usize) -> Result<Vec<u8>, Error> {
        let end = |index: usize| self.ends.get(index).copied();
        let start = index.checked_sub(1).and_then(end).unwrap_or(0);
        let length = end(index).unwrap_or(start).saturating_sub(start);
        let mut data = vec![0; usize::try_from(length).unwrap_or(0)];
        self.file.read_exact_at(&mut data, start).map_err(Error::system("read a packed log"))?;
        Ok(data)
    }
}

/// `YYYYMMDDhhmmssZ`.
pub fn stamp(at: u64) -> String {
    let time =
        i64::try_from(at).ok().and_then(|at| jiff::Timestamp::from_second(at).ok()).unwrap_or_default();
    time.strftime("%Y%m%d%H%M%SZ").to_string()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::fmt::Write as _;
    use std::io::Read;

    fn unpack(packed: &Packed) -> Vec<String> {
        let part = |index| {
            let mut text = String::new();
            let data = packed.part(index).unwrap();
            flate2::read::GzDecoder::new(data.as_slice()).read_to_string(&mut text).unwrap();
            text
        };
        (0..packed.count()).map(part).collect()
    }

    // SM-59, PRO-91
    proptest! {
        #[test]
        fn parts_are_as_full_as_they_may_be(lengths in proptest::collection::vec(0usize..239, 0..40), size in 256u64..900) {
            let folder = tempfile::tempdir().unwrap();
            let mut parts = Parts::new(folder.path(), Limits::new(size, 1000)).unwrap();
            let mut whole = String::new();
            for (at, length) in (1_767_225_600..).zip(&lengths) {
                let text = "x".repeat(*length);
                parts.line(at, text.as_bytes()).unwrap();
                writeln!(whole, "{} {text}", stamp(at)).unwrap();
            }
            prop_assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0, "nothing is left over");
            let texts = unpack(&parts.finish().unwrap());
            prop_assert_eq!(texts.concat(), whole);
            let size = usize::try_from(size).unwrap();
            for pair in texts.windows(2) {
                prop_assert!(pair[0].len() <= size && pair[0].ends_with('\n'));
                let next = pair[1].split_inclusive('\n').next().unwrap().len();
                prop_assert!(pair[0].len() + next > size, "the next line had found room");
            }
        }
    }

    // SM-59
    #[test]
    fn too_many_parts_are_an_error_and_noise_fits_its_field() {
        let folder = tempfile::tempdir().unwrap();
        let mut parts = Parts::new(folder.path(), Limits::new(1, 2)).unwrap();
        let line = [b'x'; 200];
        parts.line(1, &line).unwrap();
        parts.line(1, &line).unwrap();
        assert!(parts.line(1, &line).unwrap_err().to_string().contains("limited to 2"));

        let mut parts = Parts::new(folder.path(), Limits::new(u64::MAX, 2)).unwrap();
        let mut state = 1u64;
        let mut noise = || {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            state.to_le_bytes()[7]
        };
        let longest = parts.limits().longest();
        while parts.ends.is_empty() {
            let line: Vec<u8> = std::iter::repeat_with(&mut noise).take(longest).collect();
            parts.line(1, &line).unwrap();
        }
        let packed = parts.finish().unwrap();
        let size = packed.part(0).unwrap().len();
        assert!((250_000..=262_144).contains(&size), "{size}");
    }

    // SM-40
    #[test]
    fn times_are_shown_as_peers_expect() {
        assert_eq!(stamp(1_772_609_105), "20260304072505Z");
    }
}
