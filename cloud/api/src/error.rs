//! Errors as clients see them.

use std::error::Error;

use aos_cloud_blobs::BlobError;
use aos_cloud_handlers::FlowError;
use aos_cloud_pki::PkiError;
use aos_cloud_store::StoreError;
use axum::Json;
use axum::response::{IntoResponse, Response};
use http::StatusCode;
use serde::Serialize;

/// An error answer. Its message is for people.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct ApiError {
    status: StatusCode,
    message: String,
    detail: Vec<String>,
}

/// Message first: the tools show the first member only.
#[derive(Serialize)]
struct Shown<'a> {
    message: &'a str,
    #[serde(skip_serializing_if = "<[String]>::is_empty")]
    detail: &'a [String],
}

impl ApiError {
    fn new(status: StatusCode, message: impl Into<String>) -> Self {
        Self { status, message: message.into(), detail: Vec::new() }
    }

    pub(crate) fn unauthorized(message: impl Into<String>) -> Self {
        Self::new(StatusCode::UNAUTHORIZED, message)
    }

    pub(crate) fn forbidden(message: impl Into<String>) -> Self {
        Self::new(StatusCode::FORBIDDEN, message)
    }

    pub(crate) fn not_found(message: impl Into<String>) -> Self {
        Self::new(StatusCode::NOT_FOUND, message)
    }

    pub(crate) fn method_not_allowed() -> Self {
        Self::new(StatusCode::METHOD_NOT_ALLOWED, "this address does not take that method")
    }

    pub(crate) fn bad_request(message: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, message)
    }

    pub(crate) fn conflict(message: impl Into<String>) -> Self {
        Self::new(StatusCode::CONFLICT, message)
    }

    pub(crate) fn invalid(detail: impl Into<String>) -> Self {
        let mut error = Self::new(StatusCode::UNPROCESSABLE_ENTITY, "the request body is not valid");
        error.detail.push(detail.into());
        error
    }

    pub(crate) fn too_large(message: impl Into<String>) -> Self {
        Self::new(StatusCode::PAYLOAD_TOO_LARGE, message)
    }

    pub(crate) fn too_many(message: impl Into<String>) -> Self {
        Self::new(StatusCode::TOO_MANY_REQUESTS, message)
    }

    /// The caller learns nothing of the inside; the log does.
    pub(crate) fn internal(error: &dyn Error) -> Self {
        let mut text = error.to_string();
        let mut cause = error.source();
        while let Some(inner) = cause {
            text = format!("{text}: {inner}");
            cause = inner.source();
        }
        tracing::error!("request failed: {text}");
        Self::new(StatusCode::INTERNAL_SERVER_ERROR, "the cloud could not do this; its log tells why")
    }

    /// HTTP status.
    pub fn status(&self) -> StatusCode {
        self.status
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let shown = Shown { message: &self.message, detail: &self.detail };
        (self.status, Json(shown)).into_response()
    }
}

impl From<StoreError> for ApiError {
    fn from(error: StoreError) -> Self {
        match error {
            StoreError::Conflict(text) => Self::conflict(text),
            StoreError::NotFound(what) => Self::not_found(format!("{what} does not exist")),
            other => Self::internal(&other),
        }
    }
}

impl From<PkiError> for ApiError {
    fn from(error: PkiError) -> Self {
        if error.is_refusal() { Self::bad_request(error.to_string()) } else { Self::internal(&error) }
    }
}

impl From<FlowError> for ApiError {
    fn from(error: FlowError) -> Self {
        match error {
            FlowError::Store(error) => error.into(),
            FlowError::Pki(error) => error.into(),
            FlowError::Invalid(text) => Self::invalid(text),
            FlowError::Limit(_) => Self::invalid(error.to_string()),
            FlowError::Forbidden(text) => Self::forbidden(text),
            other => Self::internal(&other),
        }
    }
}

impl From<BlobError> for ApiError {
    fn from(error: BlobError) -> Self {
        match &error {
            BlobError::TooLarge { .. } => Self::too_large(error.to_string()),
            _ if error.is_refusal() => Self::bad_request(error.to_string()),
            _ => Self::internal(&error),
        }
    }
}
