//! Publishing items and assigning them to Units.

use anyhow::{Context, Result};
use reqwest::StatusCode;
use serde_json::{Value, json};
use tokio_util::io::ReaderStream;

use crate::args::{Assign, Publish};
use crate::cloud::{Cloud, is_status, segment};
use crate::image::{self, Content, Image};
use crate::item_config;
use crate::output::{Output, elements, rows, table, text};

/// Bytes read from a file at a time.
const READ_SIZE: usize = 128 * 1024;

pub async fn publish(cloud: &Cloud, publish: &Publish, out: &Output) -> Result<()> {
    semver::Version::parse(&publish.version)
        .with_context(|| format!("'{}' is no semantic version such as 1.0.0", publish.version))?;
    let config = item_config::load(cloud, publish.config.as_deref(), out).await?;
    let image = image::build(publish, &config)?;
    upload_missing(cloud, &image, out).await?;
    let mut item = json!({ "type": "service", "codename": publish.codename });
    if let Some(title) = &publish.title {
        item["title"] = json!(title);
    }
    let item = cloud.post("update-items/", &item).await.context("the item was not accepted")?;
    let id = text(&item, "/id");
    let version = json!({ "version": publish.version, "index_digest": image.index_digest });
    let version = cloud.post(&format!("update-items/{id}/versions/"), &version).await.map_err(|error| {
        let taken = is_status(&error, StatusCode::CONFLICT);
        error.context(if taken {
            "a published version never changes; choose another --version"
        } else {
            "the version was not accepted"
        })
    })?;
    out.show(&json!({ "item": item, "version": version, "index_digest": image.index_digest }), |_| {
        format!("{} {} is published ({})", publish.codename, publish.version, image.index_digest)
    })
}

/// Index last: a version can only be made of what is complete, and a cut-off run goes on where it stopped.
async fn upload_missing(cloud: &Cloud, image: &Image, out: &Output) -> Result<()> {
    let mut missing = Vec::new();
    for (digest, (content, size)) in &image.blobs {
        if !cloud.has(&format!("blobs/{digest}/")).await? {
            missing.push((digest, content, *size));
        }
    }
    missing.sort_by_key(|(digest, ..)| **digest == image.index_digest);
    let total: u64 = missing.iter().map(|(_, _, size)| size).sum();
    let (count, known) = (missing.len(), image.blobs.len() - missing.len());
    out.progress(&format!("{count} blobs to upload ({}), {known} already there", bytes_text(total)));
    for (number, (digest, content, size)) in missing.into_iter().enumerate() {
        let body = match content {
            Content::Bytes(bytes) => bytes.clone().into(),
            Content::File(path) => {
                let file = tokio::fs::File::open(path)
                    .await
                    .with_context(|| format!("cannot open blob {digest}"))?;
                reqwest::Body::wrap_stream(ReaderStream::with_capacity(file, READ_SIZE))
            }
        };
        cloud.upload(&format!("blobs/{digest}/"), body, size).await.with_context(|| {
            format!("blob {digest} was not uploaded; run the same command again to go on")
        })?;
        out.progress(&format!("  {}/{count} {digest} {}", number + 1, bytes_text(size)));
    }
    Ok(())
}

pub async fn list(cloud: &Cloud, out: &Output) -> Result<()> {
    let items = cloud.list("update-items/").await?;
    out.show(&items, |items| {
        let fields = ["/codename", "/type", "/title", "/latest_version", "/id"];
        let rows = rows(elements(items), &fields);
        table(&["ITEM", "TYPE", "TITLE", "LATEST", "ID"], &rows)
    })
}

pub async fn versions(cloud: &Cloud, item: &str, out: &Output) -> Result<()> {
    let versions = cloud.get(&format!("update-items/{}/versions/", segment(item)?)).await?;
    out.show(&versions, |versions| {
        let rows = rows(elements(versions), &["/version", "/created_at", "/index_digest"]);
        table(&["VERSION", "CREATED", "INDEX"], &rows)
    })
}

pub async fn assign(cloud: &Cloud, assign: &Assign, out: &Output) -> Result<()> {
    let body = json!({
        "version": assign.version,
        "num_instances": assign.instances,
        "priority": assign.priority,
        "labels": assign.label,
    });
    let path = format!("units/{}/assignments/{}/", segment(&assign.unit)?, segment(&assign.item)?);
    let answer = cloud.put(&path, &body).await.context("the item was not assigned")?;
    out.show(&answer, |answer: &Value| {
        let version = text(answer, "/version");
        let version = if version.is_empty() { assign.version.clone() } else { version };
        format!(
            "{} {version} is assigned to {}; watch it with: aosctl unit status {} --watch",
            assign.item, assign.unit, assign.unit
        )
    })
}

pub async fn unassign(cloud: &Cloud, unit: &str, item: &str, out: &Output) -> Result<()> {
    cloud
        .delete(&format!("units/{}/assignments/{}/", segment(unit)?, segment(item)?))
        .await
        .context("the item was not unassigned")?;
    out.show(&json!({ "unit": unit, "item": item, "result": "unassigned" }), |_| {
        format!("{item} is no longer assigned to {unit}; its instances are being stopped")
    })
}

fn bytes_text(bytes: u64) -> String {
    match bytes {
        0..10_240 => format!("{bytes} B"),
        10_240..10_485_760 => format!("{} KiB", bytes / 1024),
        _ => format!("{} MiB", bytes / (1024 * 1024)),
    }
}
