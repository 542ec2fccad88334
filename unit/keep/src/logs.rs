//! Caps log files without a pipe: the container writes the file itself, in append mode; when it has grown
//! past its cap the content is copied to the one old generation (`.1`) and the file is cut to nothing.
//!
//! inotify tells about the first write after a look; then the watch is taken away and the file is looked at
//! once `LOOK_AFTER` later. So a quiet service costs nothing and a talkative one four looks a second. Lines
//! written between copy and cut are lost; nothing else is.

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify, WatchDescriptor};

use crate::protocol::Log;

const LOOK_AFTER: Duration = Duration::from_millis(250);

struct Capped {
    log: Log,
    watch: Option<WatchDescriptor>,
    look_at: Option<Instant>,
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

    /// Caps `log` from now on; `id` names it.
    pub fn add(&mut self, id: &str, log: Log, now: Instant) {
        self.remove(id);
        self.capped.insert(id.to_owned(), Capped { log, watch: None, look_at: Some(now) });
    }

    /// Stops capping.
    pub fn remove(&mut self, id: &str) {
        if let Some(Capped { watch: Some(watch), .. }) = self.capped.remove(id) {
            let _ = self.inotify.rm_watch(watch);
        }
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
            let size = fs::metadata(&capped.log.path).map_or(0, |meta| meta.len());
            if size > capped.log.max_bytes
                && let Err(error) = rotate(&capped.log)
            {
                crate::note(&format!("log {} is not cut: {error}", capped.log.path.display()));
            }
        }
    }
}

/// Name of the old generation.
pub fn old_generation(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".1");
    PathBuf::from(name)
}

fn rotate(log: &Log) -> io::Result<()> {
    let old = old_generation(&log.path);
    let mut from = OpenOptions::new().read(true).write(true).open(&log.path)?;
    let size = from.metadata()?.len();
    from.seek(SeekFrom::Start(size.saturating_sub(log.max_bytes)))?;
    let mut to: File = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&old)?;
    io::copy(&mut (&mut from).take(log.max_bytes), &mut to)?;
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
}
