//! Programs that know how to make, check and change a file system, and to copy a folder; each with a time limit.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, pidfd_open};

use crate::QuotaError;

/// Longest time of one program; a check of a large image after a power cut takes seconds.
const LIMIT: Duration = Duration::from_mins(10);
const FOLDERS: [&str; 4] = ["/usr/sbin", "/sbin", "/usr/bin", "/bin"];
const MAX_MESSAGE: u64 = 1024;

/// What a new file system looks like.
#[derive(Debug, Clone, Copy)]
pub struct Shape {
    /// Block size, bytes.
    pub block: u64,
    /// Number of files it has room for.
    pub inodes: u64,
    /// Journal, MiB.
    pub journal: u64,
    /// User and group of its root.
    pub owner: (u32, u32),
}

/// Where a program is.
pub fn find(program: &str) -> Option<PathBuf> {
    FOLDERS.iter().map(|folder| Path::new(folder).join(program)).find(|path| path.exists())
}

/// Makes an ext4 file system in `image`, with what is in `content`.
pub fn make_file_system(image: &Path, content: &Path, shape: &Shape) -> Result<(), QuotaError> {
    let Shape { block, inodes, journal, owner: (uid, gid) } = shape;
    let mut command = command("mkfs.ext4", image)?;
    command
        .args(["-q", "-F", "-m", "0", "-O", "^resize_inode", "-I", "256"])
        .args(["-b", &block.to_string(), "-N", &inodes.to_string(), "-J", &format!("size={journal}")])
        .args(["-E", &format!("nodiscard,lazy_itable_init=1,lazy_journal_init=1,root_owner={uid}:{gid}")])
        .arg("-d")
        .arg(content)
        .arg(image);
    run("mkfs.ext4", command, image, &[0])
}

/// Checks and mends the file system in `image`.
pub fn check(image: &Path) -> Result<(), QuotaError> {
    let mut command = command("e2fsck", image)?;
    command.args(["-f", "-y"]).arg(image);
    // 1 and 2: it was mended.
    run("e2fsck", command, image, &[0, 1, 2])
}

/// Changes the file system in `image` to a number of KiB.
pub fn resize(image: &Path, kib: u64) -> Result<(), QuotaError> {
    let mut command = command("resize2fs", image)?;
    command.arg(image).arg(format!("{kib}K"));
    run("resize2fs", command, image, &[0])
}

/// Copies what is in a folder into another, sharing the data where the file system can.
pub fn copy(from: &Path, to: &Path) -> Result<(), QuotaError> {
    let mut command = command("cp", from)?;
    command.args(["-a", "--reflink=auto", "--"]).arg(from.join(".")).arg(to);
    run("cp", command, from, &[0])
}

fn command(program: &'static str, path: &Path) -> Result<Command, QuotaError> {
    let file = find(program).ok_or_else(|| QuotaError::Tool {
        program,
        path: path.to_owned(),
        message: "it is not installed".to_owned(),
    })?;
    let mut command = Command::new(file);
    command.env_clear().env("PATH", FOLDERS.join(":")).stdin(Stdio::null());
    Ok(command)
}

fn run(program: &'static str, mut command: Command, path: &Path, good: &[i32]) -> Result<(), QuotaError> {
    let failed = |message: String| QuotaError::Tool { program, path: path.to_owned(), message };
    // A file takes whatever it says; a pipe would have to be emptied while waiting.
    let messages = rustix::fs::memfd_create("messages", rustix::fs::MemfdFlags::CLOEXEC)
        .map(File::from)
        .and_then(|file| Ok((file.try_clone().map_err(|_| rustix::io::Errno::MFILE)?, file)));
    let (copy, mut messages) = messages.map_err(|error| failed(error.to_string()))?;
    command.stdout(Stdio::null()).stderr(copy);
    let mut child = command.spawn().map_err(|error| failed(error.to_string()))?;
    let ended = wait(child.id());
    if !matches!(ended, Ok(true)) {
        let _ = child.kill();
    }
    let status = child.wait().map_err(|error| failed(error.to_string()))?;
    if status.code().is_some_and(|code| good.contains(&code)) {
        return Ok(());
    }
    let mut text = Vec::new();
    let _ = messages.seek(SeekFrom::Start(0)).and_then(|_| messages.take(MAX_MESSAGE).read_to_end(&mut text));
    let text = String::from_utf8_lossy(&text);
    let said = text.lines().rfind(|line| !line.trim().is_empty()).unwrap_or("no message").trim().to_owned();
    Err(failed(format!("{status}: {said}")))
}

/// True when the process ended in time.
fn wait(pid: u32) -> rustix::io::Result<bool> {
    let pid = Pid::from_raw(pid.cast_signed()).ok_or(rustix::io::Errno::SRCH)?;
    let handle = pidfd_open(pid, PidfdFlags::empty())?;
    let limit = Timespec::try_from(LIMIT).map_err(|_| rustix::io::Errno::INVAL)?;
    loop {
        match poll(&mut [PollFd::new(&handle, PollFlags::IN)], Some(&limit)) {
            Err(rustix::io::Errno::INTR) => {}
            result => return result.map(|ready| ready > 0),
        }
    }
}
