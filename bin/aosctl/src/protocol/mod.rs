//! Messages of the cloud protocol: checked, recorded, replayed.
//!
//! Everything but a recording made by the cloud works without a login.

mod check;
mod deviations;
mod frames;
mod live;
mod record;
mod replay;
mod timeline;

use std::process::ExitCode;

use anyhow::Result;

use crate::args::ProtocolCommand;
use crate::cloud::Cloud;
use crate::output::Output;

/// The schema that the types make, see `docs/schema`.
const SCHEMA: &str = include_str!("../../../../docs/schema/cloud-protocol-v7.json");

/// An end that is no failure of this program and still no success: the result says why.
#[derive(Debug)]
pub struct Status(pub u8);

impl std::fmt::Display for Status {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "exit status {}", self.0)
    }
}

impl std::error::Error for Status {}

/// The exit status that an error asks for, after what led to it was told.
pub fn exit_status(error: &anyhow::Error) -> Option<ExitCode> {
    let status = error.downcast_ref::<Status>()?;
    let causes: Vec<String> = error.chain().skip(1).map(ToString::to_string).collect();
    if !causes.is_empty() {
        eprintln!("aosctl: {}", causes.join(": "));
    }
    Some(ExitCode::from(status.0))
}

fn schema(out: &Output) -> Result<()> {
    out.show(&serde_json::from_str(SCHEMA)?, |_| SCHEMA.to_owned())
}

/// Runs a command that needs no login.
pub async fn without_login(command: &ProtocolCommand, out: &Output) -> Option<Result<()>> {
    Some(match command {
        ProtocolCommand::Check(arguments) => check::check(arguments, out),
        ProtocolCommand::Schema => schema(out),
        ProtocolCommand::Record(arguments) => match &arguments.from_log {
            Some(log) => record::from_log(log, arguments, out),
            None => return None,
        },
        ProtocolCommand::Replay(arguments) => match &arguments.to_cloud {
            Some(url) => live::replay(url, arguments, out).await,
            None => replay::replay(arguments, out),
        },
    })
}

/// Runs a command that asks the cloud.
pub async fn run(cloud: &Cloud, command: &ProtocolCommand, out: &Output) -> Result<()> {
    match command {
        ProtocolCommand::Record(arguments) => record::record(cloud, arguments, out).await,
        other => without_login(other, out).await.unwrap_or(Ok(())),
    }
}
