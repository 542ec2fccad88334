//! Fetching an item: its index, its manifests, and every blob they name.
//!
//! What is in the store is never fetched again. A blob that arrives damaged is fetched again three times, then
//! its item fails; while the cloud or its servers cannot be reached the fetch waits and tries again until it
//! is cancelled. Four blobs are fetched at the same time.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::BufReader;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use aos_backoff::Backoff;
use aos_blob_crypto::{ChainStore, CryptoError, Decryption, Recipe, ServedDigest, SignatureInfo, unpack};
use aos_cloud_protocol::BlobInfo;
use aos_content_store::{PartialBlob, Store, StoreError};
use aos_ids::Digest;
use aos_item_format::{FormatError, Index, MAX_DOCUMENT, Manifest};
use aos_status::{AosCode, ErrorInfo};
use futures_util::{StreamExt, TryStreamExt, stream};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::Event;
use super::download::{DownloadError, download};
use super::progress::Progress;
use crate::communication::{BlobUrlError, Communication};
use crate::transport::Dialer;

/// Blobs fetched at the same time.
const PARALLEL: usize = 4;
/// How often a damaged blob is fetched again.
const REFETCHES: u32 = 3;
/// How often servers may refuse a blob with their whole list of addresses.
const REFUSALS: u32 = 5;
/// Pauses between attempts.
const PAUSE: (Duration, Duration) = (Duration::from_secs(1), Duration::from_mins(1));

/// How a fetch ends when it does not succeed.
#[derive(Debug)]
pub enum FetchError {
    /// Told to stop; what arrived is kept.
    Canceled,
    /// The item cannot be had.
    Failed(ErrorInfo),
}

impl FetchError {
    fn failed(code: AosCode, message: impl Into<String>) -> Self {
        Self::Failed(ErrorInfo::new(code, message))
    }
}

impl From<StoreError> for FetchError {
    fn from(error: StoreError) -> Self {
        let code = match &error {
            StoreError::Mismatch { .. } => AosCode::InvalidChecksum,
            error if error.is_no_space() => AosCode::NoMemory,
            _ => AosCode::Failed,
        };
        Self::failed(code, error.to_string())
    }
}

impl From<FormatError> for FetchError {
    fn from(error: FormatError) -> Self {
        Self::failed(AosCode::InvalidArgument, error.to_string())
    }
}

/// Fetches items for one wish of the cloud.
#[derive(Clone)]
pub struct Fetcher {
    /// Verified blobs.
    pub installed: Store,
    /// Served bytes under way.
    pub downloads: Store,
    /// Where blobs are asked for.
    pub cloud: Communication,
    /// Connections without an identity.
    pub dialer: Dialer,
    /// Certificates of the wish, and our roots.
    pub trust: Arc<ChainStore>,
    /// For words about downloads.
    pub events: mpsc::Sender<Event>,
    /// Stops everything.
    pub cancel: CancellationToken,
}

impl Fetcher {
    /// Fetches everything that the index names and that is not there.
    pub async fn item(&self, index: &Digest) -> Result<(), FetchError> {
        let document = self.document(index, None).await?;
        let manifests = Index::read(&document)?.manifests;
        if manifests.is_empty() {
            return Err(FetchError::failed(AosCode::InvalidArgument, "the image index names no manifest"));
        }
        let read = |descriptor: aos_item_format::Descriptor| async move {
            let document = self.document(&descriptor.digest, Some(descriptor.size)).await?;
            Ok::<_, FetchError>(Manifest::read(&document)?)
        };
        let manifests: Vec<Manifest> =
            stream::iter(manifests).map(read).buffered(PARALLEL).try_collect().await?;
        let mut blobs = BTreeMap::new();
        for blob in manifests.iter().flat_map(Manifest::blobs) {
            if blobs.insert(blob.digest, blob.size).is_some_and(|size| size != blob.size) {
                let message = format!("blob {} has two sizes", blob.digest);
                return Err(FetchError::failed(AosCode::InvalidArgument, message));
            }
        }
        stream::iter(blobs.into_iter().map(Ok))
            .try_for_each_concurrent(PARALLEL, |(digest, size)| async move {
                self.blob(&digest, Some(size)).await
            })
            .await
    }

    /// A document of the item; one that was damaged on disk is fetched once more.
    async fn document(&self, digest: &Digest, size: Option<u64>) -> Result<Vec<u8>, FetchError> {
        self.blob(digest, size).await?;
        match self.installed.read(digest, MAX_DOCUMENT as u64) {
            Err(StoreError::Mismatch { .. } | StoreError::Missing(_)) => {
                self.blob(digest, size).await?;
                Ok(self.installed.read(digest, MAX_DOCUMENT as u64)?)
            }
            other => Ok(other?),
        }
    }

    /// Fetches one blob unless it is there with the right size.
    async fn blob(&self, digest: &Digest, size: Option<u64>) -> Result<(), FetchError> {
        if let Some(found) = self.installed.size(digest) {
            if size.is_none_or(|size| size == found) {
                return Ok(());
            }
            self.installed.remove(digest)?;
        }
        self.fetch(digest).await?;
        match (self.installed.size(digest), size) {
            (Some(found), Some(size)) if found != size => {
                let message = format!("blob {digest} has {found} bytes, its manifest says {size}");
                Err(FetchError::failed(AosCode::InvalidArgument, message))
            }
            _ => Ok(()),
        }
    }

    async fn fetch(&self, digest: &Digest) -> Result<(), FetchError> {
        let mut progress = Progress::new(self.events.clone(), digest);
        let result = self.fetch_telling(digest, &mut progress).await;
        match &result {
            Ok(()) => progress.finished(),
            Err(FetchError::Failed(error)) => progress.interrupted(0, error.clone(), Instant::now()),
            Err(FetchError::Canceled) => {}
        }
        result
    }

    async fn fetch_telling(&self, digest: &Digest, progress: &mut Progress) -> Result<(), FetchError> {
        let (mut damaged, mut refused) = (0, 0);
        let mut backoff = Backoff::new(PAUSE.0, PAUSE.1, 0.2);
        loop {
            let info = self.ask(digest).await?;
            progress.set_total(info.size);
            self.check_space(info.size)?;
            let mut partial = match self.downloads.partial(digest, info.size) {
                Err(StoreError::Busy(_)) => {
                    self.pause(&mut backoff).await?;
                    continue;
                }
                other => other?,
            };
            if let Err(refusals) = self.download(digest, &info, &mut partial, &mut damaged, progress).await? {
                refused += u32::from(refusals);
                if refused >= REFUSALS {
                    return Err(FetchError::failed(
                        AosCode::NotFound,
                        format!("no server has blob {digest}"),
                    ));
                }
                drop(partial);
                self.pause(&mut backoff).await?;
                continue;
            }
            match self.unpack(digest, &info, partial).await? {
                Ok(()) => {
                    tracing::info!("blob {digest} fetched, {} bytes", info.size);
                    return Ok(());
                }
                Err(error) => {
                    tracing::warn!("blob {digest} arrived damaged: {error}");
                    let damage = ErrorInfo::new(AosCode::InvalidChecksum, error.to_string());
                    progress.interrupted(0, damage, Instant::now());
                    note_damage(digest, &mut damaged)?;
                }
            }
        }
    }

    /// Asks the cloud until it answers.
    async fn ask(&self, digest: &Digest) -> Result<BlobInfo, FetchError> {
        let mut backoff = Backoff::new(PAUSE.0, PAUSE.1, 0.2);
        let mut connected = self.cloud.connected();
        loop {
            tokio::select! {
                () = self.cancel.cancelled() => return Err(FetchError::Canceled),
                online = connected.wait_for(|online| *online) => {
                    online.map_err(|_| FetchError::Canceled)?;
                }
            }
            let answer = tokio::select! {
                () = self.cancel.cancelled() => return Err(FetchError::Canceled),
                answer = self.cloud.blob_urls(*digest) => answer,
            };
            match answer {
                Ok(info) => return Ok(info),
                Err(error @ BlobUrlError::NotFound(_)) => {
                    return Err(FetchError::failed(AosCode::NotFound, error.to_string()));
                }
                Err(error) => {
                    tracing::debug!("addresses of blob {digest}: {error}");
                    self.pause(&mut backoff).await?;
                }
            }
        }
    }

    /// Tries every address; the inner error tells whether all servers refused.
    async fn download(
        &self,
        digest: &Digest,
        info: &BlobInfo,
        partial: &mut PartialBlob,
        damaged: &mut u32,
        progress: &mut Progress,
    ) -> Result<Result<(), bool>, FetchError> {
        let mut all_refused = true;
        let mut reason = String::new();
        for url in &info.urls {
            let result = tokio::select! {
                () = self.cancel.cancelled() => return Err(FetchError::Canceled),
                result = download(&self.dialer, url, partial, |here| {
                    progress.running(url, here, Instant::now());
                }) => result,
            };
            match result {
                Ok(()) => return Ok(Ok(())),
                Err(DownloadError::Store(StoreError::TooLong { .. })) => {
                    tracing::warn!("blob {digest} is longer than announced");
                    "longer than announced".clone_into(&mut reason);
                    partial.restart()?;
                    note_damage(digest, damaged)?;
                    all_refused = false;
                }
                Err(DownloadError::Store(error)) => return Err(error.into()),
                Err(error) => {
                    let mut cause =
                        std::error::Error::source(&error).map(ToString::to_string).unwrap_or_default();
                    if !cause.is_empty() {
                        cause.insert_str(0, ": ");
                    }
                    tracing::warn!(
                        "blob {digest} at {} of {} bytes: {error}{cause}",
                        partial.len(),
                        info.size
                    );
                    reason = format!("{error}{cause}");
                    all_refused &= matches!(error, DownloadError::Status(_) | DownloadError::Url(_));
                }
            }
        }
        let error = ErrorInfo::new(AosCode::Failed, reason);
        progress.interrupted(partial.len(), error, Instant::now());
        Ok(Err(all_refused))
    }

    /// Checks, decrypts and keeps the blob; the inner error is damage on the way.
    async fn unpack(
        &self,
        digest: &Digest,
        info: &BlobInfo,
        partial: PartialBlob,
    ) -> Result<Result<(), CryptoError>, FetchError> {
        let decryption = match &info.decrypt_info {
            Some(decrypt) => {
                let made = Decryption::new(&decrypt.block_alg, &decrypt.block_key.0, &decrypt.block_iv.0);
                Some(made.map_err(crypto_failed)?)
            }
            None => None,
        };
        let signature = info.sign_info.as_ref().map(|sign| SignatureInfo {
            chain_name: sign.chain_name.clone(),
            alg: sign.alg.clone(),
            value: sign.value.0.clone(),
            trusted_timestamp: sign.trusted_timestamp.map(SystemTime::from),
        });
        let served = ServedDigest::parse(&info.sha256.to_string()).map_err(crypto_failed)?;
        let (digest, installed, trust) = (*digest, self.installed.clone(), Arc::clone(&self.trust));
        let work = move || {
            let signature = signature.map(|info| (info, trust.as_ref()));
            let recipe = Recipe { digest, served: Some(served), decryption, signature };
            let source = File::open(partial.path()).map_err(|source| StoreError::File {
                action: "open",
                path: partial.path().to_owned(),
                source,
            })?;
            let mut stage = installed.stage()?;
            let outcome = unpack(BufReader::new(source), stage.file(), &recipe, SystemTime::now());
            match outcome {
                Ok(_) => {
                    stage.commit(&digest)?;
                    partial.discard()?;
                    Ok(Ok(()))
                }
                // Kept bytes would only be found damaged again.
                Err(error) => {
                    partial.discard()?;
                    Ok(Err(error))
                }
            }
        };
        let result = tokio::task::spawn_blocking(work).await;
        let result: Result<Result<(), CryptoError>, StoreError> =
            result.map_err(|_| FetchError::failed(AosCode::Failed, "unpacking a blob broke off"))?;
        match result? {
            Ok(()) => Ok(Ok(())),
            Err(error @ CryptoError::ServedMismatch) => Ok(Err(error)),
            Err(error) => Err(crypto_failed(error)),
        }
    }

    fn check_space(&self, size: u64) -> Result<(), FetchError> {
        let Ok(disk) = rustix::fs::statvfs(self.downloads.root()) else { return Ok(()) };
        // The served and the plain bytes lie side by side for a moment.
        if disk.f_bavail.saturating_mul(disk.f_frsize) < size.saturating_mul(2) {
            return Err(FetchError::failed(AosCode::NoMemory, "not enough space"));
        }
        Ok(())
    }

    async fn pause(&self, backoff: &mut Backoff) -> Result<(), FetchError> {
        tokio::select! {
            () = self.cancel.cancelled() => Err(FetchError::Canceled),
            () = tokio::time::sleep(backoff.next(aos_backoff::random_fraction())) => Ok(()),
        }
    }
}

fn note_damage(digest: &Digest, damaged: &mut u32) -> Result<(), FetchError> {
    *damaged += 1;
    if *damaged > REFETCHES {
        let message = format!("blob {digest} arrives damaged every time");
        return Err(FetchError::failed(AosCode::InvalidChecksum, message));
    }
    Ok(())
}

#[allow(clippy::needless_pass_by_value, reason = "used as a mapping function")]
fn crypto_failed(error: CryptoError) -> FetchError {
    let code = match &error {
        CryptoError::ContentMismatch { .. } | CryptoError::ServedMismatch => AosCode::InvalidChecksum,
        CryptoError::UnsupportedCipher(_) | CryptoError::UnsupportedSignature(_) => AosCode::NotSupported,
        CryptoError::Io { .. } => AosCode::Failed,
        _ => AosCode::InvalidArgument,
    };
    FetchError::failed(code, error.to_string())
}
