//! Two digests of an unpacked tree, to find out later whether it is still what was installed.
//!
//! The *tree digest* covers the content of every file and the text of every link; peers of this program know
//! it for trees without links. The *stamp* covers what the file system says of every entry (kind, mode, owner,
//! size, times of change, device, inode), costs one look at each and reads nothing: writing to a file, however
//! its times are set back afterwards, changes it. A stamp that differs proves nothing, as copies have other
//! inodes; one that agrees is as good as the file system.

use std::fmt::Write as _;
use std::fs::{self, File};
use std::io::{self, Read};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::Path;

use aos_ids::Digest;

use crate::LayerError;
use crate::stream::{Hash, sha256};

/// Deepest tree that is walked.
const MAX_DEPTH: usize = 256;
const CHUNK: usize = 128 * 1024;

/// Digest of a tree and the bytes of its files.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TreeDigest {
    /// SHA-256 over the sorted list of files.
    pub digest: Digest,
    /// Bytes of all files.
    pub bytes: u64,
}

/// Reads the whole tree below `root`.
pub fn tree_digest(root: &Path) -> Result<TreeDigest, LayerError> {
    let mut work = Reading { hash: Hash::default(), bytes: 0, buffer: vec![0; CHUNK], line: Vec::new() };
    walk(root, &mut Vec::new(), 0, &mut |path, name, meta| work.visit(path, name, meta))?;
    Ok(TreeDigest { digest: work.hash.finish(), bytes: work.bytes })
}

/// Looks at the whole tree below `root`, and reads none of it.
pub(crate) fn stamp(root: &Path) -> Result<Digest, LayerError> {
    let mut hash = Hash::default();
    let mut look = |name: &[u8], meta: &fs::Metadata| {
        hash.update(&(name.len() as u64).to_le_bytes());
        hash.update(name);
        let kind = meta.file_type();
        // The times of a folder change by nothing but changes in it, too.
        for value in [
            u64::from(meta.mode()),
            u64::from(meta.uid()),
            u64::from(meta.gid()),
            if kind.is_file() { meta.len() } else { 0 },
            meta.rdev(),
            meta.ino(),
            meta.ctime().cast_unsigned(),
            meta.ctime_nsec().cast_unsigned(),
            meta.mtime().cast_unsigned(),
        ] {
            hash.update(&value.to_le_bytes());
        }
    };
    let top = fs::symlink_metadata(root).map_err(LayerError::file("look at", root))?;
    look(b"", &top);
    walk(root, &mut Vec::new(), 0, &mut |_, name, meta| {
        look(name, meta);
        Ok(())
    })?;
    Ok(hash.finish())
}

type Visit<'a> = &'a mut dyn FnMut(&Path, &[u8], &fs::Metadata) -> Result<(), LayerError>;

/// Visits everything below `folder` in the byte order of the full paths. Holds the names of one folder for
/// each level.
fn walk(folder: &Path, prefix: &mut Vec<u8>, depth: usize, visit: Visit<'_>) -> Result<(), LayerError> {
    if depth > MAX_DEPTH {
        let source = io::Error::other("it is too deep");
        return Err(LayerError::File { action: "walk", path: folder.to_owned(), source });
    }
    let mut entries = Vec::new();
    for entry in fs::read_dir(folder).map_err(LayerError::file("read", folder))? {
        let entry = entry.map_err(LayerError::file("read", folder))?;
        let mut key = entry.file_name().as_bytes().to_vec();
        // As a folder's name is followed by a slash in full paths, it is sorted with one.
        if entry.file_type().map_err(LayerError::file("look at", entry.path()))?.is_dir() {
            key.push(b'/');
        }
        entries.push(key);
    }
    entries.sort_unstable();
    for key in entries {
        let name = key.strip_suffix(b"/").unwrap_or(&key);
        let path = folder.join(std::ffi::OsStr::from_bytes(name));
        let meta = fs::symlink_metadata(&path).map_err(LayerError::file("look at", &path))?;
        let length = prefix.len();
        prefix.extend_from_slice(name);
        visit(&path, prefix, &meta)?;
        if meta.is_dir() {
            prefix.push(b'/');
            walk(&path, prefix, depth + 1, visit)?;
        }
        prefix.truncate(length);
    }
    Ok(())
}

struct Reading {
    hash: Hash,
    bytes: u64,
    buffer: Vec<u8>,
    line: Vec<u8>,
}

impl Reading {
    fn visit(&mut self, path: &Path, name: &[u8], meta: &fs::Metadata) -> Result<(), LayerError> {
        let kind = meta.file_type();
        let found = if kind.is_file() {
            self.content(path)?
        } else if kind.is_symlink() {
            let target = fs::read_link(path).map_err(LayerError::file("read link", path))?;
            sha256(target.as_os_str().as_bytes())
        } else if kind.is_char_device() {
            sha256(b"whiteout")
        } else {
            return Ok(());
        };
        self.line.clear();
        self.line.extend_from_slice(found.hex().as_bytes());
        self.line.extend_from_slice(b"  ");
        self.line.extend_from_slice(name);
        self.line.push(b'\n');
        self.hash.update(&self.line);
        Ok(())
    }

    fn content(&mut self, path: &Path) -> Result<Digest, LayerError> {
        let mut file = File::open(path).map_err(LayerError::file("open", path))?;
        let mut hash = Hash::default();
        loop {
            match file.read(&mut self.buffer) {
                Ok(0) => return Ok(hash.finish()),
                Ok(count) => {
                    hash.update(self.buffer.get(..count).unwrap_or_default());
                    self.bytes = self.bytes.saturating_add(count as u64);
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(LayerError::file("read", path)(error)),
            }
        }
    }
}

/// The text of a stamp's file.
pub(crate) fn text_of(digest: &Digest) -> String {
    let mut text = String::new();
    let _ = write!(text, "{digest}");
    text
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    fn tree() -> tempfile::TempDir {
        let folder = tempfile::tempdir_in("/var/tmp").unwrap();
        fs::write(folder.path().join("a.txt"), "hello\n").unwrap();
        fs::create_dir(folder.path().join("dir")).unwrap();
        fs::write(folder.path().join("dir/b.bin"), "").unwrap();
        folder
    }

    #[test]
    fn the_tree_digest_is_the_one_peers_know() {
        let found = tree_digest(tree().path()).unwrap();
        assert_eq!(found.bytes, 6);
        assert_eq!(
            found.digest.to_string(),
            "sha256:95e389c88e57caf1c3faa1fc2bd8f210132485ece08f16ca49298deed9492cf3"
        );
    }

    // Sorting folder by folder must give the order of whole paths: '.' and '-' come before '/'.
    #[test]
    fn files_are_listed_in_the_order_of_whole_paths() {
        let folder = tempfile::tempdir_in("/var/tmp").unwrap();
        for name in ["a/x", "a-b/x", "a.txt", "a0", "a/b/c", "a/b-c"] {
            let path = folder.path().join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, name).unwrap();
        }
        let mut names: Vec<&str> = vec!["a/x", "a-b/x", "a.txt", "a0", "a/b/c", "a/b-c"];
        names.sort_unstable();
        let list: Vec<String> =
            names.iter().map(|name| format!("{}  {name}\n", sha256(name.as_bytes()).hex())).collect();
        assert_eq!(tree_digest(folder.path()).unwrap().digest, sha256(list.concat().as_bytes()));
    }

    // A link into the host must not make the digest depend on the host.
    #[test]
    fn links_count_by_their_text() {
        let outside = tempfile::NamedTempFile::new().unwrap();
        let folder = tree();
        symlink(outside.path(), folder.path().join("link")).unwrap();
        let before = tree_digest(folder.path()).unwrap();
        fs::write(outside.path(), "changed").unwrap();
        assert_eq!(tree_digest(folder.path()).unwrap(), before);
        fs::remove_file(folder.path().join("link")).unwrap();
        symlink("elsewhere", folder.path().join("link")).unwrap();
        assert_ne!(tree_digest(folder.path()).unwrap(), before);
    }

    #[test]
    fn the_stamp_tells_of_every_change_even_with_its_times_set_back() {
        let folder = tree();
        let file = folder.path().join("a.txt");
        let first = stamp(folder.path()).unwrap();
        assert_eq!(stamp(folder.path()).unwrap(), first);
        let times = fs::metadata(&file).unwrap();
        fs::write(&file, "hallo\n").unwrap();
        File::options().write(true).open(&file).unwrap().set_modified(times.modified().unwrap()).unwrap();
        let second = stamp(folder.path()).unwrap();
        assert_ne!(second, first);
        fs::create_dir(folder.path().join("empty")).unwrap();
        assert_ne!(stamp(folder.path()).unwrap(), second);
    }
}
