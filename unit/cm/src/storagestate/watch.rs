//! Tells which state files are written to.
//!
//! The kernel tells the first write after [`Watch::arm`] and nothing more until the file is armed again, so a
//! service that writes all the time costs one wake-up for each look at its state.

use std::collections::BTreeMap;
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::path::Path;

use aos_ids::InstanceIdent;
use rustix::fs::inotify::{self, CreateFlags, WatchFlags};
use tokio::io::unix::AsyncFd;

/// Bytes of events read at once.
const BUFFER: usize = 4096;

/// All armed files.
#[derive(Debug)]
pub struct Watch {
    fd: AsyncFd<OwnedFd>,
    armed: BTreeMap<i32, InstanceIdent>,
}

impl Watch {
    /// Nothing armed. Fails when the user has too many inotify instances.
    pub fn open() -> io::Result<Self> {
        let fd = inotify::init(CreateFlags::NONBLOCK | CreateFlags::CLOEXEC)?;
        #[allow(
            deprecated,
            reason = "an OwnedFd is always the same open file, which is all that is asked for"
        )]
        let fd = AsyncFd::new(fd)?;
        Ok(Self { fd, armed: BTreeMap::new() })
    }

    /// Waits for the next write to the file of an instance.
    pub fn arm(&mut self, ident: &InstanceIdent, file: &Path) -> io::Result<()> {
        let watch = inotify::add_watch(self.fd.get_ref(), file, WatchFlags::MODIFY | WatchFlags::ONESHOT)?;
        self.armed.insert(watch, ident.clone());
        Ok(())
    }

    /// Does not wait for an instance any more.
    pub fn disarm(&mut self, ident: &InstanceIdent) {
        let fd = self.fd.get_ref();
        self.armed.retain(|watch, armed| {
            let other = armed != ident;
            if !other {
                // It may have ended by itself, with its file.
                let _ = inotify::remove_watch(fd, *watch);
            }
            other
        });
    }

    /// Instances whose files were written to, at least one. Cancelling loses nothing.
    pub async fn written(&mut self) -> io::Result<Vec<InstanceIdent>> {
        loop {
            let mut guard = self.fd.readable().await?;
            let mut buffer = [MaybeUninit::uninit(); BUFFER];
            let mut reader = inotify::Reader::new(guard.get_inner(), &mut buffer);
            let mut found = Vec::new();
            loop {
                match reader.next() {
                    Ok(event) => {
                        // The end of a watch is told too; whoever was written to is not there any more.
                        found.extend(self.armed.remove(&event.wd()));
                    }
                    Err(rustix::io::Errno::INTR) => {}
                    Err(rustix::io::Errno::WOULDBLOCK) => break,
                    Err(error) => return Err(error.into()),
                }
            }
            guard.clear_ready();
            if !found.is_empty() {
                return Ok(found);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn ident(number: u64) -> InstanceIdent {
        InstanceIdent::service("i".parse().unwrap(), "s".parse().unwrap(), number)
    }

    #[tokio::test]
    async fn one_word_for_each_arming() {
        let dir = tempfile::tempdir().unwrap();
        let files: Vec<_> = (0..3).map(|number| dir.path().join(format!("{number}"))).collect();
        let mut watch = Watch::open().unwrap();
        for (number, file) in (0..).zip(&files) {
            std::fs::write(file, "a").unwrap();
            watch.arm(&ident(number), file).unwrap();
        }
        watch.disarm(&ident(2));
        for _ in 0..3 {
            for file in &files {
                std::fs::write(file, "b").unwrap();
            }
        }
        let mut written = watch.written().await.unwrap();
        written.sort();
        assert_eq!(written, [ident(0), ident(1)]);
        let silence = tokio::time::timeout(Duration::from_millis(50), watch.written()).await;
        assert!(silence.is_err(), "nothing is armed");
        watch.arm(&ident(0), &files[0]).unwrap();
        std::fs::write(&files[0], "c").unwrap();
        assert_eq!(watch.written().await.unwrap(), [ident(0)]);
        assert!(watch.arm(&ident(5), &dir.path().join("none")).is_err());
    }
}
