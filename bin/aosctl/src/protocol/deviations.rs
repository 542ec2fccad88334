//! How a message that can be read differs from what a strict peer would have written.
//!
//! What was read is written again and compared with the original, member by member. Values of secrets are
//! never shown.

use aos_cloud_protocol::{Envelope, time, write};
use serde_json::{Map, Value};

/// Most deviations told of one message.
const MAX: usize = 50;

/// Something about a place in a message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// Where, as `$.data.items[0].state`.
    pub path: String,
    /// What.
    pub text: String,
}

/// All deviations of `original`, which was read as `envelope`.
pub fn of(original: &Value, envelope: &Envelope) -> Vec<Finding> {
    let mut found = Found(Vec::new());
    if envelope.header.created_at.is_none() {
        found.add("$.header.createdAt", "is missing or no time");
    }
    if let Ok(Ok(ours)) = write(envelope).map(|frame| serde_json::from_slice::<Value>(&frame)) {
        found.compare("$", original, &ours);
    }
    found.0
}

/// Forms that AosEdge reads and upstream Units do not; only for messages of a cloud.
pub fn fatal_for_unit(original: &Value) -> Vec<Finding> {
    let mut found = Found(Vec::new());
    let data = &original["data"];
    if !matches!(data["unitSecrets"]["nodes"], Value::Null | Value::Array(_)) {
        found.add("$.data.unitSecrets.nodes", "is no list of nodes");
    }
    for (at, filter) in data["items"].as_array().into_iter().flatten().enumerate() {
        for (variable, content) in filter["variables"].as_array().into_iter().flatten().enumerate() {
            if content["ttl"] == "" {
                found.add(&format!("$.data.items[{at}].variables[{variable}].ttl"), "is an empty text");
            }
        }
    }
    for (at, instance) in data["instances"].as_array().into_iter().flatten().enumerate() {
        if data["messageType"] == "desiredStatus" && instance["numInstances"].is_null() {
            let text = "is missing, which upstream Units read as 0";
            found.add(&format!("$.data.instances[{at}].numInstances"), text);
        }
    }
    found.0
}

struct Found(Vec<Finding>);

impl Found {
    fn add(&mut self, path: &str, text: impl Into<String>) {
        if self.0.len() < MAX {
            self.0.push(Finding { path: path.to_owned(), text: text.into() });
        }
    }

    fn compare(&mut self, path: &str, original: &Value, ours: &Value) {
        match (original, ours) {
            (Value::Object(original), Value::Object(ours)) => self.members(path, original, ours),
            (Value::Array(original), Value::Array(ours)) if original.len() == ours.len() => {
                for (at, (original, ours)) in original.iter().zip(ours).enumerate() {
                    self.compare(&format!("{path}[{at}]"), original, ours);
                }
            }
            (Value::Array(original), Value::Array(ours)) => {
                self.add(path, format!("has {} entries, {} of them count", original.len(), ours.len()));
            }
            _ => {
                if let Some(text) = scalar(path, original, ours) {
                    self.add(path, text);
                }
            }
        }
    }

    fn members(&mut self, path: &str, original: &Map<String, Value>, ours: &Map<String, Value>) {
        let mut explained: Vec<&String> = Vec::new();
        for (name, value) in original {
            let place = format!("{path}.{name}");
            if let Some(known) = ours.get(name) {
                self.compare(&place, value, known);
                continue;
            }
            if value.is_null() {
                self.add(&place, "is null, which is read as absent");
                continue;
            }
            if value.as_array().is_some_and(Vec::is_empty) {
                // We leave some empty lists out; they say the same.
                continue;
            }
            let other_case = ours.keys().find(|key| key.eq_ignore_ascii_case(name));
            let second_name =
                || ours.iter().find(|(key, known)| !original.contains_key(*key) && *known == value);
            match other_case.or_else(|| second_name().map(|(key, _)| key)) {
                Some(meant) => {
                    self.add(&place, format!("is read as '{meant}'"));
                    explained.push(meant);
                }
                None => self.add(&place, "is not known and ignored"),
            }
        }
        for (name, value) in ours {
            if original.contains_key(name) || explained.contains(&name) {
                continue;
            }
            let twin = original.keys().find(|other| {
                ours.get(*other) == Some(value) && name.to_lowercase().contains(&other.to_lowercase())
            });
            let place = format!("{path}.{name}");
            match twin {
                Some(twin) => {
                    self.add(&place, format!("is missing beside '{twin}': peers disagree on the name"));
                }
                None => self.add(&place, format!("is missing and read as {}", shown(&place, value))),
            }
        }
    }
}

/// How a single value differs; nothing when it means the same in an accepted form.
fn scalar(path: &str, original: &Value, ours: &Value) -> Option<String> {
    if original == ours {
        return None;
    }
    let read_as = || Some(format!("{} is read as {}", shown(path, original), shown(path, ours)));
    match (original, ours) {
        (Value::String(original), Value::String(ours)) => {
            let times = (time::from_text(original), time::from_text(ours));
            if let (Some(one), Some(other)) = times {
                // We write six digits; other numbers of digits are as good.
                if one.as_microsecond() == other.as_microsecond() {
                    let utc = original.ends_with('Z');
                    return (!utc)
                        .then(|| format!("'{original}' is not in UTC, which upstream Units take it for"));
                }
            }
            let tight: String = original.chars().filter(|c| !c.is_ascii_whitespace()).collect();
            if tight == *ours {
                return Some("has white space in its base64".to_owned());
            }
            read_as()
        }
        (Value::Number(one), Value::Number(other)) if one.as_f64() == other.as_f64() => {
            (!other.is_f64()).then(|| format!("{one} is a whole number written with a fraction"))
        }
        _ => read_as(),
    }
}

fn shown(path: &str, value: &Value) -> String {
    match value {
        Value::Object(_) => return "an object".to_owned(),
        Value::Array(_) => return "a list".to_owned(),
        _ => {}
    }
    let lower = path.to_lowercase();
    if ["secret", "password", "token", "blockkey"].iter().any(|word| lower.contains(word)) {
        return "(not shown)".to_owned();
    }
    let text = match value {
        Value::String(text) => format!("'{text}'"),
        Value::Null => "absent".to_owned(),
        other => other.to_string(),
    };
    if text.chars().count() > 60 { format!("{}...", text.chars().take(57).collect::<String>()) } else { text }
}
