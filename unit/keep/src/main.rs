//! The keeper as a program of its own, for nodes and tests that do not carry the multi-call binary.

use std::ffi::OsString;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

const USAGE: &str = "usage: aos-keep [keep] --dir DIR [--command-limit MILLISECONDS]";

fn main() -> ExitCode {
    let Some((dir, limit)) = parse(std::env::args_os().skip(1)) else {
        eprintln!("{USAGE}");
        return ExitCode::from(2);
    };
    match aos_keep::run_with_limit(aos_keep::Args { dir }, limit) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("aos-keep: {error}");
            ExitCode::FAILURE
        }
    }
}

fn parse(arguments: impl Iterator<Item = OsString>) -> Option<(PathBuf, Duration)> {
    let mut arguments = arguments.peekable();
    arguments.next_if(|word| word == "keep");
    let (mut dir, mut limit) = (None, aos_keep::COMMAND_LIMIT);
    while let Some(option) = arguments.next() {
        let value = arguments.next()?;
        match option.to_str()? {
            "--dir" => dir = Some(value.into()),
            "--command-limit" => limit = Duration::from_millis(value.to_str()?.parse().ok()?),
            _ => return None,
        }
    }
    Some((dir?, limit))
}
