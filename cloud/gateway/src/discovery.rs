//! Service discovery: `POST /sd/v7/`.

use aos_cloud_protocol::VERSION;
use aos_cloud_protocol::discovery::{ErrorCode, Request, Response as Discovered};
use axum::extract::State;
use axum::response::{IntoResponse as _, Response};
use bytes::Bytes;
use http::StatusCode;
use http::header::CONTENT_TYPE;

use crate::Gateway;
use crate::admission::{Admitted, Refusal};

/// First delay of a Unit's reconnect back-off, milliseconds.
const RECONNECT_DELAY: u64 = 2000;

pub(crate) async fn discover(State(gateway): State<Gateway>, admitted: Admitted, body: Bytes) -> Response {
    let request = match Request::read(&body) {
        Ok(request) => request,
        Err(error) => {
            tracing::warn!(unit = admitted.system_id.as_str(), "discovery refused: {error}");
            return (StatusCode::BAD_REQUEST, error.to_string()).into_response();
        }
    };
    if request.system_id != admitted.system_id {
        tracing::warn!(
            unit = admitted.system_id.as_str(),
            "discovery refused: the body names the Unit '{}'",
            request.system_id
        );
        return Refusal::forbidden("the body names another Unit").into_response();
    }
    let answer = Discovered {
        version: VERSION,
        system_id: admitted.system_id.to_string(),
        next_request_delay: RECONNECT_DELAY,
        connection_info: vec![gateway.inner.web_socket_url.clone()],
        auth_token: String::new(),
        error_code: ErrorCode::NoError,
    };
    ([(CONTENT_TYPE, "application/json")], answer.to_json()).into_response()
}
