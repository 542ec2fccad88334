//! Where Units upload long logs, part by part, on the listener of the blobs.
//!
//! No certificate but a token that belongs to one request and expires. A part that comes twice replaces itself.

use std::time::Duration;

use aos_cloud_handlers::Flows;
use axum::Router;
use axum::body::Body;
use axum::extract::{DefaultBodyLimit, Path, State};
use axum::routing::put;
use futures_util::StreamExt as _;
use http::header::AUTHORIZATION;
use http::{HeaderMap, StatusCode};

use crate::error::ApiError;
use crate::input::Asked;

/// A sender that is silent for so long is gone.
const IDLE: Duration = Duration::from_secs(30);

/// The routes for [`aos_cloud_handlers::Flows::begin_upload`].
pub fn upload_routes(flows: Flows) -> Router {
    Router::new()
        .route("/log-uploads/{id}", put(upload).post(upload))
        .layer(DefaultBodyLimit::disable())
        .with_state(flows)
}

#[derive(serde::Deserialize)]
struct OfNode {
    #[serde(default)]
    node: Option<String>,
}

async fn upload(
    State(flows): State<Flows>,
    Path(id): Path<String>,
    Asked(asked): Asked<OfNode>,
    headers: HeaderMap,
    body: Body,
) -> Result<StatusCode, ApiError> {
    let header = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
    let token = headers.get(AUTHORIZATION).and_then(|value| value.to_str().ok());
    let token = token.and_then(|value| value.strip_prefix("Bearer ")).map(str::trim);
    let token = token.ok_or_else(|| ApiError::unauthorized("an upload needs its bearer token"))?;
    let node = asked.node.as_deref().or_else(|| header("aos-node"));
    let number = |name: &str| header(name).map(|text| text.trim().parse::<u64>()).transpose();
    let part = match (number("aos-part"), number("aos-parts-count")) {
        (Ok(None), Ok(None)) => None,
        (Ok(Some(part)), Ok(Some(count))) => Some((part, count)),
        _ => return Err(ApiError::bad_request("aos-part and aos-parts-count must be numbers, both or none")),
    };
    let mut upload = flows.begin_upload(&id, token, node, part).await?;
    let mut body = body.into_data_stream();
    loop {
        match tokio::time::timeout(IDLE, body.next()).await {
            Ok(None) => break,
            Ok(Some(Ok(piece))) => upload = upload.write(piece).await?,
            // What was written is dropped with the upload.
            Ok(Some(Err(_))) | Err(_) => return Err(ApiError::bad_request("the upload broke off")),
        }
    }
    upload.finish().await?;
    Ok(StatusCode::OK)
}
