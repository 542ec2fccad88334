//! The first half: starts the second one and waits until it has become the service.

use std::fs;
use std::io::{self, Read};
use std::path::Path;
use std::process::{Command, Stdio};

use crate::Error;

/// Longest reason taken, bytes.
const MAX_REASON: u64 = 4096;

/// The second half says what is wrong through its standard input, the writing end of a pipe. When it becomes
/// the service the pipe is closed without a word.
pub fn start(order: &Path, pid_file: &Path) -> Result<(), Error> {
    let (reader, writer) = io::pipe().map_err(Error::system("make a pipe"))?;
    let mut command = Command::new("/proc/self/exe");
    command.args(["native", "enter"]).arg(order).stdin(Stdio::from(writer));
    let mut child = command.spawn().map_err(Error::system("start the second half"))?;
    drop(command);
    let mut reason = String::new();
    let said = reader.take(MAX_REASON).read_to_string(&mut reason);
    if said.is_ok() && reason.is_empty() {
        fs::write(pid_file, child.id().to_string()).map_err(Error::file("write", pid_file))?;
        return Ok(());
    }
    let _ = child.kill();
    let _ = child.wait();
    Err(Error::Said(if reason.is_empty() { "the start was interrupted".to_owned() } else { reason }))
}
