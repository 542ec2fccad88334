//! The wanted configuration of a Unit's nodes, and what the Unit says about it.

use aos_cloud_fleet::UnitState;
use aos_cloud_protocol::UnitConfig;
use aos_cloud_store::{AuditEntry, Unit, UnitConfigRow};
use aos_ids::Version;
use axum::Json;
use axum::extract::{Path, State};
use serde_json::{Value, json};

use crate::Api;
use crate::auth::Caller;
use crate::error::ApiError;
use crate::input::{Asked, Input};
use crate::poll::Poll;
use crate::view;

/// Limits of Units of the original.
const MAX_NODES: usize = 16;
const MAX_VERSION: usize = 32;

pub(crate) async fn replace(
    State(api): State<Api>,
    caller: Caller,
    Path(key): Path<String>,
    Input(document): Input<Value>,
) -> Result<Json<Value>, ApiError> {
    let unit = caller.own_unit(&api, &key).await?;
    let config: UnitConfig =
        serde_json::from_value(document).map_err(|error| ApiError::invalid(error.to_string()))?;
    Version::parse(&config.version)
        .map_err(|error| ApiError::invalid(format!("version '{}': {error}", config.version)))?;
    if config.version.len() > MAX_VERSION || config.nodes.len() > MAX_NODES {
        let limits = format!("at most {MAX_NODES} nodes, and a version of at most {MAX_VERSION} characters");
        return Err(ApiError::invalid(limits));
    }
    if config.nodes.iter().any(|node| node.node_group_subject.codename.is_none()) {
        return Err(ApiError::invalid("nodes[].nodeGroupSubject.codename (the node type) is missing"));
    }
    let version = config.version.clone();
    api.flows.set_unit_config(&unit.id, config).await?;
    let entry = AuditEntry {
        actor: caller.name(),
        action: "unit configuration set",
        object: unit.system_uid.clone(),
        detail: version,
    };
    api.store.audit(entry).await?;
    current(&api, &unit).await.map(Json)
}

pub(crate) async fn show(
    State(api): State<Api>,
    caller: Caller,
    Path(key): Path<String>,
    Asked(poll): Asked<Poll>,
) -> Result<Json<Value>, ApiError> {
    let unit = caller.unit(&api, &key).await?;
    poll.changed(&api, &unit.id).await?;
    current(&api, &unit).await.map(Json)
}

async fn current(api: &Api, unit: &Unit) -> Result<Value, ApiError> {
    let view = api.store.unit_view(&unit.id).await?;
    let view = view.ok_or_else(|| ApiError::not_found("no such Unit"))?;
    let state = view.status.map_or_else(UnitState::default, |status| {
        // A state that cannot be read shows as none; the status endpoint says so.
        serde_json::from_str(&status.merged).unwrap_or_default()
    });
    let reported = state.unit_config.map(|config| config.value).unwrap_or_default();
    let reported = serde_json::to_value(reported).map_err(|error| ApiError::internal(&error))?;
    let wanted = api.store.unit_config(&unit.id).await?;
    Ok(shown(wanted.as_ref(), &reported, view.unit.revision))
}

fn shown(wanted: Option<&UnitConfigRow>, reported: &Value, revision: i64) -> Value {
    let verdict = wanted.and_then(|wanted| {
        let entries = reported.as_array()?;
        entries.iter().find(|entry| entry["version"].as_str() == Some(wanted.version.as_str()))
    });
    let state = match (wanted, verdict.and_then(|entry| entry["state"].as_str())) {
        (None, _) => "none",
        (_, Some("installed")) => "installed",
        (_, Some("failed")) => "failed",
        _ => "waiting",
    };
    json!({
        "version": wanted.map(|wanted| &wanted.version),
        "set_at": view::optional_time(wanted.map(|wanted| wanted.set_at)),
        "document": wanted
            .map(|wanted| serde_json::from_str::<Value>(&wanted.document).unwrap_or_default()),
        "state": state,
        "error": verdict.and_then(|entry| entry.pointer("/errorInfo/message")),
        "reported": reported,
        "revision": revision,
    })
}
