//! `alerts`: things that went wrong or crossed a limit.
//!
//! A batch of entries told apart by `tag`. An entry that cannot be read is left out and counted in
//! [`Alerts::refused`]; it never spoils the batch.

use aos_status::ErrorInfo;
use jiff::Timestamp;
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use serde_json::Value;

use crate::AosIdentity;
use crate::encoded::{error_info, no_error};
use crate::lenient;

/// Longest message written, bytes.
pub const MAX_ALERT_MESSAGE: usize = 256;

/// A batch of alerts.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct Alerts {
    /// The alerts, oldest first.
    pub items: Vec<Alert>,
    /// Why entries could not be read, one text each; never written.
    #[serde(skip)]
    pub refused: Vec<String>,
}

impl<'de> Deserialize<'de> for Alerts {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(rename = "Alerts")]
        struct Raw {
            items: Vec<Value>,
        }
        let mut alerts = Self::default();
        for entry in Raw::deserialize(deserializer)?.items {
            match lenient::from_value(entry) {
                Ok(alert) => alerts.items.push(alert),
                Err(error) => alerts.refused.push(error.to_string()),
            }
        }
        Ok(alerts)
    }
}

/// One alert.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(tag = "tag", rename_all = "camelCase")]
pub enum Alert {
    /// Something of the system went wrong on a node.
    SystemAlert(SystemAlert),
    /// A component of the Aos stack went wrong.
    CoreAlert(CoreAlert),
    /// An instance could not get a device. Also read under the tag `resourceAllocateAlert`.
    DeviceAllocateAlert(DeviceAllocateAlert),
    /// A node crossed a limit.
    SystemQuotaAlert(SystemQuotaAlert),
    /// An instance crossed a limit.
    InstanceQuotaAlert(InstanceQuotaAlert),
    /// A download started, went on, broke off or ended.
    DownloadProgressAlert(DownloadProgressAlert),
    /// Something happened to an instance.
    UpdateItemInstanceAlert(UpdateItemInstanceAlert),
}

impl Alert {
    /// When it was raised.
    pub fn timestamp(&self) -> Timestamp {
        match self {
            Self::SystemAlert(alert) => alert.timestamp,
            Self::CoreAlert(alert) => alert.timestamp,
            Self::DeviceAllocateAlert(alert) => alert.timestamp,
            Self::SystemQuotaAlert(alert) => alert.timestamp,
            Self::InstanceQuotaAlert(alert) => alert.timestamp,
            Self::DownloadProgressAlert(alert) => alert.timestamp,
            Self::UpdateItemInstanceAlert(alert) => alert.timestamp,
        }
    }
}

impl<'de> Deserialize<'de> for Alert {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let mut value = Value::deserialize(deserializer)?;
        let tag = lenient::take_member(&mut value, "tag");
        let tag = tag.as_ref().and_then(Value::as_str).ok_or_else(|| de::Error::missing_field("tag"))?;
        let read = match tag {
            "systemAlert" => lenient::from_value(value).map(Self::SystemAlert),
            "coreAlert" => lenient::from_value(value).map(Self::CoreAlert),
            "deviceAllocateAlert" | "resourceAllocateAlert" => {
                lenient::from_value(value).map(Self::DeviceAllocateAlert)
            }
            "systemQuotaAlert" => lenient::from_value(value).map(Self::SystemQuotaAlert),
            "instanceQuotaAlert" => lenient::from_value(value).map(Self::InstanceQuotaAlert),
            "downloadProgressAlert" => lenient::from_value(value).map(Self::DownloadProgressAlert),
            "updateItemInstanceAlert" => lenient::from_value(value).map(Self::UpdateItemInstanceAlert),
            other => {
                let tag: String = other.chars().take(40).collect();
                return Err(de::Error::custom(format_args!("unknown alert tag '{tag}'")));
            }
        };
        read.map_err(de::Error::custom)
    }
}

/// Something of the system went wrong on a node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct SystemAlert {
    /// When.
    #[serde(with = "crate::time")]
    pub timestamp: Timestamp,
    /// Where, by codename.
    pub node: AosIdentity,
    /// What; written with 1 to 256 bytes.
    #[serde(default, serialize_with = "message")]
    pub message: String,
}

/// A component of the Aos stack went wrong.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct CoreAlert {
    /// When.
    #[serde(with = "crate::time")]
    pub timestamp: Timestamp,
    /// Where, by codename.
    pub node: AosIdentity,
    /// `CM`, `SM`, `IAM` or `MP`; upper case when read and when written.
    #[serde(deserialize_with = "upper_case", serialize_with = "write_upper_case")]
    pub core_component: String,
    /// What; written with 1 to 256 bytes.
    #[serde(default, serialize_with = "message")]
    pub message: String,
}

/// An instance could not get a device.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct DeviceAllocateAlert {
    /// When.
    #[serde(with = "crate::time")]
    pub timestamp: Timestamp,
    /// The item.
    pub item: AosIdentity,
    /// The subject.
    pub subject: AosIdentity,
    /// Number of the instance, from 0.
    pub instance: u64,
    /// Where, by codename.
    pub node: AosIdentity,
    /// Name of the resource; also read as `resource` and `device`.
    pub device_id: String,
    /// What; written with 1 to 256 bytes.
    #[serde(default, serialize_with = "message")]
    pub message: String,
}

/// A node crossed a limit.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct SystemQuotaAlert {
    /// When.
    #[serde(with = "crate::time")]
    pub timestamp: Timestamp,
    /// Where, by codename.
    pub node: AosIdentity,
    /// `cpu`, `ram`, `download`, `upload` or a partition.
    pub parameter: String,
    /// DMIPS for `cpu`, else bytes.
    pub value: u64,
}

/// An instance crossed a limit.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct InstanceQuotaAlert {
    /// When.
    #[serde(with = "crate::time")]
    pub timestamp: Timestamp,
    /// The item.
    pub item: AosIdentity,
    /// The subject.
    pub subject: AosIdentity,
    /// Number of the instance, from 0.
    pub instance: u64,
    /// `cpu`, `ram`, `download`, `upload` or a partition.
    pub parameter: String,
    /// DMIPS for `cpu`, else bytes.
    pub value: u64,
}

/// Progress of a download.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct DownloadProgressAlert {
    /// When.
    #[serde(with = "crate::time")]
    pub timestamp: Timestamp,
    /// Digest of the blob as text.
    pub digest: String,
    /// Where it is fetched from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub url: Option<String>,
    /// Bytes here.
    pub downloaded_bytes: u64,
    /// Bytes in all.
    pub total_bytes: u64,
    /// What happened.
    pub state: DownloadState,
    /// Why it broke off.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// Why it broke off.
    #[serde(default, skip_serializing_if = "no_error", deserialize_with = "error_info")]
    pub error_info: Option<ErrorInfo>,
}

/// What happened to a download.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum DownloadState {
    /// Running.
    Started,
    /// Stopped on purpose.
    Paused,
    /// Broke off.
    Interrupted,
    /// Complete.
    Finished,
}

/// Something happened to an instance. Written with both `subject` and `subjectId`, read with either.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct UpdateItemInstanceAlert {
    /// When.
    #[serde(with = "crate::time")]
    pub timestamp: Timestamp,
    /// The item.
    pub item: AosIdentity,
    /// The subject.
    pub subject: AosIdentity,
    /// Number of the instance, from 0.
    pub instance: u64,
    /// Version of the item.
    pub version: String,
    /// What; written with 1 to 256 bytes.
    #[serde(default)]
    pub message: String,
}

impl Serialize for UpdateItemInstanceAlert {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        #[derive(Serialize)]
        #[serde(rename_all = "camelCase")]
        struct Written<'a> {
            #[serde(with = "crate::time")]
            timestamp: Timestamp,
            item: &'a AosIdentity,
            subject: &'a AosIdentity,
            subject_id: &'a AosIdentity,
            instance: u64,
            version: &'a str,
            #[serde(serialize_with = "message")]
            message: &'a str,
        }
        let Self { timestamp, item, subject, instance, version, message } = self;
        let (timestamp, instance) = (*timestamp, *instance);
        Written { timestamp, item, subject, subject_id: subject, instance, version, message }
            .serialize(serializer)
    }
}

fn message<S: Serializer>(text: impl AsRef<str>, serializer: S) -> Result<S::Ok, S::Error> {
    let text = text.as_ref();
    let mut end = text.len().min(MAX_ALERT_MESSAGE);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    serializer.serialize_str(if text.is_empty() { "(no text)" } else { &text[..end] })
}

fn upper_case<'de, D: Deserializer<'de>>(deserializer: D) -> Result<String, D::Error> {
    Ok(String::deserialize(deserializer)?.to_ascii_uppercase())
}

fn write_upper_case<S: Serializer>(text: &str, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(&text.to_ascii_uppercase())
}
