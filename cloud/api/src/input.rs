//! Reading requests: JSON bodies and list pages, with errors in our form.

use std::time::Duration;

use axum::extract::rejection::BytesRejection;
use axum::extract::{FromRequest, FromRequestParts, Query, Request};
use bytes::Bytes;
use http::request::Parts;
use serde::Deserialize;
use serde::de::DeserializeOwned;

use crate::error::ApiError;

/// Longest time in which a body of at most 1 MiB arrives; a sender that is slower holds a connection for nothing.
const BODY_TIME: Duration = Duration::from_secs(30);
/// Most of what is wrong with a body that is told, characters.
const MAX_COMPLAINT: usize = 300;

/// A JSON body. An absent body counts as `{}`.
pub(crate) struct Input<T>(pub(crate) T);

impl<T: DeserializeOwned, S: Send + Sync> FromRequest<S> for Input<T> {
    type Rejection = ApiError;

    async fn from_request(request: Request, state: &S) -> Result<Self, ApiError> {
        let body = tokio::time::timeout(BODY_TIME, Bytes::from_request(request, state)).await;
        let body = body.map_err(|_| ApiError::bad_request("the request body did not arrive within 30 s"))?;
        let bytes = body.map_err(|error| match error {
            BytesRejection::FailedToBufferBody(_) => {
                ApiError::too_large("the request body is larger than 1 MiB or broke off")
            }
            other => ApiError::bad_request(other.body_text()),
        })?;
        let bytes: &[u8] = if bytes.is_empty() { b"{}" } else { &bytes };
        serde_json::from_slice(bytes).map(Self).map_err(|error| {
            // The complaint may quote what was read.
            let why: String = error.to_string().chars().take(MAX_COMPLAINT).collect();
            ApiError::invalid(why)
        })
    }
}

/// Query parameters.
pub(crate) struct Asked<T>(pub(crate) T);

impl<T: DeserializeOwned, S: Send + Sync> FromRequestParts<S> for Asked<T> {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, ApiError> {
        let query = Query::<T>::from_request_parts(parts, state).await;
        query.map(|Query(value)| Self(value)).map_err(|error| ApiError::invalid(error.body_text()))
    }
}

const PAGE: u32 = 100;

/// Part of a list: `limit` 1..=100, default 100, and `offset`.
#[derive(Debug, Default, Deserialize)]
pub(crate) struct Page {
    #[serde(default)]
    limit: Option<u32>,
    #[serde(default)]
    pub(crate) offset: u32,
}

impl Page {
    pub(crate) fn of(limit: Option<u32>) -> Self {
        Self { limit, offset: 0 }
    }

    pub(crate) fn limit(&self) -> u32 {
        self.limit.unwrap_or(PAGE).clamp(1, PAGE)
    }
}

/// Checks a name that people choose: 1 to `max` characters, none of them a control character.
pub(crate) fn checked_name(what: &str, text: &str, max: usize) -> Result<String, ApiError> {
    let text = text.trim();
    if text.is_empty() || text.chars().count() > max || text.chars().any(char::is_control) {
        return Err(ApiError::invalid(format!("{what} must have 1 to {max} printable characters")));
    }
    Ok(text.to_owned())
}

/// Checks the owner password of a token: 1 to 64 printable ASCII characters. It is never repeated in an error.
pub(crate) fn checked_password(text: &str) -> Result<(), ApiError> {
    let good = (1..=64).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_graphic());
    good.then_some(()).ok_or_else(|| {
        ApiError::invalid("a password must have 1 to 64 printable ASCII characters, no blanks")
    })
}
