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
    let mut bodies: Vec<Value> =
        found.iter().map(|row| serde_json::from_str(&row.body).unwrap_or_default()).collect();
    let ids = bodies.iter_mut().flat_map(items).filter_map(|item| item["id"].as_str().map(str::to_owned));
    let names = api.store.item_names(ids.collect()).await?;
    for item in bodies.iter_mut().flat_map(items) {
        let known = item["id"].as_str().and_then(|id| names.get(id));
        if let (Some((codename, _)), Value::Object(item)) = (known, item) {
            item.entry("codename").or_insert_with(|| codename.as_str().into());
        }
    }
    let shown = found.iter().zip(bodies).map(|(row, body)| {
        let mut entry = Map::new();
        entry.insert("id".to_owned(), json!(row.id));
        entry.insert("received_at".to_owned(), view::time(row.at));
        entry.insert(member.to_owned(), body);
        Value::Object(entry)
    });
    Ok(Json(view::whole_list(shown)))
}

/// The items that an alert or a sample is about. Units know them by id only.
fn items(body: &mut Value) -> Vec<&mut Value> {
    let Value::Object(body) = body else { return Vec::new() };
    let mut found = Vec::new();
    for (key, value) in body {
        match (key.as_str(), value) {
            ("item", item @ Value::Object(_)) => found.push(item),
            ("instances", Value::Array(instances)) => {
                found.extend(instances.iter_mut().filter_map(|instance| instance.get_mut("item")));
            }
            _ => {}
        }
    }
    found
}
