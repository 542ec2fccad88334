//! Root certificates that may change while the program runs.
//!
//! The file of a Unit's roots is replaced by its Identity and Access Manager when the cloud hands out new
//! ones; no message tells the other programs of the node. So each handshake looks whether the file is another one
//! (one `stat`), and what verifies peers is made anew only then. A file that is gone or damaged leaves the
//! roots that were read last.

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock};

use rustls::RootCertStore;

use crate::TlsError;

/// Roots for the verification of peers: fixed, or as a file has them. Cheap to clone; clones share what was read.
#[derive(Debug, Clone)]
pub struct Roots(Source);

#[derive(Debug, Clone)]
enum Source {
    Fixed(Arc<RootCertStore>),
    File(Arc<File>),
}

#[derive(Debug)]
struct File {
    path: PathBuf,
    read: RwLock<Read>,
}

#[derive(Debug, Clone)]
struct Read {
    /// The file that was looked at last.
    stamp: Option<Stamp>,
    roots: Arc<RootCertStore>,
}

/// What tells one state of a file from another: it is replaced as a whole.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Stamp {
    inode: u64,
    size: u64,
    changed: (i64, i64),
}

impl Stamp {
    fn of(path: &Path) -> Option<Self> {
        let meta = std::fs::metadata(path).ok()?;
        Some(Self { inode: meta.ino(), size: meta.size(), changed: (meta.ctime(), meta.ctime_nsec()) })
    }
}

impl From<Arc<RootCertStore>> for Roots {
    fn from(roots: Arc<RootCertStore>) -> Self {
        Self(Source::Fixed(roots))
    }
}

impl Roots {
    /// The roots in a PEM file, at most 1 MiB, and those that replace them there. The first time there must be
    /// some.
    pub fn from_file(path: &Path) -> Result<Self, TlsError> {
        let stamp = Stamp::of(path);
        let roots = crate::roots_from_pem_file(path)?;
        let file = File { path: path.to_owned(), read: RwLock::new(Read { stamp, roots }) };
        Ok(Self(Source::File(Arc::new(file))))
    }

    /// The roots that count now. Reads the file when it has changed.
    pub fn get(&self) -> Arc<RootCertStore> {
        match &self.0 {
            Source::Fixed(roots) => Arc::clone(roots),
            Source::File(file) => file.get(),
        }
    }
}

impl File {
    fn get(&self) -> Arc<RootCertStore> {
        let known = self.read.read().unwrap_or_else(PoisonError::into_inner).clone();
        let stamp = Stamp::of(&self.path);
        if stamp == known.stamp {
            return known.roots;
        }
        let roots = match crate::roots_from_pem_file(&self.path) {
            Ok(roots) => {
                tracing::info!("{} has other root certificates from now on", self.path.display());
                roots
            }
            Err(error) => {
                let cause = std::error::Error::source(&error).map(|cause| format!(": {cause}"));
                tracing::warn!("root certificates stay as they were: {error}{}", cause.unwrap_or_default());
                known.roots
            }
        };
        // The stamp from before the read: a change during it is seen by the next look.
        let read = Read { stamp, roots: Arc::clone(&roots) };
        *self.read.write().unwrap_or_else(PoisonError::into_inner) = read;
        roots
    }
}

/// A verifier made of roots, and made anew when they are others.
#[derive(Debug)]
pub(crate) struct Made<V: ?Sized> {
    roots: Roots,
    made: RwLock<(Arc<RootCertStore>, Arc<V>)>,
}

impl<V: ?Sized> Made<V> {
    pub(crate) fn new<E>(
        roots: Roots,
        make: impl FnOnce(Arc<RootCertStore>) -> Result<Arc<V>, E>,
    ) -> Result<Self, E> {
        let present = roots.get();
        let verifier = make(Arc::clone(&present))?;
        Ok(Self { roots, made: RwLock::new((present, verifier)) })
    }

    /// The verifier for the present roots. When it cannot be made, the one before stays.
    pub(crate) fn get<E>(&self, make: impl FnOnce(Arc<RootCertStore>) -> Result<Arc<V>, E>) -> Arc<V> {
        let present = self.roots.get();
        {
            let (of, verifier) = &*self.made.read().unwrap_or_else(PoisonError::into_inner);
            if Arc::ptr_eq(of, &present) {
                return Arc::clone(verifier);
            }
        }
        let mut made = self.made.write().unwrap_or_else(PoisonError::into_inner);
        if let Ok(verifier) = make(Arc::clone(&present)) {
            *made = (present, verifier);
        }
        Arc::clone(&made.1)
    }
}
