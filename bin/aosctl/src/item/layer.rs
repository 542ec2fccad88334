//! A folder becomes a layer: a gzipped tar archive that is the same, byte for byte, for the same content.
//!
//! Names are sorted, owners are root, times are zero; permissions are kept. Devices, sockets and pipes have no
//! place in an image and are refused.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::{self, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use aos_ids::Digest;
use flate2::{Compression, GzBuilder};
use tar::{Builder, EntryType, Header};

use super::blob::{Blob, Content, Hashing};

/// Media type of the layers made here.
pub const TAR_GZIP: &str = "application/vnd.oci.image.layer.v1.tar+gzip";

/// Packs `folder` into `file`; returns the layer and the digest of the archive before compression.
pub fn pack(folder: &Path, file: &Path) -> Result<(Blob, Digest)> {
    let what = || format!("cannot write {}", file.display());
    let out = Hashing::new(io::BufWriter::new(File::create(file).with_context(what)?));
    let gzip = GzBuilder::new().mtime(0).write(out, Compression::default());
    let mut tar = Builder::new(Hashing::new(gzip));
    let meta = fs::metadata(folder).with_context(|| format!("cannot read {}", folder.display()))?;
    if !meta.is_dir() {
        bail!("{} is no folder", folder.display());
    }
    add_folder(&mut tar, folder, Path::new(""))?;
    let (gzip, diff_id, _) = tar.into_inner().with_context(what)?.finish();
    let (mut out, digest, size) = gzip.finish().with_context(what)?.finish();
    out.flush().with_context(what)?;
    let layer =
        Blob { digest, size, media_type: TAR_GZIP.to_owned(), content: Content::File(file.to_path_buf()) };
    Ok((layer, diff_id))
}

fn add_folder<W: Write>(tar: &mut Builder<W>, root: &Path, below: &Path) -> Result<()> {
    let dir = root.join(below);
    let what = || format!("cannot read {}", dir.display());
    let mut names = Vec::new();
    for entry in fs::read_dir(&dir).with_context(what)? {
        names.push(entry.with_context(what)?.file_name());
    }
    names.sort();
    for name in names {
        add(tar, root, below.join(&name), &name)?;
    }
    Ok(())
}

fn add<W: Write>(tar: &mut Builder<W>, root: &Path, below: PathBuf, name: &OsStr) -> Result<()> {
    let path = root.join(&below);
    let what = || format!("cannot pack {}", path.display());
    if name.to_str().is_some_and(|name| name.starts_with(".wh.")) {
        bail!("{} would delete a file of a lower layer; names that begin with .wh. are reserved", path.display());
    }
    let meta = fs::symlink_metadata(&path).with_context(what)?;
    let mut header = Header::new_gnu();
    header.set_mode(meta.permissions().mode() & 0o7777);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(0);
    header.set_size(0);
    let kind = meta.file_type();
    if kind.is_dir() {
        header.set_entry_type(EntryType::Directory);
        tar.append_data(&mut header, below.join(""), io::empty()).with_context(what)?;
        add_folder(tar, root, &below)
    } else if kind.is_symlink() {
        header.set_entry_type(EntryType::Symlink);
        let target = fs::read_link(&path).with_context(what)?;
        tar.append_link(&mut header, &below, target).with_context(what)
    } else if kind.is_file() {
        header.set_entry_type(EntryType::Regular);
        header.set_size(meta.len());
        let file = File::open(&path).with_context(what)?;
        tar.append_data(&mut header, &below, file).with_context(what)
    } else {
        bail!("{} is neither a file, a folder nor a symbolic link; an image cannot hold it", path.display())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_content_gives_equal_bytes() {
        let dir = tempfile::tempdir().unwrap();
        let make = |name: &str, reverse: bool| {
            let root = dir.path().join(name);
            fs::create_dir_all(root.join("bin")).unwrap();
            let mut files = vec![("a", "1"), ("bin/b", "2")];
            if reverse {
                files.reverse();
            }
            for (path, content) in files {
                fs::write(root.join(path), content).unwrap();
            }
            std::os::unix::fs::symlink("/bin/b", root.join("link")).unwrap();
            pack(&root, &dir.path().join(format!("{name}.tar.gz"))).unwrap()
        };
        let (one, one_diff) = make("one", false);
        let (two, two_diff) = make("two", true);
        assert_eq!((one.digest, one_diff), (two.digest, two_diff));
        let file = Blob::file(TAR_GZIP, &dir.path().join("one.tar.gz")).unwrap();
        assert_eq!((file.digest, file.size), (one.digest, one.size));
    }

    #[test]
    fn refuses_what_has_no_place_in_an_image() {
        let dir = tempfile::tempdir().unwrap();
        let _socket = std::os::unix::net::UnixListener::bind(dir.path().join("s")).unwrap();
        let error = pack(dir.path(), &dir.path().with_extension("out")).unwrap_err();
        assert!(error.to_string().contains("an image cannot hold it"), "{error}");
        let _ = fs::remove_file(dir.path().with_extension("out"));
    }
}
