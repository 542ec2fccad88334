//! Fetching one content: a document, a layer or a raw blob. Everything that blocks runs on blocking threads.

use std::io::{self, Read};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use aos_blob_source::{BlobReader, Dialer, Stop};
use aos_content_store::{PartialBlob, Store, StoreError};
use aos_ids::Digest;
use aos_image_layers::{Condition, Depth, Layer, LayerError, LayerStore};
use aos_item_format::MAX_DOCUMENT;
use tokio::sync::Semaphore;

use super::documents::{blob_path, check, read_blob};
use super::space::Share;
use crate::Error;
use crate::database::Database;
use crate::smclient::CmCalls;

/// Most layers unpacked at a time; each takes some 400 KiB, with zstd up to 8 MiB more.
const MAX_PLACES: usize = 4;

/// How long a blob may be held by a try that was given up, and how often that is looked at.
const BUSY_TIME: Duration = Duration::from_secs(10);
const BUSY_PAUSE: Duration = Duration::from_millis(50);

/// A content to be had.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Content {
    /// A small blob; its size is not known for what an item is named by.
    Document { digest: Digest, size: Option<u64> },
    /// A layer of a service.
    Layer(Layer),
    /// A blob of a component.
    Raw { digest: Digest, size: u64 },
}

/// What is known of a tree or raw blob that may be on disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Trust {
    /// It was looked at in this run of the program.
    Seen,
    /// It has to be looked at.
    Unseen,
    /// A look found it wrong.
    Wrong,
}

/// What makes two contents the same.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Name {
    Blob(Digest),
    Tree(Digest),
}

impl Content {
    pub fn name(&self) -> Name {
        match self {
            Self::Document { digest, .. } | Self::Raw { digest, .. } => Name::Blob(*digest),
            Self::Layer(layer) => Name::Tree(layer.diff_id),
        }
    }
}

/// What all jobs use.
pub struct Surroundings {
    pub folder: PathBuf,
    pub layers: LayerStore,
    pub store: Store,
    pub database: Database,
    share: Share,
    cm: CmCalls,
    dialer: Dialer,
    places: Semaphore,
    /// Packed bytes of the layers that are being unpacked.
    under_way: AtomicU64,
}

/// Counts a layer as under way until it goes.
struct UnderWay<'a>(&'a AtomicU64, u64);

impl Drop for UnderWay<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(self.1, Ordering::Relaxed);
    }
}

/// Ends a reading when the job that wanted it goes.
struct StopOnDrop(Stop);

impl Drop for StopOnDrop {
    fn drop(&mut self) {
        self.0.now();
    }
}

/// Runs what blocks.
pub async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T, Error> {
    tokio::task::spawn_blocking(work).await.map_err(|_| Error::Ended("work on the disk"))
}

impl Surroundings {
    pub fn new(
        folder: PathBuf,
        layers: LayerStore,
        store: Store,
        share: Share,
        cm: CmCalls,
        dialer: Dialer,
        database: Database,
    ) -> Self {
        let processors = std::thread::available_parallelism().map_or(1, usize::from);
        let places = Semaphore::new(processors.min(MAX_PLACES));
        Self { folder, layers, store, database, share, cm, dialer, places, under_way: AtomicU64::new(0) }
    }

    /// Brings a content here unless it is.
    pub async fn bring(self: Arc<Self>, content: Content, trust: Trust) -> Result<(), Error> {
        match content {
            Content::Document { digest, size } => self.document(digest, size).await,
            Content::Layer(layer) => self.layer(layer, trust).await,
            Content::Raw { digest, size } => self.raw(digest, size, trust).await,
        }
    }

    async fn document(&self, digest: Digest, size: Option<u64>) -> Result<(), Error> {
        let folder = self.folder.clone();
        if blocking(move || read_blob(&folder, &digest)).await?.is_ok() {
            return Ok(());
        }
        let limit = MAX_DOCUMENT as u64;
        if let Some(size) = size.filter(|&size| size > limit) {
            return Err(Error::invalid(format!("document {digest}"), format!("{size} bytes are too many")));
        }
        let urls = self.cm.blob_urls(&digest).await?;
        let content = self.dialer.fetch(&urls, size, limit).await.map_err(Error::source(&digest))?;
        check(&content, &digest)?;
        let path = blob_path(&self.folder, &digest);
        Ok(blocking(move || aos_durable::write_atomic(&path, &content, 0o600)).await??)
    }

    async fn layer(&self, layer: Layer, trust: Trust) -> Result<(), Error> {
        match self.condition(layer.diff_id, trust).await? {
            Condition::Whole => {}
            Condition::Missing => self.fetch_layer(&layer, false).await?,
            Condition::Damaged => {
                tracing::warn!("layer {} was changed or is incomplete, it is fetched anew", layer.diff_id);
                self.fetch_layer(&layer, true).await?;
            }
        }
        let mark = blob_path(&self.folder, &layer.digest);
        // A squashfs image is named alike packed and unpacked.
        let text = layer.diff_id.to_string();
        blocking(move || {
            let known = aos_durable::read_bounded(&mark, 256).ok().flatten();
            if known.as_deref() == Some(text.as_bytes()) {
                return Ok(());
            }
            aos_durable::write_atomic(&mark, text.as_bytes(), 0o600)
        })
        .await??;
        Ok(())
    }

    async fn condition(&self, diff_id: Digest, trust: Trust) -> Result<Condition, Error> {
        let layers = self.layers.clone();
        blocking(move || match trust {
            Trust::Seen if layers.tree(&diff_id).is_dir() => Ok(Condition::Whole),
            Trust::Wrong => Ok(Condition::Damaged),
            _ => Ok(layers.check(&diff_id, Depth::Quick)?),
        })
        .await?
    }

    async fn fetch_layer(&self, layer: &Layer, replace: bool) -> Result<(), Error> {
        let place = self.places.acquire().await.map_err(|_| Error::Ended("unpacking"))?;
        let urls = self.cm.blob_urls(&layer.digest).await?;
        let disk = self.room(layer.digest, layer.size).await?;
        self.under_way.fetch_add(layer.size, Ordering::Relaxed);
        let under_way = UnderWay(&self.under_way, layer.size);
        let stop = StopOnDrop(Stop::default());
        let (reader, pump) =
            self.dialer.open(&urls, layer.size, 0, &stop.0).map_err(Error::source(&layer.digest))?;
        let (store, described) = (self.layers.clone(), layer.clone());
        let unpack = blocking(move || store.unpack(&described, reader, disk));
        let ((), staged) = tokio::join!(pump, unpack);
        let staged = staged??;
        // While this one is being synced, the next one may be unpacked.
        drop(place);
        blocking(move || staged.commit(replace)).await??;
        drop(under_way);
        tracing::debug!("layer {} is installed", layer.diff_id);
        Ok(())
    }

    /// Disk space for a content of this size, if there is any chance for it.
    async fn room(&self, digest: Digest, size: u64) -> Result<u64, Error> {
        let (share, folder, layers, store) =
            (self.share, self.folder.clone(), self.layers.clone(), self.store.clone());
        let under_way = self.under_way.load(Ordering::Relaxed);
        let disk = blocking(move || share.available(&folder, &layers, &store, under_way)).await??;
        if size > disk {
            return Err(LayerError::NoSpace { layer: digest, source: None }.into());
        }
        Ok(disk)
    }

    async fn raw(&self, digest: Digest, size: u64, trust: Trust) -> Result<(), Error> {
        let store = self.store.clone();
        let here = blocking(move || {
            let right_size = store.size(&digest) == Some(size);
            Ok::<_, StoreError>(match trust {
                Trust::Seen => right_size,
                Trust::Unseen => right_size && store.verify(&digest)?,
                Trust::Wrong => false,
            })
        });
        if here.await?.map_err(Error::from)? {
            return Ok(());
        }
        let urls = self.cm.blob_urls(&digest).await?;
        self.room(digest, size).await?;
        let partial = self.partial(digest, size).await?;
        let stop = StopOnDrop(Stop::default());
        let (reader, pump) =
            self.dialer.open(&urls, size, partial.len(), &stop.0).map_err(Error::source(&digest))?;
        let write = blocking(move || receive(reader, partial, digest));
        let ((), written) = tokio::join!(pump, write);
        written?
    }
}

impl Surroundings {
    async fn partial(&self, digest: Digest, size: u64) -> Result<PartialBlob, Error> {
        let deadline = tokio::time::Instant::now() + BUSY_TIME;
        loop {
            let store = self.store.clone();
            let opened = blocking(move || {
                store.remove(&digest)?;
                store.partial(&digest, size)
            });
            match opened.await? {
                // A try that was given up is about to let go of it.
                Err(StoreError::Busy(_)) if tokio::time::Instant::now() < deadline => {
                    tokio::time::sleep(BUSY_PAUSE).await;
                }
                other => return Ok(other?),
            }
        }
    }
}

/// Appends what comes until it is complete. What came stays for the next try, unless it is wrong.
fn receive(mut reader: BlobReader, mut partial: PartialBlob, digest: Digest) -> Result<(), Error> {
    let mut buffer = vec![0; 64 * 1024];
    loop {
        match reader.read(&mut buffer) {
            Ok(0) => return Ok(partial.finish()?),
            Ok(count) => partial.append(buffer.get(..count).unwrap_or_default())?,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(Error::system(format!("read blob {digest}"))(error)),
        }
    }
}
