//! Writing a frame.

use aos_ids::{SystemId, Txn};
use jiff::Timestamp;
use serde::Serialize;

use crate::{Body, Envelope, MAX_FRAME, VERSION};

/// Why a message cannot be written.
#[derive(Debug, thiserror::Error)]
pub enum WriteError {
    /// The frame would be longer than any peer has to take.
    #[error("message would take {length} bytes, at most {MAX_FRAME} are allowed")]
    TooLong {
        /// Length, bytes.
        length: usize,
    },
    /// A value has no JSON form.
    #[error("message has no JSON form")]
    Json(#[source] serde_json::Error),
}

/// Writes the frame of a message: one JSON document, strictly in the form of the protocol, no `null`.
pub fn write(envelope: &Envelope) -> Result<Vec<u8>, WriteError> {
    let Envelope { header, correlation_id, body } = envelope;
    let frame = Frame {
        header: WrittenHeader {
            version: VERSION,
            system_id: &header.system_id,
            created_at: header.created_at,
            txn: &header.txn,
        },
        data: Data { correlation_id: correlation_id.as_deref(), body },
    };
    let bytes = serde_json::to_vec(&frame).map_err(WriteError::Json)?;
    if bytes.len() > MAX_FRAME {
        return Err(WriteError::TooLong { length: bytes.len() });
    }
    Ok(bytes)
}

#[derive(Serialize)]
struct Frame<'a> {
    header: WrittenHeader<'a>,
    data: Data<'a>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct WrittenHeader<'a> {
    version: u32,
    system_id: &'a SystemId,
    #[serde(skip_serializing_if = "Option::is_none", with = "crate::time::optional")]
    created_at: Option<Timestamp>,
    txn: &'a Txn,
}

#[derive(Serialize)]
struct Data<'a> {
    #[serde(rename = "correlationId", skip_serializing_if = "Option::is_none")]
    correlation_id: Option<&'a str>,
    #[serde(flatten)]
    body: &'a Body,
}
