//! What the tests share: where the published schema and the example messages are, and random messages.
#![allow(dead_code, reason = "each test file uses a part")]
#![allow(clippy::unwrap_used, clippy::panic, reason = "tests")]

mod downward;
pub mod frames;
pub mod messages;
pub mod mutate;
mod parts;
mod upward;

use std::path::PathBuf;

use aos_cloud_protocol::Direction;
use serde_json::Value;

/// The folder with the facts of the protocol; `None`, with a note, when this machine has none.
pub fn facts(path: &str) -> Option<PathBuf> {
    let root = std::env::var_os("AOS_SHARED")
        .map_or_else(|| PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../../shared"), PathBuf::from);
    let path = root.join(path);
    if path.exists() {
        return Some(path);
    }
    println!("skipped: {} is not on this machine", path.display());
    None
}

/// An example message.
pub struct Example {
    pub name: String,
    pub text: Vec<u8>,
    pub direction: Direction,
}

/// All example messages, in order of their names.
pub fn examples() -> Option<Vec<Example>> {
    let mut examples = Vec::new();
    for entry in std::fs::read_dir(facts("spec/examples/v7")?).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        let direction = if name.starts_with("unit-to-cloud-") {
            Direction::UnitToCloud
        } else if name.starts_with("cloud-to-unit-") {
            Direction::CloudToUnit
        } else {
            continue;
        };
        examples.push(Example { name, text: std::fs::read(path).unwrap(), direction });
    }
    examples.sort_by(|a, b| a.name.cmp(&b.name));
    Some(examples)
}

/// The published schema, with its formats checked.
pub fn schema() -> Option<jsonschema::Validator> {
    let text = std::fs::read(facts("schema/aos-unit-messages-v7.schema.json")?).unwrap();
    let schema: Value = serde_json::from_slice(&text).unwrap();
    let uuid4 = |text: &str| {
        let bytes = text.as_bytes();
        bytes.len() == 36
            && bytes[14] == b'4'
            && matches!(bytes[19], b'8' | b'9' | b'a' | b'b')
            && text.bytes().enumerate().all(|(at, byte)| match at {
                8 | 13 | 18 | 23 => byte == b'-',
                _ => byte.is_ascii_hexdigit(),
            })
    };
    let base64 = |text: &str| {
        let body = text.trim_end_matches('=');
        text.len().is_multiple_of(4)
            && text.len() - body.len() < 3
            && body.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'+' || byte == b'/')
    };
    let options = jsonschema::options().should_validate_formats(true);
    Some(options.with_format("uuid4", uuid4).with_format("base64", base64).build(&schema).unwrap())
}

/// What the schema says against a frame.
pub fn schema_errors(schema: &jsonschema::Validator, frame: &[u8]) -> Vec<String> {
    let value: Value = serde_json::from_slice(frame).unwrap();
    schema.iter_errors(&value).map(|error| format!("{}: {error}", error.instance_path())).collect()
}

/// True when a `null` is anywhere.
pub fn has_null(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::Array(entries) => entries.iter().any(has_null),
        Value::Object(members) => members.values().any(has_null),
        _ => false,
    }
}
