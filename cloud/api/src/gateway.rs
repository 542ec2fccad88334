//! Moving all Units away from this gateway before it is taken down, and letting them come back.

use std::time::Duration;

use aos_cloud_gateway::Gateway;
use aos_cloud_store::{AuditEntry, Role};
use axum::Json;
use axum::extract::State;
use http::StatusCode;
use serde::Deserialize;
use serde_json::{Value, json};

use crate::Api;
use crate::auth::Caller;
use crate::error::ApiError;
use crate::input::Input;

/// Longest time over which Units are moved, seconds.
const MAX_SPREAD: u64 = 3600;

#[derive(Deserialize)]
pub(crate) struct Drain {
    #[serde(default)]
    seconds: u64,
}

pub(crate) async fn show(State(api): State<Api>, caller: Caller) -> Result<Json<Value>, ApiError> {
    caller.require(&[Role::Admin])?;
    Ok(Json(shown(&api.gateway)))
}

/// Starts moving; the answer does not wait for the end.
pub(crate) async fn drain(
    State(api): State<Api>,
    caller: Caller,
    Input(input): Input<Drain>,
) -> Result<(StatusCode, Json<Value>), ApiError> {
    caller.require(&[Role::Admin])?;
    if input.seconds > MAX_SPREAD {
        return Err(ApiError::invalid(format!("seconds must be 0 to {MAX_SPREAD}")));
    }
    note(&api, &caller, "gateway drained", format!("over {} s", input.seconds)).await?;
    let gateway = api.gateway.clone();
    let (started, begun) = tokio::sync::oneshot::channel();
    // Ends by itself when the last session has; a stop of the cloud ends the sessions anyway.
    tokio::spawn(async move {
        let moving = gateway.drain(Duration::from_secs(input.seconds));
        let _ = started.send(());
        moving.await;
    });
    let _ = begun.await;
    Ok((StatusCode::ACCEPTED, Json(shown(&api.gateway))))
}

pub(crate) async fn resume(State(api): State<Api>, caller: Caller) -> Result<Json<Value>, ApiError> {
    caller.require(&[Role::Admin])?;
    api.gateway.resume();
    note(&api, &caller, "gateway resumed", String::new()).await?;
    Ok(Json(shown(&api.gateway)))
}

async fn note(api: &Api, caller: &Caller, action: &'static str, detail: String) -> Result<(), ApiError> {
    let entry = AuditEntry { actor: caller.name(), action, object: "gateway".to_owned(), detail };
    Ok(api.store.audit(entry).await?)
}

fn shown(gateway: &Gateway) -> Value {
    json!({"draining": gateway.is_draining(), "sessions": gateway.metrics().sessions()})
}
