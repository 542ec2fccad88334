//! `requestLog` and `pushLog`.

use aos_status::ErrorInfo;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::encoded::{error_info, no_error};
use crate::{AosIdentity, Base64Bytes, Secret};

/// A wish for logs. Its `correlationId` names the request and is repeated by every part.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RequestLog {
    /// Which logs.
    pub log_type: LogType,
    /// Which part of them.
    #[serde(default)]
    pub filter: LogFilter,
    /// Where to send them; absent means as `pushLog`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub upload_options: Option<UploadOptions>,
}

/// Kind of log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum LogType {
    /// The journal of nodes.
    SystemLog,
    /// What an instance wrote.
    InstanceLog,
    /// What an instance wrote before it crashed.
    CrashLog,
}

/// Part of the logs; every member narrows.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct LogFilter {
    /// From this time on.
    #[serde(default, skip_serializing_if = "Option::is_none", with = "crate::time::optional")]
    pub from: Option<Timestamp>,
    /// Before this time.
    #[serde(default, skip_serializing_if = "Option::is_none", with = "crate::time::optional")]
    pub till: Option<Timestamp>,
    /// Nodes by codename; empty means all. A cloud lists them: upstream Units read empty as none.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub node_ids: Vec<AosIdentity>,
    /// Item, by id.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub item: Option<AosIdentity>,
    /// Subject, by id.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub subject: Option<AosIdentity>,
    /// Number of the instance, from 0.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub instance: Option<u64>,
}

/// Where to send logs.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct UploadOptions {
    /// Channel.
    #[serde(rename = "type")]
    pub kind: UploadType,
    /// Address for `https`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub url: Option<String>,
    /// Token for `https`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bearer_token: Option<Secret>,
    /// End of the token's life.
    #[serde(default, skip_serializing_if = "Option::is_none", with = "crate::time::optional")]
    pub bearer_token_ttl: Option<Timestamp>,
}

/// Channel for logs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum UploadType {
    /// As `pushLog` messages.
    Wss,
    /// As HTTP uploads.
    Https,
}

/// One part of the logs of one node.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PushLog {
    /// Where from, by codename.
    pub node: AosIdentity,
    /// Number of the part. Ours count from 1, others from 0; a failure is part 0 of 0 from others.
    #[serde(default)]
    pub part: u64,
    /// How many parts there are.
    #[serde(default)]
    pub parts_count: u64,
    /// Text of the part, usually a complete gzip stream; empty when there is nothing.
    #[serde(default)]
    pub content: Base64Bytes,
    /// What the part is.
    pub status: LogStatus,
    /// Why it failed.
    #[serde(default, skip_serializing_if = "no_error", deserialize_with = "error_info")]
    pub error_info: Option<ErrorInfo>,
}

/// What a log part is. `error` is read as [`LogStatus::Failed`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogStatus {
    /// Carries log lines.
    Ok,
    /// The request failed.
    Failed,
    /// Nothing was logged in that time.
    Empty,
    /// No such instance, or no crash.
    Absent,
}
