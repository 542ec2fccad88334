//! Logs of Units: requests, their progress, their text.

use aos_cloud_handlers::NewLogRequest;
use aos_cloud_protocol::{LogType, UploadType};
use aos_cloud_store::{AuditEntry, LogRequest};
use aos_ids::NodeId;
use axum::Json;
use axum::body::Body;
use axum::extract::{Path, State};
use axum::response::{IntoResponse as _, Response};
use http::StatusCode;
use http::header::CONTENT_TYPE;
use jiff::Timestamp;
use serde::Deserialize;
use serde_json::{Value, json};

use crate::Api;
use crate::auth::Caller;
use crate::error::ApiError;
use crate::input::{Asked, Input, Page};
use crate::items;
use crate::poll::Poll;
use crate::view;

/// Limit of Units of the original.
const MAX_NODES: usize = 16;

#[derive(Deserialize)]
pub(crate) struct LogInput {
    #[serde(rename = "type")]
    kind: String,
    #[serde(default)]
    from: Option<Timestamp>,
    #[serde(default)]
    till: Option<Timestamp>,
    #[serde(default)]
    nodes: Vec<String>,
    #[serde(default)]
    item: Option<String>,
    #[serde(default)]
    subject: Option<String>,
    #[serde(default)]
    instance: Option<u64>,
    #[serde(default)]
    upload: Option<String>,
}

pub(crate) async fn create(
    State(api): State<Api>,
    caller: Caller,
    Path(key): Path<String>,
    Input(input): Input<LogInput>,
) -> Result<Response, ApiError> {
    let unit = caller.unit(&api, &key).await?;
    let log_type = match input.kind.as_str() {
        "system" => LogType::SystemLog,
        "instance" => LogType::InstanceLog,
        "crash" => LogType::CrashLog,
        _ => return Err(ApiError::invalid("type must be system, instance or crash")),
    };
    let upload = match input.upload.as_deref() {
        None | Some("wss") => UploadType::Wss,
        Some("https") => UploadType::Https,
        Some(_) => return Err(ApiError::invalid("upload must be wss or https")),
    };
    if let (Some(from), Some(till)) = (input.from, input.till)
        && till < from
    {
        return Err(ApiError::invalid("till is before from"));
    }
    if input.nodes.len() > MAX_NODES {
        return Err(ApiError::invalid(format!("at most {MAX_NODES} nodes")));
    }
    for node in &input.nodes {
        NodeId::new(node.as_str()).map_err(|error| ApiError::invalid(format!("nodes: {error}")))?;
    }
    let of_instance = input.item.is_some() || input.subject.is_some() || input.instance.is_some();
    let item = match (log_type, input.item) {
        (LogType::SystemLog, _) if of_instance => {
            return Err(ApiError::invalid("a system log has no item, subject or instance"));
        }
        (LogType::SystemLog, _) => None,
        (_, None) => return Err(ApiError::invalid("item is missing")),
        (_, Some(item)) => Some(items::find(&api, &caller, &item).await?.id),
    };
    let subject = input.subject.map(|subject| view::subject(&unit, &subject)).transpose()?;
    let new = NewLogRequest {
        log_type,
        from: input.from,
        till: input.till,
        nodes: input.nodes,
        item,
        subject,
        instance: input.instance,
        upload,
    };
    let request = api.flows.request_log(&unit.id, new).await?;
    let entry = AuditEntry {
        actor: caller.name(),
        action: "log requested",
        object: unit.system_uid,
        detail: format!("{} {}", input.kind, request.id),
    };
    api.store.audit(entry).await?;
    Ok((StatusCode::CREATED, Json(shown(&request))).into_response())
}

pub(crate) async fn list(
    State(api): State<Api>,
    caller: Caller,
    Path(key): Path<String>,
    Asked(page): Asked<Page>,
) -> Result<Json<Value>, ApiError> {
    let unit = caller.unit(&api, &key).await?;
    let (requests, total) = api.store.log_requests(&unit.id, page.limit(), page.offset).await?;
    Ok(Json(view::list(requests.iter().map(shown), total, page.offset)))
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
    let request = api.store.log_request(&unit.id, &id).await?;
    let mut shown = shown(&request.ok_or_else(|| ApiError::not_found("no such log request"))?);
    shown["revision"] = json!(revision);
    Ok(Json(shown))
}

/// Drops a request; whoever follows a log makes many of them.
pub(crate) async fn forget(
    State(api): State<Api>,
    caller: Caller,
    Path((key, id)): Path<(String, String)>,
) -> Result<StatusCode, ApiError> {
    let unit = caller.own_unit(&api, &key).await?;
    if api.store.drop_log_request(&unit.id, &id).await? {
        Ok(StatusCode::NO_CONTENT)
    } else {
        Err(ApiError::not_found("no such log request"))
    }
}

/// The text of all nodes, one after another, as it is read from the disk.
pub(crate) async fn content(
    State(api): State<Api>,
    caller: Caller,
    Path((key, id)): Path<(String, String)>,
    Asked(asked): Asked<OfNode>,
) -> Result<Response, ApiError> {
    let unit = caller.unit(&api, &key).await?;
    let content = api.flows.log_content(&unit.id, &id, asked.node.as_deref()).await?;
    let content = content.ok_or_else(|| ApiError::not_found("no such log request"))?;
    let stream = futures_util::stream::unfold(content, async |mut content| {
        let piece = content.next().await?;
        if let Err(error) = &piece {
            tracing::error!("a log cannot be read back: {error}");
        }
        Some((piece, content))
    });
    Ok(([(CONTENT_TYPE, "text/plain; charset=utf-8")], Body::from_stream(stream)).into_response())
}

#[derive(Deserialize)]
pub(crate) struct OfNode {
    #[serde(default)]
    node: Option<String>,
}

fn shown(request: &LogRequest) -> Value {
    let kind = request.log_type.trim_end_matches("Log");
    let filter: Value = serde_json::from_str(&request.filter).unwrap_or_default();
    let nodes = request.nodes.iter().map(|node| {
        json!({
            "node": node.node_id,
            "state": node.state,
            "parts": node.parts.len(),
            "parts_count": node.parts_count,
            "error": node.reason,
        })
    });
    json!({
        "id": request.id,
        "type": kind,
        "filter": filter,
        "upload": request.upload,
        "state": request.state,
        "error": request.reason,
        "bytes": request.bytes,
        "created_at": view::time(request.created_at),
        "finished_at": view::optional_time(request.finished_at),
        "nodes": nodes.collect::<Vec<_>>(),
    })
}
