//! From traced types to a JSON Schema, with the words of the source code's documentation.

use std::collections::BTreeMap;
use std::path::Path;

use aos_cloud_protocol::*;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value, json};

use crate::trace::{Asked, Traced, at, trace};

/// The whole schema.
pub fn schema() -> Value {
    let mut book = Book { docs: Docs::read(), definitions: BTreeMap::new() };
    let cases: Vec<Value> = MessageType::ALL.iter().map(|kind| case(&mut book, *kind)).collect();
    let kinds: Vec<&str> = MessageType::ALL.iter().map(|kind| kind.as_str()).collect();
    json!({
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "Cloud protocol, version 7",
        "description": "One message between a Unit and its cloud as AosEdge writes it: one binary WebSocket \
            frame. Readers take more than this. Generated from the types; see docs/cloud-protocol.md.",
        "type": "object",
        "required": ["header", "data"],
        "properties": {
            "header": {
                "type": "object",
                "required": ["version", "systemId", "createdAt", "txn"],
                "properties": {
                    "version": {"const": VERSION},
                    "systemId": {"type": "string", "minLength": 1, "maxLength": 64,
                        "description": book.docs.of("Header", "systemId")},
                    "createdAt": {"type": "string", "format": "date-time",
                        "description": book.docs.of("Header", "createdAt")},
                    "txn": {"type": "string", "minLength": 1, "maxLength": 128,
                        "description": book.docs.of("Header", "txn")},
                },
            },
            "data": {
                "type": "object",
                "required": ["messageType"],
                "properties": {
                    "messageType": {"enum": kinds},
                    "correlationId": {"type": "string", "maxLength": MAX_CORRELATION_ID,
                        "description": book.docs.of("Envelope", "correlationId")},
                },
                "allOf": cases,
            },
        },
        "$defs": book.definitions,
    })
}

/// What holds for one kind.
fn case(book: &mut Book, kind: MessageType) -> Value {
    let content = match kind {
        MessageType::UnitStatus => book.root::<UnitStatus>(),
        MessageType::MonitoringData => book.root::<MonitoringData>(),
        MessageType::Alerts => book.root::<Alerts>(),
        MessageType::PushLog => book.root::<PushLog>(),
        MessageType::OverrideEnvVarsStatus => book.root::<OverrideEnvVarsStatus>(),
        MessageType::RequestBlobUrls => book.root::<RequestBlobUrls>(),
        MessageType::NewState | MessageType::UpdateState => book.root::<InstanceStateData>(),
        MessageType::StateRequest => book.root::<StateRequest>(),
        MessageType::IssueUnitCertificates => book.root::<IssueUnitCertificates>(),
        MessageType::InstallUnitCertificatesConfirmation => {
            book.root::<InstallUnitCertificatesConfirmation>()
        }
        MessageType::StartProvisioningResponse => book.root::<StartProvisioningResponse>(),
        MessageType::FinishProvisioningResponse | MessageType::DeprovisioningResponse => {
            book.root::<NodeOutcome>()
        }
        MessageType::Ack => book.root::<Ack>(),
        MessageType::Nack => book.root::<Nack>(),
        MessageType::DesiredStatus => book.root::<DesiredStatus>(),
        MessageType::RequestLog => book.root::<RequestLog>(),
        MessageType::OverrideEnvVars => book.root::<OverrideEnvVars>(),
        MessageType::BlobUrls => book.root::<BlobUrls>(),
        MessageType::StateAcceptance => book.root::<StateAcceptance>(),
        MessageType::RenewCertificatesNotification => book.root::<RenewCertificatesNotification>(),
        MessageType::IssuedUnitCertificates => book.root::<IssuedUnitCertificates>(),
        MessageType::StartProvisioningRequest => book.root::<StartProvisioningRequest>(),
        MessageType::FinishProvisioningRequest => book.root::<FinishProvisioningRequest>(),
        MessageType::DeprovisioningRequest => book.root::<DeprovisioningRequest>(),
    };
    let sender = match kind.direction() {
        Direction::UnitToCloud => "Sent by Units.",
        Direction::CloudToUnit => "Sent by clouds.",
        Direction::Both => "Sent by both.",
    };
    json!({
        "if": {"properties": {"messageType": {"const": kind.as_str()}}, "required": ["messageType"]},
        "then": content,
        "$comment": sender,
    })
}

/// Definitions made so far, by name of the structure.
struct Book {
    docs: Docs,
    definitions: BTreeMap<&'static str, Value>,
}

impl Book {
    fn root<T: DeserializeOwned + Serialize>(&mut self) -> Value {
        let traced = trace::<T>();
        self.place(&traced, "")
    }

    fn place(&mut self, traced: &Traced, path: &str) -> Value {
        let written = at(&traced.full, path);
        match &traced.asked[path] {
            Asked::Structure { name, members } => {
                if !self.definitions.contains_key(name) {
                    // Something, so that a structure inside itself ends.
                    self.definitions.insert(name, Value::Null);
                    let structure = self.structure(traced, path, name, members);
                    self.definitions.insert(name, structure);
                }
                json!({"$ref": format!("#/$defs/{name}")})
            }
            Asked::Words { words, .. } => json!({"type": "string", "enum": words}),
            Asked::List => {
                json!({"type": "array", "maxItems": 4096, "items": self.place(traced, &format!("{path}[]"))})
            }
            Asked::Map => {
                json!({"type": "object", "additionalProperties": self.place(traced, &format!("{path}{{}}"))})
            }
            Asked::Truth => json!({"type": "boolean"}),
            Asked::Number => json!({"type": "number"}),
            Asked::Whole if path.ends_with("Code") => json!({"type": "integer"}),
            Asked::Whole => json!({"type": "integer", "minimum": 0}),
            Asked::Text | Asked::Any => by_example(written, path),
        }
    }

    fn structure(&mut self, traced: &Traced, path: &str, name: &str, members: &[&'static str]) -> Value {
        let below = |member: &str| {
            if path.is_empty() { member.to_owned() } else { format!("{path}.{member}") }
        };
        let mut properties = Map::new();
        for member in members.iter().filter(|member| **member != "code") {
            let mut property = match self.special(name, member) {
                Some(property) => property,
                None => self.place(traced, &below(member)),
            };
            if let Some(text) = self.docs.of(name, member) {
                property["description"] = json!(text);
            }
            properties.insert((*member).to_owned(), property);
        }
        let written = at(&traced.full, path).and_then(Value::as_object).cloned().unwrap_or_default();
        for (member, value) in &written {
            if !properties.contains_key(member) {
                // Written twice, because peers disagree on the name.
                let alike = |twin: &str| member.to_lowercase().contains(&twin.to_lowercase());
                let twin = properties.keys().find(|twin| alike(twin) && written.get(*twin) == Some(value));
                let twin = twin.unwrap().clone();
                let mut property = properties[&twin].clone();
                property["description"] = json!(format!("The same as `{twin}`: peers disagree on the name."));
                properties.insert(member.clone(), property);
            }
        }
        let always: Vec<&String> = traced.least[path].as_object().into_iter().flat_map(Map::keys).collect();
        let mut schema = json!({"type": "object", "required": always, "properties": properties});
        if let Some(text) = self.docs.of(name, "") {
            schema["description"] = json!(text);
        }
        schema
    }

    /// Members that are judged by hand-written readers.
    fn special(&mut self, name: &str, member: &str) -> Option<Value> {
        let written = |kind: IdentityType| serde_json::to_value(kind).unwrap();
        Some(match (name, member) {
            ("AosIdentity", "type") => json!({"type": "string", "enum": [
                written(IdentityType::Component), written(IdentityType::Service), written(IdentityType::Layer),
                written(IdentityType::Subject), written(IdentityType::Oem), written(IdentityType::Sp),
                written(IdentityType::Node), written(IdentityType::Runtime),
            ]}),
            ("UnitSecrets", "nodes") => {
                json!({"type": "array", "maxItems": 4096, "items": self.root::<NodeSecret>()})
            }
            ("Alerts", "items") => {
                let alerts = [
                    ("systemAlert", self.root::<SystemAlert>()),
                    ("coreAlert", self.root::<CoreAlert>()),
                    ("deviceAllocateAlert", self.root::<DeviceAllocateAlert>()),
                    ("systemQuotaAlert", self.root::<SystemQuotaAlert>()),
                    ("instanceQuotaAlert", self.root::<InstanceQuotaAlert>()),
                    ("downloadProgressAlert", self.root::<DownloadProgressAlert>()),
                    ("updateItemInstanceAlert", self.root::<UpdateItemInstanceAlert>()),
                ];
                let tags: Vec<_> = alerts.iter().map(|(tag, _)| *tag).collect();
                let cases: Vec<_> = alerts
                    .iter()
                    .map(|(tag, content)| json!({"if": {"properties": {"tag": {"const": tag}}}, "then": content}))
                    .collect();
                json!({"type": "array", "maxItems": 4096, "items": {
                    "type": "object", "required": ["tag"], "properties": {"tag": {"enum": tags}}, "allOf": cases,
                }})
            }
            _ => return None,
        })
    }
}

/// A text or number by how it was written.
fn by_example(written: Option<&Value>, path: &str) -> Value {
    match written {
        Some(Value::Number(_)) => json!({"type": "integer", "minimum": 0}),
        Some(Value::String(text)) if text.starts_with("2026-") => {
            json!({"type": "string", "format": "date-time"})
        }
        Some(Value::String(text)) if text.starts_with("sha256:") => {
            json!({"type": "string", "pattern": "^sha256:[0-9a-f]{64}$"})
        }
        Some(Value::String(text)) if text.len() == 64 => {
            json!({"type": "string", "pattern": "^[0-9a-f]{64}$"})
        }
        Some(Value::String(text)) if text == "eHh4" => json!({"type": "string", "contentEncoding": "base64"}),
        Some(Value::String(_)) => json!({"type": "string"}),
        // Read and never written.
        None => json!({}),
        Some(other) => panic!("{path} is written as {other}"),
    }
}

/// Documentation of structures and their members, out of the source code.
struct Docs(BTreeMap<(String, String), String>);

impl Docs {
    fn read() -> Self {
        let root = Path::new(env!("CARGO_MANIFEST_DIR"));
        let mut docs = Self(BTreeMap::new());
        let sources = std::fs::read_dir(root.join("src")).unwrap().map(|entry| entry.unwrap().path());
        for path in sources.chain([root.join("../status/src/lib.rs")]) {
            if path.is_file() {
                docs.take(&std::fs::read_to_string(path).unwrap());
            }
        }
        docs
    }

    fn take(&mut self, source: &str) {
        let (mut structure, mut doc, mut renamed) = (String::new(), String::new(), None);
        for line in source.lines() {
            let words = line.trim_start();
            if let Some(text) = words.strip_prefix("///") {
                doc.push_str(if doc.is_empty() { "" } else { " " });
                doc.push_str(text.trim());
            } else if words.starts_with("#[") {
                let name = words.split_once("rename = \"").and_then(|(_, rest)| rest.split_once('"'));
                renamed = name.map(|(name, _)| name.to_owned()).or(renamed);
            } else {
                if let Some(rest) = line.strip_prefix("pub struct ") {
                    let name = rest.split(|c: char| !c.is_alphanumeric()).next().unwrap();
                    name.clone_into(&mut structure);
                    self.0.insert((structure.clone(), String::new()), std::mem::take(&mut doc));
                } else if let Some((name, _)) =
                    words.strip_prefix("pub ").and_then(|rest| rest.split_once(':'))
                {
                    let member = renamed.take().unwrap_or_else(|| camel(name));
                    self.0.insert((structure.clone(), member), std::mem::take(&mut doc));
                }
                doc.clear();
                renamed = None;
            }
        }
    }

    fn of(&self, structure: &str, member: &str) -> Option<&str> {
        self.0
            .get(&(structure.to_owned(), member.to_owned()))
            .map(String::as_str)
            .filter(|text| !text.is_empty())
    }
}

fn camel(name: &str) -> String {
    let mut parts = name.split('_');
    let first = parts.next().unwrap_or_default().to_owned();
    parts.fold(first, |text, part| {
        let (head, tail) = part.split_at(1.min(part.len()));
        format!("{text}{}{tail}", head.to_ascii_uppercase())
    })
}
