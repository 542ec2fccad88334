//! Discovery: the HTTP exchange in front of the WebSocket.
//!
//! The Unit posts a [`Request`], the cloud answers with a [`Response`]: where to connect, with which token,
//! and how long to wait between attempts. Bodies are JSON and short; readers here take at most
//! [`MAX_BODY`] bytes.

use std::time::Duration;

use aos_ids::SystemId;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::Value;

use crate::{VERSION, bounded, lenient};

/// Path of discovery.
pub const PATH: &str = "/sd/v7/";
/// Path of the WebSocket.
pub const WEB_SOCKET_PATH: &str = "/ws/v7/";
/// Longest body, bytes.
pub const MAX_BODY: usize = 64 * 1024;
/// Shortest delay that a Unit obeys.
pub const MIN_DELAY: Duration = Duration::from_secs(1);
/// Longest delay that a Unit obeys.
pub const MAX_DELAY: Duration = Duration::from_mins(10);

/// Why a discovery body cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DiscoveryError {
    /// Longer than [`MAX_BODY`].
    #[error("discovery body of {0} bytes, at most {MAX_BODY} are allowed")]
    TooLong(usize),
    /// No JSON.
    #[error("discovery body is no JSON: {0}")]
    Json(String),
    /// Wrong content.
    #[error("discovery body: {0}")]
    Content(String),
}

/// Body of a discovery request.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Request {
    /// Version of the protocol.
    #[serde(default = "version")]
    pub version: u32,
    /// The Unit that asks.
    pub system_id: SystemId,
    /// Ours is `["wss"]`; a cloud takes anything.
    #[serde(default)]
    pub supported_protocols: Vec<String>,
}

impl Request {
    /// The request of a Unit.
    pub fn new(system_id: SystemId) -> Self {
        Self { version: VERSION, system_id, supported_protocols: vec!["wss".to_owned()] }
    }

    /// Reads a request body.
    pub fn read(body: &[u8]) -> Result<Self, DiscoveryError> {
        read(body)
    }

    /// The JSON text.
    pub fn to_json(&self) -> Vec<u8> {
        serde_json::to_vec(self).unwrap_or_default()
    }
}

/// Body of a discovery response.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Response {
    /// Version of the protocol.
    #[serde(default = "version")]
    pub version: u32,
    /// The Unit that asked; some clouds leave it out.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub system_id: String,
    /// Delay in milliseconds; see [`Response::delay`].
    #[serde(default)]
    pub next_request_delay: u64,
    /// WebSocket addresses, best first. Empty when the Unit must not connect.
    #[serde(default)]
    pub connection_info: Vec<String>,
    /// Token for the upgrade request; may be empty.
    #[serde(default)]
    pub auth_token: String,
    /// Outcome.
    #[serde(default)]
    pub error_code: ErrorCode,
}

/// What a Unit does with a discovery response.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// Connect to these addresses in turn.
    Connect(Vec<String>),
    /// Ask these discovery addresses.
    Redirect(Vec<String>),
    /// Ask again after this time.
    RepeatLater(Duration),
    /// Failed; back off.
    Failed,
}

impl Response {
    /// Reads a response body.
    pub fn read(body: &[u8]) -> Result<Self, DiscoveryError> {
        read(body)
    }

    /// The JSON text; `errorCode` is a number, as every Unit reads it.
    pub fn to_json(&self) -> Vec<u8> {
        serde_json::to_vec(self).unwrap_or_default()
    }

    /// First delay of the reconnect back-off, 1 s to 10 min; `None` when the cloud names none.
    pub fn delay(&self) -> Option<Duration> {
        (self.next_request_delay > 0)
            .then(|| Duration::from_millis(self.next_request_delay).clamp(MIN_DELAY, MAX_DELAY))
    }

    /// What to do now.
    pub fn verdict(&self) -> Verdict {
        let scheme_is = |url: &&String, schemes: &[&str]| {
            url.split_once("://")
                .is_some_and(|(scheme, _)| schemes.iter().any(|s| s.eq_ignore_ascii_case(scheme)))
        };
        let with = |schemes: &[&str]| -> Vec<String> {
            self.connection_info.iter().filter(|url| scheme_is(url, schemes)).cloned().collect()
        };
        let all = with(&["wss", "ws", "https", "http"]);
        match self.error_code {
            ErrorCode::RepeatLater => Verdict::RepeatLater(self.delay().unwrap_or(MIN_DELAY)),
            ErrorCode::Error => Verdict::Failed,
            _ if all.is_empty() => Verdict::Failed,
            ErrorCode::Redirect => match with(&["https", "http"]) {
                discovery if discovery.is_empty() => Verdict::Connect(all),
                discovery => Verdict::Redirect(discovery),
            },
            ErrorCode::NoError => Verdict::Connect(all),
        }
    }
}

/// Outcome of discovery. Written as number; read as number, numeric text or name in any letter case.
/// Unknown values are [`ErrorCode::Error`].
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub enum ErrorCode {
    /// Connect.
    #[default]
    NoError = 0,
    /// The addresses may be those of other discovery servers.
    Redirect = 1,
    /// Ask again later.
    RepeatLater = 2,
    /// Failed.
    Error = 3,
}

impl ErrorCode {
    fn parse(text: &str) -> Self {
        match text.trim().to_ascii_lowercase().as_str() {
            "" | "0" | "noerror" => Self::NoError,
            "1" | "redirect" => Self::Redirect,
            "2" | "repeatlater" => Self::RepeatLater,
            _ => Self::Error,
        }
    }
}

impl Serialize for ErrorCode {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_u8(*self as u8)
    }
}

impl<'de> Deserialize<'de> for ErrorCode {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Ok(match Value::deserialize(deserializer)? {
            Value::String(text) => Self::parse(&text),
            Value::Number(number) => match number.as_f64() {
                Some(0.0) => Self::NoError,
                Some(1.0) => Self::Redirect,
                Some(2.0) => Self::RepeatLater,
                _ => Self::Error,
            },
            Value::Null => Self::NoError,
            _ => Self::Error,
        })
    }
}

const fn version() -> u32 {
    VERSION
}

fn read<T: serde::de::DeserializeOwned>(body: &[u8]) -> Result<T, DiscoveryError> {
    if body.len() > MAX_BODY {
        return Err(DiscoveryError::TooLong(body.len()));
    }
    let value = bounded::parse(body).map_err(|error| DiscoveryError::Json(error.to_string()))?;
    lenient::from_value(value).map_err(|error| DiscoveryError::Content(error.to_string()))
}
