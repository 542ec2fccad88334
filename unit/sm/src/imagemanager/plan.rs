//! The plan of one installation: which contents are needed, in which order.
//!
//! First what the digest names, then the configurations at once, then all layers at once. The plan holds
//! nothing; it asks the task for each content and goes on when it is there.

use std::sync::Arc;

use aos_ids::Digest;
use futures_util::future::join_all;
use tokio::sync::{mpsc, oneshot};

use super::documents::{Kind, Parts, Top, load, parse_configs, parse_manifest, read_blob, read_top};
use super::jobs::{Content, Surroundings, blocking};
use super::{Image, Key};
use crate::Error;

/// A content that a plan asks for.
pub struct Want {
    /// Who asks.
    pub key: Key,
    /// What for.
    pub content: Content,
    /// Gets the answer; closed when the plan is given up.
    pub answer: oneshot::Sender<Result<(), Arc<Error>>>,
}

/// One installation.
pub struct Plan {
    pub key: Key,
    pub wants: mpsc::Sender<Want>,
    pub surroundings: Arc<Surroundings>,
}

impl Plan {
    /// Runs to the end: everything is on disk and verified.
    pub async fn run(self) -> Result<Arc<Image>, Error> {
        let digest = self.key.manifest;
        let parts = match self.top(digest).await? {
            Top::Manifest(parts) => *parts,
            Top::Index(chosen) => {
                let content = self.document(chosen.digest, Some(chosen.size)).await?;
                parse_manifest(&content, &chosen.digest)?
            }
        };
        match &parts.what {
            Kind::Service { item_config } => self.service(&parts, item_config).await?,
            Kind::Component { item_config } => {
                if let Some(described) = item_config {
                    self.document(described.digest, Some(described.size)).await?;
                }
                let raw = |layer: &aos_item_format::Descriptor| Content::Raw {
                    digest: layer.digest,
                    size: layer.size,
                };
                self.get_all(parts.manifest.layers.iter().map(raw)).await?;
            }
        }
        let (folder, layers) = (self.surroundings.folder.clone(), self.surroundings.layers.clone());
        Ok(Arc::new(blocking(move || load(&folder, &layers, &digest)).await??))
    }

    async fn top(&self, digest: Digest) -> Result<Top, Error> {
        read_top(&self.document(digest, None).await?, &digest)
    }

    async fn service(&self, parts: &Parts, item_config: &aos_item_format::Descriptor) -> Result<(), Error> {
        let config_of = &parts.manifest.config;
        let (config, item) = futures_util::future::try_join(
            self.document(config_of.digest, Some(config_of.size)),
            self.document(item_config.digest, Some(item_config.size)),
        )
        .await?;
        let (_, _, layers) = parse_configs(parts, item_config, &config, &item)?;
        self.get_all(layers.into_iter().map(Content::Layer)).await
    }

    async fn document(&self, digest: Digest, size: Option<u64>) -> Result<Vec<u8>, Error> {
        self.get(Content::Document { digest, size }).await?;
        let folder = self.surroundings.folder.clone();
        blocking(move || read_blob(&folder, &digest)).await?
    }

    /// All of them at once. When one fails the others are finished: the next try has less to do.
    async fn get_all(&self, contents: impl Iterator<Item = Content>) -> Result<(), Error> {
        join_all(contents.map(|content| self.get(content))).await.into_iter().collect()
    }

    async fn get(&self, content: Content) -> Result<(), Error> {
        let (answer, result) = oneshot::channel();
        let want = Want { key: self.key.clone(), content, answer };
        self.wants.send(want).await.map_err(|_| Error::Ended("the image manager"))?;
        result.await.map_err(|_| Error::Ended("the image manager"))?.map_err(Error::Shared)
    }
}
