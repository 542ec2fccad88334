//! A blob as something to read from on a blocking thread, while the connections live on the runtime.

use std::fs::File;
use std::io::{self, Read, Seek};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use bytes::{Buf, Bytes};
use tokio::sync::mpsc;

use crate::attempts::{Attempts, Next};
use crate::http_blob::{Sink, Wish, read};
use crate::{Address, Dialer, MAX_ADDRESSES, SourceError, open_file, shown};

/// Pieces that wait for the reader.
const QUEUE: usize = 16;

/// Ends a reading from elsewhere. Clones are the same.
#[derive(Debug, Clone, Default)]
pub struct Stop(Arc<AtomicBool>);

impl Stop {
    /// The next read fails.
    pub fn now(&self) {
        self.0.store(true, Ordering::Relaxed);
    }

    fn is_now(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}

/// Reads a blob.
#[derive(Debug)]
pub struct BlobReader {
    source: Source,
    stop: Stop,
}

#[derive(Debug)]
enum Source {
    File(File),
    Web { pieces: mpsc::Receiver<Result<Bytes, SourceError>>, piece: Bytes, ended: bool },
}

impl Read for BlobReader {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.stop.is_now() {
            return Err(stopped());
        }
        match &mut self.source {
            Source::File(file) => file.read(buffer),
            Source::Web { pieces, piece, ended } => {
                while piece.is_empty() {
                    if *ended {
                        return Ok(0);
                    }
                    match pieces.blocking_recv() {
                        // An empty piece is the end.
                        Some(Ok(next)) if next.is_empty() => *ended = true,
                        Some(Ok(next)) => *piece = next,
                        Some(Err(error)) => return Err(io::Error::other(error)),
                        None => return Err(stopped()),
                    }
                }
                let count = buffer.len().min(piece.len());
                piece.copy_to_slice(buffer.get_mut(..count).unwrap_or_default());
                Ok(count)
            }
        }
    }
}

fn stopped() -> io::Error {
    io::Error::other("reading was stopped")
}

struct Pieces(mpsc::Sender<Result<Bytes, SourceError>>);

impl Sink for Pieces {
    async fn put(&mut self, piece: Bytes) -> bool {
        self.0.send(Ok(piece)).await.is_ok()
    }
}

struct Collected {
    bytes: Vec<u8>,
}

impl Sink for Collected {
    async fn put(&mut self, piece: Bytes) -> bool {
        self.bytes.extend_from_slice(&piece);
        true
    }
}

impl Dialer {
    /// A reader of the blob at `urls` from byte `start` on, and what has to run on the runtime while it is read;
    /// dropping that ends the reading. A file that can be opened is read directly.
    pub fn open(
        &self,
        urls: &[String],
        size: u64,
        start: u64,
        stop: &Stop,
    ) -> Result<(BlobReader, impl Future<Output = ()> + Send + use<>), SourceError> {
        let (sender, pieces) = mpsc::channel(QUEUE);
        let (addresses, mut file) = self.usable(urls, Some(size))?;
        let source = match file.take() {
            Some(mut file) => {
                let path = || urls.first().map(|url| shown(url)).unwrap_or_default();
                file.seek(io::SeekFrom::Start(start))
                    .map_err(|source| SourceError::File { path: path().into(), source })?;
                Source::File(file)
            }
            None => Source::Web { pieces, piece: Bytes::new(), ended: false },
        };
        let direct = matches!(source, Source::File(_));
        let dialer = self.clone();
        let pump = async move {
            if direct {
                return;
            }
            let mut sink = Pieces(sender);
            match dialer.pump(&addresses, Some(size), start, size, &mut sink).await {
                // What is missing now is told by its end.
                Ok(_) => {
                    let _ = sink.0.send(Ok(Bytes::new())).await;
                }
                Err(error) => {
                    let _ = sink.0.send(Err(error)).await;
                }
            }
        };
        Ok((BlobReader { source, stop: stop.clone() }, pump))
    }

    /// The whole of a small blob, at most `limit` bytes.
    pub async fn fetch(
        &self,
        urls: &[String],
        size: Option<u64>,
        limit: u64,
    ) -> Result<Vec<u8>, SourceError> {
        let (addresses, file) = self.usable(urls, size)?;
        if let Some(file) = file {
            let path = || urls.first().map(|url| shown(url)).unwrap_or_default();
            let mut content = Vec::new();
            let read = file.take(limit.saturating_add(1)).read_to_end(&mut content);
            read.map_err(|source| SourceError::File { path: path().into(), source })?;
            if content.len() as u64 > limit {
                return Err(SourceError::TooLong { address: path(), limit });
            }
            return Ok(content);
        }
        let mut sink = Collected { bytes: Vec::new() };
        self.pump(&addresses, size, 0, limit, &mut sink).await?;
        Ok(sink.bytes)
    }

    /// The addresses that can be used, or the first file that can be opened.
    #[allow(clippy::unused_self, reason = "part of what a dialer does with addresses")]
    fn usable(
        &self,
        urls: &[String],
        size: Option<u64>,
    ) -> Result<(Vec<Address>, Option<File>), SourceError> {
        let mut web = Vec::new();
        let mut trouble = None;
        for url in urls.iter().take(MAX_ADDRESSES) {
            match Address::read(url) {
                // Once a server comes first, the order given counts: files behind it are for when it fails.
                Ok(Address::File(path)) => match open_file(&path, size) {
                    Ok(file) if web.is_empty() => return Ok((Vec::new(), Some(file))),
                    Ok(_) => web.push(Address::File(path)),
                    Err(error) => trouble = Some(error),
                },
                Ok(address) => web.push(address),
                Err(error) => trouble = Some(error),
            }
        }
        match trouble {
            Some(error) if web.is_empty() => Err(error),
            None if web.is_empty() => Err(SourceError::NoAddress),
            _ => Ok((web, None)),
        }
    }

    async fn pump(
        &self,
        addresses: &[Address],
        size: Option<u64>,
        start: u64,
        limit: u64,
        sink: &mut impl Sink,
    ) -> Result<bool, SourceError> {
        let mut attempts = Attempts::new(addresses.len());
        let mut offset = start;
        loop {
            let before = offset;
            let error = match addresses.get(attempts.current()) {
                None => return Err(SourceError::NoAddress),
                Some(Address::File(path)) => match from_file(path, size, limit, &mut offset, sink).await {
                    Ok(more) => return Ok(more),
                    Err(error) => error,
                },
                Some(Address::Web(uri)) => {
                    let address = shown(&uri.to_string());
                    let wish = Wish { dialer: self, uri, address: &address, size, limit };
                    match read(&wish, &mut offset, sink).await {
                        Ok(more) => return Ok(more),
                        Err(error) => error,
                    }
                }
            };
            let random = aos_backoff::random_fraction();
            match attempts.failed(error.failure(), offset > before, random) {
                Next::GiveUp => return Err(error),
                Next::Try(_) => tracing::debug!("at byte {offset}: {error}"),
                Next::Wait(pause, _) => {
                    tracing::info!("at byte {offset}: {error}; the next try comes in {pause:?}");
                    tokio::time::sleep(pause).await;
                }
            }
        }
    }
}

/// A file that stands behind a server in the list.
async fn from_file(
    path: &std::path::Path,
    size: Option<u64>,
    limit: u64,
    offset: &mut u64,
    sink: &mut impl Sink,
) -> Result<bool, SourceError> {
    use tokio::io::{AsyncReadExt, AsyncSeekExt};
    let failed = |source| SourceError::File { path: path.to_owned(), source };
    let mut file = tokio::fs::File::from_std(open_file(path, size)?);
    file.seek(io::SeekFrom::Start(*offset)).await.map_err(failed)?;
    loop {
        let mut piece = bytes::BytesMut::with_capacity(64 * 1024);
        if file.read_buf(&mut piece).await.map_err(failed)? == 0 {
            return Ok(true);
        }
        if *offset + piece.len() as u64 > limit {
            return Err(SourceError::TooLong { address: path.display().to_string(), limit });
        }
        *offset += piece.len() as u64;
        if !sink.put(piece.freeze()).await {
            return Ok(false);
        }
    }
}
