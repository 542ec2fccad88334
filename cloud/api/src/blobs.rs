//! Uploading blobs, and how often they were served.

use aos_cloud_store::Role;
use aos_ids::Digest;
use axum::Json;
use axum::body::Body;
use axum::extract::{Path, State};
use http::StatusCode;
use serde_json::{Value, json};

use crate::Api;
use crate::auth::Caller;
use crate::error::ApiError;

fn digest(text: &str) -> Result<Digest, ApiError> {
    text.parse().map_err(|error| ApiError::bad_request(format!("{error}")))
}

fn publisher(caller: &Caller) -> Result<(), ApiError> {
    caller.require(&[Role::Oem, Role::ServiceProvider])
}

pub(crate) async fn exists(
    State(api): State<Api>,
    caller: Caller,
    Path(text): Path<String>,
) -> Result<StatusCode, ApiError> {
    publisher(&caller)?;
    let found = api.blobs.find(&digest(&text)?).await?;
    Ok(if found.is_some() { StatusCode::OK } else { StatusCode::NOT_FOUND })
}

pub(crate) async fn upload(
    State(api): State<Api>,
    caller: Caller,
    Path(text): Path<String>,
    body: Body,
) -> Result<StatusCode, ApiError> {
    publisher(&caller)?;
    let made = api.blobs.upload(digest(&text)?, body.into_data_stream()).await?;
    Ok(if made { StatusCode::CREATED } else { StatusCode::OK })
}

pub(crate) async fn served(
    State(api): State<Api>,
    _caller: Caller,
    Path(text): Path<String>,
) -> Result<Json<Value>, ApiError> {
    let digest = digest(&text)?;
    api.blobs.flush_counters().await;
    let served = api.store.served(&digest.to_string()).await?;
    let served = served.ok_or_else(|| ApiError::not_found("no such blob"))?;
    let size = api.blobs.find(&digest).await?.map(|blob| blob.served_size);
    Ok(Json(json!({
        "digest": digest.to_string(),
        "requests": served.requests,
        "bytes": served.bytes,
        "size": size,
    })))
}
