//! Images for the tests, built from the machine's static busybox.

use std::fs;
use std::io::Write;
use std::path::PathBuf;

use aos_ids::Digest;
use aos_unit_api::servicemanager::v5 as wire;
use flate2::Compression;
use flate2::write::GzEncoder;
use serde_json::{Value, json};

use crate::cm::ident;

/// A folder of blobs under their hex digests.
pub struct Blobs {
    pub dir: PathBuf,
}

/// A published image.
#[derive(Debug, Clone)]
pub struct Image {
    pub manifest: String,
    pub layers: Vec<String>,
}

pub fn digest(content: &[u8]) -> String {
    let value = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, content);
    Digest::from_sha256(value.as_ref().try_into().unwrap()).to_string()
}

impl Blobs {
    pub fn put(&self, content: &[u8]) -> String {
        let digest = digest(content);
        fs::write(self.dir.join(digest.trim_start_matches("sha256:")), content).unwrap();
        digest
    }

    pub fn path(&self, digest: &str) -> PathBuf {
        self.dir.join(digest.trim_start_matches("sha256:"))
    }

    /// Publishes an image of tar layers, lowest first, that runs `script`.
    #[allow(clippy::needless_pass_by_value, reason = "mostly called with a literal")]
    pub fn image(&self, layers: &[Vec<u8>], script: &str, item: Value) -> Image {
        self.exposing(layers, script, item, &["8080/tcp"])
    }

    /// Publishes an image that exposes ports.
    #[allow(clippy::needless_pass_by_value, reason = "mostly called with a literal")]
    pub fn exposing(&self, layers: &[Vec<u8>], script: &str, item: Value, ports: &[&str]) -> Image {
        let ports: serde_json::Map<String, Value> =
            ports.iter().map(|port| ((*port).to_owned(), json!({}))).collect();
        let mut described = Vec::new();
        let mut diff_ids = Vec::new();
        let mut digests = Vec::new();
        for (index, tar) in layers.iter().enumerate() {
            diff_ids.push(digest(tar));
            let (content, kind) = if index % 2 == 0 {
                let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
                encoder.write_all(tar).unwrap();
                (encoder.finish().unwrap(), "application/vnd.oci.image.layer.v1.tar+gzip")
            } else {
                (tar.clone(), "application/vnd.oci.image.layer.v1.tar")
            };
            let digest = self.put(&content);
            described.push(json!({"mediaType": kind, "digest": digest, "size": content.len()}));
            digests.push(digest);
        }
        let config = json!({
            "architecture": "amd64", "os": "linux",
            "config": {"Entrypoint": ["/bin/busybox", "sh", "-c"], "Cmd": [script], "Env": ["COLOUR=blue", "AOS_ITEM_ID=mine"],
                       "ExposedPorts": ports},
            "rootfs": {"type": "layers", "diff_ids": diff_ids},
        });
        let descriptor = |kind: &str, value: &Value| {
            let text = serde_json::to_vec(value).unwrap();
            json!({"mediaType": kind, "digest": self.put(&text), "size": text.len()})
        };
        let manifest = json!({
            "schemaVersion": 2,
            "mediaType": "application/vnd.oci.image.manifest.v1+json",
            "config": descriptor("application/vnd.oci.image.config.v1+json", &config),
            "aosItemConfig": descriptor("application/vnd.aos.item.config.v1+json", &item),
            "layers": described,
        });
        Image { manifest: self.put(&serde_json::to_vec(&manifest).unwrap()), layers: digests }
    }

    /// An image of one layer with busybox.
    pub fn simple(&self, script: &str, item: Value) -> Image {
        self.image(&[base_layer()], script, item)
    }
}

/// A tar under construction.
pub struct Tar(tar::Builder<Vec<u8>>);

impl Tar {
    pub fn new() -> Self {
        Self(tar::Builder::new(Vec::new()))
    }

    fn header(kind: tar::EntryType, size: usize, mode: u32) -> tar::Header {
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(kind);
        header.set_size(size as u64);
        header.set_mode(mode);
        header.set_mtime(1);
        header
    }

    pub fn dir(mut self, path: &str) -> Self {
        let mut header = Self::header(tar::EntryType::Directory, 0, 0o755);
        self.0.append_data(&mut header, path, std::io::empty()).unwrap();
        self
    }

    pub fn file(mut self, path: &str, content: &[u8], mode: u32) -> Self {
        let mut header = Self::header(tar::EntryType::Regular, content.len(), mode);
        self.0.append_data(&mut header, path, content).unwrap();
        self
    }

    pub fn done(self) -> Vec<u8> {
        self.0.into_inner().unwrap()
    }
}

/// busybox and the folders a shell wants.
pub fn base_layer() -> Vec<u8> {
    let busybox =
        ["/bin/busybox", "/usr/bin/busybox"].iter().find_map(|path| fs::read(path).ok()).expect("busybox");
    Tar::new().dir("bin").file("bin/busybox", &busybox, 0o755).dir("etc").dir("data").done()
}

/// A wish for an instance of an image.
pub fn wish(instance: u64, version: &str, image: &Image, runtime: &str) -> wire::InstanceInfo {
    wire::InstanceInfo {
        instance: Some(ident(instance)),
        version: version.into(),
        manifest_digest: image.manifest.clone(),
        owner_id: "owner".into(),
        runtime_id: runtime.into(),
        uid: 5001,
        gid: 5002,
        ..Default::default()
    }
}

/// A user of this test alone: a limit of processes counts all processes of a user, in other boxes too.
pub fn lone_user() -> u32 {
    let name = std::env::var("AOS_TEST_NAME").unwrap_or_default();
    let hash =
        name.bytes().fold(0x811c_9dc5_u32, |hash, byte| (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193));
    20_000 + hash % 20_000
}
