//! Status of a Unit, with long poll.

use std::collections::HashMap;

use aos_cloud_fleet::UnitState;
use aos_cloud_protocol::{AosIdentity, DesiredStatus};
use aos_cloud_store::UnitView;
use axum::Json;
use axum::extract::{Path, State};
use serde_json::{Value, json};

use crate::Api;
use crate::assignments;
use crate::auth::Caller;
use crate::error::ApiError;
use crate::input::Asked;
use crate::poll::Poll;
use crate::view;

/// Answers at once when the Unit's revision is not `after`, else as soon as it changes or `wait` is over.
pub(crate) async fn poll(
    State(api): State<Api>,
    caller: Caller,
    Path(key): Path<String>,
    Asked(poll): Asked<Poll>,
) -> Result<Json<Value>, ApiError> {
    let unit = caller.unit(&api, &key).await?;
    poll.changed(&api, &unit.id).await?;
    let view = api.store.unit_view(&unit.id).await?;
    let view = view.ok_or_else(|| ApiError::not_found("no such Unit"))?;
    let state = state(&view)?;
    let reported = state.items.iter().map(|item| &item.value.item);
    let running = state.instances.iter().map(|instance| &instance.value.item);
    let ids = reported.chain(running).filter_map(|identity| identity.id.clone());
    let assigned = view.assigned.iter().map(|row| row.assignment.item_id.clone());
    let names = api.store.item_names(ids.chain(assigned).collect()).await?;
    render(&view, &state, &names).map(Json)
}

fn state(view: &UnitView) -> Result<UnitState, ApiError> {
    match &view.status {
        Some(status) => serde_json::from_str(&status.merged).map_err(|error| ApiError::internal(&error)),
        None => Ok(UnitState::default()),
    }
}

fn render(
    view: &UnitView,
    state: &UnitState,
    names: &HashMap<String, (String, String)>,
) -> Result<Value, ApiError> {
    let item = |identity: &AosIdentity| {
        let named = identity.id.as_ref().and_then(|id| names.get(id));
        let (codename, kind) = named.map(|(codename, kind)| (codename.as_str(), kind.as_str())).unzip();
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
    let nodes = state.nodes.iter().map(|node| view::reported_node(&node.value));
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
