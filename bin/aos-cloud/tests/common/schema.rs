//! The published schema of the messages, where it is at hand.

use std::path::PathBuf;
use std::sync::OnceLock;

use jsonschema::Validator;
use serde_json::Value;

static SCHEMA: OnceLock<Option<Validator>> = OnceLock::new();

fn schema() -> Option<&'static Validator> {
    let load = || {
        let shared = std::env::var_os("AOS_SHARED")
            .map_or_else(|| PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../../shared"), PathBuf::from);
        let file = shared.join("schema/aos-unit-messages-v7.schema.json");
        let Ok(text) = std::fs::read_to_string(&file) else {
            eprintln!("note: {} is missing, messages are not validated", file.display());
            return None;
        };
        let schema: Value = serde_json::from_str(&text).unwrap();
        Some(jsonschema::validator_for(&schema).unwrap())
    };
    SCHEMA.get_or_init(load).as_ref()
}

/// Fails when a frame of the cloud is not what the schema allows.
#[track_caller]
pub fn check(frame: &[u8]) {
    let message: Value = serde_json::from_slice(frame).unwrap();
    if let Some(schema) = schema() {
        let errors: Vec<String> = schema.iter_errors(&message).map(|error| error.to_string()).collect();
        assert!(errors.is_empty(), "{errors:?} in {message:#}");
    }
}
