//! Overridden environment variables: one set per Unit, replaced as a whole.

use std::collections::HashMap;

use aos_cloud_protocol::{AosIdentity, EnvVar, EnvVarsFilter, MAX_VARIABLE_NAME, MAX_VARIABLE_VALUE};
use aos_cloud_store::{AuditEntry, EnvOverrides, Unit};
use axum::Json;
use axum::extract::{Path, State};
use http::StatusCode;
use jiff::{SignedDuration, Timestamp};
use serde::Deserialize;
use serde_json::{Value, json};

use crate::Api;
use crate::auth::Caller;
use crate::error::ApiError;
use crate::input::Input;
use crate::items;
use crate::view;

/// Limits of Units of the original.
const MAX_ENTRIES: usize = 256;
const MAX_VARIABLES: usize = 16;

#[derive(Deserialize)]
pub(crate) struct Set {
    items: Vec<Entry>,
}

#[derive(Deserialize)]
struct Entry {
    #[serde(default)]
    item: Option<String>,
    #[serde(default)]
    subject: Option<String>,
    #[serde(default)]
    instance: Option<u64>,
    variables: Vec<Variable>,
}

#[derive(Deserialize)]
struct Variable {
    name: String,
    value: String,
    /// When the override ends: RFC 3339, or a duration from now on such as `1h`.
    #[serde(default)]
    ttl: Option<String>,
}

pub(crate) async fn show(
    State(api): State<Api>,
    caller: Caller,
    Path(key): Path<String>,
) -> Result<Json<Value>, ApiError> {
    let unit = caller.unit(&api, &key).await?;
    shown(&api, &unit, api.store.env_overrides(&unit.id).await?).await.map(Json)
}

pub(crate) async fn replace(
    State(api): State<Api>,
    caller: Caller,
    Path(key): Path<String>,
    Input(set): Input<Set>,
) -> Result<Json<Value>, ApiError> {
    let unit = caller.own_unit(&api, &key).await?;
    if set.items.len() > MAX_ENTRIES {
        return Err(ApiError::invalid(format!("at most {MAX_ENTRIES} items")));
    }
    let now = Timestamp::now();
    let mut filters = Vec::with_capacity(set.items.len());
    for entry in set.items {
        let item = match entry.item {
            Some(item) => Some(AosIdentity::by_id(items::find(&api, &caller, &item).await?.id)),
            None => None,
        };
        let subject = entry.subject.map(|subject| view::subject(&unit, &subject)).transpose()?;
        if entry.variables.is_empty() || entry.variables.len() > MAX_VARIABLES {
            return Err(ApiError::invalid(format!("variables: 1 to {MAX_VARIABLES} for each item")));
        }
        let variables = entry.variables.into_iter().map(|variable| checked(variable, now));
        filters.push(EnvVarsFilter {
            item,
            subject: subject.map(AosIdentity::by_id),
            instance: entry.instance,
            variables: variables.collect::<Result<_, _>>()?,
        });
    }
    store(&api, &caller, &unit, filters).await.map(Json)
}

pub(crate) async fn clear(
    State(api): State<Api>,
    caller: Caller,
    Path(key): Path<String>,
) -> Result<StatusCode, ApiError> {
    let unit = caller.own_unit(&api, &key).await?;
    store(&api, &caller, &unit, vec![]).await.map(|_| StatusCode::NO_CONTENT)
}

async fn store(
    api: &Api,
    caller: &Caller,
    unit: &Unit,
    items: Vec<EnvVarsFilter>,
) -> Result<Value, ApiError> {
    // Values may be secrets: only names go into the trail.
    let names = items.iter().flat_map(|entry| &entry.variables).map(|variable| variable.name.as_str());
    let entry = AuditEntry {
        actor: caller.name(),
        action: "variables overridden",
        object: unit.system_uid.clone(),
        detail: names.collect::<Vec<_>>().join(" "),
    };
    let stored = api.flows.set_env_overrides(&unit.id, items).await?;
    api.store.audit(entry).await?;
    shown(api, unit, Some(stored)).await
}

fn checked(variable: Variable, now: Timestamp) -> Result<EnvVar, ApiError> {
    let Variable { name, value, ttl } = variable;
    let plain = |text: &str| !text.contains('\0');
    if name.is_empty() || name.chars().count() > MAX_VARIABLE_NAME || name.contains('=') || !plain(&name) {
        return Err(ApiError::invalid(format!("name: 1 to {MAX_VARIABLE_NAME} characters without '='")));
    }
    if value.chars().count() > MAX_VARIABLE_VALUE || !plain(&value) {
        return Err(ApiError::invalid(format!("{name}: at most {MAX_VARIABLE_VALUE} characters")));
    }
    let ttl = ttl.map(|ttl| end(&ttl, now)).transpose()?;
    if ttl.is_some_and(|ttl| ttl <= now) {
        return Err(ApiError::invalid(format!("{name}: ttl is in the past")));
    }
    Ok(EnvVar { name, value, ttl })
}

fn end(text: &str, now: Timestamp) -> Result<Timestamp, ApiError> {
    if let Ok(time) = text.parse() {
        return Ok(time);
    }
    let length = aos_duration_text::parse(text).ok().and_then(|length| SignedDuration::try_from(length).ok());
    length.and_then(|length| now.checked_add(length).ok()).ok_or_else(|| {
        ApiError::invalid("ttl must be a time such as 2026-01-31T12:00:00Z or a duration such as 1h")
    })
}

async fn shown(api: &Api, unit: &Unit, stored: Option<EnvOverrides>) -> Result<Value, ApiError> {
    let Some(stored) = stored else {
        return Ok(json!({"items": [], "statuses": [], "state": "none", "total": 0, "offset": 0}));
    };
    let items: Vec<EnvVarsFilter> =
        serde_json::from_str(&stored.items).map_err(|error| ApiError::internal(&error))?;
    let of_items = items.iter().filter_map(|entry| entry.item.as_ref()?.id.clone());
    let of_statuses = stored.statuses.iter().map(|status| status.item.clone());
    let names = api.store.item_names(of_items.chain(of_statuses).collect()).await?;
    Ok(render(unit, &stored, &items, &names))
}

fn render(
    unit: &Unit,
    stored: &EnvOverrides,
    items: &[EnvVarsFilter],
    names: &HashMap<String, (String, String)>,
) -> Value {
    let total = items.len();
    let items = items.iter().map(|entry| {
        let item = entry.item.as_ref().and_then(AosIdentity::key);
        json!({
            "item": item.map(|id| view::named_item(id, names)),
            "subject": entry.subject.as_ref().and_then(AosIdentity::key),
            "instance": entry.instance,
            "variables": entry.variables,
        })
    });
    let statuses = stored.statuses.iter().map(|status| {
        let error: Value = status
            .error
            .as_ref()
            .map(|error| serde_json::from_str(error).unwrap_or_else(|_| json!({"message": error})))
            .unwrap_or_default();
        json!({
            "item": view::named_item(&status.item, names),
            "subject": status.subject,
            "instance": status.instance,
            "name": status.name,
            "error": error,
            "at": view::time(status.at),
        })
    });
    json!({
        "items": items.collect::<Vec<_>>(),
        "statuses": statuses.collect::<Vec<_>>(),
        "state": stored.state,
        "error": stored.reason,
        "set_at": view::time(stored.set_at),
        "total": total,
        "offset": 0,
        "default_subject": unit.subject_id,
    })
}
