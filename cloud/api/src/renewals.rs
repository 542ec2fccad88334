//! Renewal of a Unit's certificates.

use std::collections::BTreeMap;

use aos_cloud_handlers::NewRenewal;
use aos_cloud_pki::CertType;
use aos_cloud_store::{AuditEntry, Renewal};
use aos_ids::NodeId;
use axum::Json;
use axum::extract::{Path, State};
use axum::response::{IntoResponse as _, Response};
use http::StatusCode;
use serde::Deserialize;
use serde_json::{Value, json};

use crate::Api;
use crate::auth::Caller;
use crate::error::ApiError;
use crate::input::{Asked, Input, checked_password};
use crate::poll::Poll;
use crate::view;

const MAX_NODES: usize = 16;
const MAX_TYPES: usize = 16;

#[derive(Deserialize)]
pub(crate) struct RenewInput {
    #[serde(default)]
    types: Vec<String>,
    #[serde(default)]
    nodes: Vec<String>,
    #[serde(default)]
    secrets: BTreeMap<String, String>,
}

pub(crate) async fn start(
    State(api): State<Api>,
    caller: Caller,
    Path(key): Path<String>,
    Input(input): Input<RenewInput>,
) -> Result<Response, ApiError> {
    let unit = caller.own_unit(&api, &key).await?;
    if input.types.len() > MAX_TYPES || input.nodes.len() > MAX_NODES || input.secrets.len() > MAX_NODES {
        return Err(ApiError::invalid(format!("at most {MAX_TYPES} types and {MAX_NODES} nodes")));
    }
    let types = input.types.iter().map(|word| word.parse::<CertType>());
    let types = types.collect::<Result<Vec<_>, _>>()?;
    for node in input.nodes.iter().chain(input.secrets.keys()) {
        NodeId::new(node.as_str()).map_err(|error| ApiError::invalid(format!("nodes: {error}")))?;
    }
    for secret in input.secrets.values() {
        checked_password(secret)?;
    }
    let new = NewRenewal { types, nodes: input.nodes, secrets: input.secrets, ..NewRenewal::default() };
    let renewal = api.flows.renew_certificates(&unit.id, new).await?;
    let entry = AuditEntry {
        actor: caller.name(),
        action: "renewal started",
        object: unit.system_uid,
        detail: format!("{} certificates, {}", renewal.certificates.len(), renewal.id),
    };
    api.store.audit(entry).await?;
    Ok((StatusCode::ACCEPTED, Json(shown(&renewal))).into_response())
}

pub(crate) async fn list(
    State(api): State<Api>,
    caller: Caller,
    Path(key): Path<String>,
) -> Result<Json<Value>, ApiError> {
    let unit = caller.unit(&api, &key).await?;
    let renewals = api.store.renewals(&unit.id).await?;
    Ok(Json(view::whole_list(renewals.iter().map(shown))))
}

pub(crate) async fn show(
    State(api): State<Api>,
    caller: Caller,
    Path((key, id)): Path<(String, String)>,
    Asked(poll): Asked<Poll>,
) -> Result<Json<Value>, ApiError> {
    let unit = caller.unit(&api, &key).await?;
    poll.changed(&api, &unit.id).await?;
    let revision = api.store.unit(&unit.id).await?.map(|unit| unit.revision);
    let renewal = api.store.renewal(&unit.id, &id).await?;
    let mut shown = shown(&renewal.ok_or_else(|| ApiError::not_found("no such renewal"))?);
    shown["revision"] = json!(revision);
    Ok(Json(shown))
}

fn shown(renewal: &Renewal) -> Value {
    let certificates = renewal.certificates.iter().map(|one| {
        json!({
            "type": one.cert_type,
            "node": one.node_id,
            "old_serial": one.old_serial,
            "new_serial": one.new_serial,
            "state": one.state,
            "error": one.reason,
        })
    });
    json!({
        "id": renewal.id,
        "state": renewal.state,
        "error": renewal.reason,
        "created_at": view::time(renewal.created_at),
        "finished_at": view::optional_time(renewal.finished_at),
        "certificates": certificates.collect::<Vec<_>>(),
    })
}
