//! What Units report by themselves: alerts and monitoring, the newest of each, bounded by the store.

use axum::Json;
use axum::extract::{Path, State};
use serde::Deserialize;
use serde_json::{Map, Value, json};

use crate::Api;
use crate::auth::Caller;
use crate::error::ApiError;
use crate::input::{Asked, Page};
use crate::poll::Poll;
use crate::view;

/// Without `after` the newest entries, with it the oldest that came after the entry of that number.
#[derive(Deserialize)]
pub(crate) struct Asking {
    #[serde(default)]
    after: Option<i64>,
    #[serde(default)]
    limit: Option<u32>,
    #[serde(default)]
    wait: Option<f64>,
}

pub(crate) async fn alerts(
    api: State<Api>,
    caller: Caller,
    key: Path<String>,
    asking: Asked<Asking>,
) -> Result<Json<Value>, ApiError> {
    list(api, caller, key, asking, "alerts", "alert").await
}

pub(crate) async fn monitoring(
    api: State<Api>,
    caller: Caller,
    key: Path<String>,
    asking: Asked<Asking>,
) -> Result<Json<Value>, ApiError> {
    list(api, caller, key, asking, "monitoring", "monitoring").await
}

/// Messages of the Unit that the cloud could not use, with the reasons.
pub(crate) async fn invalid(
    api: State<Api>,
    caller: Caller,
    key: Path<String>,
    asking: Asked<Asking>,
) -> Result<Json<Value>, ApiError> {
    list(api, caller, key, asking, "invalid", "message").await
}

async fn list(
    State(api): State<Api>,
    caller: Caller,
    Path(key): Path<String>,
    Asked(asking): Asked<Asking>,
    kind: &'static str,
    member: &str,
) -> Result<Json<Value>, ApiError> {
    let unit = caller.unit(&api, &key).await?;
    let limit = Page::of(asking.limit).limit();
    let poll = Poll::new(asking.after, asking.wait);
    let mut looks = poll.looks(&api, &unit.id).await?;
    let found = loop {
        let rows = match asking.after {
            Some(after) => api.store.events_after(&unit.id, kind, after, limit).await?,
            None => api.store.events_latest(&unit.id, kind, limit).await?,
        };
        if !rows.is_empty() || !looks.again().await {
            break rows;
        }
    };
    let shown = found.iter().map(|row| {
        let mut entry = Map::new();
        entry.insert("id".to_owned(), json!(row.id));
        entry.insert("received_at".to_owned(), view::time(row.at));
        entry.insert(member.to_owned(), serde_json::from_str(&row.body).unwrap_or_default());
        Value::Object(entry)
    });
    Ok(Json(view::whole_list(shown)))
}
