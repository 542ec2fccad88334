//! `ack` and `nack`.

use std::time::Duration;

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::Value;

use crate::lenient;

/// Pause before a repetition when a nack names none.
pub const DEFAULT_RETRY_AFTER: Duration = Duration::from_millis(500);

/// The message named by the transaction in the header was received and is readable.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ack {}

/// The message named by the transaction in the header cannot be taken now.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Nack {
    /// Send it again after this time; whole milliseconds on the wire.
    #[serde(default = "pause", serialize_with = "write_millis", deserialize_with = "read_millis")]
    pub retry_after: Duration,
}

impl Default for Nack {
    fn default() -> Self {
        Self { retry_after: DEFAULT_RETRY_AFTER }
    }
}

const fn pause() -> Duration {
    DEFAULT_RETRY_AFTER
}

fn write_millis<S: Serializer>(pause: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_u64(u64::try_from(pause.as_millis()).unwrap_or(u64::MAX))
}

/// A pause that makes no sense must not void the nack: it is the default then.
fn read_millis<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Duration, D::Error> {
    let value = Value::deserialize(deserializer)?;
    Ok(lenient::from_value::<u64>(value).map_or(DEFAULT_RETRY_AFTER, Duration::from_millis))
}
