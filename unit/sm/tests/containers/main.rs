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
#[path = "../in_box/harness.rs"]
mod harness;
mod hostile;
mod life;
mod rig;
mod software;
mod tests;

use std::process::ExitCode;
use std::time::Duration;

use aos_testbed::uml;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match words.as_slice() {
        ["keep", "--dir", dir] => harness::keep(dir),
        ["--inside", name] => boxed::inside(name),
        ["--list", ..] => harness::list(&words, tests::ALL.iter().map(|(name, _)| *name).chain([ELSEWHERE])),
        _ => {
            let boxed = tests::ALL
                .iter()
                .map(|(name, _)| -> harness::Test<'_> { (name, Box::new(|| boxed::run(name))) });
            harness::run(&words, boxed.chain([(ELSEWHERE, Box::new(on_cgroup_v2) as Box<dyn Fn() -> bool>)]))
        }
    }
}

/// The test that brings its own machine, so it runs in no box.
const ELSEWHERE: &str = "cgroup_v2_containers_are_confined_and_end";

/// Some of the tests once more, where there is cgroup v2 with all controllers.
fn on_cgroup_v2() -> bool {
    let tests = [
        "crun_confines_what_it_runs",
        "runc_confines_what_it_runs",
        "crun_ends_every_process",
        "runc_ends_every_process",
        "crun_runs_commands_inside",
        "data_stays_the_instances_own_in_both_modes",
        "leftovers_go_and_what_runs_is_not_disturbed",
    ];
    let program = std::env::current_exe().unwrap();
    let mut argv = vec![program.to_str().unwrap(), "--exact"];
    argv.extend(tests);
    let options = uml::Options { memory: 1024, limit: Duration::from_mins(4), ..uml::Options::default() };
    match uml::run(&argv, &options) {
        Ok(outcome) => {
            let good = outcome.status == 0 && outcome.output.matches(" ... ok").count() == tests.len();
            if !good {
                eprintln!("status {}:\n{}", outcome.status, outcome.output);
            }
            good
        }
        Err(error) => {
            eprintln!("{}", aos_testbed::chain(&error));
            false
        }
    }
}
