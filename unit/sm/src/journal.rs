//! The systemd journal, read by its own program `journalctl`, one JSON object a line.
//!
//! Linking its library would take more memory than the program takes while it is needed, and its files have no
//! form that others may rely on. Fields are bounded by whoever reads the lines.

use std::path::Path;
use std::process::Stdio;

use serde::Deserialize;
use serde_json::Value;
use tokio::process::Command;

/// Longest entry that is looked at, bytes of JSON.
pub const MAX_ENTRY: usize = 256 * 1024;

const PLACES: [&str; 2] = ["/run/log/journal", "/var/log/journal"];
const FIELDS: &str = "--output-fields=MESSAGE,PRIORITY,_SYSTEMD_UNIT,UNIT,_SYSTEMD_CGROUP,SYSLOG_IDENTIFIER";

/// True when this node keeps a journal.
pub fn is_there() -> bool {
    PLACES.iter().any(|place| {
        std::fs::read_dir(place)
            .is_ok_and(|mut entries| entries.any(|entry| entry.is_ok_and(|entry| entry.path().is_dir())))
    })
}

/// The program, with what each of our calls needs; it ends with its handle.
pub fn command() -> Command {
    let mut command = Command::new("journalctl");
    command
        .args(["--quiet", "--no-pager", "--all", "--output=json", FIELDS])
        .current_dir(Path::new("/"))
        .stdin(Stdio::null())
        .stderr(Stdio::null())
        .kill_on_drop(true);
    for name in aos_supervise::NOTIFY_VARIABLES {
        command.env_remove(name);
    }
    command
}

/// An entry, as far as anybody here looks.
#[derive(Debug, Default, Deserialize)]
pub struct Entry {
    /// Its place in the journal.
    #[serde(rename = "__CURSOR", default)]
    pub cursor: String,
    /// Microseconds since 1970.
    #[serde(rename = "__REALTIME_TIMESTAMP", deserialize_with = "number")]
    pub micros: u64,
    /// What was said.
    #[serde(rename = "MESSAGE", default)]
    pub message: Value,
    /// 0 (emergency) to 7 (debug).
    #[serde(rename = "PRIORITY", default)]
    pub priority: Value,
    /// Unit of the speaker.
    #[serde(rename = "_SYSTEMD_UNIT", default)]
    pub unit: Value,
    /// Unit that systemd speaks about.
    #[serde(rename = "UNIT", default)]
    pub about: Value,
    /// Cgroup of the speaker.
    #[serde(rename = "_SYSTEMD_CGROUP", default)]
    pub cgroup: Value,
    /// What the speaker calls itself.
    #[serde(rename = "SYSLOG_IDENTIFIER", default)]
    pub identifier: Value,
}

fn number<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<u64, D::Error> {
    let text = String::deserialize(deserializer)?;
    text.parse().map_err(serde::de::Error::custom)
}

/// A field: text, or numbers where it is no text; of a repeated one the first.
pub fn bytes(value: &Value) -> Vec<u8> {
    match value {
        Value::String(text) => text.as_bytes().to_vec(),
        Value::Array(items) => match items.first() {
            Some(first @ (Value::String(_) | Value::Array(_))) => bytes(first),
            _ => items.iter().filter_map(|item| u8::try_from(item.as_u64()?).ok()).collect(),
        },
        _ => Vec::new(),
    }
}

/// A field as text.
pub fn text(value: &Value) -> String {
    match String::from_utf8(bytes(value)) {
        Ok(text) => text,
        Err(error) => String::from_utf8_lossy(error.as_bytes()).into_owned(),
    }
}
