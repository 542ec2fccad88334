//! The WebSocket upgrade.
//!
//! Made by hand: upstream Units compare the whole value of `Connection`, and a session wants the bare
//! connection without what HTTP had around it.

use aos_cloud_listener::{ServerConnection, TokioIo};
use aos_cloud_metrics::Refused;
use aos_ids::SystemId;
use aws_lc_rs::digest::{SHA1_FOR_LEGACY_USE_ONLY, digest};
use axum::body::Body;
use axum::extract::{Request, State};
use axum::response::{IntoResponse as _, Response};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::header::{
    CONNECTION, RETRY_AFTER, SEC_WEBSOCKET_ACCEPT, SEC_WEBSOCKET_KEY, SEC_WEBSOCKET_VERSION, UPGRADE,
};
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use hyper::upgrade::{OnUpgrade, Upgraded};

use crate::Gateway;
use crate::admission::Admitted;
use crate::socket::Socket;

/// What RFC 6455 appends to the client's key.
const GUID: &str = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11";

pub(crate) async fn upgrade(
    State(gateway): State<Gateway>,
    admitted: Admitted,
    mut request: Request,
) -> Response {
    let Some(accept) = accept_key(request.headers()) else {
        gateway.inner.metrics.refused(Refused::Protocol);
        return (StatusCode::BAD_REQUEST, "this is no WebSocket upgrade of version 13").into_response();
    };
    if !gateway.may_open(&admitted.system_id) {
        return later();
    }
    let upgraded = hyper::upgrade::on(&mut request);
    // Whatever else the request holds is not needed any more.
    drop(request);
    let session = crate::session::run(gateway.clone(), Box::new(admitted), upgraded);
    gateway.inner.sessions.spawn(session);
    let answer = Response::builder()
        .status(StatusCode::SWITCHING_PROTOCOLS)
        .header(CONNECTION, "Upgrade")
        .header(UPGRADE, "websocket")
        .header(SEC_WEBSOCKET_ACCEPT, accept)
        .body(Body::empty());
    answer.unwrap_or_else(|_| StatusCode::BAD_REQUEST.into_response())
}

/// Refuses for now. Units forget the address and ask discovery, which tells them when to come.
fn later() -> Response {
    let mut answer = (StatusCode::SERVICE_UNAVAILABLE, "no new sessions now").into_response();
    answer.headers_mut().insert(RETRY_AFTER, HeaderValue::from_static("10"));
    answer
}

/// The socket of an upgraded connection.
pub(crate) async fn connected(gateway: &Gateway, unit: &SystemId, upgraded: OnUpgrade) -> Option<Socket> {
    let upgraded = match upgraded.await {
        Ok(upgraded) => upgraded,
        Err(error) => {
            tracing::info!(unit = unit.as_str(), "no upgrade: {error}");
            return None;
        }
    };
    let Ok(parts) = Upgraded::downcast::<TokioIo<ServerConnection>>(upgraded) else {
        tracing::error!(unit = unit.as_str(), "the upgraded connection is none of our listener");
        return None;
    };
    let mut stream = parts.io.into_inner();
    // Looked at already; a certificate of a kilobyte would stay as long as the session.
    stream.forget_identity();
    Some(Socket::new(stream, &parts.read_buf, gateway.inner.shares.clone()))
}

/// The key that proves that we understood the upgrade; nothing when it is none.
fn accept_key(headers: &HeaderMap) -> Option<String> {
    let text = |name: HeaderName| headers.get(name).and_then(|value| value.to_str().ok());
    let upgrades = text(CONNECTION)?.split(',').any(|word| word.trim().eq_ignore_ascii_case("upgrade"));
    let web_socket = text(UPGRADE)?.eq_ignore_ascii_case("websocket");
    let version = text(SEC_WEBSOCKET_VERSION)? == "13";
    let key = text(SEC_WEBSOCKET_KEY)?;
    (upgrades && web_socket && version).then(|| derive_accept(key))
}

fn derive_accept(key: &str) -> String {
    STANDARD.encode(digest(&SHA1_FOR_LEGACY_USE_ONLY, format!("{key}{GUID}").as_bytes()))
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_key_is_derived_as_in_the_rfc() {
        assert_eq!(super::derive_accept("dGhlIHNhbXBsZSBub25jZQ=="), "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
    }
}
