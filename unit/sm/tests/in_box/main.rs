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
        ["keep", "--dir", dir] => match aos_keep::run(aos_keep::Args { dir: dir.into() }) {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => {
                eprintln!("keep: {error}");
                ExitCode::FAILURE
            }
        },
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
            if !words.contains(&"--ignored") {
                let outside = other_kernel::ALL.iter().map(|(name, _)| name);
                for name in tests::ALL.iter().map(|(name, _)| name).chain(outside) {
                    println!("{name}: test");
                }
            }
            ExitCode::SUCCESS
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

/// The part of the standard harness that cargo and nextest use: names as filters, `--exact`.
fn run_all(words: &[&str]) -> ExitCode {
    let exact = words.contains(&"--exact");
    let filters: Vec<&&str> = words.iter().filter(|word| !word.starts_with('-')).collect();
    let wanted = |name: &str| {
        filters.is_empty()
            || filters.iter().any(|filter| if exact { name == **filter } else { name.contains(**filter) })
    };
    let mut failed = Vec::new();
    let mut passed = 0;
    let elsewhere = tests::ELSEWHERE.iter().filter(|_| exact);
    let boxed = tests::ALL.iter().chain(elsewhere).map(|(name, _)| (name, None));
    let outside = other_kernel::ALL.iter().map(|(name, test)| (name, Some(test)));
    for (name, outside) in boxed.chain(outside).filter(|(name, _)| wanted(name)) {
        let good = outside.map_or_else(|| boxed::run(name), |test| test());
        println!("test {name} ... {}", if good { "ok" } else { "FAILED" });
        if good {
            passed += 1;
        } else {
            failed.push(name);
        }
    }
    let word = if failed.is_empty() { "ok" } else { "FAILED" };
    println!("\ntest result: {word}. {passed} passed; {} failed; 0 ignored", failed.len());
    if failed.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
