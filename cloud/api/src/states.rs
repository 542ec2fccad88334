//! States of instances: what the cloud keeps of them, and giving them another one.

use aos_cloud_protocol::MAX_STATE;
use aos_cloud_store::{AuditEntry, StateKey, StateRow, StateSource};
use axum::Json;
use axum::body::Bytes;
use axum::extract::{Path, State};
use http::StatusCode;
use serde_json::{Value, json};

use crate::Api;
use crate::auth::Caller;
use crate::error::ApiError;
use crate::input::Asked;
use crate::items;
use crate::poll::Poll;
use crate::view;

/// Unit, item, subject, instance.
type Place = (String, String, String, String);

fn number(instance: &str) -> Result<u64, ApiError> {
    instance.parse().map_err(|_| ApiError::bad_request("the instance is no number from 0"))
}

pub(crate) async fn list(
    State(api): State<Api>,
    caller: Caller,
    Path(key): Path<String>,
    Asked(poll): Asked<Poll>,
) -> Result<Json<Value>, ApiError> {
    let unit = caller.unit(&api, &key).await?;
    poll.changed(&api, &unit.id).await?;
    let rows = api.store.states(&unit.id).await?;
    let names = api.store.item_names(rows.iter().map(|row| row.key.item.clone()).collect()).await?;
    let shown = rows.iter().map(|row| {
        let mut shown = shown(row);
        shown["item"] = view::named_item(&row.key.item, &names);
        shown
    });
    Ok(Json(view::whole_list(shown)))
}

pub(crate) async fn show(
    State(api): State<Api>,
    caller: Caller,
    Path((unit, item, subject, instance)): Path<Place>,
) -> Result<Json<Value>, ApiError> {
    let unit = caller.unit(&api, &unit).await?;
    let item = items::find(&api, &caller, &item).await?.id;
    let subject = view::subject(&unit, &subject)?;
    let instance = number(&instance)?;
    let row = api.store.state(&unit.id, &StateKey { item, subject, instance }).await?;
    let row = row.ok_or_else(|| ApiError::not_found("the cloud has no state of this instance"))?;
    let mut shown = shown(&row);
    shown["state"] = json!(row.content);
    Ok(Json(shown))
}

pub(crate) async fn replace(
    State(api): State<Api>,
    caller: Caller,
    Path(place): Path<Place>,
    body: Bytes,
) -> Result<Json<Value>, ApiError> {
    if body.len() > MAX_STATE {
        return Err(ApiError::too_large(format!("a state has at most {MAX_STATE} bytes")));
    }
    let state = String::from_utf8(body.into());
    let state = state.map_err(|_| ApiError::invalid("a state must be UTF-8 text: it travels as JSON"))?;
    change(&api, &caller, place, Some(state)).await.map(Json)
}

pub(crate) async fn reset(
    State(api): State<Api>,
    caller: Caller,
    Path(place): Path<Place>,
) -> Result<StatusCode, ApiError> {
    change(&api, &caller, place, None).await.map(|_| StatusCode::NO_CONTENT)
}

async fn change(
    api: &Api,
    caller: &Caller,
    (unit, item, subject, instance): Place,
    state: Option<String>,
) -> Result<Value, ApiError> {
    let unit = caller.own_unit(api, &unit).await?;
    let item = items::find(api, caller, &item).await?;
    let subject = view::subject(&unit, &subject)?;
    let instance = number(&instance)?;
    let key = StateKey { item: item.id, subject, instance };
    let (action, row) = match state {
        Some(state) => ("state set", api.flows.set_state(&unit.id, key, state).await?),
        None => ("state reset", api.flows.reset_state(&unit.id, key).await?),
    };
    let entry = AuditEntry {
        actor: caller.name(),
        action,
        object: unit.system_uid,
        detail: format!("{}:{instance} {}", item.codename, row.checksum),
    };
    api.store.audit(entry).await?;
    Ok(shown(&row))
}

fn shown(row: &StateRow) -> Value {
    let status = match row.delivery.as_str() {
        "none" => "known",
        other => other,
    };
    json!({
        "item": {"id": row.key.item},
        "subject": row.key.subject,
        "instance": row.key.instance,
        "checksum": row.checksum,
        "size": row.content.len(),
        "updated_at": view::time(row.changed_at),
        "origin": match row.source {
            StateSource::Unit => "unit",
            StateSource::Cloud => "cloud",
        },
        "status": status,
        "reason": row.reason,
        "previous_checksum": row.previous.as_ref().map(|(checksum, _)| checksum),
        "previous_at": view::optional_time(row.previous.as_ref().map(|(_, at)| *at)),
        "rejected": row.rejected.as_ref().map(|(_, reason)| reason),
        "rejected_at": view::optional_time(row.rejected.as_ref().map(|(at, _)| *at)),
    })
}
