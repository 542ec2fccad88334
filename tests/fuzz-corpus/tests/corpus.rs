//! Every target over its corpus and a fixed number of mutated inputs.
#![allow(clippy::unwrap_used, clippy::panic, reason = "tests")]

use std::panic::{AssertUnwindSafe, catch_unwind};

use aos_fuzz_corpus::corpus::{committed, examples};
use aos_fuzz_corpus::mutate::{Numbers, mutated};
use aos_fuzz_corpus::{TARGETS, Target};

/// Inputs made of a corpus; raise it with `AOS_MUTATIONS` for a longer run.
const MUTATIONS: usize = 3000;

fn run(target: &Target, input: &[u8]) {
    let held = catch_unwind(AssertUnwindSafe(|| (target.run)(input))).is_ok();
    let shown = || String::from_utf8_lossy(&input[..input.len().min(4000)]).into_owned();
    assert!(held, "{} broke with {:?}", target.name, shown());
}

fn prove(name: &str) {
    let target = TARGETS.iter().find(|target| target.name == name).unwrap();
    let mut inputs = committed(target.corpus);
    assert!(inputs.len() >= 2, "{} inputs", inputs.len());
    match examples(target.corpus) {
        Some(more) => inputs.extend(more),
        None => println!("skipped: the published example messages are not on this machine"),
    }
    for input in &inputs {
        run(target, input);
    }
    let count = std::env::var("AOS_MUTATIONS").ok().and_then(|text| text.parse().ok()).unwrap_or(MUTATIONS);
    let mut numbers = Numbers::new(1);
    for _ in 0..count {
        run(target, &mutated(&inputs, &mut numbers));
    }
}

macro_rules! prove {
    ($($name:ident)+) => {
        $(#[test] fn $name() { prove(stringify!($name)); })+

        // REL-22
        #[test]
        fn no_target_is_left_out() {
            let proved = [$(stringify!($name)),+];
            assert!(TARGETS.iter().map(|target| target.name).eq(proved));
            let fuzzed = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/../../fuzz/Cargo.toml"));
            let fuzzed = fuzzed.unwrap();
            for name in proved {
                assert!(fuzzed.contains(&format!("name = \"{name}\"")), "fuzz/ has no {name}");
            }
        }
    };
}

prove! {
    envelope status desired blobs logs certificates provisioning state env_vars monitoring alerts acks
    discovery_request discovery_response websocket session cms certificate_chain item_format names layer
    netlink journal probe_answer recovery
}
