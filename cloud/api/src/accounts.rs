//! Enrolment of users, and who one is.

use aos_cloud_pki::{Request, UserSubject};
use aos_cloud_store::{AuditEntry, Holder, NewAccount, NewCertificate, Role, StoreError, now_micros};
use axum::Json;
use axum::extract::State;
use axum::response::{IntoResponse as _, Response};
use http::header::{AUTHORIZATION, CONTENT_TYPE};
use http::{HeaderMap, StatusCode};
use serde::Deserialize;
use serde_json::{Value, json};

use crate::Api;
use crate::auth::Caller;
use crate::error::ApiError;
use crate::input::{Input, checked_name};
use crate::view;

/// How long an enrolment token may wait to be used, microseconds.
const INVITATION: i64 = 7 * 24 * 3600 * 1_000_000;

/// A fresh one-time token: 64 hex digits.
pub fn new_token() -> Result<String, ApiError> {
    let mut bytes = [0; 32];
    aws_lc_rs::rand::fill(&mut bytes)
        .map_err(|_| ApiError::internal(&aos_cloud_pki::PkiError::Crypto("draw a token")))?;
    Ok(hex::encode(bytes))
}

/// What is stored of a token. Tokens are long and random, so a plain hash suffices.
pub fn hash_token(token: &str) -> [u8; 32] {
    let mut hash = [0; 32];
    let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, token.trim().as_bytes());
    hash.copy_from_slice(digest.as_ref());
    hash
}

#[derive(Deserialize)]
pub(crate) struct Enrolment {
    csr: String,
}

pub(crate) async fn enrol(
    State(api): State<Api>,
    headers: HeaderMap,
    Input(input): Input<Enrolment>,
) -> Result<Json<Value>, ApiError> {
    let refused = || ApiError::forbidden("the token is wrong, expired or already used");
    let token = headers
        .get(AUTHORIZATION)
        .and_then(|value| value.to_str().ok())
        .and_then(|value| value.strip_prefix("Token "))
        .ok_or_else(refused)?;
    let hash = hash_token(token);
    let found = api.store.token(hash, now_micros()).await?.ok_or_else(refused)?;
    let request = Request::from_pem(&input.csr)?;
    if let Some((key, chain)) = found.used {
        // The tools repeat the call when they try other trust settings: same key, same answer.
        return if key == *request.key_hash() {
            Ok(Json(json!({"certificate": chain})))
        } else {
            Err(refused())
        };
    }
    let account = found.account;
    let subject = UserSubject {
        username: account.username.clone(),
        company: account.company.clone(),
        email: account.email.clone(),
    };
    let issued = api.pki.issue_user(&request, &subject, now_micros() / 1_000_000)?;
    let certificate = NewCertificate {
        holder: Holder::User(account.id.clone()),
        cert_type: "user".to_owned(),
        node_id: String::new(),
        issuer: issued.issuer_der,
        serial: issued.serial,
        key_hash: issued.key_hash,
        chain: issued.chain_pem,
        not_before: issued.not_before,
        not_after: issued.not_after,
    };
    let serial = certificate.serial.clone();
    let chain = api.store.use_token(hash, certificate).await.map_err(|error| match error {
        StoreError::Conflict(_) | StoreError::NotFound(_) => refused(),
        other => other.into(),
    })?;
    let entry = AuditEntry {
        actor: format!("{}/{} ({})", account.company, account.username, account.role),
        action: "enrolled",
        object: account.id,
        detail: format!("certificate {serial}"),
    };
    api.store.audit(entry).await?;
    Ok(Json(json!({"certificate": chain})))
}

#[derive(Deserialize)]
pub(crate) struct Invitation {
    role: String,
    #[serde(default)]
    company: Option<String>,
    username: String,
    #[serde(default)]
    email: Option<String>,
}

pub(crate) async fn invite(
    State(api): State<Api>,
    caller: Caller,
    Input(input): Input<Invitation>,
) -> Result<Response, ApiError> {
    caller.require(&[Role::Admin])?;
    let role: Role =
        input.role.parse().map_err(|_| ApiError::invalid("role must be oem, sp, fleet or admin"))?;
    let company = match (input.company, role) {
        (Some(company), _) => checked_name("company", &company, 64)?,
        (None, Role::Admin) => caller.0.company.clone(),
        (None, _) => return Err(ApiError::invalid("company is missing")),
    };
    let username = checked_name("username", &input.username, 64)?;
    let email = match input.email.filter(|email| !email.is_empty()) {
        Some(email) => checked_name("email", &email, 128)?,
        None => format!("{username}@{}", api.pki.domain()),
    };
    if !email.is_ascii() || !email.contains('@') {
        return Err(ApiError::invalid("email must be an ASCII e-mail address"));
    }
    let token = new_token()?;
    let expires_at = now_micros() + INVITATION;
    let new = NewAccount { role, company, username, email };
    let (account, made) = api.store.invite(new, hash_token(&token), expires_at).await?;
    let entry = AuditEntry {
        actor: caller.name(),
        action: "invited",
        object: account.id.clone(),
        detail: format!("{}/{} ({})", account.company, account.username, account.role),
    };
    api.store.audit(entry).await?;
    let status = if made { StatusCode::CREATED } else { StatusCode::OK };
    let body = json!({
        "id": account.id,
        "token": token,
        "role": account.role.as_str(),
        "company": account.company,
        "company_id": account.company_id,
        "username": account.username,
        "email": account.email,
        "expires_at": view::time(expires_at),
    });
    Ok((status, Json(body)).into_response())
}

pub(crate) async fn me(caller: Caller) -> Json<Value> {
    let account = caller.0;
    let company = json!({"id": account.company_id, "title": account.company});
    let (oem, provider, group, permissions): (_, _, _, &[&str]) = match account.role {
        Role::Oem => (
            company,
            Value::Null,
            "oem_management",
            &[
                "users_me",
                "units_list",
                "units_read",
                "units_delete",
                "units_deprovision",
                "units_provisioning_create",
                "units_provisioning_supported_software",
                "units_nodes_list",
                "services_list",
                "components_list",
            ],
        ),
        Role::ServiceProvider => {
            (Value::Null, company, "sp_management", &["users_me", "services_list", "services_create"])
        }
        Role::FleetOwner => {
            (company, Value::Null, "fleet_owner_management", &["users_me", "units_list", "units_read"])
        }
        Role::Admin => (
            Value::Null,
            Value::Null,
            "admin_management",
            &["users_me", "users_create", "units_list", "units_read", "units_delete", "units_deprovision"],
        ),
    };
    Json(json!({
        "id": account.id,
        "username": account.username,
        "email": account.email,
        "role": account.role.as_str(),
        "company": account.company,
        "oem": oem,
        "service_provider": provider,
        "fleets": [],
        "permission_groups": [group],
        "permissions": [],
        "effective_permissions": permissions,
    }))
}

pub(crate) async fn root_certificate(State(api): State<Api>) -> Response {
    ([(CONTENT_TYPE, "application/x-pem-file")], api.pki.root_pem().to_owned()).into_response()
}
