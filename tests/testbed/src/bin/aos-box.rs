//! Helper of the test bed; started by it, never by hand.
//!
//! `hold DIR` keeps a site's registry and clears up when its input ends. `anchor` makes the namespaces of a
//! box and holds them. `enter` runs a program inside a box. `uml-guest DIR` is a machine's first process.

use std::ffi::OsString;
use std::process::ExitCode;

fn main() -> ExitCode {
    let mut args = std::env::args_os().skip(1);
    let word = args.next().unwrap_or_default();
    let rest: Vec<OsString> = args.collect();
    let result = match word.to_str() {
        Some("hold") => aos_testbed::helper::hold(&rest),
        Some("anchor") => aos_testbed::helper::anchor(&rest),
        Some("enter") => aos_testbed::helper::enter(&rest),
        Some("uml-guest") => aos_testbed::uml::guest(&rest),
        _ => Err(aos_testbed::Error::Unexpected("aos-box is started by the test bed".to_owned())),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("aos-box: {}", aos_testbed::chain(&error));
            ExitCode::FAILURE
        }
    }
}
