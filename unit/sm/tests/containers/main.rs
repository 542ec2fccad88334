//! The container runtime alone, with real crun and runc: what a container can and cannot do, how it ends, and
//! that nothing of it is left. No images, no network, no Communication Manager.
//!
//! Every test runs in a box of its own, as those of `in_box` do. Needs root; says so and passes nothing off as
//! tested without it.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a failing helper fails the test")]
#![allow(clippy::disallowed_methods, reason = "waits poll a condition with a deadline")]

#[path = "../in_box/boxed.rs"]
mod boxed;
mod confined;
mod hostile;
mod life;
mod rig;
mod software;
mod tests;

use std::process::ExitCode;

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
        ["--inside", name] => boxed::inside(name),
        ["--list", ..] => {
            if !words.contains(&"--ignored") {
                for (name, _) in tests::ALL {
                    println!("{name}: test");
                }
            }
            ExitCode::SUCCESS
        }
        _ => run_all(&words),
    }
}

/// The part of the standard harness that cargo and nextest use: names as filters, `--exact`.
fn run_all(words: &[&str]) -> ExitCode {
    let exact = words.contains(&"--exact");
    let filters: Vec<&&str> = words.iter().filter(|word| !word.starts_with('-')).collect();
    let wanted = |name: &str| {
        filters.is_empty()
            || filters.iter().any(|filter| if exact { name == **filter } else { name.contains(**filter) })
    };
    let mut failed = 0;
    for (name, _) in tests::ALL.iter().filter(|(name, _)| wanted(name)) {
        let good = boxed::run(name);
        println!("test {name} ... {}", if good { "ok" } else { "FAILED" });
        failed += usize::from(!good);
    }
    println!("\ntest result: {}. {failed} failed; 0 ignored", if failed == 0 { "ok" } else { "FAILED" });
    if failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
