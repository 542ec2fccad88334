//! External programs of the provisioning steps.
//!
//! Started directly, never by a shell, with our environment minus what speaks to the service manager.
//! Only the begin of their output is kept. A program may leave background jobs behind (upstream's
//! scripts restart the whole stack that way): we wait for the program, not for its output to close.

use std::io::{ErrorKind, Read};
use std::os::unix::process::ExitStatusExt;
use std::process::{Command, Stdio};
use std::time::Duration;

use tokio::net::unix::pipe;

use crate::{Error, killpoint};

/// Characters of output that an error shows.
const SHOWN: usize = 128;
const BUFFER: usize = 1024;
/// Time that a program may take.
const DEADLINE: Duration = Duration::from_mins(10);

/// Runs `argv`; an empty one is a skipped step.
pub async fn run(argv: &[String]) -> Result<(), Error> {
    killpoint::step("run an external program");
    run_within(argv, DEADLINE).await?;
    killpoint::step("run an external program");
    Ok(())
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
    let status = status
        .map_err(|error| Error::Failed(format!("waiting for {program} was lost: {error}")))?
        .map_err(spawn)?;
    if status.success() {
        return Ok(());
    }
    let status = status.code().or_else(|| status.signal().map(|signal| 128 + signal)).unwrap_or(-1);
    Err(Error::Command { program: program.clone(), status, output: output.finish() })
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
        let mut buffer = [0; BUFFER];
        self.open = self.reader.readable().await.is_ok();
        match self.reader.try_read(&mut buffer) {
            Ok(0) => self.open = false,
            Ok(count) => keep(&mut self.begin, &buffer[..count]),
            Err(error) if error.kind() == ErrorKind::WouldBlock => {}
            Err(_) => self.open = false,
        }
    }

    /// Takes what is in the pipe already and gives the part to show. Asks the system, for the runtime may
    /// not know yet that there is something.
    fn finish(mut self) -> String {
        if let Ok(pipe) = self.reader.into_nonblocking_fd() {
            let mut pipe = std::fs::File::from(pipe);
            let mut buffer = [0; BUFFER];
            while self.begin.len() < BUFFER {
                match pipe.read(&mut buffer) {
                    Ok(count) if count > 0 => keep(&mut self.begin, &buffer[..count]),
                    _ => break,
                }
            }
        }
        String::from_utf8_lossy(&self.begin).trim().chars().take(SHOWN).collect()
    }
}

/// Appends as much as is worth keeping.
fn keep(begin: &mut Vec<u8>, more: &[u8]) {
    let room = BUFFER.saturating_sub(begin.len());
    begin.extend_from_slice(&more[..more.len().min(room)]);
}
