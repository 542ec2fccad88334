//! Members and words of a JSON Schema, by place, so that two schemas can be compared.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

/// What a schema knows below one place.
#[derive(Debug, Default)]
pub struct Known {
    /// Places of members: `.nodes[].identity.codename`.
    pub members: BTreeSet<String>,
    /// Words of enumerations.
    pub words: BTreeMap<String, BTreeSet<String>>,
}

impl Known {
    /// Everything below `node`, whose references point into `root`.
    pub fn of(root: &Value, node: &Value) -> Self {
        let mut known = Self::default();
        known.take(root, node, "", 0);
        known
    }

    fn take(&mut self, root: &Value, node: &Value, path: &str, depth: usize) {
        assert!(depth < 40, "{path}: the schema contains itself");
        if let Some(place) = node["$ref"].as_str() {
            self.take(root, root.pointer(place.trim_start_matches('#')).unwrap(), path, depth + 1);
        }
        for list in ["anyOf", "oneOf", "allOf"] {
            for entry in node[list].as_array().into_iter().flatten() {
                self.take(root, entry.get("then").unwrap_or(entry), path, depth + 1);
            }
        }
        let words = node["enum"].as_array().into_iter().flatten().chain(node.get("const"));
        for word in words.filter_map(Value::as_str) {
            self.words.entry(path.to_owned()).or_default().insert(word.to_owned());
        }
        for (name, member) in node["properties"].as_object().into_iter().flatten() {
            let place = format!("{path}.{name}");
            self.members.insert(place.clone());
            self.take(root, member, &place, depth + 1);
        }
        for (part, step) in [("items", "[]"), ("additionalProperties", "{}")] {
            if node[part].is_object() {
                self.take(root, &node[part], &format!("{path}{step}"), depth + 1);
            }
        }
    }
}
