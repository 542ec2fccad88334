//! What cargo and nextest use of the standard harness, for tests that run in boxes and on other machines: a list of
//! names, names as filters, `--exact`. And the keeper, which these programs start as themselves.

use std::process::ExitCode;

/// A test by its name; answers whether it passed.
pub type Test<'a> = (&'a str, Box<dyn Fn() -> bool + 'a>);

/// Prints the names as `--list` does; none of them is ignored.
pub fn list<'a>(words: &[&str], names: impl Iterator<Item = &'a str>) -> ExitCode {
    if !words.contains(&"--ignored") {
        for name in names {
            println!("{name}: test");
        }
    }
    ExitCode::SUCCESS
}

/// Runs the tests that the words ask for, one after the other.
pub fn run<'a>(words: &[&str], tests: impl Iterator<Item = Test<'a>>) -> ExitCode {
    let exact = words.contains(&"--exact");
    let filters: Vec<&&str> = words.iter().filter(|word| !word.starts_with('-')).collect();
    let wanted = |name: &str| {
        filters.is_empty()
            || filters.iter().any(|filter| if exact { name == **filter } else { name.contains(**filter) })
    };
    let (mut passed, mut failed) = (0, 0);
    for (name, test) in tests.filter(|(name, _)| wanted(name)) {
        let good = test();
        println!("test {name} ... {}", if good { "ok" } else { "FAILED" });
        if good { passed += 1 } else { failed += 1 }
    }
    let word = if failed == 0 { "ok" } else { "FAILED" };
    println!("\ntest result: {word}. {passed} passed; {failed} failed; 0 ignored");
    if failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// Is the keeper in this folder.
pub fn keep(dir: &str) -> ExitCode {
    match aos_keep::run(aos_keep::Args { dir: dir.into() }) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("keep: {error}");
            ExitCode::FAILURE
        }
    }
}
