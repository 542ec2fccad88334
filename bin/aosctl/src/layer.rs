//! A folder as one OCI layer, the same bytes for the same content: sorted entries, no times, root as owner.
//!
//! Equal content then has an equal digest, so publishing again uploads nothing and is no new version.

use std::fs::File;
use std::io::{self, Write};
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::Path;

use anyhow::{Context, Result, bail};
use aos_ids::Digest;
use aws_lc_rs::digest::{Context as Hash, SHA256};
use flate2::{Compression, GzBuilder};

/// A packed layer.
pub struct Layer {
    pub file: tempfile::NamedTempFile,
    /// Digest of the packed file.
    pub digest: Digest,
    pub size: u64,
    /// Digest of the unpacked tar, which names the layer in the image configuration.
    pub diff_id: Digest,
}

pub fn pack(root: &Path) -> Result<Layer> {
    let file = tempfile::NamedTempFile::new().context("cannot make a temporary file for the layer")?;
    let packed = Hashing::new(file.as_file().try_clone()?);
    let gzip = GzBuilder::new().mtime(0).write(packed, Compression::default());
    let mut tar = tar::Builder::new(Hashing::new(gzip));
    append_folder(&mut tar, root, Path::new(""))
        .with_context(|| format!("cannot pack {}", root.display()))?;
    let (gzip, diff_id, _) = tar.into_inner()?.finish();
    let (_, digest, size) = gzip.finish()?.finish();
    Ok(Layer { file, digest, size, diff_id })
}

fn append_folder<W: Write>(tar: &mut tar::Builder<W>, root: &Path, inside: &Path) -> Result<()> {
    let mut names = std::fs::read_dir(root.join(inside))?
        .map(|entry| entry.map(|entry| entry.file_name()))
        .collect::<io::Result<Vec<_>>>()?;
    names.sort();
    for name in names {
        let path = inside.join(name);
        let full = root.join(&path);
        let metadata = std::fs::symlink_metadata(&full)?;
        let kind = metadata.file_type();
        let mut header = tar::Header::new_gnu();
        header.set_mode(metadata.mode() & 0o7777);
        header.set_uid(0);
        header.set_gid(0);
        header.set_mtime(0);
        header.set_size(0);
        if kind.is_dir() {
            header.set_entry_type(tar::EntryType::Directory);
            tar.append_data(&mut header, &path, io::empty())?;
            append_folder(tar, root, &path)?;
        } else if kind.is_symlink() {
            header.set_entry_type(tar::EntryType::Symlink);
            tar.append_link(&mut header, &path, std::fs::read_link(&full)?)?;
        } else if kind.is_file() {
            header.set_size(metadata.len());
            tar.append_data(&mut header, &path, File::open(&full)?)?;
        } else if kind.is_socket() {
            // A socket means nothing without the process that made it.
        } else {
            bail!("{} is a device or pipe; layers hold files, folders and links", full.display());
        }
    }
    Ok(())
}

/// Counts and hashes what passes through.
struct Hashing<W> {
    inner: W,
    hash: Hash,
    size: u64,
}

impl<W: Write> Hashing<W> {
    fn new(inner: W) -> Self {
        Self { inner, hash: Hash::new(&SHA256), size: 0 }
    }

    fn finish(self) -> (W, Digest, u64) {
        let mut value = [0; 32];
        value.copy_from_slice(self.hash.finish().as_ref());
        (self.inner, Digest::from_sha256(value), self.size)
    }
}

impl<W: Write> Write for Hashing<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.inner.write(bytes)?;
        self.hash.update(&bytes[..written]);
        self.size += written as u64;
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}

/// SHA-256 of some bytes.
pub fn digest_of(bytes: &[u8]) -> Digest {
    let mut value = [0; 32];
    value.copy_from_slice(aws_lc_rs::digest::digest(&SHA256, bytes).as_ref());
    Digest::from_sha256(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn folder() -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        std::fs::create_dir(folder.path().join("bin")).unwrap();
        std::fs::write(folder.path().join("bin/tool"), "#!/bin/sh\n").unwrap();
        std::os::unix::fs::symlink("tool", folder.path().join("bin/alias")).unwrap();
        folder
    }

    #[test]
    fn equal_content_has_an_equal_digest() {
        let (one, two) = (pack(folder().path()).unwrap(), pack(folder().path()).unwrap());
        assert_eq!((one.digest, one.diff_id, one.size), (two.digest, two.diff_id, two.size));
        let packed = std::fs::read(one.file.path()).unwrap();
        assert_eq!((digest_of(&packed), packed.len() as u64), (one.digest, one.size));
        let mut tar = Vec::new();
        io::Read::read_to_end(&mut flate2::read::GzDecoder::new(packed.as_slice()), &mut tar).unwrap();
        assert_eq!(digest_of(&tar), one.diff_id);
        let mut archive = tar::Archive::new(tar.as_slice());
        let names: Vec<_> = archive
            .entries()
            .unwrap()
            .map(|e| e.unwrap().path().unwrap().to_string_lossy().into_owned())
            .collect();
        assert_eq!(names, ["bin", "bin/alias", "bin/tool"]);
    }

    #[test]
    fn devices_are_refused() {
        let folder = tempfile::tempdir().unwrap();
        nix_fifo(&folder.path().join("pipe"));
        let error = pack(folder.path()).err().unwrap();
        assert!(format!("{error:#}").contains("device or pipe"), "{error:#}");
    }

    fn nix_fifo(path: &Path) {
        assert!(std::process::Command::new("mkfifo").arg(path).status().unwrap().success());
    }
}
