//! Sized images: a storage folder with a file system of its own.
//!
//! The image is the file `.aos-storage.img` in the folder that it is mounted on, so it moves and goes with it and
//! is hidden while it is mounted. Its space is taken from the disk when it is made: what an instance was promised
//! it can write. The device behind the mount goes away with the mount. The image is made under another name and
//! renamed when it is whole.

use std::fs::{self, File, OpenOptions, Permissions};
use std::io;
use std::os::fd::AsFd;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use aos_disk_control::loops::LoopDevice;
use rustix::fs::FallocateFlags;
use rustix::mount::{MountFlags, UnmountFlags};

use crate::filesystem::{self, FileSystem};
use crate::{QuotaError, Unlimited, tools};

const IMAGE: &str = ".aos-storage.img";
const NEW: &str = ".aos-storage.new";
/// Major number of loop devices.
const LOOP: u32 = 7;
const MODE: u32 = 0o700;
const KIB: u64 = 1024;
const MIB: u64 = 1024 * KIB;
const INODE: u64 = 256;

/// Layout of an image for a limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Layout {
    /// Size of the whole file, bytes.
    size: u64,
    block: u64,
    inodes: u64,
    /// Journal, MiB.
    journal: u64,
}

/// The limit is what can be written; structures of the file system come on top.
fn layout(limit: u64) -> Layout {
    let (block, journal) = if limit < 64 * MIB { (KIB, 1) } else { (4 * KIB, 4) };
    let inodes = limit / (16 * KIB) + 64;
    // Bitmaps, group descriptors, room to grow, and the blocks that lead to the blocks of big files.
    let more = 512 * KIB + limit / 128;
    let size = (limit + inodes * INODE + journal * MIB + more).next_multiple_of(64 * KIB);
    Layout { size, block, inodes, journal }
}

/// Why no image can be used here; `None` when it can.
pub fn reason_against() -> Option<Unlimited> {
    if !Path::new("/dev/loop-control").exists() {
        return Some(Unlimited::NoLoop);
    }
    tools::find("mkfs.ext4").is_none().then_some(Unlimited::NoMkfs)
}

/// True when a folder has an image, mounted or not. It is used then, whatever the file system can do by now: what
/// the instance wrote is in it.
pub fn has_one(folder: &Path) -> bool {
    folder.join(IMAGE).exists()
        || FileSystem::of(folder).is_ok_and(|file_system| is_mounted(folder, &file_system))
}

/// True when the image of a folder is mounted on it.
pub fn is_mounted(folder: &Path, file_system: &FileSystem) -> bool {
    let is_loop = rustix::fs::major(file_system.device) == LOOP;
    let parent = folder.parent().and_then(|parent| FileSystem::of(parent).ok());
    is_loop && parent.is_some_and(|parent| parent.device != file_system.device)
}

/// Has an image of the right size mounted on a folder; the folder is made when it is missing, and what is in it
/// moves into the image.
pub fn mount(folder: &Path, limit: u64, uid: u32, gid: u32) -> Result<(), QuotaError> {
    fs::create_dir_all(folder).map_err(QuotaError::io("make the folder", folder))?;
    let wanted = layout(limit);
    let file_system = FileSystem::of(folder)?;
    if is_mounted(folder, &file_system) {
        if size_of_device(&file_system) == Some(wanted.size) {
            return Ok(());
        }
        rustix::mount::unmount(folder, UnmountFlags::NOFOLLOW)
            .map_err(|error| QuotaError::io("unmount, to change its size,", folder)(error.into()))?;
    }
    let image = folder.join(IMAGE);
    match fs::metadata(&image) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => make(folder, wanted, uid, gid)?,
        Err(error) => return Err(QuotaError::io("look at", &image)(error)),
        Ok(meta) => {
            // Nobody writes beside an image: that is what a crash while it was made left.
            clear_beside(folder, &image)?;
            if meta.len() != wanted.size {
                resize(&image, meta.len(), wanted)?;
            }
        }
    }
    if attach(&image, folder).is_err() {
        tools::check(&image)?;
        attach(&image, folder)?;
    }
    let _ = fs::remove_dir(folder.join("lost+found"));
    fs::set_permissions(folder, Permissions::from_mode(MODE))
        .map_err(QuotaError::io("set the mode of", folder))
}

fn make(folder: &Path, layout: Layout, uid: u32, gid: u32) -> Result<(), QuotaError> {
    // Beside the folder: what is in it is copied.
    let new = folder.with_file_name(beside(folder));
    let file = OpenOptions::new().create(true).truncate(true).read(true).write(true).mode(0o600).open(&new);
    let file = file.map_err(QuotaError::io("make the image", &new))?;
    let made = reserve(&file, &new, layout.size).and_then(|()| {
        tools::make_file_system(
            &new,
            folder,
            &tools::Shape {
                block: layout.block,
                inodes: layout.inodes,
                journal: layout.journal,
                owner: (uid, gid),
            },
        )
    });
    let synced = made.and_then(|()| file.sync_all().map_err(QuotaError::io("sync", &new)));
    if let Err(error) = synced {
        let _ = fs::remove_file(&new);
        return Err(error);
    }
    // Everything is in the image now.
    let target = folder.join(IMAGE);
    fs::rename(&new, &target).map_err(QuotaError::io("put in its place", &new))?;
    clear_beside(folder, &target)
}

fn clear_beside(folder: &Path, image: &Path) -> Result<(), QuotaError> {
    let entries = fs::read_dir(folder).map_err(QuotaError::io("read", folder))?;
    for path in entries.flatten().map(|entry| entry.path()).filter(|path| path != image) {
        let is_dir = fs::symlink_metadata(&path).is_ok_and(|meta| meta.is_dir());
        let removed = if is_dir { fs::remove_dir_all(&path) } else { fs::remove_file(&path) };
        removed.map_err(QuotaError::io("remove", &path))?;
    }
    Ok(())
}

fn beside(folder: &Path) -> std::ffi::OsString {
    let mut name = folder.file_name().unwrap_or_default().to_owned();
    name.push(NEW);
    name
}

fn reserve(file: &File, path: &Path, size: u64) -> Result<(), QuotaError> {
    let failed = || QuotaError::io("take the space of the image", path);
    match rustix::fs::fallocate(file, FallocateFlags::empty(), 0, size) {
        // Some file systems cannot; then the space is taken when it is written.
        Err(rustix::io::Errno::OPNOTSUPP) => file.set_len(size).map_err(failed()),
        result => result.map_err(|error| failed()(error.into())),
    }
}

fn resize(image: &Path, present: u64, wanted: Layout) -> Result<(), QuotaError> {
    let file =
        OpenOptions::new().read(true).write(true).open(image).map_err(QuotaError::io("open", image))?;
    tools::check(image)?;
    if wanted.size > present {
        reserve(&file, image, wanted.size)?;
        return tools::resize(image, wanted.size / KIB);
    }
    // More may be in it than the new limit allows: it stays as it is then, as with the other mechanisms nothing
    // that is written already is taken away.
    match tools::resize(image, wanted.size / KIB) {
        Ok(()) => file.set_len(wanted.size).map_err(QuotaError::io("cut", image)),
        Err(error) => {
            tracing::warn!("{} keeps its size: {error}", image.display());
            tools::check(image)
        }
    }
}

fn attach(image: &Path, folder: &Path) -> Result<(), QuotaError> {
    let file =
        OpenOptions::new().read(true).write(true).open(image).map_err(QuotaError::io("open", image))?;
    let device = LoopDevice::attach(file.as_fd()).map_err(QuotaError::io("make a block device of", image))?;
    let flags = MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOATIME;
    rustix::mount::mount(device.path(), folder, "ext4", flags, c"errors=remount-ro")
        .map_err(|error| QuotaError::io("mount the image on", folder)(error.into()))
}

fn size_of_device(file_system: &FileSystem) -> Option<u64> {
    let (major, minor) = (rustix::fs::major(file_system.device), rustix::fs::minor(file_system.device));
    let text = fs::read_to_string(format!("/sys/dev/block/{major}:{minor}/size")).ok()?;
    text.trim().parse::<u64>().ok().map(|sectors| sectors * 512)
}

/// Unmounts the image of a folder, if it is mounted; whoever has files of it open keeps them.
pub fn detach(folder: &Path) -> Result<(), QuotaError> {
    match FileSystem::of(folder) {
        Ok(file_system) if is_mounted(folder, &file_system) => {
            rustix::mount::unmount(folder, UnmountFlags::NOFOLLOW | UnmountFlags::DETACH)
                .map_err(|error| QuotaError::io("unmount", folder)(error.into()))
        }
        _ => Ok(()),
    }
}

/// Unmounts all images below `root` but those of the folders `wanted`: what a crash left. Answers how many.
pub fn reconcile(root: &Path, wanted: &[PathBuf]) -> Result<u32, QuotaError> {
    let mut count = 0;
    for mount in filesystem::mounts() {
        let ours =
            mount.point.starts_with(root) && mount.point != root && rustix::fs::major(mount.device) == LOOP;
        if ours && !wanted.contains(&mount.point) {
            detach(&mount.point)?;
            count += 1;
        }
    }
    Ok(count)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_image_is_a_little_larger_than_its_limit() {
        for limit in [0, 1, 64 * KIB, 16 * MIB, 64 * MIB, 10 * 1024 * MIB] {
            let Layout { size, block, .. } = layout(limit);
            assert!(size > limit && size.is_multiple_of(block));
            assert!(size <= limit + limit / 16 + 8 * MIB, "{limit}: {size}");
        }
    }
}
