//! Items and versions.

use aos_cloud_fleet::{LATEST, resolve};
use aos_cloud_store::{AuditEntry, Item, NewItem, NewVersion, Role, VersionAdded, VersionRow};
use aos_ids::{Digest, ItemKind, Version};
use axum::Json;
use axum::extract::{Path, State};
use axum::response::{IntoResponse as _, Response};
use http::StatusCode;
use serde::Deserialize;
use serde_json::{Value, json};

use crate::Api;
use crate::auth::Caller;
use crate::error::ApiError;
use crate::input::{Asked, Input, Page, checked_name};
use crate::view;

/// Longest version text that Units accept, bytes.
const MAX_VERSION: usize = 32;

/// The item with this id or codename that the caller may use: its own first, then services of others.
pub(crate) async fn find(api: &Api, caller: &Caller, key: &str) -> Result<Item, ApiError> {
    let mut found = api.store.items_named(key).await?;
    found.retain(|item| {
        item.company_id == caller.0.company_id || item.kind == "service" || caller.0.role == Role::Admin
    });
    if let Some(own) = found.iter().position(|item| item.id == key || item.company_id == caller.0.company_id)
    {
        return Ok(found.swap_remove(own));
    }
    match found.len() {
        0 => Err(ApiError::not_found("no such item")),
        1 => Ok(found.swap_remove(0)),
        _ => Err(ApiError::conflict("several companies have an item of this name; use its id")),
    }
}

#[derive(Deserialize)]
pub(crate) struct NewItemInput {
    #[serde(rename = "type")]
    kind: String,
    codename: String,
    #[serde(default)]
    title: Option<String>,
}

pub(crate) async fn create(
    State(api): State<Api>,
    caller: Caller,
    Input(input): Input<NewItemInput>,
) -> Result<Response, ApiError> {
    caller.require(&[Role::Oem, Role::ServiceProvider])?;
    let kind: ItemKind = input.kind.parse().map_err(|error| ApiError::invalid(format!("type: {error}")))?;
    if caller.0.role == Role::ServiceProvider && kind != ItemKind::Service {
        return Err(ApiError::forbidden("service providers own services only"));
    }
    let new = NewItem {
        company_id: caller.0.company_id.clone(),
        kind: kind.as_str().to_owned(),
        codename: checked_name("codename", &input.codename, 64)?,
        title: input.title.map(|title| checked_name("title", &title, 64)).transpose()?,
    };
    let (item, made) = api.store.ensure_item(new).await?;
    let status = if made { StatusCode::CREATED } else { StatusCode::OK };
    Ok((status, Json(view::item(&item))).into_response())
}

pub(crate) async fn list(
    State(api): State<Api>,
    caller: Caller,
    Asked(page): Asked<Page>,
) -> Result<Json<Value>, ApiError> {
    let company = (caller.0.role != Role::Admin).then(|| caller.0.company_id.clone());
    let (items, total) = api.store.items(company, page.limit(), page.offset).await?;
    let versions = api.store.versions_of(items.iter().map(|item| item.id.clone()).collect()).await?;
    let shown = items.iter().zip(&versions).map(|(item, versions)| {
        let mut shown = view::item(item);
        let known = versions.iter().map(|row| row.version.as_str());
        shown["latest_version"] = json!(resolve(LATEST, known));
        shown
    });
    Ok(Json(view::list(shown, total, page.offset)))
}

pub(crate) async fn show(
    State(api): State<Api>,
    caller: Caller,
    Path(key): Path<String>,
) -> Result<Json<Value>, ApiError> {
    let item = find(&api, &caller, &key).await?;
    let versions = api.store.versions(&item.id).await?;
    let mut shown = view::item(&item);
    shown["versions"] = versions.iter().map(version).collect();
    Ok(Json(shown))
}

fn version(row: &VersionRow) -> Value {
    json!({
        "version": row.version,
        "index_digest": row.index_digest,
        "created_at": view::time(row.created_at),
        "state": "ready",
    })
}

pub(crate) async fn versions(
    State(api): State<Api>,
    caller: Caller,
    Path(key): Path<String>,
) -> Result<Json<Value>, ApiError> {
    let item = find(&api, &caller, &key).await?;
    let versions = api.store.versions(&item.id).await?;
    Ok(Json(view::whole_list(versions.iter().map(version))))
}

#[derive(Deserialize)]
pub(crate) struct NewVersionInput {
    version: String,
    index_digest: String,
}

pub(crate) async fn publish(
    State(api): State<Api>,
    caller: Caller,
    Path(key): Path<String>,
    Input(input): Input<NewVersionInput>,
) -> Result<Response, ApiError> {
    let item = find(&api, &caller, &key).await?;
    if item.company_id != caller.0.company_id {
        return Err(ApiError::forbidden("the item belongs to another company"));
    }
    let parsed = Version::parse(&input.version)
        .map_err(|error| ApiError::invalid(format!("version '{}': {error}", input.version)))?;
    if input.version.len() > MAX_VERSION {
        return Err(ApiError::invalid(format!("version: more than {MAX_VERSION} characters")));
    }
    let index: Digest =
        input.index_digest.parse().map_err(|error| ApiError::invalid(format!("index_digest: {error}")))?;
    let tree = api.blobs.check_tree(index, item.kind != "layer").await?;
    let new = NewVersion {
        version: parsed.to_string(),
        index_digest: index.to_string(),
        blobs: tree.blobs.iter().map(ToString::to_string).collect(),
    };
    match api.store.add_version(&item.id, new).await? {
        VersionAdded::Same(row) => Ok((StatusCode::OK, Json(version(&row))).into_response()),
        VersionAdded::New(row) => {
            let entry = AuditEntry {
                actor: caller.name(),
                action: "published",
                object: item.codename,
                detail: format!("{} {}", row.version, row.index_digest),
            };
            api.store.audit(entry).await?;
            Ok((StatusCode::CREATED, Json(version(&row))).into_response())
        }
    }
}
