//! The states of all instances: followed, read and written.
//!
//! A file is looked at after a quiet time without a write, at the latest after six of them. It is written in
//! place, for the instance has this very file open; what is to be written is stored before, so that a power
//! cut in between leaves no half of it.

use std::collections::BTreeMap;
use std::fs::OpenOptions;
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime};

use aos_cloud_protocol::{MAX_STATE, StateChecksum};
use aos_ids::InstanceIdent;
use rusqlite::Connection;
use rustix::fs::OFlags;

use super::exchange::{self, Known};
use super::store;
use super::watch::Watch;
use crate::database::StoreError;

/// Quiet times that a look waits at most.
const PATIENCE: u32 = 6;

/// A file that is followed.
#[derive(Debug)]
struct Followed {
    file: PathBuf,
    quota: u64,
    /// First write since the last look, and when it is to be looked at.
    written: Option<(Instant, Instant)>,
}

/// What is in a file that was looked at.
#[derive(Debug, PartialEq, Eq)]
pub enum Look {
    /// What both sides know.
    Known,
    /// Something new.
    New(Vec<u8>),
}

/// All states.
#[derive(Debug)]
pub struct States {
    root: PathBuf,
    quiet: Duration,
    watch: Option<Watch>,
    known: BTreeMap<InstanceIdent, Known>,
    followed: BTreeMap<InstanceIdent, Followed>,
}

impl States {
    /// Takes up what is stored; follows nothing yet. Use it inside a tokio runtime.
    pub fn load(db: &Connection, root: &Path, quiet: Duration) -> Result<Self, StoreError> {
        let watch = Watch::open()
            .inspect_err(|error| tracing::error!("writes to states cannot be noticed: {error}"))
            .ok();
        let (known, followed) = (store::load(db)?, BTreeMap::new());
        Ok(Self { root: root.to_owned(), quiet, watch, known, followed })
    }

    /// What is known of the exchange of a state.
    pub fn known(&self, ident: &InstanceIdent) -> Option<&Known> {
        self.known.get(ident)
    }

    /// The checksum that the cloud is told with the Unit's status.
    pub fn checksum(&self, ident: &InstanceIdent) -> Option<&StateChecksum> {
        self.known.get(ident)?.current()
    }

    /// The same for an instance that is followed, by its names.
    pub fn checksum_of(&self, item: &str, subject: &str, number: u64) -> Option<&StateChecksum> {
        let found = self.followed.keys().find(|ident| {
            (ident.item.as_str(), ident.subject.as_str(), ident.instance) == (item, subject, number)
        });
        self.checksum(found?)
    }

    /// Quota of a followed state, bytes.
    pub fn quota(&self, ident: &InstanceIdent) -> Option<u64> {
        Some(self.followed.get(ident)?.quota)
    }

    /// Changes what is known of a state, in memory and in the database.
    pub fn change(
        &mut self,
        db: &Connection,
        ident: &InstanceIdent,
        change: impl FnOnce(&mut Known),
    ) -> Result<(), StoreError> {
        let mut known = self.known.get(ident).cloned().unwrap_or_default();
        change(&mut known);
        store::put(db, ident, &known)?;
        self.known.insert(ident.clone(), known);
        Ok(())
    }

    /// Begins to follow a file, `path` below the root. True when it was not followed before.
    pub fn follow(&mut self, ident: &InstanceIdent, path: &str, quota: u64) -> bool {
        let file = self.root.join(path);
        let before = self.followed.get(ident).map(|known| (known.file.clone(), known.written));
        let followed = before.as_ref().is_some_and(|(known, _)| *known == file);
        let written = before.filter(|_| followed).and_then(|(_, written)| written);
        self.followed.insert(ident.clone(), Followed { file, quota, written });
        // Anew when it was followed already: the file may be another one by now.
        self.arm(ident);
        !followed
    }

    /// Follows a file no longer; it stays, and so does what is known of it.
    pub fn leave(&mut self, ident: &InstanceIdent) {
        if self.followed.remove(ident).is_some()
            && let Some(watch) = &mut self.watch
        {
            watch.disarm(ident);
        }
    }

    /// Forgets a state whose file is removed.
    pub fn forget(&mut self, db: &Connection, ident: &InstanceIdent) -> Result<(), StoreError> {
        self.leave(ident);
        self.known.remove(ident);
        store::remove(db, ident)
    }

    /// Instances whose states are followed.
    pub fn followed(&self) -> Vec<InstanceIdent> {
        self.followed.keys().cloned().collect()
    }

    fn arm(&mut self, ident: &InstanceIdent) {
        let (Some(watch), Some(followed)) = (&mut self.watch, self.followed.get(ident)) else { return };
        if let Err(error) = watch.arm(ident, &followed.file) {
            tracing::error!("writes to the state of {ident} cannot be noticed: {error}");
        }
    }

    /// Waits for writes and notes them. Cancelling loses nothing.
    pub async fn written(&mut self) {
        let Some(watch) = &mut self.watch else { return std::future::pending().await };
        match watch.written().await {
            Ok(idents) => {
                let now = Instant::now();
                for ident in idents {
                    self.look_at(&ident, now, now + self.quiet);
                }
            }
            Err(error) => {
                tracing::error!("writes to states are not noticed any more: {error}");
                self.watch = None;
            }
        }
    }

    /// Has a file looked at.
    pub fn look_at(&mut self, ident: &InstanceIdent, now: Instant, when: Instant) {
        if let Some(followed) = self.followed.get_mut(ident) {
            followed.written.get_or_insert((now, when)).1 = when;
        }
    }

    /// When the next file is to be looked at.
    pub fn deadline(&self) -> Option<Instant> {
        self.followed.values().filter_map(|followed| Some(followed.written?.1)).min()
    }

    /// Files whose time has come and that have been quiet.
    pub fn due(&mut self, now: Instant) -> Vec<InstanceIdent> {
        let mut due = Vec::new();
        for (ident, followed) in &mut self.followed {
            let Some((first, look)) = followed.written.filter(|(_, look)| *look <= now) else { continue };
            match rest(&followed.file, self.quiet) {
                Some(rest) if look + rest <= first + self.quiet * PATIENCE => {
                    followed.written = Some((first, now + rest));
                }
                _ => {
                    followed.written = None;
                    due.push(ident.clone());
                }
            }
        }
        due
    }

    /// Reads a file; the next write to it is noticed again.
    pub fn look(&mut self, ident: &InstanceIdent) -> io::Result<Option<Look>> {
        // Armed before it is read: a write in between is seen twice rather than never.
        self.arm(ident);
        let Some(followed) = self.followed.get(ident) else { return Ok(None) };
        let content = read(&followed.file)?;
        let present = exchange::checksum(&content);
        if self.known.get(ident).is_some_and(|known| known.has(&present)) {
            return Ok(Some(Look::Known));
        }
        Ok(Some(Look::New(content)))
    }

    /// What a followed file holds, at most one byte more than can be sent.
    pub fn content(&self, ident: &InstanceIdent) -> io::Result<Vec<u8>> {
        let followed = self.followed.get(ident).ok_or(io::ErrorKind::NotFound)?;
        read(&followed.file)
    }

    /// Whether a state of the cloud is not in its file yet.
    pub fn is_pending(&self, ident: &InstanceIdent) -> bool {
        self.known.get(ident).is_some_and(|known| known.pending.is_some())
    }

    /// States of the cloud that are not in their files yet.
    pub fn pending(&self) -> Vec<InstanceIdent> {
        let waiting = self
            .known
            .iter()
            .filter(|(ident, known)| known.pending.is_some() && self.followed.contains_key(*ident));
        waiting.map(|(ident, _)| ident.clone()).collect()
    }

    /// Writes a state of the cloud to its file, which must be there.
    pub fn write(&mut self, db: &Connection, ident: &InstanceIdent) -> Result<io::Result<()>, StoreError> {
        let state = self.known.get(ident).and_then(|known| known.pending.clone());
        let (Some(state), Some(followed)) = (state, self.followed.get(ident)) else { return Ok(Ok(())) };
        if let Err(error) = overwrite(&followed.file, &state) {
            return Ok(Err(error));
        }
        self.change(db, ident, |known| known.pending = None)?;
        Ok(Ok(()))
    }
}

/// How long a file still has to rest; `None` when it has been quiet long enough or its time is wrong.
fn rest(file: &Path, quiet: Duration) -> Option<Duration> {
    let modified = std::fs::metadata(file).and_then(|file| file.modified()).ok()?;
    let age = SystemTime::now().duration_since(modified).ok()?;
    quiet.checked_sub(age).filter(|rest| *rest > Duration::ZERO)
}

fn read(file: &Path) -> io::Result<Vec<u8>> {
    let mut content = Vec::new();
    let file =
        OpenOptions::new().read(true).custom_flags(OFlags::NOFOLLOW.bits().cast_signed()).open(file)?;
    // One byte more than can be sent tells that there is too much.
    io::Read::read_to_end(&mut io::Read::take(file, MAX_STATE as u64 + 1), &mut content)?;
    Ok(content)
}

fn overwrite(file: &Path, state: &[u8]) -> io::Result<()> {
    let mut file =
        OpenOptions::new().write(true).custom_flags(OFlags::NOFOLLOW.bits().cast_signed()).open(file)?;
    file.write_all(state)?;
    file.set_len(state.len() as u64)?;
    file.sync_all()
}

#[cfg(test)]
#[path = "states_tests.rs"]
mod tests;
