//! What shall run on a Unit.

use aos_cloud_fleet::{LATEST, resolve};
use aos_cloud_protocol::MAX_INSTANCE_PRIORITY;
use aos_cloud_store::{AssignedItem, AuditEntry, NewAssignment};
use axum::Json;
use axum::extract::{Path, State};
use http::StatusCode;
use serde::Deserialize;
use serde_json::{Value, json};

use crate::Api;
use crate::auth::Caller;
use crate::error::ApiError;
use crate::input::{Input, checked_name};
use crate::items;
use crate::view;

/// Limits of Units of the original.
const MAX_ITEMS: usize = 64;
const MAX_INSTANCES: u64 = 256;
const MAX_LABELS: usize = 4;

#[derive(Deserialize)]
pub(crate) struct AssignmentInput {
    #[serde(default)]
    version: Option<String>,
    #[serde(default)]
    num_instances: Option<u64>,
    #[serde(default)]
    priority: Option<u64>,
    #[serde(default)]
    labels: Option<Vec<String>>,
}

pub(crate) fn shown(assigned: &AssignedItem) -> Value {
    let assignment = &assigned.assignment;
    let known = assigned.versions.iter().map(|row| row.version.as_str());
    json!({
        "item": {"id": assignment.item_id, "codename": assignment.codename, "type": assignment.kind},
        "version": assignment.version,
        "resolved_version": resolve(&assignment.version, known),
        "num_instances": assignment.num_instances,
        "priority": assignment.priority,
        "labels": assignment.labels,
    })
}

pub(crate) async fn list(
    State(api): State<Api>,
    caller: Caller,
    Path(key): Path<String>,
) -> Result<Json<Value>, ApiError> {
    let unit = caller.unit(&api, &key).await?;
    let assigned = api.store.assigned(&unit.id).await?;
    Ok(Json(view::whole_list(assigned.iter().map(shown))))
}

pub(crate) async fn assign(
    State(api): State<Api>,
    caller: Caller,
    Path((unit, item)): Path<(String, String)>,
    Input(input): Input<AssignmentInput>,
) -> Result<Json<Value>, ApiError> {
    let unit = caller.own_unit(&api, &unit).await?;
    let item = items::find(&api, &caller, &item).await?;
    let version = input.version.unwrap_or_else(|| LATEST.to_owned());
    let versions = api.store.versions(&item.id).await?;
    let known = versions.iter().map(|row| row.version.as_str());
    if resolve(&version, known).is_none() {
        let why = if versions.is_empty() {
            "no version of the item is published yet".to_owned()
        } else {
            format!("the item has no version {version}")
        };
        return Err(ApiError::bad_request(why));
    }
    let num_instances = input.num_instances.unwrap_or(1);
    if !(1..=MAX_INSTANCES).contains(&num_instances) {
        return Err(ApiError::invalid(format!("num_instances must be 1 to {MAX_INSTANCES}")));
    }
    let priority = input.priority.unwrap_or(0);
    if priority > u64::from(MAX_INSTANCE_PRIORITY) {
        return Err(ApiError::invalid(format!("priority must be 0 to {MAX_INSTANCE_PRIORITY}")));
    }
    let labels = input.labels.unwrap_or_default();
    if labels.len() > MAX_LABELS {
        return Err(ApiError::invalid(format!("at most {MAX_LABELS} labels")));
    }
    let labels =
        labels.iter().map(|label| checked_name("label", label, 64)).collect::<Result<Vec<_>, _>>()?;
    let present = api.store.assigned(&unit.id).await?;
    if present.len() >= MAX_ITEMS && !present.iter().any(|row| row.assignment.item_id == item.id) {
        return Err(ApiError::conflict(format!("at most {MAX_ITEMS} items can be assigned to a Unit")));
    }
    let new = NewAssignment { version: version.clone(), num_instances, priority, labels };
    if api.store.assign(&unit.id, &item.id, new).await? {
        let entry = AuditEntry {
            actor: caller.name(),
            action: "assigned",
            object: unit.system_uid,
            detail: format!("{} {version} x{num_instances}", item.codename),
        };
        api.store.audit(entry).await?;
    }
    let assigned = api.store.assigned(&unit.id).await?;
    let row = assigned.iter().find(|row| row.assignment.item_id == item.id);
    row.map(|row| Json(shown(row))).ok_or_else(|| ApiError::conflict("the assignment was removed again"))
}

pub(crate) async fn unassign(
    State(api): State<Api>,
    caller: Caller,
    Path((unit, item)): Path<(String, String)>,
) -> Result<StatusCode, ApiError> {
    let unit = caller.own_unit(&api, &unit).await?;
    let item = items::find(&api, &caller, &item).await?;
    if !api.store.unassign(&unit.id, &item.id).await? {
        return Err(ApiError::not_found("the item is not assigned to the Unit"));
    }
    let entry = AuditEntry {
        actor: caller.name(),
        action: "unassigned",
        object: unit.system_uid,
        detail: item.codename,
    };
    api.store.audit(entry).await?;
    Ok(StatusCode::NO_CONTENT)
}
