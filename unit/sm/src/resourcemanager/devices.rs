//! What the names in a resource turn into on this host: device nodes and groups.
//!
//! A folder stands for every device below it, 8 levels deep at most; links to folders are followed, what cannot
//! be read is skipped. A link to a device gives the device's numbers under the link's own path.

use std::fs;
use std::io;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use crate::Error;

/// Most devices one instance may have.
pub const MAX_DEVICES: usize = 256;
const MAX_DEPTH: u32 = 8;
const GROUPS: &str = "/etc/group";

/// One device node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Device {
    /// Its node on the host.
    pub source: PathBuf,
    /// Path in the container.
    pub path: String,
    /// `b`, `c` or `p`.
    pub kind: char,
    /// Major number.
    pub major: u64,
    /// Minor number.
    pub minor: u64,
    /// Permission bits.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Access: letters of `rwm`.
    pub access: String,
}

impl Device {
    /// Adds a device to those of an instance. The same path stands for the later device, and the same device
    /// under two paths has one set of rights, the later one.
    pub fn add_to(self, devices: &mut Vec<Self>) {
        devices.retain(|known| known.path != self.path);
        for known in devices.iter_mut().filter(|known| known.number() == self.number()) {
            known.access.clone_from(&self.access);
        }
        devices.push(self);
    }

    fn number(&self) -> (char, u64, u64) {
        (self.kind, self.major, self.minor)
    }
}

/// The devices that `host` stands for, as they appear in the container, where the first `host` in their path
/// is replaced by `container`.
pub fn find(host: &str, container: &str, access: &str) -> Result<Vec<Device>, Error> {
    let path = Path::new(host);
    let meta = fs::metadata(path).map_err(Error::file("look at device", path))?;
    if !meta.is_dir() {
        return Ok(vec![describe(path, &meta, container.to_owned(), access)?]);
    }
    let mut paths = below(path)?;
    paths.sort();
    let mut devices = Vec::new();
    for path in paths {
        // It may be gone again: what comes and goes is no reason not to give the others.
        let Ok(meta) = fs::metadata(&path) else { continue };
        let inside = path.to_string_lossy().replacen(host, container, 1);
        devices.push(describe(&path, &meta, inside, access)?);
    }
    Ok(devices)
}

fn below(path: &Path) -> Result<Vec<PathBuf>, Error> {
    let mut found = Vec::new();
    let mut open = vec![(path.to_owned(), 0)];
    while let Some((folder, depth)) = open.pop() {
        for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
            let path = entry.path();
            match fs::metadata(&path) {
                Ok(meta) if meta.is_dir() && depth < MAX_DEPTH => open.push((path, depth + 1)),
                Ok(meta) if kind_of(&meta).is_some() => found.push(path),
                _ => {}
            }
            if found.len() > MAX_DEVICES || open.len() > MAX_DEVICES {
                return Err(too_many());
            }
        }
    }
    Ok(found)
}

/// The refusal of more devices than an instance may have.
pub fn too_many() -> Error {
    Error::Limit { what: "number of devices".to_owned(), limit: MAX_DEVICES as u64 }
}

fn kind_of(meta: &fs::Metadata) -> Option<char> {
    match meta.file_type() {
        kind if kind.is_block_device() => Some('b'),
        kind if kind.is_char_device() => Some('c'),
        kind if kind.is_fifo() => Some('p'),
        _ => None,
    }
}

fn describe(path: &Path, meta: &fs::Metadata, inside: String, access: &str) -> Result<Device, Error> {
    let not_one = || Error::file("use as device", path)(io::ErrorKind::InvalidInput.into());
    Ok(Device {
        source: path.to_owned(),
        path: inside,
        kind: kind_of(meta).ok_or_else(not_one)?,
        major: nix::sys::stat::major(meta.rdev()),
        minor: nix::sys::stat::minor(meta.rdev()),
        mode: meta.mode() & 0o777,
        uid: meta.uid(),
        gid: meta.gid(),
        access: access.to_owned(),
    })
}

/// Number of a group of this host.
pub fn group_id(name: &str) -> Result<u32, Error> {
    let path = Path::new(GROUPS);
    let text = fs::read_to_string(path).map_err(Error::file("read", path))?;
    let found = text.lines().find_map(|line| {
        let mut fields = line.split(':');
        (fields.next() == Some(name)).then(|| fields.nth(1).and_then(|gid| gid.parse().ok())).flatten()
    });
    found.ok_or_else(|| Error::NotFound(format!("group '{name}'")))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use nix::sys::stat::Mode;

    use super::*;

    fn pipe(path: &Path) {
        nix::unistd::mkfifo(path, Mode::from_bits_truncate(0o640)).unwrap();
    }

    #[test]
    fn a_folder_stands_for_the_devices_below_it() {
        let folder = tempfile::tempdir().unwrap();
        let host = folder.path().join("dev");
        let other = folder.path().join("other");
        for dir in [host.join("deep/er"), other.clone()] {
            fs::create_dir_all(dir).unwrap();
        }
        pipe(&host.join("b"));
        pipe(&host.join("deep/er/a"));
        pipe(&other.join("c"));
        fs::write(host.join("plain"), "no device").unwrap();
        symlink(&other, host.join("linked")).unwrap();
        symlink("/dev/null", host.join("nothing")).unwrap();
        symlink("/no/where", host.join("dangling")).unwrap();
        // A loop of links ends.
        symlink(&host, host.join("deep/round")).unwrap();
        let found = find(host.to_str().unwrap(), "/dev/mine", "r").unwrap();
        let paths: Vec<&str> = found.iter().map(|device| device.path.as_str()).collect();
        for path in ["/dev/mine/b", "/dev/mine/deep/er/a", "/dev/mine/linked/c", "/dev/mine/nothing"] {
            assert!(paths.contains(&path), "{path} is not in {paths:?}");
        }
        assert!(!paths.iter().any(|path| path.ends_with("plain") || path.ends_with("dangling")));
        let null = found.iter().find(|device| device.path == "/dev/mine/nothing").unwrap();
        assert_eq!((null.kind, null.major, null.minor, null.access.as_str()), ('c', 1, 3, "r"));
        let b = found.iter().find(|device| device.path == "/dev/mine/b").unwrap();
        assert_eq!((b.kind, b.mode), ('p', 0o640));
    }

    #[test]
    fn only_devices_are_devices() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("file");
        fs::write(&file, "").unwrap();
        assert!(find(file.to_str().unwrap(), "/x", "rw").is_err());
        assert!(find("/no/such/device", "/x", "rw").is_err());
        // A link is seen under its own path, with the numbers of what it points to.
        let link = folder.path().join("link");
        symlink("/dev/zero", &link).unwrap();
        let found = find(link.to_str().unwrap(), link.to_str().unwrap(), "rw").unwrap();
        assert_eq!((found[0].path.as_str(), found[0].minor), (link.to_str().unwrap(), 5));
    }

    #[test]
    fn too_many_devices_are_refused() {
        let folder = tempfile::tempdir().unwrap();
        for number in 0..=MAX_DEVICES {
            pipe(&folder.path().join(number.to_string()));
        }
        assert!(matches!(find(folder.path().to_str().unwrap(), "/x", "r"), Err(Error::Limit { .. })));
    }

    #[test]
    fn a_later_device_replaces_and_a_later_right_holds_for_all_its_paths() {
        let device = |path: &str, minor, access: &str| Device {
            source: path.into(),
            path: path.into(),
            kind: 'c',
            major: 1,
            minor,
            mode: 0,
            uid: 0,
            gid: 0,
            access: access.into(),
        };
        let mut devices = Vec::new();
        for one in [device("/a", 3, "r"), device("/b", 3, "rw"), device("/c", 5, "r"), device("/c", 7, "w")] {
            one.add_to(&mut devices);
        }
        let seen: Vec<_> = devices.iter().map(|d| (d.path.as_str(), d.minor, d.access.as_str())).collect();
        assert_eq!(seen, [("/a", 3, "rw"), ("/b", 3, "rw"), ("/c", 7, "w")]);
    }

    #[test]
    fn groups_have_the_numbers_of_this_host() {
        assert_eq!(group_id("root").unwrap(), 0);
        assert!(matches!(group_id("no-such-group"), Err(Error::NotFound(_))));
    }
}
