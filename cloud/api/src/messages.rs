//! Recording the messages of a Unit for support: on and off, and reading what passed.

use std::time::Duration;

use aos_cloud_protocol::Direction;
use aos_cloud_store::AuditEntry;
use axum::Json;
use axum::extract::{Path, State};
use serde::Deserialize;
use serde_json::{Value, json};

use crate::Api;
use crate::auth::Caller;
use crate::error::ApiError;
use crate::input::{Asked, Input};
use crate::view;

/// Most frames of one answer.
const PAGE: usize = 256;
/// Longest wait of one call, seconds.
const MAX_WAIT: f64 = 60.0;

#[derive(Deserialize)]
pub(crate) struct Switch {
    recording: bool,
}

pub(crate) async fn switch(
    State(api): State<Api>,
    caller: Caller,
    Path(key): Path<String>,
    Input(input): Input<Switch>,
) -> Result<Json<Value>, ApiError> {
    let unit = caller.own_unit(&api, &key).await?;
    api.gateway.record(&unit.id, input.recording).map_err(|error| ApiError::conflict(error.to_string()))?;
    let entry = AuditEntry {
        actor: caller.name(),
        action: if input.recording { "recording started" } else { "recording ended" },
        object: unit.system_uid,
        detail: String::new(),
    };
    api.store.audit(entry).await?;
    Ok(Json(json!({"recording": input.recording})))
}

#[derive(Deserialize)]
pub(crate) struct Asking {
    #[serde(default)]
    after: u64,
    #[serde(default)]
    wait: f64,
    #[serde(default)]
    limit: Option<usize>,
}

pub(crate) async fn list(
    State(api): State<Api>,
    caller: Caller,
    Path(key): Path<String>,
    Asked(asking): Asked<Asking>,
) -> Result<Json<Value>, ApiError> {
    let unit = caller.own_unit(&api, &key).await?;
    let wait = if asking.wait.is_finite() { asking.wait.clamp(0.0, MAX_WAIT) } else { 0.0 };
    let limit = asking.limit.unwrap_or(PAGE).clamp(1, PAGE);
    let wait = Duration::from_secs_f64(wait);
    let recording = api.gateway.recorded(&unit.id, asking.after, limit, wait).await;
    let recording = recording.ok_or_else(|| {
        ApiError::conflict("the Unit is not being recorded; PUT {\"recording\": true} to messages/recording/")
    })?;
    let shown = recording.frames.iter().map(|frame| {
        json!({
            "seq": frame.seq,
            "at": view::time(frame.at),
            "direction": direction(frame.direction),
            "message": serde_json::from_str::<Value>(&frame.text).unwrap_or_default(),
        })
    });
    let shown: Vec<Value> = shown.collect();
    Ok(Json(json!({"items": shown, "newest": recording.newest, "total": shown.len(), "offset": 0})))
}

fn direction(direction: Direction) -> &'static str {
    match direction {
        Direction::UnitToCloud => "unit-to-cloud",
        Direction::CloudToUnit => "cloud-to-unit",
        Direction::Both => "both",
    }
}
