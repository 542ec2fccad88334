//! Telling the service manager about readiness (`sd_notify`).
//!
//! The protocol is one datagram of `KEY=VALUE` lines to the socket named by `NOTIFY_SOCKET`: a path, or an
//! abstract name written with a leading `@`. Without that variable nobody listens and nothing is sent.
//! The variable stays in our environment, so every child must be started without it: a container or a
//! command that inherits it could speak in our name.

use std::ffi::{OsStr, OsString};
use std::io;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};

/// Environment variables by which a service manager addresses one process; never meant for its children.
pub const NOTIFY_VARIABLES: [&str; 3] = ["NOTIFY_SOCKET", "WATCHDOG_PID", "WATCHDOG_USEC"];

/// Says that the program is ready. A failure is logged, never fatal: the program itself works.
pub fn notify_ready() {
    notify("READY=1\n");
}

/// Says that the program has begun to stop.
pub fn notify_stopping() {
    notify("STOPPING=1\n");
}

/// Shows a line of text in `systemctl status`.
pub fn notify_status(text: &str) {
    notify(&format!("STATUS={}\n", text.replace(['\n', '\r'], " ")));
}

/// The environment for a child process: ours without [`NOTIFY_VARIABLES`]. Use with
/// `Command::env_clear().envs(child_env_without_notify())`.
pub fn child_env_without_notify() -> impl Iterator<Item = (OsString, OsString)> {
    std::env::vars_os().filter(|(name, _)| !NOTIFY_VARIABLES.iter().any(|variable| name == variable))
}

fn notify(message: &str) {
    let Some(socket) = std::env::var_os("NOTIFY_SOCKET").filter(|socket| !socket.is_empty()) else { return };
    if let Err(e) = send(&socket, message) {
        tracing::warn!("cannot notify the service manager at {}: {e}", socket.display());
    }
}

pub(crate) fn send(socket: &OsStr, message: &str) -> io::Result<()> {
    let address = match socket.as_bytes() {
        [b'@', name @ ..] => SocketAddr::from_abstract_name(name)?,
        _ => SocketAddr::from_pathname(socket)?,
    };
    UnixDatagram::unbound()?.send_to_addr(message.as_bytes(), &address)?;
    Ok(())
}
