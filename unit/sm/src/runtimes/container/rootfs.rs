//! The root file system of an instance: a read-only overlay of its layers below a thin layer of mount points.
//!
//! Bottom layer first, as OCI says, and nothing of the host. The thin layer holds what the runtime mounts onto
//! and the two files that every container has: hosts and resolver.
//!
//! Where configuration and item both ask for it, the host's own programs lie below the image: an overlay of its
//! own for each of the folders named (see `hostbase`).

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use nix::mount::{MntFlags, MsFlags, mount, umount2};
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, MoveMountFlags, fsconfig_create, fsconfig_set_flag,
    fsconfig_set_string, fsmount, fsopen, move_mount,
};

use super::mounts::Mount;
use crate::Error;

/// Longest option text one mount call takes, bytes.
const MAX_OPTIONS: usize = 4000;

/// Makes the thin layer.
pub fn make_mount_points(folder: &Path, mounts: &[Mount], hosts: &str, resolv: &str) -> Result<(), Error> {
    make_folder(folder)?;
    for mount in mounts {
        let place = folder.join(mount.destination.trim_start_matches('/'));
        if mount.is_on_file() {
            make_parent(&place)?;
            write(&place, "")?;
        } else {
            make_folder(&place)?;
            // Some runtimes give the mounted file system the mode of the folder below it.
            if let Some(mode) = mount.options.iter().find_map(|option| option.strip_prefix("mode="))
                && let Ok(mode) = u32::from_str_radix(mode, 8)
            {
                let mode = fs::Permissions::from_mode(mode & 0o1777);
                fs::set_permissions(&place, mode).map_err(Error::file("make folder", &place))?;
            }
        }
    }
    for (name, text) in [("etc/hosts", hosts), ("etc/resolv.conf", resolv)] {
        let place = folder.join(name);
        make_parent(&place)?;
        write(&place, text)?;
    }
    Ok(())
}

fn make_parent(place: &Path) -> Result<(), Error> {
    place.parent().map_or(Ok(()), make_folder)
}

pub(super) fn make_folder(path: &Path) -> Result<(), Error> {
    fs::create_dir_all(path).map_err(Error::file("make folder", path))?;
    fs::set_permissions(path, fs::Permissions::from_mode(0o755)).map_err(Error::file("make folder", path))
}

fn write(path: &Path, text: &str) -> Result<(), Error> {
    fs::write(path, text).map_err(Error::file("write", path))?;
    fs::set_permissions(path, fs::Permissions::from_mode(0o644)).map_err(Error::file("write", path))
}

/// Mounts the overlay at `target`: the thin layer on top, then `layers` given lowest first.
pub fn mount_overlay(target: &Path, thin: &Path, layers: &[PathBuf]) -> Result<(), Error> {
    fs::create_dir_all(target).map_err(Error::file("make folder", target))?;
    let stack: Vec<&Path> = std::iter::once(thin).chain(layers.iter().rev().map(PathBuf::as_path)).collect();
    let mut options = String::from("lowerdir=");
    for (index, folder) in stack.iter().enumerate() {
        if index > 0 {
            options.push(':');
        }
        for letter in folder.to_string_lossy().chars() {
            if matches!(letter, ':' | ',' | '\\') {
                options.push('\\');
            }
            options.push(letter);
        }
    }
    let action = format!("mount the overlay {}", target.display());
    if options.len() > MAX_OPTIONS {
        return mount_piece_by_piece(target, &stack).map_err(Error::system(action));
    }
    let flags = MsFlags::MS_RDONLY | MsFlags::MS_NODEV | MsFlags::MS_NOSUID;
    mount(Some("overlay"), target, Some("overlay"), flags, Some(options.as_str()))
        .map_err(Error::system(action))
}

/// For stacks whose names do not fit into one page; needs Linux 6.5.
fn mount_piece_by_piece(target: &Path, stack: &[&Path]) -> rustix::io::Result<()> {
    let context = fsopen("overlay", FsOpenFlags::FSOPEN_CLOEXEC)?;
    for &folder in stack {
        fsconfig_set_string(&context, "lowerdir+", folder)?;
    }
    fsconfig_set_flag(&context, "ro")?;
    fsconfig_create(&context)?;
    let attributes = MountAttrFlags::MOUNT_ATTR_RDONLY
        | MountAttrFlags::MOUNT_ATTR_NODEV
        | MountAttrFlags::MOUNT_ATTR_NOSUID;
    let mounted = fsmount(&context, FsMountFlags::FSMOUNT_CLOEXEC, attributes)?;
    move_mount(&mounted, "", rustix::fs::CWD, target, MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH)
}

/// Takes the overlay away, however often it is mounted; no error when it is not.
pub fn unmount(target: &Path) {
    while umount2(target, MntFlags::MNT_DETACH | MntFlags::UMOUNT_NOFOLLOW).is_ok() {}
}
