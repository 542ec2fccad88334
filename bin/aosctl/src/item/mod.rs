//! Items: publishing versions from images, and lists.
//!
//! A version is a tree of blobs, each named by its digest: index, manifests, image and item configurations,
//! layers. The same input always gives the same tree, so that publishing again changes nothing.

mod blob;
mod image;
mod layer;
mod layout;
mod words;

use std::collections::HashSet;

use anyhow::{Context, Result, bail};
use reqwest::Method;
use serde_json::{Map, Value, json};

use crate::api::{Api, segment};
use crate::cli::{ItemCommand, PublishArgs};
use crate::output::{Output, progress, text};

use blob::{Blob, Content};
use image::Image;

const INDEX: &str = "application/vnd.oci.image.index.v1+json";
const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const ITEM_CONFIG: &str = "application/vnd.aos.item.config.v1+json";
/// Stands for the time of making, so that equal input gives equal digests.
const EPOCH: &str = "1970-01-01T00:00:00Z";

/// `aosctl item ...`
pub async fn run(api: &Api, command: ItemCommand, out: &Output) -> Result<()> {
    match command {
        ItemCommand::Publish(args) => publish(api, &args, out).await,
        ItemCommand::List => {
            let items = api.list("update-items/").await?;
            out.table(
                &items,
                &[("CODENAME", "codename"), ("TYPE", "type"), ("ID", "id"), ("LATEST", "latest_version"), ("TITLE", "title")],
            )
        }
        ItemCommand::Versions { item } => {
            let versions = api.list(&format!("update-items/{}/versions/", segment(&item))).await?;
            out.table(&versions, &[("VERSION", "version"), ("INDEX", "index_digest"), ("CREATED", "created_at")])
        }
    }
}

async fn publish(api: &Api, args: &PublishArgs, out: &Output) -> Result<()> {
    let scratch = tempfile::tempdir().context("cannot make a temporary folder")?;
    let images = image::collect(args, scratch.path())?;
    let item_config = item_config(args)?;
    let (blobs, index) = tree(&images, item_config)?;
    let (sent, had) = upload(api, &blobs).await?;

    let mut body = json!({"type": "service", "codename": args.codename});
    if let (Some(title), Some(map)) = (&args.title, body.as_object_mut()) {
        map.insert("title".to_owned(), json!(title));
    }
    let item = api.call(Method::POST, "update-items/", Some(&body)).await?;
    let id = text(&item, "id");
    if id.is_empty() {
        bail!("the cloud's answer holds no item ID");
    }
    let body = json!({"version": args.version.to_string(), "index_digest": index});
    api.call(Method::POST, &format!("update-items/{}/versions/", segment(&id)), Some(&body))
        .await
        .with_context(|| format!("cannot publish {} {}; a version never changes, raise --version", args.codename, args.version))?;
    let result = json!({
        "item": {"id": id, "codename": args.codename, "type": "service"},
        "version": args.version.to_string(),
        "index_digest": index,
        "blobs": {"sent": sent, "present": had},
    });
    out.done(&result, &format!("{} {} is published ({sent} blobs sent, {had} there already)", args.codename, args.version))
}

/// All blobs of the version, each before those that name it, and the digest of the index.
fn tree(images: &[Image], item_config: Blob) -> Result<(Vec<Blob>, String)> {
    let mut blobs = vec![item_config.clone()];
    let mut entries = Vec::new();
    for image in images {
        let config = Blob::json(image::CONFIG, &image.config)?;
        let manifest = json!({
            "schemaVersion": 2,
            "mediaType": MANIFEST,
            "config": config.descriptor(),
            "aosItemConfig": item_config.descriptor(),
            "layers": image.layers.iter().map(Blob::descriptor).collect::<Vec<_>>(),
        });
        let manifest = Blob::json(MANIFEST, &manifest)?;
        let mut entry = manifest.descriptor();
        if let Some(map) = entry.as_object_mut() {
            map.insert("platform".to_owned(), image.platform());
        }
        entries.push(entry);
        blobs.extend(image.layers.iter().cloned());
        blobs.extend([config, manifest]);
    }
    let index = Blob::json(INDEX, &json!({"schemaVersion": 2, "mediaType": INDEX, "manifests": entries}))?;
    let digest = index.digest.to_string();
    blobs.push(index);
    let mut seen = HashSet::new();
    blobs.retain(|blob| seen.insert(blob.digest));
    Ok((blobs, digest))
}

/// The item configuration: the given file, with what the command line knows better.
fn item_config(args: &PublishArgs) -> Result<Blob> {
    let mut document = match &args.config {
        None => Map::new(),
        Some(path) => {
            let text = std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
            let value: Value =
                serde_json::from_str(&text).with_context(|| format!("{} is not JSON", path.display()))?;
            match value {
                Value::Object(map) => map,
                _ => bail!("{} is not a JSON object", path.display()),
            }
        }
    };
    if !has_key(&document, "created") {
        document.insert("created".to_owned(), json!(EPOCH));
    }
    if !has_key(&document, "baseLayerIsNodeRootfs") {
        document.insert("baseLayerIsNodeRootfs".to_owned(), json!(args.on_node_rootfs));
    }
    let bytes = serde_json::to_vec(&Value::Object(document))?;
    Ok(Blob::bytes(ITEM_CONFIG, bytes))
}

/// Keys of Aos documents are compared without case.
fn has_key(document: &Map<String, Value>, key: &str) -> bool {
    document.keys().any(|known| known.eq_ignore_ascii_case(key))
}

/// Sends the blobs the cloud lacks; returns how many were sent and how many were there.
async fn upload(api: &Api, blobs: &[Blob]) -> Result<(usize, usize)> {
    let (mut sent, mut had) = (0, 0);
    for (number, blob) in blobs.iter().enumerate() {
        let path = format!("blobs/{}/", blob.digest);
        let position = format!("[{}/{}] {}", number + 1, blobs.len(), blob.short_name());
        if api.exists(&path).await? {
            had += 1;
            progress(&format!("{position}: there already"));
            continue;
        }
        let file = match &blob.content {
            Content::File(path) => path.clone(),
            Content::Bytes(bytes) => {
                let path = tempfile::NamedTempFile::new().context("cannot make a temporary file")?.into_temp_path();
                let path = path.keep().context("cannot keep a temporary file")?;
                std::fs::write(&path, bytes).with_context(|| format!("cannot write {}", path.display()))?;
                path
            }
        };
        let result = match tokio::fs::File::open(&file).await {
            Ok(open) => api.put_file(&path, open, blob.size).await,
            Err(error) => Err(error).with_context(|| format!("cannot read {}", file.display())),
        };
        if matches!(blob.content, Content::Bytes(_)) {
            let _ = std::fs::remove_file(&file);
        }
        result?;
        sent += 1;
        progress(&format!("{position}: sent"));
    }
    Ok((sent, had))
}
