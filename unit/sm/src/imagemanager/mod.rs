//! Images on disk: manifest, configurations and layers, verified while they come in.
//!
//! Layout below the image folder, as peers know it: `blobs/sha256/<hex>` holds manifests and configurations
//! (and for a layer the text of its diff ID), `layers/sha256/<hex>/layer` the unpacked trees, shared by all
//! images that name them. Packed layers are read where the Communication Manager has them (`file://`) and
//! are not copied. Only SHA-256, tar and gzip; layers over HTTP and in zstd are refused.
//!
//! One task works through its orders one by one, so no content is fetched or unpacked twice at a time.

mod layer;
mod names;
mod tree;

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use aos_ids::Digest;
use aos_item_format::{Descriptor, ImageConfig, ItemConfig, MAX_DOCUMENT, Manifest};
use tokio::sync::{mpsc, oneshot};

use crate::Error;
use crate::database::{Database, ItemRow};
use crate::smclient::CmCalls;
use layer::{Layer, Packing};

/// Versions of an item kept on disk.
const VERSIONS_PER_ITEM: usize = 2;

/// An image ready to run.
#[derive(Debug, Clone)]
pub struct Image {
    /// How its process is started.
    pub config: ImageConfig,
    /// How it wants to be run.
    pub item: ItemConfig,
    /// Unpacked trees, lowest first.
    pub layers: Vec<PathBuf>,
}

enum Order {
    Install {
        item: String,
        version: String,
        manifest: Digest,
        answer: oneshot::Sender<Result<Arc<Image>, Error>>,
    },
    InUse(BTreeSet<(String, String)>),
}

/// Handle of the image task.
#[derive(Clone)]
pub struct ImageManager {
    orders: mpsc::Sender<Order>,
    folder: PathBuf,
}

/// How long unused things stay.
#[derive(Debug, Clone, Copy)]
pub struct Retention {
    /// Time a version nobody wants is kept.
    pub ttl: Duration,
    /// How often that is checked.
    pub period: Duration,
}

impl ImageManager {
    /// Prepares the folder and the task.
    pub fn open(
        folder: PathBuf,
        retention: Retention,
        database: Database,
        cm: CmCalls,
    ) -> Result<(Self, impl Future<Output = ()> + Send), Error> {
        aos_durable::create_dir(&folder, 0o700)?;
        let temporary = folder.join("tmp");
        if temporary.exists() {
            fs::remove_dir_all(&temporary).map_err(Error::file("empty", &temporary))?;
        }
        for part in ["blobs/sha256", "layers/sha256", "tmp"] {
            aos_durable::create_dir(&folder.join(part), 0o700)?;
        }
        let (orders, queue) = mpsc::channel(64);
        let task = Task { folder: folder.clone(), retention, database, cm };
        Ok((Self { orders, folder }, task.run(queue)))
    }

    /// The image of a manifest; fetched and unpacked when something of it is missing.
    pub async fn install(
        &self,
        item: String,
        version: String,
        manifest: Digest,
    ) -> Result<Arc<Image>, Error> {
        let (answer, result) = oneshot::channel();
        let order = Order::Install { item, version, manifest, answer };
        self.orders.send(order).await.map_err(|_| Error::Ended("the image manager"))?;
        result.await.map_err(|_| Error::Ended("the image manager"))?
    }

    /// The image of a manifest if everything of it is here.
    pub fn present(&self, manifest: &Digest) -> Option<Image> {
        load(&self.folder, manifest).ok()
    }

    /// Everything not in this set may be removed when its time has come.
    pub fn in_use(&self, items: BTreeSet<(String, String)>) {
        // With a full queue it is said again after the next update.
        let _ = self.orders.try_send(Order::InUse(items));
    }
}

fn blob_path(folder: &Path, digest: &Digest) -> PathBuf {
    folder.join("blobs/sha256").join(digest.hex())
}

fn read_blob(folder: &Path, digest: &Digest) -> Result<Vec<u8>, Error> {
    let content = aos_durable::read_bounded(&blob_path(folder, digest), MAX_DOCUMENT as u64)?
        .ok_or_else(|| Error::NotFound(format!("blob {digest}")))?;
    check(&content, digest)?;
    Ok(content)
}

fn check(content: &[u8], digest: &Digest) -> Result<(), Error> {
    let found = layer::digest_of(content);
    if found == *digest {
        return Ok(());
    }
    Err(Error::Checksum { what: "blob".to_owned(), expected: digest.to_string(), found: found.to_string() })
}

struct Parts {
    manifest: Manifest,
    item_config: Descriptor,
}

fn parse_manifest(content: &[u8], digest: &Digest) -> Result<Parts, Error> {
    let refused = |reason: String| Error::invalid(format!("manifest {digest}"), reason);
    let manifest = Manifest::read(content).map_err(|error| refused(error.to_string()))?;
    let item_config =
        manifest.aos_item_config.clone().ok_or_else(|| refused("it has no item configuration".into()))?;
    if manifest.layers.is_empty() {
        return Err(refused("it has no layers".into()));
    }
    Ok(Parts { manifest, item_config })
}

fn parse_configs(
    parts: &Parts,
    config: &[u8],
    item: &[u8],
) -> Result<(ImageConfig, ItemConfig, Vec<Layer>), Error> {
    let refused =
        |what: &Descriptor, reason: String| Error::invalid(format!("document {}", what.digest), reason);
    let config_of = &parts.manifest.config;
    let config = ImageConfig::read(config).map_err(|error| refused(config_of, error.to_string()))?;
    let item = ItemConfig::read(item).map_err(|error| refused(&parts.item_config, error.to_string()))?;
    let mut layers = Vec::new();
    for (index, described) in parts.manifest.layers.iter().enumerate() {
        let diff_id = config.rootfs.diff_ids.get(index);
        let diff_id = diff_id
            .ok_or_else(|| refused(config_of, "it has fewer diff_ids than there are layers".into()))?;
        layers.push(Layer {
            digest: described.digest,
            size: described.size,
            packing: Packing::of(&described.media_type)?,
            diff_id: *diff_id,
        });
    }
    if config.rootfs.diff_ids.len() != layers.len() {
        return Err(refused(config_of, "it has more diff_ids than there are layers".into()));
    }
    Ok((config, item, layers))
}

/// The image from what is on disk.
fn load(folder: &Path, digest: &Digest) -> Result<Image, Error> {
    let parts = parse_manifest(&read_blob(folder, digest)?, digest)?;
    let config = read_blob(folder, &parts.manifest.config.digest)?;
    let item = read_blob(folder, &parts.item_config.digest)?;
    let (config, item, layers) = parse_configs(&parts, &config, &item)?;
    for layer in &layers {
        if !layer::tree_of(folder, &layer.diff_id).is_dir() {
            return Err(Error::NotFound(format!("layer {}", layer.digest)));
        }
    }
    let layers = layers.iter().map(|layer| layer::tree_of(folder, &layer.diff_id)).collect();
    Ok(Image { config, item, layers })
}

struct Task {
    folder: PathBuf,
    retention: Retention,
    database: Database,
    cm: CmCalls,
}

impl Task {
    async fn run(self, mut queue: mpsc::Receiver<Order>) {
        let mut clean_at = tokio::time::Instant::now() + self.retention.period;
        loop {
            let order = match tokio::time::timeout_at(clean_at, queue.recv()).await {
                Ok(Some(order)) => order,
                Ok(None) => return,
                Err(_) => {
                    clean_at = tokio::time::Instant::now() + self.retention.period;
                    self.clean_and_log().await;
                    continue;
                }
            };
            match order {
                Order::Install { item, version, manifest, answer } => {
                    let _ = answer.send(self.install(item, version, &manifest).await);
                }
                Order::InUse(items) => {
                    if let Err(error) = self.mark(&items).await {
                        tracing::error!("cannot mark unused items: {}", error.info().message);
                    }
                    self.clean_and_log().await;
                }
            }
        }
    }

    async fn install(&self, item: String, version: String, digest: &Digest) -> Result<Arc<Image>, Error> {
        if let Ok(image) = load(&self.folder, digest) {
            self.remember(item, version, digest).await?;
            return Ok(Arc::new(image));
        }
        tracing::info!("installing {item} {version}");
        let parts = parse_manifest(&self.blob(digest, None).await?, digest)?;
        let config_of = &parts.manifest.config;
        let config = self.blob(&config_of.digest, Some(config_of.size)).await?;
        let item_config = self.blob(&parts.item_config.digest, Some(parts.item_config.size)).await?;
        let (config, item_config, layers) = parse_configs(&parts, &config, &item_config)?;
        for layer in &layers {
            self.layer(layer).await?;
        }
        self.remember(item, version, digest).await?;
        let layers = layers.iter().map(|layer| layer::tree_of(&self.folder, &layer.diff_id)).collect();
        Ok(Arc::new(Image { config, item: item_config, layers }))
    }

    async fn locate(&self, digest: &Digest) -> Result<PathBuf, Error> {
        let url = self.cm.blob_url(digest).await?;
        match url.strip_prefix("file://") {
            Some(path) if path.starts_with('/') => Ok(PathBuf::from(path)),
            _ => {
                let scheme = url.split(':').next().unwrap_or_default().chars().take(10).collect::<String>();
                Err(Error::NotSupported(format!("fetching blobs by {}", scheme.escape_debug())))
            }
        }
    }

    async fn blob(&self, digest: &Digest, size: Option<u64>) -> Result<Vec<u8>, Error> {
        if let Ok(content) = read_blob(&self.folder, digest) {
            return Ok(content);
        }
        if let Some(size) = size.filter(|&size| size > MAX_DOCUMENT as u64) {
            return Err(Error::invalid(format!("document {digest}"), format!("{size} bytes are too many")));
        }
        let source = self.locate(digest).await?;
        let content = aos_durable::read_bounded(&source, MAX_DOCUMENT as u64)?
            .ok_or_else(|| Error::NotFound(format!("blob {digest}")))?;
        check(&content, digest)?;
        if size.is_some_and(|size| size != content.len() as u64) {
            return Err(Error::invalid(format!("document {digest}"), "its size is not the announced one"));
        }
        aos_durable::write_atomic(&blob_path(&self.folder, digest), &content, 0o600)?;
        Ok(content)
    }

    async fn layer(&self, layer: &Layer) -> Result<(), Error> {
        let mark = blob_path(&self.folder, &layer.digest);
        if !layer::tree_of(&self.folder, &layer.diff_id).is_dir() {
            let source = self.locate(&layer.digest).await?;
            if !source.exists() {
                return Err(Error::NotFound(format!("layer {}", layer.digest)));
            }
            let (folder, described) = (self.folder.clone(), layer.clone());
            tokio::task::spawn_blocking(move || layer::install(&folder, &described, &source))
                .await
                .map_err(|_| Error::Ended("unpacking"))??;
        }
        aos_durable::write_atomic(&mark, layer.diff_id.to_string().as_bytes(), 0o600)?;
        Ok(())
    }

    async fn remember(&self, item: String, version: String, manifest: &Digest) -> Result<(), Error> {
        let rows = self.database.items().await?;
        let same = |row: &&ItemRow| row.item == item && row.version == version;
        if rows.iter().find(same).is_some_and(|row| row.manifest == *manifest && row.removed_at.is_none()) {
            return Ok(());
        }
        let row = ItemRow { item, version, manifest: *manifest, removed_at: None };
        self.database.put_item(row).await
    }

    async fn mark(&self, in_use: &BTreeSet<(String, String)>) -> Result<(), Error> {
        for mut row in self.database.items().await? {
            let used = in_use.contains(&(row.item.clone(), row.version.clone()));
            if used == row.removed_at.is_some() {
                row.removed_at = if used { None } else { Some(now()) };
                self.database.put_item(row).await?;
            }
        }
        Ok(())
    }

    async fn clean_and_log(&self) {
        if let Err(error) = self.clean().await {
            tracing::error!("cannot clean the image folder: {}", error.info().message);
        }
    }

    /// Drops versions whose time is over or that are too many, then every blob and layer nobody names.
    async fn clean(&self) -> Result<(), Error> {
        let limit = now().saturating_sub(i64::try_from(self.retention.ttl.as_secs()).unwrap_or(i64::MAX));
        let mut rows = self.database.items().await?;
        rows.sort_by_key(|row| row.removed_at.unwrap_or(i64::MAX));
        let mut dropped = false;
        for (index, row) in rows.iter().enumerate() {
            let Some(removed_at) = row.removed_at else { continue };
            let younger = rows.iter().skip(index + 1).filter(|other| other.item == row.item).count();
            if removed_at <= limit || younger >= VERSIONS_PER_ITEM {
                tracing::info!("removing {} {}", row.item, row.version);
                self.database.drop_item(row.item.clone(), row.version.clone()).await?;
                dropped = true;
            }
        }
        if dropped {
            let keep = self.database.items().await?.into_iter().map(|row| row.manifest).collect();
            let folder = self.folder.clone();
            let work = tokio::task::spawn_blocking(move || remove_orphans(&folder, &keep));
            work.await.map_err(|_| Error::Ended("cleaning"))??;
        }
        Ok(())
    }
}

fn now() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_secs()).unwrap_or(i64::MAX)
}

fn remove_orphans(folder: &Path, manifests: &BTreeSet<Digest>) -> Result<(), Error> {
    let mut blobs = BTreeSet::new();
    let mut layers = BTreeSet::new();
    for digest in manifests {
        blobs.insert(digest.hex());
        // A manifest that cannot be read names nothing; its image is installed anew when asked for.
        let Ok(parts) = read_blob(folder, digest).and_then(|content| parse_manifest(&content, digest)) else {
            continue;
        };
        for blob in parts.manifest.blobs() {
            blobs.insert(blob.digest.hex());
        }
        if let Ok(config) = read_blob(folder, &parts.manifest.config.digest)
            && let Ok(config) = ImageConfig::read(&config)
        {
            layers.extend(config.rootfs.diff_ids.iter().map(Digest::hex));
        }
    }
    for (part, keep) in [("blobs/sha256", &blobs), ("layers/sha256", &layers)] {
        let place = folder.join(part);
        for entry in fs::read_dir(&place).map_err(Error::file("read", &place))?.flatten() {
            if entry.file_name().to_str().is_some_and(|name| keep.contains(name)) {
                continue;
            }
            discard(folder, &entry.path())?;
        }
    }
    Ok(())
}

/// Removes a file or a tree. A tree goes to `tmp` first: one that is removed in part, when we are killed, must
/// not be taken for a whole layer.
fn discard(folder: &Path, path: &Path) -> Result<(), Error> {
    if !path.is_dir() {
        return fs::remove_file(path).map_err(Error::file("remove", path));
    }
    let name = path.file_name().unwrap_or_default();
    let temporary = folder.join("tmp").join(name);
    fs::rename(path, &temporary).map_err(Error::file("remove", path))?;
    fs::remove_dir_all(&temporary).map_err(Error::file("remove", temporary))
}

#[cfg(test)]
mod tests;

/// Names of the extended attributes of a file that we know of.
#[cfg(test)]
fn tree_attributes(path: &Path) -> Vec<String> {
    let mut names = vec![0u8; 4096];
    let length = rustix::fs::llistxattr(path, &mut names).unwrap();
    let list = names.get(..length).unwrap().split(|&b| b == 0).filter(|name| !name.is_empty());
    let mut list: Vec<String> = list.map(|name| String::from_utf8(name.to_vec()).unwrap()).collect();
    list.retain(|name| name.starts_with("user.") || name.starts_with("trusted."));
    list
}
