//! Certificates for Units without a session: the two requests of a recovery, on the listener of the blobs,
//! and the operator's token.
//!
//! No client certificate is asked for there, so anybody may send requests: together they get at most
//! [`PER_SECOND`] a second, after a first [`BURST`].

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use aos_cloud_handlers::Flows;
use aos_cloud_store::AuditEntry;
use aos_recovery_protocol::{
    CERTIFICATES_PATH, CHALLENGE_PATH, Certificates, CertificatesRequest, Challenge, ChallengeRequest,
    MAX_BODY,
};
use axum::extract::{DefaultBodyLimit, Path, State};
use axum::routing::post;
use axum::{Json, Router};
use serde_json::{Value, json};

use crate::Api;
use crate::auth::Caller;
use crate::error::ApiError;
use crate::input::Input;
use crate::view;

/// Requests in a second, of all Units.
const PER_SECOND: f64 = 50.0;
/// Requests at once.
const BURST: f64 = 500.0;

#[derive(Clone)]
struct Recovery {
    flows: Flows,
    /// Requests that may come now, and when that was counted.
    room: Arc<Mutex<(f64, Instant)>>,
}

impl Recovery {
    fn admit(&self) -> Result<(), ApiError> {
        let mut room = self.room.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        let grown = room.0 + now.duration_since(room.1).as_secs_f64() * PER_SECOND;
        *room = (grown.min(BURST), now);
        if room.0 < 1.0 {
            return Err(ApiError::too_many("too many Units recover at the same time: come again later"));
        }
        room.0 -= 1.0;
        Ok(())
    }
}

/// The routes for [`aos_cloud_handlers::Flows::recover`].
pub fn recovery_routes(flows: Flows) -> Router {
    let state = Recovery { flows, room: Arc::new(Mutex::new((BURST, Instant::now()))) };
    Router::new()
        .route(CHALLENGE_PATH, post(challenge))
        .route(CERTIFICATES_PATH, post(certificates))
        .layer(DefaultBodyLimit::max(MAX_BODY))
        .with_state(state)
}

async fn challenge(
    State(recovery): State<Recovery>,
    Input(input): Input<ChallengeRequest>,
) -> Result<Json<Challenge>, ApiError> {
    recovery.admit()?;
    let challenge = recovery.flows.recovery_challenge(&input.system_id)?;
    Ok(Json(Challenge { challenge }))
}

async fn certificates(
    State(recovery): State<Recovery>,
    Input(input): Input<CertificatesRequest>,
) -> Result<Json<Certificates>, ApiError> {
    recovery.admit()?;
    Ok(Json(recovery.flows.recover(input).await?))
}

/// Makes a token for one recovery of a Unit.
pub(crate) async fn token(
    State(api): State<Api>,
    caller: Caller,
    Path(key): Path<String>,
) -> Result<Json<Value>, ApiError> {
    let unit = caller.own_unit(&api, &key).await?;
    let (token, expires_at) = api.flows.recovery_token(&unit.id).await?;
    let entry = AuditEntry {
        actor: caller.name(),
        action: "recovery token made",
        object: unit.system_uid,
        detail: String::new(),
    };
    api.store.audit(entry).await?;
    Ok(Json(json!({"token": token, "expires_at": view::time(expires_at)})))
}
