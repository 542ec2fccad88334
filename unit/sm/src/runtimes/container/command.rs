//! Commands of the OCI runtime that are ours to wait for: state, delete, exec.
//!
//! Standard streams are pipes, never `/dev/null`: crun gives them to the user of the container, and the host's
//! `/dev/null` must not be given to anybody.

use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::process::Command;

use super::ContainerRuntime;
use crate::Error;

/// Longest output that is kept, bytes.
const MAX_OUTPUT: u64 = 256 * 1024;

/// How a command ended.
pub(super) struct Done {
    /// Its exit status, or 128 plus the signal that ended it.
    pub status: i32,
    /// What it printed.
    pub output: Vec<u8>,
    /// What it complained about.
    pub errors: Vec<u8>,
}

impl ContainerRuntime {
    /// Runs the runtime with `arguments`; answers how it ended. It is killed after `limit`.
    pub(super) async fn command(&self, arguments: &[&str], limit: Duration) -> Result<Done, Error> {
        let program = &self.config.executable;
        let shown = arguments.first().copied().unwrap_or_default();
        let running = run(program, &self.config.state_root, arguments);
        let failed = || Error::system(format!("run {} {shown}", program.display()));
        tokio::time::timeout(limit, running)
            .await
            .map_err(|_| failed()(std::io::Error::from(std::io::ErrorKind::TimedOut)))?
            .map_err(failed())
    }
}

async fn run(program: &Path, root: &Path, arguments: &[&str]) -> std::io::Result<Done> {
    let mut command = Command::new(program);
    command.arg("--root").arg(root).args(arguments).current_dir("/").kill_on_drop(true);
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    for name in aos_supervise::NOTIFY_VARIABLES {
        command.env_remove(name);
    }
    let mut child = command.spawn()?;
    drop(child.stdin.take());
    let (stdout, stderr) = (child.stdout.take(), child.stderr.take());
    // Read to the end: whoever writes more than is kept must not be stopped by it.
    let (output, errors, status) = tokio::join!(read(stdout), read(stderr), child.wait());
    let status = status?;
    let signal = std::os::unix::process::ExitStatusExt::signal(&status);
    Ok(Done { status: status.code().unwrap_or_else(|| 128 + signal.unwrap_or(0)), output, errors })
}

async fn read(stream: Option<impl AsyncRead + Unpin>) -> Vec<u8> {
    let mut kept = Vec::new();
    if let Some(mut stream) = stream {
        let _ = (&mut stream).take(MAX_OUTPUT).read_to_end(&mut kept).await;
        let _ = tokio::io::copy(&mut stream, &mut tokio::io::sink()).await;
    }
    kept
}
