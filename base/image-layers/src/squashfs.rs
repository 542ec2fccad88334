//! Layers that are squashfs images.
//!
//! The kernel could mount them, but its squashfs code trusts what it reads, and each mount would have to be
//! kept over restarts. So `sqfs2tar` (Debian: squashfs-tools-ng) turns the image into a tar stream as nobody,
//! with bounded memory and processor time, and the stream takes the same way as that of any other layer: what a
//! hostile image does to that program stays with it. The packed image needs a file for that time.

use std::fs::{self, File, OpenOptions, Permissions};
use std::io::{self, Read, Seek, Write};
use std::os::fd::OwnedFd;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use crate::store::packed_digest;
use crate::stream::{Metered, is_full};
use crate::tree::{Limits, TreeError};
use crate::{Layer, LayerError, LayerStore};

const PROGRAM: &str = "sqfs2tar";
const NOBODY: u32 = 65534;
/// Runs it with at most 512 MiB of memory and 10 minutes of processor time.
const SCRIPT: &str = "ulimit -c 0; ulimit -v 524288; ulimit -t 600; exec sqfs2tar /dev/stdin";
/// What a shell says of a program that is not there.
const NOT_FOUND: i32 = 127;

/// Removes the file when it goes.
struct Scratch(PathBuf);

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0);
    }
}

/// Checks the image and unpacks it into `root`.
pub(crate) fn unpack(
    store: &LayerStore,
    layer: &Layer,
    packed: impl Read,
    root: &OwnedFd,
    disk: u64,
) -> Result<(), LayerError> {
    if layer.diff_id != layer.digest {
        return Err(LayerError::Checksum {
            what: "the squashfs layer",
            expected: layer.diff_id,
            found: layer.digest,
        });
    }
    let scratch = Scratch(store.scratch());
    let image = fetch(layer, packed, &scratch.0, disk)?;
    let mut child = start(layer, image)?;
    let result = child.stdout.take().map(|stream| {
        let limits = Limits { overlay_marks: true, ..Limits::of_disk(disk.saturating_sub(layer.size)) };
        let mut stream = io::BufReader::with_capacity(128 * 1024, stream);
        let unpacked = crate::tree::unpack(&mut stream, root, limits)?;
        io::copy(&mut stream, &mut io::sink()).map_err(TreeError::Read)?;
        Ok(unpacked)
    });
    // With its stream closed or at an end it ends by itself; a broken pipe is its failure, too.
    let output = child.wait_with_output().map_err(|source| program(layer, source.to_string()))?;
    match result {
        Some(Err(TreeError::Space(_))) => Err(LayerError::NoSpace { layer: layer.digest, source: None }),
        Some(Err(TreeError::Write { source, .. })) if is_full(&source) => {
            Err(LayerError::NoSpace { layer: layer.digest, source: Some(source) })
        }
        Some(Err(source @ (TreeError::Refused { .. } | TreeError::Write { .. }))) => {
            Err(LayerError::Refused { layer: layer.digest, source })
        }
        _ if output.status.code() == Some(NOT_FOUND) => {
            Err(program(layer, format!("squashfs needs the program {PROGRAM}, which is not installed")))
        }
        _ if !output.status.success() => {
            let said = String::from_utf8_lossy(&output.stderr);
            let said = said.lines().next().unwrap_or_default().chars().take(120).collect::<String>();
            let reason = format!("{PROGRAM} ended with {}: {}", output.status, said.escape_debug());
            let source = TreeError::Read(io::Error::new(io::ErrorKind::InvalidData, reason));
            Err(LayerError::Refused { layer: layer.digest, source })
        }
        Some(Err(source)) => Err(LayerError::Refused { layer: layer.digest, source }),
        _ => Ok(()),
    }
}

fn program(layer: &Layer, reason: String) -> LayerError {
    LayerError::Program { layer: layer.digest, reason }
}

/// The image as a file that nobody may read through our descriptor; its folder is closed to everybody else.
fn fetch(layer: &Layer, packed: impl Read, path: &Path, disk: u64) -> Result<File, LayerError> {
    let full = |source| LayerError::NoSpace { layer: layer.digest, source };
    if layer.size > disk {
        return Err(full(None));
    }
    let mut file = OpenOptions::new()
        .read(true)
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path)
        .map_err(LayerError::file("make", path))?;
    let mut packed = Metered::new(packed, layer.size);
    let mut buffer = vec![0; 64 * 1024];
    loop {
        let count = match packed.read(&mut buffer) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            // What went wrong is told by the check below.
            Ok(0) | Err(_) => break,
            Ok(count) => count,
        };
        let written = file.write_all(buffer.get(..count).unwrap_or_default());
        written.map_err(|error| {
            if is_full(&error) { full(Some(error)) } else { LayerError::file("write", path)(error) }
        })?;
    }
    packed_digest(layer, packed, &mut buffer)?;
    file.rewind().map_err(LayerError::file("read", path))?;
    file.set_permissions(Permissions::from_mode(0o444)).map_err(LayerError::file("open up", path))?;
    Ok(file)
}

fn start(layer: &Layer, image: File) -> Result<Child, LayerError> {
    let mut command = Command::new("/bin/sh");
    command
        .args(["-c", SCRIPT])
        .env_clear()
        .env("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin")
        .current_dir("/")
        .stdin(image)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .uid(NOBODY)
        .gid(NOBODY);
    command.spawn().map_err(|error| program(layer, format!("cannot start {PROGRAM}: {error}")))
}
