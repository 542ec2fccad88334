//! Keeps `SPECIFICATION.md` and the tests that prove it together.
//!
//! A test cites a promise by its id (`PRO-22`) in a comment above or inside it. From those citations the last
//! column of the tables is written, so a promise can neither name a test that is gone nor miss one that exists.
//! Text is read line by line; no Rust parser is needed for citations in comments.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

/// Shown for a promise that no test cites.
pub const OPEN: &str = "open";

/// Tests by the id they cite, each as `path::function`.
pub type Citations = BTreeMap<String, BTreeSet<String>>;

/// Areas an id may begin with.
const AREAS: [&str; 9] = ["PRO", "CLO", "CM", "SM", "IAM", "MP", "ARC", "DIS", "REL"];

/// The ids in a line of text.
pub fn ids_in(line: &str) -> Vec<String> {
    let is_word = |c: char| c.is_ascii_alphanumeric() || c == '-';
    line.split(|c| !is_word(c))
        .filter(|word| {
            word.split_once('-').is_some_and(|(area, number)| {
                AREAS.contains(&area)
                    && (2..=3).contains(&number.len())
                    && number.bytes().all(|b| b.is_ascii_digit())
            })
        })
        .map(ToOwned::to_owned)
        .collect()
}

/// Citations in the Rust sources below `root`.
pub fn scan(root: &Path) -> io::Result<Citations> {
    let mut citations = Citations::new();
    let mut files = Vec::new();
    collect(root, &mut files)?;
    files.sort();
    let mut listed: BTreeMap<PathBuf, BTreeSet<String>> = BTreeMap::new();
    for file in &files {
        let folder = file.parent().unwrap_or(root).to_owned();
        listed.entry(folder).or_default().extend(listed_in(&fs::read_to_string(file)?));
    }
    for file in files {
        let name = file.strip_prefix(root).unwrap_or(&file).display().to_string();
        let lists: Vec<&BTreeSet<String>> =
            file.ancestors().filter_map(|folder| listed.get(folder)).collect();
        let is_listed = |function: &str| lists.iter().any(|names| names.contains(function));
        scan_file(&name, &fs::read_to_string(&file)?, is_listed, &mut citations);
    }
    Ok(citations)
}

/// Names in the list of a test program without the standard harness: `tests! {`, a name each line, `}`.
fn listed_in(text: &str) -> impl Iterator<Item = String> {
    let lines = text.lines().skip_while(|line| *line != "tests! {").skip(1);
    lines.take_while(|line| *line != "}").map(|line| line.trim().trim_end_matches(',').to_owned())
}

fn collect(dir: &Path, files: &mut Vec<PathBuf>) -> io::Result<()> {
    for entry in fs::read_dir(dir)? {
        let path = entry?.path();
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        if path.is_dir() {
            if !name.starts_with('.') && name != "target" && name != "node_modules" {
                collect(&path, files)?;
            }
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            files.push(path);
        }
    }
    Ok(())
}

/// A citation above a test belongs to it, one inside a test too; a citation anywhere else proves nothing.
/// A test has the attribute, or is listed by its program.
pub fn scan_file(name: &str, text: &str, is_listed: impl Fn(&str) -> bool, citations: &mut Citations) {
    let mut above = BTreeSet::new();
    let mut is_test = false;
    let mut inside: Option<String> = None;
    let mut end = String::new();
    for whole in text.lines() {
        let line = whole.trim();
        if inside.is_some() && whole.trim_end() == end {
            // What follows stands above the next function.
            inside = None;
        } else if line.starts_with("//") {
            match &inside {
                Some(test) => cite(citations, &ids_in(line), test),
                None => above.extend(ids_in(line)),
            }
        } else if line.starts_with("#[") {
            is_test |= line.contains("test]") || line.contains("test(");
        } else if let Some(function) = function_name(line) {
            inside = (is_test || is_listed(function)).then(|| format!("{name}::{function}"));
            // Formatted code closes a function in the column in which it begins.
            end = format!("{}}}", &whole[..whole.len() - whole.trim_start().len()]);
            if let Some(test) = &inside {
                cite(citations, &std::mem::take(&mut above), test);
            }
            above.clear();
            is_test = false;
        } else if !line.is_empty() {
            if let (Some(test), Some((_, comment))) = (&inside, line.split_once("//")) {
                cite(citations, &ids_in(comment), test);
            }
            above.clear();
            is_test = false;
        }
    }
}

fn cite<'a>(citations: &mut Citations, ids: impl IntoIterator<Item = &'a String>, test: &str) {
    for id in ids {
        citations.entry(id.clone()).or_default().insert(test.to_owned());
    }
}

fn function_name(line: &str) -> Option<&str> {
    let mut rest = line;
    for word in ["pub", "pub(crate)", "async", "const"] {
        rest = rest.strip_prefix(word).and_then(|r| r.strip_prefix(' ')).unwrap_or(rest);
    }
    let name = rest.strip_prefix("fn ")?;
    Some(name.split(['(', '<']).next().unwrap_or(name))
}

/// The specification with the last column of each promise written from `citations`.
///
/// A row whose last cell names no `.rs` test (a benchmark, a make target) keeps it.
pub fn refresh(specification: &str, citations: &Citations) -> String {
    let mut out = String::new();
    for line in specification.lines() {
        out.push_str(&refreshed_row(line, citations).unwrap_or_else(|| line.to_owned()));
        out.push('\n');
    }
    out
}

fn refreshed_row(line: &str, citations: &Citations) -> Option<String> {
    let cells: Vec<&str> = line.strip_prefix("| ")?.strip_suffix(" |")?.split(" | ").collect();
    let [id, promise, proof] = cells.as_slice() else { return None };
    if ids_in(id) != [*id] {
        return None;
    }
    let written_by_hand = *proof != OPEN && !proof.contains(".rs::");
    let tests: Vec<String> =
        citations.get(*id).into_iter().flatten().map(|test| format!("`{test}`")).collect();
    let proof = match (tests.is_empty(), written_by_hand) {
        (false, _) => tests.join(", "),
        (true, true) => (*proof).to_owned(),
        (true, false) => OPEN.to_owned(),
    };
    Some(format!("| {id} | {promise} | {proof} |"))
}

/// Folder of the workspace.
pub fn workspace() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `~` stands for `-`, so that this very file cites nothing.
    const SOURCE: &str = "
// CM~01 stands above something that is no test.
fn helper() {}

// PRO~22, PRO~23
#[tokio::test]
async fn every_message_is_acked() {
    // DIS~01 inside
    check(); // ARC~07
}

// SM~01
#[test]
fn the_next_one() {}
";

    #[test]
    fn citations_belong_to_the_test_they_stand_at() {
        let mut found = Citations::new();
        scan_file("a/b.rs", &SOURCE.replace('~', "-"), |_| false, &mut found);
        let ids: Vec<_> = found.keys().map(String::as_str).collect();
        assert_eq!(ids, ["ARC-07", "DIS-01", "PRO-22", "PRO-23", "SM-01"]);
        assert_eq!(found["SM-01"].iter().collect::<Vec<_>>(), ["a/b.rs::the_next_one"]);
        assert!(found["PRO-22"].contains("a/b.rs::every_message_is_acked"));
    }

    #[test]
    fn a_test_that_its_program_lists_counts_too() {
        let list = "use x;\ntests! {\n    helper,\n    another,\n}\nfn f() {\n}\n";
        let names: BTreeSet<String> = listed_in(list).collect();
        assert_eq!(names.iter().collect::<Vec<_>>(), ["another", "helper"]);
        let mut found = Citations::new();
        scan_file("a.rs", &SOURCE.replace('~', "-"), |name| names.contains(name), &mut found);
        assert_eq!(found["CM-01"].iter().collect::<Vec<_>>(), ["a.rs::helper"]);
    }

    #[test]
    fn rows_are_written_from_citations() {
        let mut found = Citations::new();
        scan_file("a.rs", &SOURCE.replace('~', "-"), |_| false, &mut found);
        let before = "| PRO-22 | acks | open |\n| CM-01 | one CM | `old.rs::gone` |\n| REL-01 | size | `make bench` |\n";
        let after = refresh(before, &found);
        assert_eq!(
            after,
            "| PRO-22 | acks | `a.rs::every_message_is_acked` |\n| CM-01 | one CM | open |\n| REL-01 | size | `make bench` |\n"
        );
    }
}
