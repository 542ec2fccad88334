//! An image of real files: what this machine has below /usr, in gzip layers as registries have them.

use std::fs::{self, File};
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use aos_image_layers::sha256;
use flate2::Compression;
use flate2::write::GzEncoder;
use serde_json::{Value, json};

/// Files larger than this are left out: one of them would be a layer of its own.
const LARGEST: u64 = 16 << 20;

/// Counts the packed bytes on their way to the file.
struct Counted {
    file: BufWriter<File>,
    bytes: u64,
}

impl Write for Counted {
    fn write(&mut self, buffer: &[u8]) -> io::Result<usize> {
        let count = self.file.write(buffer)?;
        self.bytes += count as u64;
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

/// Makes the image in `dir`, each blob under the hexadecimal form of its digest; describes it.
pub fn make(dir: &Path, layers: usize, bytes: u64) -> Result<Value> {
    fs::create_dir_all(dir)?;
    let mut files = Vec::new();
    collect(Path::new("/usr"), &mut files)?;
    files.sort_unstable();
    ensure!(files.len() > 100, "there are too few files in /usr");
    // What lies together packs alike; taken in turns, layers are of the same mixture.
    let mut next = files.iter().cycle();
    let (mut described, mut diff_ids, mut plain_bytes) = (Vec::new(), Vec::new(), 0);
    for number in 0..layers {
        let path = dir.join(format!("layer-{number}"));
        let mut builder = tar::Builder::new(GzEncoder::new(
            Counted { file: BufWriter::new(File::create(&path)?), bytes: 0 },
            Compression::default(),
        ));
        builder.follow_symlinks(false);
        let mut count = 0;
        while builder.get_ref().get_ref().bytes < bytes {
            let file = next.next().context("no files")?;
            // A second time round a file needs another name.
            let name = Path::new(&format!("part{}", count / files.len())).join(file.strip_prefix("/")?);
            builder.append_path_with_name(file, name)?;
            count += 1;
        }
        builder.into_inner()?.finish()?.file.flush()?;
        let packed = fs::read(&path)?;
        let digest = sha256(&packed);
        fs::rename(&path, dir.join(digest.hex()))?;
        let mut plain = Vec::new();
        io::Read::read_to_end(&mut flate2::read::GzDecoder::new(packed.as_slice()), &mut plain)?;
        plain_bytes += plain.len();
        diff_ids.push(sha256(&plain).to_string());
        described.push(json!({"mediaType": "application/vnd.oci.image.layer.v1.tar+gzip",
                              "digest": digest.to_string(), "size": packed.len()}));
    }
    let put = |kind: &str, content: &Value| -> Result<Value> {
        let text = serde_json::to_vec(content)?;
        let digest = sha256(&text);
        fs::write(dir.join(digest.hex()), &text)?;
        Ok(json!({"mediaType": kind, "digest": digest.to_string(), "size": text.len()}))
    };
    let config = json!({"architecture": "amd64", "os": "linux", "config": {"Cmd": ["/bin/true"]},
                        "rootfs": {"type": "layers", "diff_ids": diff_ids}});
    let manifest = json!({"schemaVersion": 2,
        "config": put("application/vnd.oci.image.config.v1+json", &config)?,
        "aosItemConfig": put("application/vnd.aos.item.config.v1+json", &json!({}))?,
        "layers": described});
    let manifest = put("application/vnd.oci.image.manifest.v1+json", &manifest)?;
    Ok(json!({"manifest": manifest["digest"], "layers": described, "plainBytes": plain_bytes}))
}

fn collect(folder: &Path, files: &mut Vec<PathBuf>) -> Result<()> {
    for entry in fs::read_dir(folder).with_context(|| format!("cannot read {}", folder.display()))? {
        let entry = entry?;
        let meta = entry.path().symlink_metadata()?;
        if meta.is_dir() {
            collect(&entry.path(), files)?;
        } else if meta.is_file() && meta.len() <= LARGEST {
            files.push(entry.path());
        }
    }
    Ok(())
}
