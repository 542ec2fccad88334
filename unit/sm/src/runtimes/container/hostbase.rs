//! The host's own programs as the lowest layer of an image that counts on them (`baseLayerIsNodeRootfs`).
//!
//! Only the folders named in the configuration are there. A folder that is a link on the host (`/bin` on most)
//! becomes the same link; a real one becomes an overlay of its own over the host's folder, with the image's
//! layers on top, so an image changes, hides and replaces the host's files as it would those of a base image.
//! Nothing else of the host can show through, whatever is added to its root later, and the folders need not be
//! apart from the one that holds the images, which one overlay of the whole root would demand.

use std::fs;
use std::io;
use std::os::unix::fs::{FileTypeExt, MetadataExt, symlink};
use std::path::{Path, PathBuf};

use nix::sys::stat::{major, minor};

use super::rootfs::{make_folder, mount_overlay};
use crate::Error;

/// The host's side of a root file system.
#[derive(Debug, PartialEq, Eq)]
pub struct HostBase {
    /// Folder that holds the links; the lowest layer.
    pub links: PathBuf,
    /// Folders to be overlaid: name and layers of the image, lowest first.
    overlays: Vec<(String, Vec<PathBuf>)>,
    root: PathBuf,
}

impl HostBase {
    /// Looks at what of `names` is in `root` and what the image's `layers`, lowest first, make of it. `thin` is
    /// the layer of mount points and gets one for each overlay.
    pub fn make(
        root: &Path,
        names: &[String],
        layers: &[PathBuf],
        thin: &Path,
        links: PathBuf,
    ) -> Result<Self, Error> {
        make_folder(&links)?;
        let mut overlays = Vec::new();
        for name in names {
            let place = root.join(name);
            let Ok(meta) = fs::symlink_metadata(&place) else { continue };
            if meta.is_symlink() {
                let target = fs::read_link(&place).map_err(Error::file("read link", &place))?;
                symlink(target, links.join(name)).map_err(Error::file("make link", links.join(name)))?;
                continue;
            }
            let above: Vec<PathBuf> = layers.iter().map(|layer| layer.join(name)).collect();
            if !meta.is_dir() || !is_open(&above) {
                continue;
            }
            make_folder(&thin.join(name))?;
            let above = above.into_iter().filter(|folder| folder.is_dir()).collect();
            overlays.push((name.clone(), above));
        }
        Ok(Self { links, overlays, root: root.to_owned() })
    }

    /// Mounts the overlays onto the root file system.
    pub fn mount(&self, rootfs: &Path, thin: &Path) -> Result<(), Error> {
        for (name, above) in &self.overlays {
            let mut layers = vec![self.root.join(name)];
            layers.extend(above.iter().cloned());
            mount_overlay(&rootfs.join(name), &thin.join(name), &layers)?;
        }
        Ok(())
    }
}

/// True when the host's folder shows through these folders of the image: none is something else, none hides
/// what is below it.
fn is_open(above: &[PathBuf]) -> bool {
    above.iter().all(|place| match fs::symlink_metadata(place) {
        Err(error) => error.kind() == io::ErrorKind::NotFound,
        Ok(meta) if meta.file_type().is_char_device() => major(meta.rdev()) != 0 || minor(meta.rdev()) != 0,
        Ok(meta) => meta.is_dir() && !is_opaque(place),
    })
}

fn is_opaque(folder: &Path) -> bool {
    let mut value = [0; 8];
    rustix::fs::getxattr(folder, "trusted.overlay.opaque", &mut value)
        .is_ok_and(|count| value.get(..count) == Some(b"y".as_slice()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(list: &[&str]) -> Vec<String> {
        list.iter().map(|&name| name.to_owned()).collect()
    }

    #[test]
    fn only_what_is_named_is_there_and_the_image_can_replace_it() {
        let folder = tempfile::tempdir().unwrap();
        let at = |path: &str| folder.path().join(path);
        for dir in ["host/usr", "host/opt", "host/srv", "host/etc", "thin", "one/usr", "two"] {
            fs::create_dir_all(at(dir)).unwrap();
        }
        symlink("usr/bin", at("host/bin")).unwrap();
        symlink("elsewhere", at("two/opt")).unwrap();
        fs::write(at("two/srv"), "a file").unwrap();
        let layers = [at("one"), at("two")];
        let visible = names(&["bin", "usr", "opt", "srv", "lib64"]);
        let base = HostBase::make(&at("host"), &visible, &layers, &at("thin"), at("links")).unwrap();
        assert_eq!(base.overlays, [("usr".to_owned(), vec![at("one/usr")])]);
        assert_eq!(fs::read_link(at("links/bin")).unwrap(), Path::new("usr/bin"));
        assert_eq!(fs::read_dir(at("links")).unwrap().count(), 1);
        assert!(at("thin/usr").is_dir() && !at("thin/opt").exists());
    }
}
