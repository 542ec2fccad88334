//! The Service Manager with real containers: real crun and runc, overlay, network namespaces, cgroups, and a
//! Communication Manager played by the test over real gRPC.
//!
//! Every test runs in a box of its own (see `boxed`): fresh process, mount, network and cgroup namespaces, of
//! which nothing is left afterwards. Needs root; says so and passes nothing off as tested without it.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a failing helper fails the test")]
#![allow(clippy::disallowed_methods, reason = "waits poll a condition with a deadline")]

mod boxed;
mod churn;
mod cm;
mod connection;
mod content;
mod ends;
mod harness;
mod image;
mod images;
mod launcher;
mod logs;
mod measures;
mod names;
mod native;
mod networks;
mod offenders;
mod other_kernel;
mod probes;
mod quotas;
mod requests;
mod resources;
mod running;
mod secure;
mod sm;
mod survival;
mod tests;
mod updates;
mod vlans;
mod watch;

use std::process::{Command, ExitCode};

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match words.as_slice() {
        ["keep", "--dir", dir] => harness::keep(dir),
        ["sm", config] => sm::run_here(config),
        ["native", ..] => match aos_native::run(aos_native::Args::parse(&arguments[1..]).unwrap()) {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => {
                eprintln!("native: {}", error.text());
                ExitCode::FAILURE
            }
        },
        ["--inside", name] => boxed::inside(name),
        ["--list", ..] => {
            let outside = other_kernel::ALL.iter().map(|(name, _)| *name);
            harness::list(&words, tests::ALL.iter().map(|(name, _)| *name).chain(outside))
        }
        [] if named().is_some() => named().map_or(ExitCode::FAILURE, run_named),
        _ => run_all(&words),
    }
}

/// The test that this program is named after: so it is run alone on a machine without the rest of the tree.
fn named() -> Option<&'static str> {
    let program = std::env::current_exe().ok()?;
    let name = program.file_name()?.to_str()?;
    tests::ELSEWHERE.iter().map(|(known, _)| *known).find(|known| *known == name)
}

/// Emulated machines are slow.
fn run_named(name: &str) -> ExitCode {
    let program = std::env::current_exe().unwrap();
    let status = Command::new(program).args(["--exact", name]).env(cm::PATIENCE, "8").status().unwrap();
    if status.success() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn run_all(words: &[&str]) -> ExitCode {
    // Those that run in machines of `other_kernel` only, unless somebody names one.
    let elsewhere = tests::ELSEWHERE.iter().filter(|_| words.contains(&"--exact"));
    let boxed = tests::ALL.iter().chain(elsewhere);
    let boxed = boxed.map(|(name, _)| -> harness::Test<'_> { (name, Box::new(|| boxed::run(name))) });
    let outside =
        other_kernel::ALL.iter().map(|(name, test)| -> harness::Test<'_> { (name, Box::new(test)) });
    harness::run(words, boxed.chain(outside))
}
