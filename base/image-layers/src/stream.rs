//! Streams that are counted, hashed and bounded while they pass.

use std::io::{self, Read};

use aos_ids::Digest;
use aws_lc_rs::digest::{Context, SHA256};

/// SHA-256 of a whole small content.
pub fn sha256(content: &[u8]) -> Digest {
    let mut hash = Hash::default();
    hash.update(content);
    hash.finish()
}

/// True for the errors of a full disk or quota.
pub(crate) fn is_full(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
}

/// A running SHA-256.
pub(crate) struct Hash(Context);

impl Default for Hash {
    fn default() -> Self {
        Self(Context::new(&SHA256))
    }
}

impl Hash {
    pub(crate) fn update(&mut self, bytes: &[u8]) {
        self.0.update(bytes);
    }

    pub(crate) fn finish(self) -> Digest {
        let mut value = [0u8; 32];
        for (to, from) in value.iter_mut().zip(self.0.finish().as_ref()) {
            *to = *from;
        }
        Digest::from_sha256(value)
    }
}

/// Counts and hashes what passes, up to a limit.
pub(crate) struct Metered<R> {
    inner: R,
    hash: Hash,
    /// Bytes that passed.
    pub(crate) bytes: u64,
    limit: u64,
    /// True when there was more than the limit.
    pub(crate) exceeded: bool,
    /// What the inner reader failed with; decoders wrap it beyond recognition.
    pub(crate) failed: Option<io::Error>,
}

impl<R: Read> Metered<R> {
    pub(crate) fn new(inner: R, limit: u64) -> Self {
        Self { inner, hash: Hash::default(), bytes: 0, limit, exceeded: false, failed: None }
    }

    /// Reads to the end.
    pub(crate) fn drain(&mut self, buffer: &mut [u8]) -> io::Result<()> {
        loop {
            match self.read(buffer) {
                Ok(0) => return Ok(()),
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
    }

    pub(crate) fn digest(self) -> Digest {
        self.hash.finish()
    }
}

impl<R: Read> Read for Metered<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = match self.inner.read(buffer) {
            Ok(count) => count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => return Err(error),
            Err(error) => {
                let kind = error.kind();
                self.failed.get_or_insert(error);
                return Err(kind.into());
            }
        };
        self.hash.update(buffer.get(..count).unwrap_or_default());
        self.bytes += count as u64;
        if self.bytes > self.limit {
            self.exceeded = true;
            return Err(io::Error::other("the content is longer than allowed"));
        }
        Ok(count)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stream_longer_than_allowed_is_cut_off() {
        let plain = vec![0u8; 100_000];
        let mut metered = Metered::new(plain.as_slice(), 5000);
        assert!(metered.drain(&mut [0; 8192]).is_err());
        assert!(metered.exceeded);
        assert!(metered.bytes <= 5000 + 8192);
    }

    #[test]
    fn what_passed_is_counted_and_hashed() {
        let mut metered = Metered::new(&b"abc"[..], 3);
        metered.drain(&mut [0; 2]).unwrap();
        assert_eq!(metered.bytes, 3);
        assert_eq!(metered.digest(), sha256(b"abc"));
    }
}
