//! The floor of time on disk, and the clocks it is compared with.

use std::path::{Path, PathBuf};

use aos_cert_life::Reading;
use rustix::time::{ClockId, clock_gettime};

const FILE: &str = "time-floor";
const MAX_FILE: u64 = 64;
const MODE: u32 = 0o644;

/// The file with the floor: seconds since 1970 UTC as text.
#[derive(Debug, Clone)]
pub struct FloorFile(PathBuf);

impl FloorFile {
    /// The file in the working directory.
    pub fn new(dir: &Path) -> Self {
        Self(dir.join(FILE))
    }

    /// The stored floor; 0 when there is none or it cannot be read, which costs nothing but knowledge.
    pub fn read(&self) -> i64 {
        let bytes = match aos_durable::read_bounded(&self.0, MAX_FILE) {
            Ok(bytes) => bytes.unwrap_or_default(),
            Err(error) => {
                tracing::warn!("the stored floor of time is not read: {}", aos_logging::with_causes(&error));
                return 0;
            }
        };
        std::str::from_utf8(&bytes).ok().and_then(|text| text.trim().parse().ok()).unwrap_or(0)
    }

    /// Stores a floor. Blocks.
    pub fn write(&self, floor: i64) -> Result<(), crate::Error> {
        crate::killpoint::step("write the floor of time");
        let written = aos_durable::write_atomic(&self.0, format!("{floor}\n").as_bytes(), MODE);
        crate::killpoint::step("write the floor of time");
        written.map_err(|source| crate::Error::Durable {
            doing: "write the floor of time to",
            path: self.0.clone(),
            source: Box::new(source),
        })
    }
}

/// What the clocks show now.
pub fn reading() -> Reading {
    // As TLS reads it.
    let since_1970 = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    Reading {
        system: i64::try_from(since_1970.as_secs()).unwrap_or(i64::MAX),
        monotonic: clock_gettime(ClockId::Boottime).tv_sec,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_floor_is_kept_and_a_damaged_one_is_none() {
        let dir = tempfile::tempdir().unwrap();
        let file = FloorFile::new(dir.path());
        assert_eq!(file.read(), 0);
        file.write(1_700_000_000).unwrap();
        assert_eq!(file.read(), 1_700_000_000);
        std::fs::write(dir.path().join(FILE), b"\xff\xfe").unwrap();
        assert_eq!(file.read(), 0);
        std::fs::write(dir.path().join(FILE), [b'1'; 100]).unwrap();
        assert_eq!(file.read(), 0);
    }
}
