//! Images on disk: manifest, configurations and layers, verified while they come in.
//!
//! Layout below the image folder, as peers know it: `blobs/sha256/<hex>` holds manifests, configurations and raw
//! blobs of components (and for a layer of a service the text of its diff ID), `layers/sha256/<hex>/layer` the
//! unpacked trees, shared by all images that name them. Layers are unpacked as they arrive; the packed bytes
//! are not kept.
//!
//! One task owns all of it. An install is a plan that asks the task for contents; the task fetches each content
//! once, however many plans ask, and ends what nobody asks for any more. What an image is made of is looked at
//! when it is used for the first time after a start (quickly) and once in a period (every byte); what was
//! changed is fetched anew.
//!
//! Limits: 2 versions of an item and 128 rows, as far as they are not wanted; the share of the disk that
//! `imagesPartLimit` names; layers unpacked at a time: one for each processor, at most 4.

mod care;
mod documents;
mod flight;
mod jobs;
mod plan;
mod retention;
mod space;
mod task;

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use aos_blob_source::Dialer;
use aos_content_store::Store;
use aos_ids::Digest;
use aos_image_layers::LayerStore;
use aos_item_format::{ImageConfig, ItemConfig};
use tokio::sync::{mpsc, oneshot};

use crate::Error;
use crate::database::Database;
use crate::smclient::CmCalls;
use jobs::Surroundings;
use space::Share;
use task::Task;

/// An image ready to run.
#[derive(Debug, Clone)]
pub struct Image {
    /// How its process is started.
    pub config: ImageConfig,
    /// How it wants to be run.
    pub item: ItemConfig,
    /// Unpacked trees, lowest first; none for a component.
    pub layers: Vec<PathBuf>,
    /// Raw blobs of a component, in the order of the manifest; none for a service.
    pub blobs: Vec<RawBlob>,
}

impl Image {
    /// The trees a service runs from, lowest first. An image of a component has none and is refused here, by
    /// whatever runs services.
    pub fn trees(&self) -> Result<&[PathBuf], Error> {
        if self.layers.is_empty() {
            let reason = "it is an image of a component and has no layers that a service could run from";
            return Err(Error::NotSupported(reason.to_owned()));
        }
        Ok(&self.layers)
    }
}

/// A blob that is kept as it came.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RawBlob {
    /// What it is.
    pub media_type: String,
    /// Where it is.
    pub path: PathBuf,
}

/// One version of an item, and what it is made of.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
struct Key {
    item: String,
    version: String,
    manifest: Digest,
}

enum Order {
    Install {
        key: Key,
        answer: oneshot::Sender<Result<Arc<Image>, Arc<Error>>>,
    },
    /// Somebody does not wait any more.
    Left(Key),
    InUse(BTreeSet<(String, String)>),
}

/// Handle of the image task.
#[derive(Clone)]
pub struct ImageManager {
    // Without a bound of its own: whoever sends waits for the answer, so there are never more orders than
    // instances, twice.
    orders: mpsc::UnboundedSender<Order>,
    folder: PathBuf,
    layers: LayerStore,
}

/// How long unused things stay, and how much there may be.
#[derive(Debug, Clone, Copy)]
pub struct Retention {
    /// Time a version nobody wants is kept.
    pub ttl: Duration,
    /// How often that is checked, and every byte of what is wanted read.
    pub period: Duration,
    /// Share of the disk that images may take, percent; 0 is all of it.
    pub part_limit: u8,
}

impl ImageManager {
    /// Prepares the folder and the task.
    pub fn open(
        folder: PathBuf,
        retention: Retention,
        database: Database,
        cm: CmCalls,
        dialer: Dialer,
    ) -> Result<(Self, impl Future<Output = ()> + Send), Error> {
        aos_durable::create_dir(&folder, 0o700)?;
        let layers = LayerStore::open(&folder)?;
        let store = Store::open(&folder)?;
        let share = Share { percent: retention.part_limit };
        let surroundings =
            Surroundings::new(folder.clone(), layers.clone(), store, share, cm, dialer, database);
        let (orders, queue) = mpsc::unbounded_channel();
        let task = Task::new(Arc::new(surroundings), retention);
        Ok((Self { orders, folder, layers }, task.run(queue)))
    }

    /// The image of a manifest or index; fetched and unpacked when something of it is missing. Dropping the
    /// future gives it up, if nobody else waits for the same.
    pub async fn install(
        &self,
        item: String,
        version: String,
        manifest: Digest,
    ) -> Result<Arc<Image>, Error> {
        let (answer, result) = oneshot::channel();
        let key = Key { item, version, manifest };
        let _leaving = Leaving { orders: self.orders.clone(), key: key.clone() };
        self.order(Order::Install { key, answer })?;
        result.await.map_err(|_| Error::Ended("the image manager"))?.map_err(Error::Shared)
    }

    fn order(&self, order: Order) -> Result<(), Error> {
        self.orders.send(order).map_err(|_| Error::Ended("the image manager"))
    }

    /// The image of a manifest if everything of it is here.
    pub fn present(&self, manifest: &Digest) -> Option<Image> {
        documents::load(&self.folder, &self.layers, manifest).ok()
    }

    /// Everything not in this set may be removed when its time has come.
    pub fn in_use(&self, items: BTreeSet<(String, String)>) {
        let _ = self.order(Order::InUse(items));
    }
}

/// Tells the task when whoever asked went away.
struct Leaving {
    orders: mpsc::UnboundedSender<Order>,
    key: Key,
}

impl Drop for Leaving {
    fn drop(&mut self) {
        let _ = self.orders.send(Order::Left(self.key.clone()));
    }
}

#[cfg(test)]
mod tests;
