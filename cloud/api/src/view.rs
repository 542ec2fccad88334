//! Shapes that several answers share.

use std::collections::HashMap;

use aos_cloud_protocol::NodeInfo;
use aos_cloud_store::{Item, Unit};
use serde_json::{Value, json};

use crate::error::ApiError;
use crate::input::checked_name;

/// A moment given in microseconds since 1970, as RFC 3339.
pub(crate) fn time(micros: i64) -> Value {
    jiff::Timestamp::from_microsecond(micros).map_or(Value::Null, |time| time.to_string().into())
}

/// The same for a moment that may not have come yet.
pub(crate) fn optional_time(micros: Option<i64>) -> Value {
    micros.map_or(Value::Null, time)
}

/// A list answer.
pub(crate) fn list(items: impl Iterator<Item = Value>, total: i64, offset: u32) -> Value {
    json!({"items": items.collect::<Vec<_>>(), "total": total, "offset": offset})
}

/// A list that always fits one page.
pub(crate) fn whole_list(items: impl Iterator<Item = Value>) -> Value {
    let items: Vec<Value> = items.collect();
    json!({"total": items.len(), "items": items, "offset": 0})
}

pub(crate) fn unit(unit: &Unit) -> Value {
    json!({
        "id": unit.id,
        "system_uid": unit.system_uid,
        "status": if unit.provisioned { "provisioned" } else { "new" },
        "online_status": unit.online.as_str(),
        "last_online_changed_at": optional_time(unit.online_changed_at),
        "created_at": time(unit.created_at),
        "revision": unit.revision,
        "oem": {"id": unit.company_id},
        "unit_model": {"name": unit.model_name, "version": unit.model_version},
        "subject": {"id": unit.subject_id, "is_group": true, "is_protected": true},
        "fleet": null,
        "unit_sets": [],
    })
}

pub(crate) fn item(item: &Item) -> Value {
    json!({
        "id": item.id,
        "type": item.kind,
        "codename": item.codename,
        "title": item.title,
        "owner": {"id": item.company_id, "type": item.company_kind},
        "created_at": time(item.created_at),
    })
}

/// A node as the Unit reports it, in the words of the protocol, with what tools look for beside them.
pub(crate) fn reported_node(node: &NodeInfo) -> Value {
    let mut shown = json!(node);
    if let Some(members) = shown.as_object_mut() {
        let is_main = node.attrs.as_ref().is_some_and(|attrs| attrs.contains_key("MainNode"));
        members.insert("node_id".to_owned(), json!(node.identity.key()));
        members.insert("node_type".to_owned(), json!(node.node_group_subject.key()));
        members.insert("is_main".to_owned(), json!(is_main));
        members.insert("is_connected".to_owned(), json!(node.is_connected));
        members.insert("error".to_owned(), json!(node.error_info));
    }
    shown
}

/// An item by id, with the name people know it by.
pub(crate) fn named_item(id: &str, names: &HashMap<String, (String, String)>) -> Value {
    let (codename, kind) = names.get(id).map(|(codename, kind)| (codename, kind)).unzip();
    json!({"id": id, "codename": codename, "type": kind})
}

/// A subject given by id; `default` is the Unit's own.
pub(crate) fn subject(unit: &Unit, given: &str) -> Result<String, ApiError> {
    if given == "default" { Ok(unit.subject_id.clone()) } else { checked_name("subject", given, 64) }
}
