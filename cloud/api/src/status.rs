//! Status of a Unit, with long poll.

use std::collections::HashMap;
use std::time::Duration;

use aos_cloud_fleet::UnitState;
use aos_cloud_protocol::{AosIdentity, DesiredStatus};
use aos_cloud_store::UnitView;
use axum::Json;
use axum::extract::{Path, State};
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::time::Instant;

use crate::Api;
use crate::assignments;
use crate::auth::Caller;
use crate::error::ApiError;
use crate::input::Asked;
use crate::view;

/// Longest wait of one call, seconds.
const MAX_WAIT: f64 = 60.0;

#[derive(Deserialize)]
pub(crate) struct Poll {
    #[serde(default)]
    after: Option<i64>,
    #[serde(default)]
    wait: Option<f64>,
}

/// Answers at once when the Unit's revision is not `after`, else as soon as it changes or `wait` is over.
pub(crate) async fn poll(
    State(api): State<Api>,
    caller: Caller,
    Path(key): Path<String>,
    Asked(poll): Asked<Poll>,
) -> Result<Json<Value>, ApiError> {
    let unit = caller.unit(&api, &key).await?;
    let wait = poll.wait.filter(|wait| wait.is_finite()).unwrap_or(0.0).clamp(0.0, MAX_WAIT);
    let until = Instant::now() + Duration::from_secs_f64(wait);
    if let Some(after) = poll.after {
        let mut signal = api.store.watch_unit(&unit.id).await?;
        let changed = signal.wait_for(|signal| signal.revision != after);
        // No change is an answer too.
        let _ = tokio::time::timeout_at(until, changed).await;
    }
    let view = api.store.unit_view(&unit.id).await?;
    let view = view.ok_or_else(|| ApiError::not_found("no such Unit"))?;
    render(&view).map(Json)
}

fn render(view: &UnitView) -> Result<Value, ApiError> {
    let state: UnitState = match &view.status {
        Some(status) => serde_json::from_str(&status.merged).map_err(|error| ApiError::internal(&error))?,
        None => UnitState::default(),
    };
    let known: HashMap<&str, (&str, &str)> = view
        .assigned
        .iter()
        .map(|row| &row.assignment)
        .map(|row| (row.item_id.as_str(), (row.codename.as_str(), row.kind.as_str())))
        .collect();
    let item = |identity: &AosIdentity| {
        let key = identity.key().unwrap_or_default();
        let (codename, kind) = known.get(key).copied().unzip();
        json!({
            "id": identity.id,
            "codename": codename.or(identity.codename.as_deref()),
            "type": kind.map_or_else(|| json!(identity.kind), Value::from),
        })
    };
    let desired = match &view.desired {
        None => Value::Null,
        Some(row) => {
            let status: DesiredStatus =
                serde_json::from_str(&row.payload).map_err(|error| ApiError::internal(&error))?;
            let items = status.items.iter().flatten().map(|wanted| {
                json!({
                    "item": item(&wanted.item),
                    "version": wanted.version,
                    "index_digest": wanted.index_digest,
                })
            });
            let instances = status.instances.iter().flatten().map(|wanted| {
                json!({
                    "item": item(&wanted.item),
                    "subject": wanted.subject.key(),
                    "num_instances": wanted.num_instances,
                    "priority": wanted.priority,
                    "labels": wanted.labels,
                })
            });
            json!({
                "revision": row.revision,
                "sent_at": view::optional_time(row.sent_at),
                "acked": row.acked_at.is_some(),
                "acked_at": view::optional_time(row.acked_at),
                "items": items.collect::<Vec<_>>(),
                "instances": instances.collect::<Vec<_>>(),
            })
        }
    };
    let nodes = state.nodes.iter().map(|node| &node.value).map(|node| {
        json!({
            "node_id": node.identity.key(),
            "title": node.identity.title,
            "node_type": node.node_group_subject.key(),
            "state": node.state,
            "is_connected": node.is_connected,
            "is_main": node.attrs.as_ref().is_some_and(|attrs| attrs.contains_key("MainNode")),
            "max_dmips": node.max_dmips,
            "total_ram": node.total_ram,
            "os": node.os_info.os,
            "runtimes": node.runtimes.iter().flatten().map(|r| r.runtime_type.as_str()).collect::<Vec<_>>(),
            "error": node.error_info,
        })
    });
    let items = state.items.iter().map(|entry| &entry.value).map(|entry| {
        json!({
            "item": item(&entry.item),
            "version": entry.version,
            "state": entry.state,
            "error": entry.error_info,
        })
    });
    let instances = state.instances.iter().map(|entry| &entry.value).map(|entry| {
        json!({
            "item": item(&entry.item),
            "subject": entry.subject.key(),
            "version": entry.version,
            "instance": entry.info.instance,
            "node": entry.info.node.key(),
            "runtime": entry.info.runtime.key(),
            "state": entry.info.state,
            "error": entry.info.error_info,
        })
    });
    let subjects = state.subjects.iter().flat_map(|subjects| &subjects.value).map(AosIdentity::key);
    Ok(json!({
        "id": view.unit.id,
        "system_uid": view.unit.system_uid,
        "revision": view.unit.revision,
        "status": if view.unit.provisioned { "provisioned" } else { "new" },
        "online_status": view.unit.online.as_str(),
        "last_online_changed_at": view::optional_time(view.unit.online_changed_at),
        "observed_at": view::optional_time(view.status.as_ref().map(|status| status.observed_at)),
        "nodes": nodes.collect::<Vec<_>>(),
        "items": items.collect::<Vec<_>>(),
        "instances": instances.collect::<Vec<_>>(),
        "unit_config": state.unit_config.as_ref().map_or_else(|| json!([]), |config| json!(config.value)),
        "subjects": subjects.collect::<Vec<_>>(),
        "assignments": view.assigned.iter().map(assignments::shown).collect::<Vec<_>>(),
        "desired": desired,
    }))
}
