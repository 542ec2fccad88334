//! The keeper as a program of its own, for nodes and tests that do not carry the multi-call binary.

use std::process::ExitCode;

fn main() -> ExitCode {
    let mut arguments = std::env::args_os().skip(1).filter(|word| word != "keep");
    let (Some(option), Some(dir), None) = (arguments.next(), arguments.next(), arguments.next()) else {
        eprintln!("usage: aos-keep [keep] --dir DIR");
        return ExitCode::from(2);
    };
    if option != "--dir" {
        eprintln!("usage: aos-keep [keep] --dir DIR");
        return ExitCode::from(2);
    }
    match aos_keep::run(aos_keep::Args { dir: dir.into() }) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("aos-keep: {error}");
            ExitCode::FAILURE
        }
    }
}
