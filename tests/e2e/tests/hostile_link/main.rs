//! Ten thousand mutated messages and frames from a peer with good credentials: nothing breaks, nothing grows,
//! nobody else notices, and each refusal is counted and has its reason in the log.
#![allow(clippy::unwrap_used, clippy::panic, missing_docs, reason = "tests")]

mod bare;
mod from_cloud;
mod from_unit;

use std::path::Path;

use aos_fuzz_corpus::corpus::{committed, examples};

/// Mutated messages of the test against the cloud.
const TO_CLOUD: usize = 9_700;
/// Mutated messages of the test against a Unit.
const TO_UNIT: usize = 5_000;
/// Mutated WebSocket frames of the test against the cloud.
const FRAMES: usize = 300;
/// Memory that a process may have more at the end than after the first tenth: allocators keep some pages.
const GROWTH: u64 = 8 * 1024 * 1024;

/// Messages to mutate.
fn corpus() -> Vec<Vec<u8>> {
    let mut corpus = committed("messages");
    corpus.extend(examples("messages").unwrap_or_default());
    corpus
}

/// Lines of a log with all of these words.
fn lines(log: &Path, words: &[&str]) -> usize {
    let text = String::from_utf8_lossy(&std::fs::read(log).unwrap()).into_owned();
    text.lines().filter(|line| words.iter().all(|word| line.contains(word))).count()
}

fn private_dirty(pid: i32) -> u64 {
    aos_testbed::process::memory(pid).unwrap().private_dirty
}
