//! The cloud server: reads the command line and runs until it is told to stop.

use std::process::ExitCode;

use aos_cloud::{Command, Options};
use clap::Parser as _;

fn main() -> ExitCode {
    let Command::Run(options) = Options::parse().command;
    match aos_cloud::run(&options) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("aos-cloud: {}", aos_logging::with_causes(error.as_ref()));
            ExitCode::FAILURE
        }
    }
}
