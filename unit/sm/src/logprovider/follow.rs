//! What is written into logs while somebody looks on.
//!
//! What is new is read whenever the kernel tells of a write; a line is dated when it is read. Instances' logs are
//! followed across the keeper's cuts, by the old generation and by what the index says was cut off; only what the
//! keeper itself threw away in a flood is missing, and then it is told how much. Component's logs are followed across a
//! renaming of the file.

use std::collections::BTreeMap;
use std::fs::{File, Metadata};
use std::io::Write;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use aos_keep::index::seconds;
use aos_keep::old_generation;
use rustix::event::{PollFd, PollFlags, poll};
use rustix::fs::inotify::{self, CreateFlags, WatchFlags};

use super::files::{self, Following};
use super::local::{LONGEST, Shown, print};
use super::merge::Next;
use super::own;
use crate::Error;
use crate::alerts::Core;
use crate::ownlog;

/// Bytes read at once.
const PIECE: usize = 16 * 1024;

/// Where one log is being read.
struct Place {
    /// The component that writes it; none for an instance's.
    core: Option<Core>,
    /// Bytes that have been read: of all there ever were, or of a component's present file.
    read: u64,
    /// A component's present file.
    file: u64,
    /// The beginning of a line.
    rest: Vec<u8>,
}

/// Files whose growth is shown.
pub struct Watch {
    notices: OwnedFd,
    files: BTreeMap<PathBuf, Place>,
}

impl Watch {
    /// Looks at what is written from now on; what is there already is asked for by [`Watch::instance`] and
    /// [`Watch::components`].
    pub fn start(shown: &Shown) -> Result<Self, Error> {
        let notices = inotify::init(CreateFlags::CLOEXEC).map_err(Error::system("watch log files"))?;
        let place = |core| Place { core, read: 0, file: 0, rest: Vec::new() };
        let files: BTreeMap<PathBuf, Place> = match shown {
            Shown::Instances(logs) => logs.iter().map(|log| (log.clone(), place(None))).collect(),
            Shown::Components(dir) => {
                ownlog::FILES.iter().map(|(name, core)| (dir.join(name), place(Some(*core)))).collect()
            }
        };
        // Folders: a file may be made, or made anew, later.
        let flags = WatchFlags::MODIFY | WatchFlags::CREATE | WatchFlags::MOVED_TO | WatchFlags::ONLYDIR;
        for path in files.keys() {
            let dir = path.parent().unwrap_or(path);
            inotify::add_watch(&notices, dir, flags)
                .map_err(|error| Error::file("watch", dir)(error.into()))?;
        }
        Ok(Self { notices, files })
    }

    /// What an instance has written until now; it is followed from there on.
    pub fn instance(&mut self, log: &Path) -> Result<Next<'static>, Error> {
        let (lines, end) = files::instance_until_now(log, LONGEST)?;
        if let Some(place) = self.files.get_mut(log) {
            place.read = end;
        }
        Ok(lines)
    }

    /// What the components have written until now; they are followed from there on.
    pub fn components(&mut self, dir: &Path) -> Vec<Next<'static>> {
        for (path, place) in &mut self.files {
            if let Ok(meta) = std::fs::metadata(path) {
                (place.read, place.file) = (meta.len(), meta.ino());
            }
        }
        own::sources_until(dir, LONGEST, |path| self.files.get(path).map_or(u64::MAX, |place| place.read))
    }

    /// Shows what comes, for ever.
    pub fn run(mut self, out: &mut dyn Write) -> Result<(), Error> {
        let mut buffer = [0; 4096];
        loop {
            for (path, place) in &mut self.files {
                place.show(path, out)?;
            }
            out.flush().map_err(Error::system("print a log"))?;
            let failed = || Error::system("wait for more of a log");
            match poll(&mut [PollFd::new(&self.notices, PollFlags::IN)], None) {
                Ok(_) => {
                    rustix::io::read(&self.notices, &mut buffer).map_err(failed())?;
                }
                Err(rustix::io::Errno::INTR) => {}
                Err(error) => return Err(failed()(error)),
            }
        }
    }
}

impl Place {
    /// Prints what is new, line by line.
    fn show(&mut self, path: &Path, out: &mut dyn Write) -> Result<(), Error> {
        loop {
            let next = match self.core {
                None => files::following(path, &mut self.read, PIECE)?,
                Some(_) => self.component(path).map_err(Error::file("read", path))?,
            };
            match next {
                Following::Nothing => return Ok(()),
                Following::Anew => self.rest.clear(),
                Following::Lost(bytes) => {
                    self.rest.clear();
                    let text = format!("[aos] {bytes} bytes of this log are gone");
                    print(out, seconds(SystemTime::now()), text.as_bytes())?;
                }
                Following::Bytes(bytes) => self.lines(&bytes, out)?,
            }
        }
    }

    fn lines(&mut self, bytes: &[u8], out: &mut dyn Write) -> Result<(), Error> {
        for piece in bytes.split_inclusive(|&byte| byte == b'\n') {
            for piece in piece.chunks(LONGEST) {
                self.rest.extend_from_slice(piece);
                if self.rest.last() == Some(&b'\n') || self.rest.len() >= LONGEST {
                    let line = std::mem::take(&mut self.rest);
                    self.line(line.strip_suffix(b"\n").unwrap_or(&line), out)?;
                }
            }
        }
        Ok(())
    }

    fn line(&self, text: &[u8], out: &mut dyn Write) -> Result<(), Error> {
        match (self.core, ownlog::parse(text)) {
            (None, _) => print(out, seconds(SystemTime::now()), text),
            (Some(core), Some(ours)) => print(out, ours.at, &own::named(core, ours.text.as_bytes())),
            (Some(core), None) => print(out, seconds(SystemTime::now()), &own::named(core, text)),
        }
    }

    /// More of a component's log. A file with another identity follows the one that was renamed, once that has been
    /// read to its end.
    fn component(&mut self, path: &Path) -> std::io::Result<Following> {
        let Ok(file) = File::open(path) else { return Ok(Following::Nothing) };
        let meta = file.metadata()?;
        let known = self.file;
        let is_read = |meta: &Metadata| meta.ino() == known;
        if known != 0 && !is_read(&meta) {
            let old = File::open(old_generation(path)).ok();
            if let Some(old) = old.filter(|old| old.metadata().is_ok_and(|meta| is_read(&meta))) {
                let bytes = self.piece(&old)?;
                if !bytes.is_empty() {
                    return Ok(Following::Bytes(bytes));
                }
            }
        }
        if !is_read(&meta) {
            (self.file, self.read) = (meta.ino(), 0);
            return Ok(Following::Anew);
        }
        if meta.len() < self.read {
            self.read = 0;
            return Ok(Following::Anew);
        }
        let bytes = self.piece(&file)?;
        Ok(if bytes.is_empty() { Following::Nothing } else { Following::Bytes(bytes) })
    }

    fn piece(&mut self, file: &File) -> std::io::Result<Vec<u8>> {
        let mut bytes = vec![0; PIECE];
        let count = file.read_at(&mut bytes, self.read)?;
        bytes.truncate(count);
        self.read += count as u64;
        Ok(bytes)
    }
}

#[cfg(test)]
#[path = "follow_tests.rs"]
mod tests;
