//! Inputs to start from: the committed files, and the published examples where this machine has them.

use std::fs;
use std::path::{Path, PathBuf};

use aos_cloud_protocol::{Direction, read};
use serde_json::Value;

use crate::targets::messages::family;

/// Folder of the committed files.
pub fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus")
}

/// The committed inputs of a target, in the order of their names.
pub fn committed(corpus: &str) -> Vec<Vec<u8>> {
    files(&folder().join(corpus)).into_iter().map(|(_, bytes)| bytes).collect()
}

/// Names and contents of the files of a folder; none when there is no such folder.
pub fn files(folder: &Path) -> Vec<(String, Vec<u8>)> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    let mut files: Vec<_> = entries
        .filter(|entry| entry.path().is_file())
        .filter_map(|entry| {
            Some((entry.file_name().to_string_lossy().into_owned(), fs::read(entry.path()).ok()?))
        })
        .collect();
    files.sort();
    files
}

/// What the published examples give to a corpus folder; `None` when they are not on this machine.
pub fn examples(corpus: &str) -> Option<Vec<Vec<u8>>> {
    let shared = std::env::var_os("AOS_SHARED")
        .map_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared"), PathBuf::from);
    let found = files(&shared.join("spec/examples/v7"));
    if found.is_empty() {
        return None;
    }
    let inputs = found.into_iter().filter_map(|(name, bytes)| match corpus {
        "discovery_request" => name.starts_with("http-discoveryRequest").then_some(bytes),
        "discovery_response" => name.starts_with("http-discoveryResponse").then_some(bytes),
        "messages" => name.contains("-to-").then_some(bytes),
        _ => content(&bytes).filter(|(of, _)| *of == corpus).map(|(_, content)| content),
    });
    Some(inputs.collect())
}

/// The corpus folder and the content of a message.
pub fn content(frame: &[u8]) -> Option<(&'static str, Vec<u8>)> {
    let envelope = read(frame, Direction::Both).ok()?;
    let value: Value = serde_json::from_slice(frame).ok()?;
    let data = value.get("data").and_then(|data| serde_json::to_vec(data).ok())?;
    Some((family(&envelope.body), data))
}
