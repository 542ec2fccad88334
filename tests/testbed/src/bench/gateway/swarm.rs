//! The program of virtual Units, driven through its pipes.

use std::io::{BufRead as _, BufReader, Write as _};
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use serde_json::Value;

use crate::error::Tried;
use crate::{Error, Result, Site, binaries};

const NAME: &str = "aos-swarm";

/// Registers virtual Units in the data of a cloud that does not run.
pub(super) fn prepare(data: &Path, units: u64) -> Result<()> {
    let mut command = Command::new(binaries::find(NAME)?);
    command.arg("prepare").arg("--data").arg(data).args(["--units", &units.to_string()]);
    let output = command.output().tried(|| format!("cannot start {NAME}"))?;
    if output.status.success() {
        return Ok(());
    }
    Err(Error::Program {
        program: NAME.to_owned(),
        status: output.status.to_string(),
        output: String::from_utf8_lossy(&output.stderr).into_owned(),
    })
}

/// A running program; ended when dropped.
pub(super) struct Helper {
    child: Child,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
    greeting: Value,
}

impl Helper {
    /// Virtual Units for the cloud whose Units' port is `port`.
    pub(super) fn run(site: &Site, data: &Path, port: u16) -> Result<Self> {
        let mut command = Command::new(binaries::find(NAME)?);
        command.arg("run").arg("--data").arg(data).args(["--port", &port.to_string()]);
        Self::start(site, command)
    }

    /// The TLS library alone.
    pub(super) fn bare(site: &Site, data: &Path) -> Result<Self> {
        let mut command = Command::new(binaries::find(NAME)?);
        command.arg("bare").arg("--data").arg(data);
        Self::start(site, command)
    }

    fn start(site: &Site, mut command: Command) -> Result<Self> {
        let mut child = command
            .process_group(0)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .tried(|| format!("cannot start {NAME}"))?;
        site.register_process(&child)?;
        let (Some(input), Some(output)) = (child.stdin.take(), child.stdout.take()) else {
            return Err(Error::Unexpected(format!("{NAME} has no pipes")));
        };
        let mut helper = Self { child, input, output: BufReader::new(output), greeting: Value::Null };
        helper.greeting = helper.answer()?;
        Ok(helper)
    }

    /// What it said first.
    pub(super) fn greeting(&self) -> &Value {
        &self.greeting
    }

    pub(super) fn pid(&self) -> i32 {
        self.child.id().cast_signed()
    }

    /// Tells it a line and waits for its answer.
    pub(super) fn ask(&mut self, line: &str) -> Result<Value> {
        writeln!(self.input, "{line}").tried(|| format!("cannot talk to {NAME}"))?;
        self.answer()
    }

    fn answer(&mut self) -> Result<Value> {
        let mut line = String::new();
        self.output.read_line(&mut line).tried(|| format!("cannot hear {NAME}"))?;
        let what = || format!("{NAME} ended or said '{}'", line.trim());
        serde_json::from_str(&line).map_err(|source| Error::Json { what: what(), source })
    }
}

impl Drop for Helper {
    fn drop(&mut self) {
        // It holds nothing but connections.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A whole number of an answer.
pub(super) fn number(answer: &Value, key: &str) -> Result<u64> {
    answer[key].as_u64().ok_or_else(|| Error::Unexpected(format!("no {key} in {answer}")))
}
