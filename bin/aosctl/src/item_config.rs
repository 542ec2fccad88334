//! The item configuration that goes into an image: the file that a person wrote, checked and completed.
//!
//! What Units would refuse is refused here, with file, key and reason; what they would pass over is told.
//! Connections may name items as people do; Units know them by id, so names are looked up in the cloud.

use std::path::Path;

use anyhow::{Context, Result, bail};
use aos_item_format::ItemConfig;
use serde_json::{Map, Value, json};

use crate::cloud::{Cloud, is_status, segment};
use crate::output::{Output, text};

/// Reads the file, or makes the configuration of an item that asks for nothing.
pub async fn load(cloud: &Cloud, file: Option<&Path>, out: &Output) -> Result<Value> {
    let mut config = match file {
        None => json!({}),
        Some(path) => {
            let text = std::fs::read(path).with_context(|| format!("cannot read {}", path.display()))?;
            let config =
                serde_json::from_slice(&text).with_context(|| format!("{} is no JSON", path.display()))?;
            let unknown = ItemConfig::unknown_keys(&text).with_context(|| format!("{}", path.display()))?;
            for key in unknown {
                out.progress(&format!("{}: there is no key '{key}'; Units pass over it", path.display()));
            }
            config
        }
    };
    let fields = config.as_object_mut().context("the item configuration is not a JSON object")?;
    if let Some(connections) = find(fields, "allowedConnections") {
        *connections = by_id(cloud, connections).await?;
    }
    complete(fields);
    Ok(config)
}

fn find<'a>(fields: &'a mut Map<String, Value>, name: &str) -> Option<&'a mut Value> {
    fields.iter_mut().find(|(key, _)| key.eq_ignore_ascii_case(name)).map(|(_, value)| value)
}

/// Fills the fields in that peers insist on.
fn complete(fields: &mut Map<String, Value>) {
    if find(fields, "created").is_none() {
        fields.insert("created".into(), "1970-01-01T00:00:00Z".into());
    }
    if find(fields, "runtimes").is_none() {
        fields.insert("runtimes".into(), json!([{ "codename": "crun" }, { "codename": "runc" }]));
    }
}

/// The connections, each with the id of its item.
async fn by_id(cloud: &Cloud, connections: &Value) -> Result<Value> {
    let mut named = Map::new();
    for connection in texts(connections) {
        let (item, rest) = connection.split_once('/').with_context(|| {
            format!("allowedConnections: '{connection}' names no port, expected ITEM/PORT")
        })?;
        let id = if uuid_like(item) { item.to_owned() } else { id_of(cloud, item).await? };
        named.insert(format!("{id}/{rest}"), json!({}));
    }
    Ok(Value::Object(named))
}

/// Connections come as the keys of an object, as texts, or as objects with one key.
fn texts(connections: &Value) -> Vec<String> {
    match connections {
        Value::Object(map) => map.keys().cloned().collect(),
        Value::Array(list) => list.iter().flat_map(texts).collect(),
        Value::String(text) => vec![text.clone()],
        _ => Vec::new(),
    }
}

fn uuid_like(text: &str) -> bool {
    text.len() == 36 && text.bytes().all(|byte| byte == b'-' || byte.is_ascii_hexdigit())
}

async fn id_of(cloud: &Cloud, codename: &str) -> Result<String> {
    match cloud.get(&format!("update-items/{}/", segment(codename)?)).await {
        Ok(item) => Ok(text(&item, "/id")),
        Err(error) if is_status(&error, reqwest::StatusCode::NOT_FOUND) => {
            bail!("allowedConnections: the cloud knows no item '{codename}'; publish that one first")
        }
        Err(error) => Err(error.context(format!("allowedConnections: '{codename}' cannot be looked up"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn connections_are_read_in_all_their_forms() {
        for form in [
            json!({"a/1": {}, "b/2/udp": {}}),
            json!(["a/1", "b/2/udp"]),
            json!([{"a/1": {}}, {"b/2/udp": {}}]),
        ] {
            assert_eq!(texts(&form), ["a/1", "b/2/udp"], "{form}");
        }
        assert!(uuid_like("060b9fe6-c9f1-44b8-ad48-cee08183f5aa") && !uuid_like("back"));
    }

    #[test]
    fn what_peers_insist_on_is_filled_in_once() {
        let mut fields = Map::new();
        fields.insert("RunTimes".into(), json!([]));
        complete(&mut fields);
        assert_eq!(fields.len(), 2, "{fields:?}");
        assert!(fields.contains_key("created"));
    }
}
