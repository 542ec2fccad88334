//! Writes the tests into `SPECIFICATION.md`: `make spec`.

use std::process::ExitCode;

fn main() -> ExitCode {
    let root = aos_specification::workspace();
    let path = root.join("SPECIFICATION.md");
    let done = std::fs::read_to_string(&path).and_then(|text| {
        let fresh = aos_specification::refresh(&text, &aos_specification::scan(&root)?);
        std::fs::write(&path, fresh)
    });
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("cannot refresh {}: {error}", path.display());
            ExitCode::FAILURE
        }
    }
}
