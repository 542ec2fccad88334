//! REST API v11: accounts, Units and their provisioning, blobs, items, assignments, status; logs, variables,
//! states, alerts, monitoring, certificates and nodes of Units.
//!
//! Who calls is known by the client certificate alone: issuer and serial number lead to the record of issued
//! certificates, that to the account, and the account has the role; nothing in a certificate's subject is
//! believed. All answers are JSON but the root certificate; errors are `{"message", "detail"}` with the
//! message first, as the tools show it. Paths work with and without the final slash, and `/api/v10` is an
//! alias. Limits: 1 MiB for JSON bodies, 100 entries a list page, 60 s for a long poll.

mod accounts;
mod assignments;
mod auth;
mod blobs;
mod env;
mod error;
mod events;
mod gateway;
mod input;
mod items;
mod logs;
mod messages;
mod nodes;
mod poll;
mod provisioning;
mod recovery;
mod renewals;
mod states;
mod status;
mod unit_config;
mod units;
mod uploads;
mod view;

use std::sync::Arc;

use aos_cloud_blobs::Blobs;
use aos_cloud_gateway::Gateway;
use aos_cloud_handlers::Flows;
use aos_cloud_pki::Pki;
use aos_cloud_store::Store;
use axum::Router;
use axum::body::Body;
use axum::extract::DefaultBodyLimit;
use axum::response::IntoResponse as _;
use axum::routing::{delete, get, head, post, put};
use http::{Request, Uri};
use tower::ServiceExt as _;

pub use accounts::{hash_token, new_token};
pub use error::ApiError;
pub use recovery::recovery_routes;
pub use uploads::upload_routes;

/// What the API works with. Cheap to clone.
#[derive(Clone)]
pub struct Api {
    /// What the cloud remembers.
    pub store: Store,
    /// The certificate authority.
    pub pki: Arc<Pki>,
    /// The blobs.
    pub blobs: Blobs,
    /// What operators start on Units.
    pub flows: Flows,
    /// Whose messages can be recorded.
    pub gateway: Gateway,
    /// Service discovery address that goes into `online` certificates.
    pub discovery_url: Arc<str>,
}

const MAX_BODY: usize = 1024 * 1024;

impl Api {
    /// The routes of the API listener.
    pub fn routes(self) -> Router {
        let v11 = Router::new()
            .route("/user-certificates", post(accounts::enrol))
            .route("/users", post(accounts::invite))
            .route("/users/me", get(accounts::me))
            .route("/root-certificate", get(accounts::root_certificate))
            .route("/gateway", get(gateway::show))
            .route("/gateway/drain", post(gateway::drain).delete(gateway::resume))
            .route("/units", get(units::list))
            .route("/units/provisioning", post(provisioning::provision))
            .route("/units/provisioning/supported-software", get(provisioning::supported_software))
            .route("/units/{unit}", get(units::show).delete(units::forget))
            .route("/units/{unit}/deprovision", delete(units::deprovision))
            .route("/units/{unit}/certificates", get(units::certificates))
            .route("/units/{unit}/connection-info", get(units::connection_info))
            .route("/units/{unit}/certificates/renew", post(renewals::start))
            .route("/units/{unit}/recovery-token", post(recovery::token))
            .route("/units/{unit}/renewals", get(renewals::list))
            .route("/units/{unit}/renewals/{id}", get(renewals::show))
            .route("/units/{unit}/nodes", get(nodes::list))
            .route("/units/{unit}/nodes/{node}", get(nodes::show))
            .route("/units/{unit}/nodes/{node}/task", get(nodes::show_task))
            .route("/units/{unit}/nodes/{node}/switch", get(nodes::show_switch))
            .route("/units/{unit}/nodes/{node}/provision", post(nodes::provision))
            .route("/units/{unit}/nodes/{node}/deprovision", post(nodes::deprovision))
            .route("/units/{unit}/nodes/{node}/pause", post(nodes::pause))
            .route("/units/{unit}/nodes/{node}/resume", post(nodes::resume))
            .route("/units/{unit}/unit-config", get(unit_config::show).put(unit_config::replace))
            .route("/units/{unit}/sealed-messages", get(units::sealed).put(units::seal))
            .route("/units/{unit}/status", get(status::poll))
            .route("/units/{unit}/alerts", get(events::alerts))
            .route("/units/{unit}/monitoring", get(events::monitoring))
            .route("/units/{unit}/messages/invalid", get(events::invalid))
            .route("/units/{unit}/messages", get(messages::list))
            .route("/units/{unit}/messages/recording", put(messages::switch))
            .route("/units/{unit}/logs", get(logs::list).post(logs::create))
            .route("/units/{unit}/logs/{id}", get(logs::show).delete(logs::forget))
            .route("/units/{unit}/logs/{id}/content", get(logs::content))
            .route("/units/{unit}/env-overrides", get(env::show).put(env::replace).delete(env::clear))
            .route("/units/{unit}/states", get(states::list))
            .route(
                "/units/{unit}/states/{item}/{subject}/{instance}",
                get(states::show).put(states::replace).delete(states::reset),
            )
            .route("/units/{unit}/assignments", get(assignments::list))
            .route("/units/{unit}/assignments/{item}", put(assignments::assign).delete(assignments::unassign))
            .route("/update-items", get(items::list).post(items::create))
            .route("/update-items/{item}", get(items::show))
            .route("/update-items/{item}/versions", get(items::versions).post(items::publish))
            .route("/blobs/{digest}/served", get(blobs::served))
            .layer(DefaultBodyLimit::max(MAX_BODY))
            .route(
                "/blobs/{digest}",
                head(blobs::exists).merge(put(blobs::upload).layer(DefaultBodyLimit::disable())),
            )
            .fallback(async || ApiError::not_found("no such address"))
            .method_not_allowed_fallback(async || ApiError::method_not_allowed())
            .with_state(self);
        let versions = Router::new().nest("/api/v11", v11.clone()).nest("/api/v10", v11);
        let all = versions.fallback(async || ApiError::not_found("no such address"));
        Router::new().fallback(move |request: Request<Body>| {
            let all = all.clone();
            async move {
                match all.oneshot(without_final_slash(request)).await {
                    Ok(response) => response,
                    Err(never) => never.into_response(),
                }
            }
        })
    }
}

/// The tools write paths with a final slash.
fn without_final_slash(mut request: Request<Body>) -> Request<Body> {
    let uri = request.uri();
    let path = uri.path().trim_end_matches('/');
    if path.len() == uri.path().len() || path.is_empty() {
        return request;
    }
    let target = uri.query().map_or_else(|| path.to_owned(), |query| format!("{path}?{query}"));
    if let Ok(shorter) = target.parse::<Uri>() {
        *request.uri_mut() = shorter;
    }
    request
}
