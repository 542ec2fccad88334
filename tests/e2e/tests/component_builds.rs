//! Builds for a kind of node hold what that node runs and nothing else.
//!
//! `make test` builds the program of a secondary node (`sm,iam`) as `aos-secondary` before this.
#![allow(clippy::unwrap_used, missing_docs, reason = "tests")]

use std::path::Path;
use std::process::{Command, Output};

use aos_testbed::binaries;

fn run(program: &str, args: &[&str]) -> (Output, String) {
    let output = Command::new(binaries::find(program).unwrap()).args(args).output().unwrap();
    let text = [output.stdout.clone(), output.stderr.clone()].concat();
    (output, String::from_utf8_lossy(&text).into_owned())
}

fn dependencies(features: &str) -> Vec<String> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let output = Command::new(env!("CARGO"))
        .args(["tree", "--locked", "-p", "aos", "-e", "normal", "--prefix", "none", "--format", "{p}"])
        .args(["--no-default-features", "--features", features])
        .current_dir(root)
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let text = String::from_utf8(output.stdout).unwrap();
    text.lines().filter_map(|line| line.split(' ').next()).map(str::to_owned).collect()
}

// REL-13, ARC-01
#[test]
fn a_main_node_has_all_three_components() {
    for component in ["cm", "sm", "iam"] {
        let (output, text) = run("aos", &[component, "--help"]);
        assert!(output.status.success(), "{component}: {text}");
    }
    let all = dependencies("cm,sm,iam");
    for name in ["aos-cm", "aos-sm", "aos-iam", "aos-keep"] {
        assert!(all.iter().any(|one| one == name), "{name} is missing");
    }
}

// REL-13
#[test]
fn a_secondary_node_has_no_communication_manager() {
    let (_, overview) = run("aos-secondary", &["--help"]);
    assert!(overview.contains("  sm ") && overview.contains("  iam "), "{overview}");
    assert!(!overview.contains("Communication Manager"), "{overview}");
    let (output, text) = run("aos-secondary", &["cm", "-c", "/nowhere"]);
    assert!(!output.status.success() && text.contains("does not contain `cm`"), "{text}");
    for component in ["sm", "iam"] {
        let (output, text) = run("aos-secondary", &[component, "-c", "/nowhere/file.cfg"]);
        assert!(!output.status.success() && text.contains("/nowhere/file.cfg"), "{component}: {text}");
    }

    let all = dependencies("sm,iam");
    for name in ["aos-cm", "aos-cloud-session", "aos-cloud-protocol", "tokio-tungstenite"] {
        assert!(!all.iter().any(|one| one == name), "{name} is there");
    }
    let without_sm = dependencies("iam");
    for name in ["aos-sm", "aos-keep", "aos-cm"] {
        assert!(!without_sm.iter().any(|one| one == name), "{name} is there");
    }
}
