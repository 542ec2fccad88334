//! From an OCI image layout, or a folder and a command, to the tree of blobs that a Unit downloads:
//! index -> manifest -> image configuration, item configuration, layers.
//!
//! The item configuration hangs on each manifest as `aosItemConfig`. Nothing is changed in what the image
//! builder made, so its configuration and layers keep their digests.

use std::collections::BTreeMap;
use std::fs::File;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use aos_ids::Digest;
use serde_json::{Value, json};

use crate::args::Publish;
use crate::layer::{self, digest_of};

const INDEX: &str = "application/vnd.oci.image.index.v1+json";
const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const CONFIG: &str = "application/vnd.oci.image.config.v1+json";
const LAYER: &str = "application/vnd.oci.image.layer.v1.tar+gzip";
const ITEM_CONFIG: &str = "application/vnd.aos.item.config.v1+json";
/// Documents larger than this are not indexes, manifests or configurations.
const LARGEST_DOCUMENT: u64 = 1024 * 1024;

/// Content of one blob.
pub enum Content {
    Bytes(Vec<u8>),
    File(PathBuf),
}

/// All blobs of one version of an item.
pub struct Image {
    pub index_digest: Digest,
    pub blobs: BTreeMap<Digest, (Content, u64)>,
    /// Temporary files the blobs point into; removed with the image.
    _keep: Vec<Box<dyn std::any::Any>>,
}

#[derive(Default)]
struct Builder {
    blobs: BTreeMap<Digest, (Content, u64)>,
    manifests: Vec<Value>,
    keep: Vec<Box<dyn std::any::Any>>,
}

impl Builder {
    fn add_json(&mut self, media_type: &str, document: &Value) -> Result<Value> {
        let bytes = serde_json::to_vec(document)?;
        let (digest, size) = (digest_of(&bytes), bytes.len() as u64);
        self.blobs.insert(digest, (Content::Bytes(bytes), size));
        Ok(json!({ "mediaType": media_type, "digest": digest, "size": size }))
    }

    fn add_manifest(
        &mut self,
        config: &Value,
        layers: &Value,
        item_config: &Value,
        platform: Value,
    ) -> Result<()> {
        let manifest = json!({
            "schemaVersion": 2,
            "mediaType": MANIFEST,
            "config": config,
            "aosItemConfig": item_config,
            "layers": layers,
        });
        let mut descriptor = self.add_json(MANIFEST, &manifest)?;
        descriptor["platform"] = platform;
        self.manifests.push(descriptor);
        Ok(())
    }

    fn finish(mut self) -> Result<Image> {
        let manifests = std::mem::take(&mut self.manifests);
        let index = json!({ "schemaVersion": 2, "mediaType": INDEX, "manifests": manifests });
        let descriptor = self.add_json(INDEX, &index)?;
        let index_digest = serde_json::from_value(descriptor["digest"].clone())?;
        Ok(Image { index_digest, blobs: self.blobs, _keep: self.keep })
    }
}

/// Builds the tree of blobs for what the command line names, with this item configuration.
pub fn build(publish: &Publish, item_config: &Value) -> Result<Image> {
    let mut builder = Builder::default();
    let item_config = builder.add_json(ITEM_CONFIG, item_config)?;
    match (&publish.oci, &publish.rootfs) {
        (Some(path), _) => from_layout(&mut builder, path, &item_config)?,
        (None, Some(root)) => from_folder(&mut builder, root, publish, &item_config)?,
        (None, None) => bail!("one of --oci and --rootfs is needed"),
    }
    builder.finish()
}

fn from_folder(builder: &mut Builder, root: &Path, publish: &Publish, item_config: &Value) -> Result<()> {
    if !root.is_dir() {
        bail!("{} is no folder", root.display());
    }
    for pair in &publish.env {
        if !pair.contains('=') {
            bail!("--env '{pair}' has no '='; expected NAME=VALUE");
        }
    }
    let layer = layer::pack(root)?;
    let words: Vec<&str> = publish.cmd.as_deref().unwrap_or_default().split_whitespace().collect();
    let mut run = json!({ "cmd": words });
    if !publish.env.is_empty() {
        run["env"] = json!(publish.env);
    }
    if let Some(dir) = &publish.working_dir {
        run["workingDir"] = json!(dir);
    }
    if !publish.expose.is_empty() {
        run["exposedPorts"] = publish.expose.iter().map(|port| (port.clone(), json!({}))).collect();
    }
    let run = capitalise(&run);
    let architecture = oci_architecture(&publish.arch);
    let config = json!({
        "architecture": architecture,
        "os": "linux",
        "config": run,
        "rootfs": { "type": "layers", "diff_ids": [layer.diff_id] },
    });
    let config = builder.add_json(CONFIG, &config)?;
    let layers = json!([{ "mediaType": LAYER, "digest": layer.digest, "size": layer.size }]);
    builder.blobs.insert(layer.digest, (Content::File(layer.file.path().to_owned()), layer.size));
    builder.keep.push(Box::new(layer.file));
    builder.add_manifest(
        &config,
        &layers,
        item_config,
        json!({ "architecture": architecture, "os": "linux" }),
    )
}

/// OCI writes the members of `config` with a capital letter.
fn capitalise(run: &Value) -> Value {
    let upper = |key: &str| {
        let mut letters = key.chars();
        letters
            .next()
            .map(|first| first.to_ascii_uppercase().to_string() + letters.as_str())
            .unwrap_or_default()
    };
    run.as_object()
        .map(|fields| fields.iter().map(|(k, v)| (upper(k), v.clone())).collect())
        .unwrap_or_default()
}

/// OCI's name of an architecture that may be given by the compiler's.
fn oci_architecture(name: &str) -> &str {
    match name {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        "x86" => "386",
        other => other,
    }
}

fn from_layout(builder: &mut Builder, path: &Path, item_config: &Value) -> Result<()> {
    let root = if path.is_dir() {
        path.to_owned()
    } else {
        let folder = tempfile::tempdir().context("cannot make a temporary folder for the image")?;
        let archive = File::open(path).with_context(|| format!("cannot open {}", path.display()))?;
        tar::Archive::new(archive)
            .unpack(folder.path())
            .with_context(|| format!("{} is no tar archive of an OCI image layout", path.display()))?;
        let root = folder.path().to_owned();
        builder.keep.push(Box::new(folder));
        root
    };
    let index = std::fs::read(root.join("index.json"))
        .with_context(|| format!("{} is no OCI image layout (no index.json)", path.display()))?;
    let index: Value = serde_json::from_slice(&index).context("index.json of the image is no JSON")?;
    let mut found = Vec::new();
    collect_manifests(&root, &index, &mut found, 0)?;
    if found.is_empty() {
        bail!("the image holds no manifest");
    }
    for descriptor in found {
        add_layout_manifest(builder, &root, &descriptor, item_config)?;
    }
    Ok(())
}

fn collect_manifests(root: &Path, index: &Value, found: &mut Vec<Value>, depth: u8) -> Result<()> {
    if depth > 4 {
        bail!("the image's indexes are nested too deeply");
    }
    for descriptor in index["manifests"].as_array().context("the image's index has no manifests")? {
        match descriptor["mediaType"].as_str() {
            Some(INDEX | "application/vnd.docker.distribution.manifest.list.v2+json") => {
                collect_manifests(root, &document(root, descriptor)?, found, depth + 1)?;
            }
            _ => found.push(descriptor.clone()),
        }
    }
    Ok(())
}

fn add_layout_manifest(
    builder: &mut Builder,
    root: &Path,
    descriptor: &Value,
    item_config: &Value,
) -> Result<()> {
    let manifest = document(root, descriptor)?;
    let config = document(root, &manifest["config"])?;
    if config["os"].is_null() && config["architecture"].is_null() {
        // Attestations and signatures travel as manifests too; a Unit has no use for them.
        return Ok(());
    }
    let layers = manifest["layers"].as_array().context("a manifest of the image has no layers")?;
    for blob in layers.iter().chain([&manifest["config"]]) {
        let (digest, file) = blob_file(root, blob)?;
        let size = file.metadata().with_context(|| format!("the image lacks blob {digest}"))?.len();
        if blob["size"].as_u64() != Some(size) {
            bail!("blob {digest} of the image has {size} bytes, its descriptor says {}", blob["size"]);
        }
        builder.blobs.insert(digest, (Content::File(file), size));
    }
    let mut platform = json!({});
    for key in ["architecture", "variant", "os", "os.version", "os.features"] {
        if let Some(value) = config.get(key).filter(|value| !value.is_null()) {
            platform[key] = value.clone();
        }
    }
    builder.add_manifest(&manifest["config"], &manifest["layers"], item_config, platform)
}

fn blob_file(root: &Path, descriptor: &Value) -> Result<(Digest, PathBuf)> {
    let digest: Digest =
        descriptor["digest"].as_str().context("a descriptor of the image has no digest")?.parse()?;
    Ok((digest, root.join("blobs/sha256").join(digest.hex())))
}

fn document(root: &Path, descriptor: &Value) -> Result<Value> {
    let (digest, file) = blob_file(root, descriptor)?;
    let bytes = aos_durable::read_bounded(&file, LARGEST_DOCUMENT)?
        .with_context(|| format!("the image lacks blob {digest}"))?;
    if digest_of(&bytes) != digest {
        bail!("blob {digest} of the image is damaged");
    }
    serde_json::from_slice(&bytes).with_context(|| format!("blob {digest} of the image is no JSON"))
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;
    use crate::args::{Cli, Command, ItemCommand};

    fn publish(args: &[&str]) -> Box<Publish> {
        let line = ["aosctl", "item", "publish", "--codename", "x", "--version", "1.0.0"];
        match Cli::try_parse_from(line.iter().chain(args)).unwrap().command {
            Command::Item(ItemCommand::Publish(publish)) => publish,
            other => panic!("{other:?}"),
        }
    }

    fn json_of(image: &Image, digest: &Value) -> Value {
        let digest: Digest = digest.as_str().unwrap().parse().unwrap();
        match &image.blobs[&digest].0 {
            Content::Bytes(bytes) => serde_json::from_slice(bytes).unwrap(),
            Content::File(path) => serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap(),
        }
    }

    #[test]
    fn a_folder_becomes_a_whole_tree_of_blobs() {
        let root = tempfile::tempdir().unwrap();
        std::fs::write(root.path().join("hello"), "hi").unwrap();
        let path = root.path().to_str().unwrap();
        let args = publish(&["--rootfs", path, "--cmd", "/hello -f", "--expose", "80/tcp", "--env", "A=b"]);
        let item = json!({ "runtimes": [{ "codename": "crun" }] });
        let (image, again) = (build(&args, &item).unwrap(), build(&args, &item).unwrap());
        assert_eq!(image.index_digest, again.index_digest, "publishing twice is one version");
        let index = json_of(&image, &json!(image.index_digest));
        let manifest = json_of(&image, &index["manifests"][0]["digest"]);
        let config = json_of(&image, &manifest["config"]["digest"]);
        assert_eq!(config["config"]["Cmd"], json!(["/hello", "-f"]));
        assert_eq!(config["config"]["ExposedPorts"], json!({ "80/tcp": {} }));
        assert_eq!(json_of(&image, &manifest["aosItemConfig"]["digest"])["runtimes"][0]["codename"], "crun");
        assert_eq!(image.blobs.len(), 5);
    }

    #[test]
    fn a_damaged_layout_is_refused_with_its_reason() {
        let root = tempfile::tempdir().unwrap();
        let args = publish(&["--oci", root.path().to_str().unwrap()]);
        assert!(format!("{:#}", build(&args, &json!({})).err().unwrap()).contains("no index.json"));
        let missing = format!("sha256:{}", "ab".repeat(32));
        let index = json!({ "manifests": [{ "mediaType": MANIFEST, "digest": missing, "size": 3 }] });
        std::fs::write(root.path().join("index.json"), index.to_string()).unwrap();
        assert!(format!("{:#}", build(&args, &json!({})).err().unwrap()).contains("lacks blob"));
    }
}
