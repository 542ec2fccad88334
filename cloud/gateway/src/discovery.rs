//! Service discovery: `POST /sd/v7/`.

use std::time::{Duration, Instant};

use aos_cloud_metrics::Refused;
use aos_cloud_protocol::VERSION;
use aos_cloud_protocol::discovery::{ErrorCode, Request, Response as Discovered};
use axum::body::Body;
use axum::extract::State;
use axum::response::{IntoResponse as _, Response};
use http::StatusCode;
use http::header::CONTENT_TYPE;

use crate::Gateway;
use crate::admission::{Admitted, Refusal};
use crate::arrivals::Arrival;

/// Largest body of a request, bytes.
const MAX_BODY: usize = 64 * 1024;
/// Time in which it has to arrive.
const BODY_TIME: Duration = Duration::from_secs(10);

pub(crate) async fn discover(State(gateway): State<Gateway>, admitted: Admitted, body: Body) -> Response {
    let unit = admitted.system_id.as_str();
    let metrics = &gateway.inner.metrics;
    let body = match tokio::time::timeout(BODY_TIME, axum::body::to_bytes(body, MAX_BODY)).await {
        Ok(Ok(body)) => body,
        Ok(Err(error)) => {
            metrics.refused(Refused::Oversize);
            tracing::warn!(unit, "discovery refused: {error}");
            return (StatusCode::PAYLOAD_TOO_LARGE, "at most 64 KiB are read").into_response();
        }
        Err(_) => {
            metrics.refused(Refused::Protocol);
            tracing::warn!(unit, "discovery refused: the request does not arrive");
            return (StatusCode::REQUEST_TIMEOUT, "the request does not arrive").into_response();
        }
    };
    let request = match Request::read(&body) {
        Ok(request) => request,
        Err(error) => {
            metrics.refused(Refused::Unreadable);
            tracing::warn!(unit, "discovery refused: {error}");
            return (StatusCode::BAD_REQUEST, error.to_string()).into_response();
        }
    };
    if request.system_id != admitted.system_id {
        metrics.refused(Refused::Foreign);
        tracing::warn!(unit, "discovery refused: the body names the Unit '{}'", request.system_id);
        return Refusal::forbidden("the body names another Unit").into_response();
    }
    let arrival = gateway.arrival(&admitted.system_id, Instant::now());
    let (delay, connection_info, error_code) = match arrival {
        Arrival::Welcome(delay) => (delay, vec![gateway.inner.web_socket_url.clone()], ErrorCode::NoError),
        Arrival::Later(delay) => {
            metrics.deferred();
            tracing::debug!(unit, "asked to come back in {delay:?}");
            (delay, vec![], ErrorCode::RepeatLater)
        }
    };
    let answer = Discovered {
        version: VERSION,
        system_id: admitted.system_id.to_string(),
        next_request_delay: u64::try_from(delay.as_millis()).unwrap_or(u64::MAX),
        connection_info,
        auth_token: String::new(),
        error_code,
    };
    ([(CONTENT_TYPE, "application/json")], answer.to_json()).into_response()
}
