//! Reading a frame: fast when it is in the usual form, tolerantly when it is not.

mod fast;

use aos_ids::{SystemId, Txn};
use serde::Deserialize;
use serde_json::Value;

use crate::lenient::{self, FieldError};
use crate::{Body, Direction, Envelope, Header, MessageType, VERSION, bounded, time};

/// Longest frame, bytes.
pub const MAX_FRAME: usize = 16 * 1024 * 1024;
/// Longest `correlationId` read, bytes. Upstream Units take 37.
const MAX_CORRELATION_READ: usize = 256;

/// Why a frame is no message.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ReadError {
    /// There is nobody to answer: drop the frame, keep the connection.
    #[error("frame is unreadable: {0}")]
    Unreadable(#[from] Unreadable),
    /// The envelope is readable, the message is not: acknowledge and report it. Never an `ack` or `nack`.
    #[error("message is invalid: {0}")]
    Invalid(Box<Invalid>),
}

/// Why a frame cannot even be answered.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Unreadable {
    /// Longer than [`MAX_FRAME`]. A shell should refuse it before it is complete.
    #[error("{0} bytes, at most {MAX_FRAME} are allowed")]
    TooLong(usize),
    /// No JSON, nested too deep, or too many values.
    #[error("no acceptable JSON: {0}")]
    Json(String),
    /// `header` or `data` is missing or no object.
    #[error("'{0}' is missing or no object")]
    Part(&'static str),
    /// The header is not usable.
    #[error("header: {0}")]
    Header(String),
    /// Another protocol version.
    #[error("protocol version {0} in place of {VERSION}")]
    Version(String),
}

/// A message whose envelope is readable and whose content is not.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{} {}: {problem}", .message_type.as_deref().unwrap_or("message without type"), .header.txn)]
pub struct Invalid {
    /// Header; the acknowledgement refers to its transaction.
    pub header: Header,
    /// `messageType` as far as it is there, at most 60 characters.
    pub message_type: Option<String>,
    /// `correlationId` if there is one.
    pub correlation_id: Option<String>,
    /// What is wrong.
    pub problem: Problem,
}

/// What is wrong with a message.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Problem {
    /// No such kind of message.
    #[error("unknown kind of message")]
    UnknownType,
    /// The peer is not the one who sends this kind.
    #[error("wrong direction")]
    WrongDirection,
    /// A member is missing, of the wrong type or out of range.
    #[error("{0}")]
    Content(String),
}

/// Reads one frame as a message that travels in `direction`.
pub fn read(frame: &[u8], direction: Direction) -> Result<Envelope, ReadError> {
    if frame.len() > MAX_FRAME {
        return Err(Unreadable::TooLong(frame.len()).into());
    }
    match fast::read(frame, direction) {
        Some(envelope) => Ok(envelope),
        None => read_small(frame, direction),
    }
}

/// What [`read`] does, the tolerant way for every frame: less code and slower, for a device, where messages are few
/// and program text is memory.
pub fn read_small(frame: &[u8], direction: Direction) -> Result<Envelope, ReadError> {
    if frame.len() > MAX_FRAME {
        return Err(Unreadable::TooLong(frame.len()).into());
    }
    let mut value = bounded::parse(frame).map_err(|error| Unreadable::Json(short(error.to_string())))?;
    let mut part =
        |name| lenient::take_member(&mut value, name).filter(Value::is_object).ok_or(Unreadable::Part(name));
    let header = read_header(part("header")?)?;
    let mut data = part("data")?;
    drop(value);

    let word = lenient::take_member(&mut data, "messageType");
    let word = word.and_then(|word| lenient::from_value::<String>(word).ok());
    let correlation = lenient::take_member(&mut data, "correlationId").map(lenient::from_value::<String>);
    let (correlation_id, bad_correlation) = match correlation {
        Some(Ok(text)) if text.len() <= MAX_CORRELATION_READ => (Some(text), false),
        Some(_) => (None, true),
        None => (None, false),
    };
    let kind = word.as_deref().and_then(MessageType::parse);
    let outcome = match kind {
        None => Err(Problem::UnknownType),
        Some(kind) if !kind.is_taken_by(direction) => Err(Problem::WrongDirection),
        Some(kind) if bad_correlation && kind.is_acknowledged() => {
            Err(Problem::Content("correlationId is no text of acceptable length".to_owned()))
        }
        Some(kind) => Body::read(kind, data).map_err(|error: FieldError| Problem::Content(error.to_string())),
    };
    match outcome {
        Ok(body) => Ok(Envelope { header, correlation_id, body }),
        Err(problem) => {
            let message_type = word.map(short);
            Err(ReadError::Invalid(Box::new(Invalid { header, message_type, correlation_id, problem })))
        }
    }
}

fn read_header(value: Value) -> Result<Header, Unreadable> {
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Raw {
        version: Option<u32>,
        system_id: SystemId,
        // A time that cannot be read is as good as none: nothing depends on it.
        created_at: Option<Value>,
        txn: Txn,
    }
    let raw: Raw = lenient::from_value(value).map_err(|error| Unreadable::Header(error.to_string()))?;
    match raw.version {
        Some(VERSION) => {}
        Some(other) => return Err(Unreadable::Version(other.to_string())),
        None => return Err(Unreadable::Version("none".to_owned())),
    }
    let created_at = raw.created_at.as_ref().and_then(Value::as_str).and_then(time::from_text);
    Ok(Header { system_id: raw.system_id, created_at, txn: raw.txn })
}

fn short(text: impl AsRef<str>) -> String {
    text.as_ref().chars().take(200).collect()
}

#[cfg(test)]
mod tests;
