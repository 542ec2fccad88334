//! The table of all kinds in `docs/cloud-protocol.md`: complete, and each test that it names exists.
#![allow(clippy::unwrap_used, clippy::panic, reason = "tests")]

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use aos_cloud_protocol::{Direction, MessageType};

/// A row: kind, way, tests.
fn rows() -> Vec<(String, String, Vec<String>)> {
    let text = std::fs::read_to_string(root().join("docs/cloud-protocol.md")).unwrap();
    let table = text.lines().skip_while(|line| !line.starts_with("| # |")).skip(2);
    table
        .take_while(|line| line.starts_with('|'))
        .map(|line| {
            let cells: Vec<_> =
                line.trim_matches('|').split('|').map(|cell| cell.trim().replace('`', "")).collect();
            (cells[1].clone(), cells[2].clone(), cells[3..].to_vec())
        })
        .collect()
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

/// The source of a test file by its name: of this crate, end to end, or of the gateway.
fn source(file: &str) -> String {
    let folders = ["wire/cloud-protocol/tests", "tests/e2e/tests", "cloud/gateway/tests"];
    let names = folders.iter().flat_map(|folder| {
        let folder = root().join(folder);
        [folder.join(format!("{file}.rs")), folder.join(file).join("main.rs")]
    });
    let text = names.filter(|path| path.is_file()).map(|path| std::fs::read_to_string(path).unwrap());
    text.reduce(|one, other| one + &other).unwrap_or_else(|| panic!("there is no test file {file}"))
}

#[test]
fn every_kind_has_its_row_in_each_direction() {
    let found: Vec<_> = rows().into_iter().map(|(kind, way, _)| (kind, way)).collect();
    let (up, down) = ("Unit to cloud", "cloud to Unit");
    let expected = MessageType::ALL.iter().flat_map(|kind| {
        let ways = match kind.direction() {
            Direction::UnitToCloud => vec![up],
            Direction::CloudToUnit => vec![down],
            Direction::Both => vec![up, down],
        };
        ways.into_iter().map(|way| (kind.to_string(), way.to_owned()))
    });
    assert_eq!(found.len(), 27);
    assert_eq!(found.into_iter().collect::<BTreeSet<_>>(), expected.collect());
}

#[test]
fn every_test_in_the_table_exists() {
    for (kind, _, tests) in rows() {
        assert_eq!(tests.len(), 3, "{kind}");
        for test in &tests {
            let (file, name) = test.split_once("::").unwrap_or_else(|| panic!("{kind}: {test} is no test"));
            let source = source(file);
            let lines: Vec<_> = source.lines().map(str::trim).collect();
            let at = lines.iter().position(|line| {
                line.strip_prefix("async ").unwrap_or(line).starts_with(&format!("fn {name}("))
            });
            let at = at.unwrap_or_else(|| panic!("{kind}: there is no {test}"));
            assert!(
                lines[..at].iter().rev().take(3).any(|line| line.starts_with("#[") && line.contains("test"))
            );
        }
    }
}

/// A flow test that never names the message would prove nothing about it.
#[test]
fn flows_name_their_messages() {
    for (kind, _, tests) in rows() {
        let (file, _) = tests[2].split_once("::").unwrap();
        let source = source(file);
        assert!(source.contains(&kind), "{file} says nothing of {kind}");
    }
}
