//! Reading, deprovisioning and deleting Units.

use aos_cloud_gateway::GatewayError;
use aos_cloud_store::{AuditEntry, now_micros};
use axum::Json;
use axum::extract::{Path, State};
use http::StatusCode;
use serde::Deserialize;
use serde_json::{Value, json};

use crate::Api;
use crate::auth::Caller;
use crate::error::ApiError;
use crate::input::{Asked, Input};
use crate::view;

#[derive(Deserialize)]
pub(crate) struct Filter {
    #[serde(default)]
    system_uid: Option<String>,
    #[serde(default)]
    limit: Option<u32>,
    #[serde(default)]
    offset: u32,
}

pub(crate) async fn list(
    State(api): State<Api>,
    caller: Caller,
    Asked(filter): Asked<Filter>,
) -> Result<Json<Value>, ApiError> {
    let limit = filter.limit.unwrap_or(100).clamp(1, 100);
    let company = caller.unit_company()?;
    let (units, total) = api.store.units(company, filter.system_uid, limit, filter.offset).await?;
    Ok(Json(view::list(units.iter().map(view::unit), total, filter.offset)))
}

pub(crate) async fn show(
    State(api): State<Api>,
    caller: Caller,
    Path(key): Path<String>,
) -> Result<Json<Value>, ApiError> {
    let unit = caller.unit(&api, &key).await?;
    Ok(Json(view::unit(&unit)))
}

pub(crate) async fn connection_info(
    State(api): State<Api>,
    caller: Caller,
    Path(key): Path<String>,
) -> Result<Json<Value>, ApiError> {
    let unit = caller.unit(&api, &key).await?;
    Ok(Json(json!({
        "is_online": unit.online != aos_cloud_store::OnlineStatus::Offline,
        "online_status": unit.online.as_str(),
        "last_online_changed_at": view::optional_time(unit.online_changed_at),
    })))
}

pub(crate) async fn certificates(
    State(api): State<Api>,
    caller: Caller,
    Path(key): Path<String>,
) -> Result<Json<Value>, ApiError> {
    let unit = caller.unit(&api, &key).await?;
    let items = api.store.unit_certificates(&unit.id).await?;
    let shown = items.iter().map(|certificate| {
        let expired = !certificate.is_good(now_micros() / 1_000_000);
        json!({
            "type": certificate.cert_type,
            "cert_type": certificate.cert_type,
            "node_id": certificate.node_id,
            "serial": certificate.serial,
            "status": if expired { "expired" } else { "issued" },
            "not_before": view::time(certificate.not_before.saturating_mul(1_000_000)),
            "not_after": view::time(certificate.not_after.saturating_mul(1_000_000)),
            "valid_till": view::time(certificate.not_after.saturating_mul(1_000_000)),
        })
    });
    Ok(Json(view::whole_list(shown)))
}

#[derive(Deserialize)]
pub(crate) struct Sealed {
    sealed: bool,
}

/// Whether messages go to the Unit sealed for its offline key; acknowledgements stay plain.
pub(crate) async fn sealed(
    State(api): State<Api>,
    caller: Caller,
    Path(key): Path<String>,
) -> Result<Json<Value>, ApiError> {
    let unit = caller.unit(&api, &key).await?;
    Ok(Json(json!({"sealed": unit.enveloped})))
}

/// The Unit has to be set up to open them first, or it understands none of these messages.
pub(crate) async fn seal(
    State(api): State<Api>,
    caller: Caller,
    Path(key): Path<String>,
    Input(input): Input<Sealed>,
) -> Result<Json<Value>, ApiError> {
    let unit = caller.own_unit(&api, &key).await?;
    if input.sealed {
        // A session that could seal nothing would end at once, again and again.
        match api.gateway.can_seal(&unit.id).await {
            Ok(()) => {}
            Err(error @ GatewayError::NoSealing) => return Err(ApiError::conflict(error.to_string())),
            Err(error) => return Err(ApiError::internal(&error)),
        }
    }
    api.store.set_enveloped(&unit.id, input.sealed).await?;
    let entry = AuditEntry {
        actor: caller.name(),
        action: if input.sealed { "messages sealed" } else { "messages not sealed" },
        object: unit.system_uid,
        detail: String::new(),
    };
    api.store.audit(entry).await?;
    Ok(Json(json!({"sealed": input.sealed})))
}

#[derive(Deserialize)]
pub(crate) struct Force {
    #[serde(default)]
    force: bool,
}

pub(crate) async fn deprovision(
    State(api): State<Api>,
    caller: Caller,
    Path(key): Path<String>,
    Asked(asked): Asked<Force>,
) -> Result<StatusCode, ApiError> {
    let unit = caller.own_unit(&api, &key).await?;
    api.store.deprovision(&unit.id, asked.force).await?;
    let entry = AuditEntry {
        actor: caller.name(),
        action: "deprovisioned",
        object: unit.system_uid,
        detail: String::new(),
    };
    api.store.audit(entry).await?;
    Ok(StatusCode::NO_CONTENT)
}

pub(crate) async fn forget(
    State(api): State<Api>,
    caller: Caller,
    Path(key): Path<String>,
) -> Result<StatusCode, ApiError> {
    let unit = caller.own_unit(&api, &key).await?;
    api.store.delete_unit(&unit.id).await?;
    let entry = AuditEntry {
        actor: caller.name(),
        action: "deleted",
        object: unit.system_uid,
        detail: String::new(),
    };
    api.store.audit(entry).await?;
    Ok(StatusCode::NO_CONTENT)
}
