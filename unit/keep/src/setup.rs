//! The few things the loop asks of the system: the socket, the command, the file with a process ID.

use std::fs::{self, File, OpenOptions, Permissions};
use std::io;
use std::os::fd::AsFd;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::os::unix::net::{SocketAddr, UnixDatagram, UnixListener, UnixStream};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use nix::sys::signal::{SigSet, Signal};

use crate::Error;
use crate::protocol::Start;

/// Signals the keeper takes as events.
pub fn signal_mask() -> SigSet {
    [Signal::SIGCHLD, Signal::SIGTERM, Signal::SIGINT].into_iter().collect()
}

/// The socket at `path`; one left by a dead keeper is replaced.
pub fn listen(path: &PathBuf) -> Result<UnixListener, Error> {
    let failed = |source| Error::Listen { path: path.clone(), source };
    if UnixStream::connect(path).is_ok() {
        return Err(Error::AlreadyServed { path: path.clone() });
    }
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(failed(error)),
        _ => {}
    }
    let mask = nix::sys::stat::umask(nix::sys::stat::Mode::from_bits_truncate(0o177));
    let bound = UnixListener::bind(path);
    nix::sys::stat::umask(mask);
    let listener = bound.map_err(failed)?;
    fs::set_permissions(path, Permissions::from_mode(0o600)).map_err(failed)?;
    listener.set_nonblocking(true).map_err(failed)?;
    Ok(listener)
}

/// Runs the command with an unblocked signal mask; answers its process.
pub fn spawn(start: &Start) -> io::Result<i32> {
    let (program, arguments) = start.argv.split_first().ok_or(io::ErrorKind::InvalidInput)?;
    let log: File = OpenOptions::new().append(true).create(true).mode(0o600).open(&start.log.path)?;
    let mut command = Command::new(program);
    command.args(arguments).env_clear().current_dir("/").stdin(Stdio::from(empty()?));
    command.process_group(0);
    command.stdout(log.as_fd().try_clone_to_owned()?).stderr(log);
    for variable in &start.env {
        if let Some((name, value)) = variable.split_once('=') {
            command.env(name, value);
        }
    }
    let mask = signal_mask();
    mask.thread_unblock()?;
    let spawned = command.spawn();
    mask.thread_block()?;
    Ok(spawned?.id().cast_signed())
}

/// Standard input with nothing in it. Not `/dev/null`: OCI runtimes give the standard streams to the user of the
/// container, and who owns the host's `/dev/null` can take it away from everybody.
fn empty() -> io::Result<io::PipeReader> {
    io::pipe().map(|(reader, _)| reader)
}

/// Tells the service manager that started us, if any, that clients are served from now on (`sd_notify`).
pub fn notify_ready() {
    let Some(socket) = std::env::var_os("NOTIFY_SOCKET").filter(|socket| !socket.is_empty()) else { return };
    let address = match socket.as_bytes() {
        [b'@', name @ ..] => SocketAddr::from_abstract_name(name),
        _ => SocketAddr::from_pathname(&socket),
    };
    let sent = address.and_then(|address| UnixDatagram::unbound()?.send_to_addr(b"READY=1\n", &address));
    if let Err(error) = sent {
        crate::note(&format!("cannot notify the service manager: {error}"));
    }
}

/// The process ID in a file.
pub fn read_pid(path: &Path) -> Option<i32> {
    fs::read_to_string(path).ok()?.trim().parse().ok().filter(|&pid| pid > 1)
}
