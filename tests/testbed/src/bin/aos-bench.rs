//! `make bench`: figures of the whole system, as a table and as lines in `target/bench/results.jsonl`.
//!
//! BENCH_ONLY picks groups, separated by commas; the groups say what else can be set.

use std::process::ExitCode;

use aos_testbed::bench::{GROUPS, Group, Rows};
use aos_testbed::{Error, Result, chain};

fn main() -> ExitCode {
    if !nix::unistd::geteuid().is_root() {
        eprintln!("The benchmarks make namespaces, cgroups and containers: run them as root.");
        return ExitCode::FAILURE;
    }
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("The benchmarks failed: {}", chain(&error));
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<()> {
    if cfg!(debug_assertions) {
        eprintln!("warning: these are debug programs; `make bench` builds the release ones");
    }
    let mut rows = Rows::default();
    for (name, group) in chosen(&std::env::var("BENCH_ONLY").unwrap_or_default())? {
        eprintln!("== {name}");
        group(&mut rows)?;
    }
    rows.write()
}

/// The groups named in `wish`, or all.
fn chosen(wish: &str) -> Result<Vec<Group>> {
    let words: Vec<&str> = wish.split(',').map(str::trim).filter(|word| !word.is_empty()).collect();
    if let Some(unknown) = words.iter().find(|word| GROUPS.iter().all(|(name, _)| name != *word)) {
        let names: Vec<&str> = GROUPS.iter().map(|(name, _)| *name).collect();
        return Err(Error::Unexpected(format!(
            "BENCH_ONLY names '{unknown}'; there are {}",
            names.join(", ")
        )));
    }
    Ok(GROUPS.into_iter().filter(|(name, _)| words.is_empty() || words.contains(name)).collect())
}
