//! External programs of the provisioning steps.
//!
//! Started directly, never by a shell, with our environment minus what speaks to the service manager.
//! Only the begin of their output is kept. A program may leave background jobs behind (upstream's
//! scripts restart the whole stack that way): we wait for the program, not for its output to close.

use std::os::unix::process::ExitStatusExt;
use std::process::{Command, Stdio};
use std::time::Duration;

use tokio::net::unix::pipe;

use crate::Error;

/// Characters of output that an error shows.
const SHOWN: usize = 128;
const BUFFER: usize = 1024;
/// Time that a program may take.
const DEADLINE: Duration = Duration::from_mins(10);

/// Runs `argv`; an empty one is a skipped step.
pub async fn run(argv: &[String]) -> Result<(), Error> {
    run_within(argv, DEADLINE).await
}

pub(super) async fn run_within(argv: &[String], deadline: Duration) -> Result<(), Error> {
    let Some((program, arguments)) = argv.split_first() else { return Ok(()) };
    let spawn = |source| Error::Spawn { program: program.clone(), source };
    let (reader, writer) = std::io::pipe().map_err(spawn)?;
    let reader = pipe::Receiver::from_owned_fd(reader.into()).map_err(spawn)?;
    tracing::info!("running {program}");
    let mut command = Command::new(program);
    command
        .args(arguments)
        .env_clear()
        .envs(aos_supervise::child_env_without_notify())
        .stdin(Stdio::null())
        .stdout(writer.try_clone().map_err(spawn)?)
        .stderr(writer);
    let mut child = command.spawn().map_err(spawn)?;
    // The command keeps its ends of the pipe open as long as it lives.
    drop(command);

    let pid = child.id();
    let mut exit = tokio::task::spawn_blocking(move || child.wait());
    let mut output = Output { reader, begin: Vec::new(), open: true };
    let timeout = tokio::time::sleep(deadline);
    tokio::pin!(timeout);
    let status = loop {
        tokio::select! {
            status = &mut exit => break status,
            () = output.read(), if output.open => {}
            () = &mut timeout => {
                kill(pid);
                // The killed program is collected by the waiting thread.
                return Err(Error::Timeout(format!("{program} took longer than {} s", deadline.as_secs())));
            }
        }
    };
    output.read_rest();
    let status = status
        .map_err(|error| Error::Failed(format!("waiting for {program} was lost: {error}")))?
        .map_err(spawn)?;
    if status.success() {
        return Ok(());
    }
    let status = status.code().or_else(|| status.signal().map(|signal| 128 + signal)).unwrap_or(-1);
    Err(Error::Command { program: program.clone(), status, output: output.shown() })
}

fn kill(pid: u32) {
    let pid = i32::try_from(pid).ok().and_then(rustix::process::Pid::from_raw);
    if let Some(Err(error)) = pid.map(|pid| rustix::process::kill_process(pid, rustix::process::Signal::KILL))
    {
        tracing::warn!("cannot kill an external program that takes too long: {error}");
    }
}

struct Output {
    reader: pipe::Receiver,
    begin: Vec<u8>,
    open: bool,
}

impl Output {
    /// Waits for output and takes it.
    async fn read(&mut self) {
        match self.reader.readable().await {
            Ok(()) => self.take(),
            Err(_) => self.open = false,
        }
    }

    /// Takes what is there already.
    fn read_rest(&mut self) {
        // Bounded: a background job may write for ever.
        for _ in 0..64 {
            if !self.open || self.begin.len() >= BUFFER {
                return;
            }
            let before = self.begin.len();
            self.take();
            if self.begin.len() == before {
                return;
            }
        }
    }

    fn take(&mut self) {
        let mut buffer = [0; BUFFER];
        match self.reader.try_read(&mut buffer) {
            Ok(0) => self.open = false,
            Ok(count) => {
                let room = BUFFER.saturating_sub(self.begin.len());
                self.begin.extend_from_slice(&buffer[..count.min(room)]);
            }
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {}
            Err(_) => self.open = false,
        }
    }

    fn shown(&self) -> String {
        String::from_utf8_lossy(&self.begin).trim().chars().take(SHOWN).collect()
    }
}
