//! Uploads: digest checked, encrypted and signed while the bytes arrive.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use aos_cloud_pki::Pki;
use aos_cloud_store::{Blob, now_micros};
use aos_ids::Digest;
use aws_lc_rs::digest::{Context, SHA256};
use bytes::Bytes;
use futures_util::{Stream, StreamExt as _};
use sha3::{Digest as _, Sha3_256};
use tokio::sync::mpsc;

use crate::error::BlobError;
use crate::{Blobs, KEY_PURPOSE};

/// Largest blob, bytes.
const MAX_BLOB: u64 = 16 * 1024 * 1024 * 1024;
/// Pieces of the body that wait for the disk.
const QUEUE: usize = 4;
/// A sender that is silent for so long is gone.
const IDLE: Duration = Duration::from_mins(1);

impl Blobs {
    /// Takes the bytes of `digest` from `body`. Returns false when the blob was there already; its body is
    /// then not read. Nothing is kept of an upload that fails.
    pub async fn upload<S, E>(&self, digest: Digest, body: S) -> Result<bool, BlobError>
    where
        S: Stream<Item = Result<Bytes, E>> + Send,
    {
        if self.find(&digest).await?.is_some() {
            return Ok(false);
        }
        let (pieces, receiver) = mpsc::channel(QUEUE);
        let (dir, pki) = (self.inner.dir.clone(), Arc::clone(&self.inner.pki));
        let worker = tokio::task::spawn_blocking(move || encrypt(&dir, &pki, digest, receiver));
        let mut body = std::pin::pin!(body);
        loop {
            let piece = match tokio::time::timeout(IDLE, body.next()).await {
                Ok(None) => break,
                Ok(Some(piece)) => piece.map_err(|_| ()),
                Err(_) => Err(()),
            };
            let broken = piece.is_err();
            // A worker that gave up tells why in its result.
            if pieces.send(piece).await.is_err() || broken {
                break;
            }
        }
        drop(pieces);
        let (blob, temporary) = worker.await.map_err(|_| BlobError::Interrupted)??;
        let path = self.path(&blob);
        aos_durable::rename_durably(temporary.path(), &path)?;
        temporary.keep();
        let made = self.inner.store.add_blob(blob).await?;
        if !made {
            // Another upload of the same content was faster; ours has its own key and is not needed.
            std::fs::remove_file(&path).map_err(BlobError::io("remove", &path))?;
        }
        Ok(made)
    }
}

/// A file that is removed unless it is kept.
struct Temporary {
    path: PathBuf,
    keep: bool,
}

impl Temporary {
    fn path(&self) -> &Path {
        &self.path
    }

    fn keep(mut self) {
        self.keep = true;
    }
}

impl Drop for Temporary {
    fn drop(&mut self) {
        if !self.keep {
            // What stays is removed at the next start.
            let _ = std::fs::remove_file(&self.path);
        }
    }
}

fn encrypt(
    dir: &Path,
    pki: &Pki,
    digest: Digest,
    pieces: mpsc::Receiver<Result<Bytes, ()>>,
) -> Result<(Blob, Temporary), BlobError> {
    let temporary = Temporary { path: dir.join(format!(".{}.tmp", uuid::Uuid::new_v4())), keep: false };
    let file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(&temporary.path)
        .map_err(BlobError::io("create", &temporary.path))?;

    let (mut key, mut iv) = ([0; 32], [0; 16]);
    for secret in [&mut key[..], &mut iv[..]] {
        aws_lc_rs::rand::fill(secret).map_err(|_| aos_cloud_pki::PkiError::Crypto("draw a content key"))?;
    }
    let mut plain = Plain { pieces, piece: Bytes::new(), hash: Context::new(&SHA256), size: 0, end: None };
    let mut cipher = Encrypted { file, hash: Sha3_256::new() };
    let outcome = aos_blob_crypto::encrypt_cbc(&mut plain, &mut cipher, &key, &iv);
    match plain.end {
        Some(End::Broken) => return Err(BlobError::BrokenOff),
        Some(End::TooLarge) => {
            return Err(BlobError::TooLarge { digest, size: plain.size, max: MAX_BLOB });
        }
        None => {}
    }
    let served_size = outcome?;
    let sha256 = plain.hash.finish();
    let found = sha256.as_ref().try_into().map(Digest::from_sha256).map_err(|_| BlobError::Interrupted)?;
    if found != digest {
        return Err(BlobError::Mismatch { expected: digest, found });
    }
    cipher.file.sync_all().map_err(BlobError::io("sync", &temporary.path))?;
    let blob = Blob {
        digest: digest.to_string(),
        size: plain.size,
        served_size,
        sha3: hex::encode(cipher.hash.finalize()),
        sealed_key: pki.vault().seal(KEY_PURPOSE, &key)?,
        iv: iv.to_vec(),
        signature: pki.signer().sign(&sha256)?,
        chain_name: pki.signer().chain_name().to_owned(),
        signed_at: now_micros() / 1_000_000,
    };
    Ok((blob, temporary))
}

enum End {
    Broken,
    TooLarge,
}

/// The arriving bytes as a reader that hashes them.
struct Plain {
    pieces: mpsc::Receiver<Result<Bytes, ()>>,
    piece: Bytes,
    hash: Context,
    size: u64,
    end: Option<End>,
}

impl Read for Plain {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.piece.is_empty() {
            match self.pieces.blocking_recv() {
                None => return Ok(0),
                Some(Ok(piece)) => self.piece = piece,
                Some(Err(())) => {
                    self.end = Some(End::Broken);
                    return Err(io::ErrorKind::UnexpectedEof.into());
                }
            }
        }
        let taken = self.piece.split_to(self.piece.len().min(buffer.len()));
        buffer[..taken.len()].copy_from_slice(&taken);
        self.hash.update(&taken);
        self.size += taken.len() as u64;
        if self.size > MAX_BLOB {
            self.end = Some(End::TooLarge);
            return Err(io::ErrorKind::FileTooLarge.into());
        }
        Ok(taken.len())
    }
}

/// The encrypted bytes on their way to the disk.
struct Encrypted {
    file: File,
    hash: Sha3_256,
}

impl Write for Encrypted {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.file.write(bytes)?;
        self.hash.update(&bytes[..written]);
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}
