//! The envelope around every message.

use aos_ids::{SystemId, Txn};
use jiff::{Timestamp, Unit};

use crate::{Ack, Body, Nack};

/// Version of the protocol.
pub const VERSION: u32 = 7;
/// Longest `correlationId` that upstream Units accept, bytes.
pub const MAX_CORRELATION_ID: usize = 37;

/// Who a message is about and how to refer to it. The version is always 7 and has no member.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Header {
    /// The Unit that sends or receives the message.
    pub system_id: SystemId,
    /// When the message was made, to the microsecond. Always set by us; some peers leave it out.
    pub created_at: Option<Timestamp>,
    /// Names the message; in an `ack` or `nack` the message it answers.
    pub txn: Txn,
}

/// A message.
#[derive(Debug, Clone, PartialEq)]
pub struct Envelope {
    /// Header.
    pub header: Header,
    /// Ties an answer to its request; at most 37 bytes towards a Unit.
    pub correlation_id: Option<String>,
    /// Content.
    pub body: Body,
}

impl Envelope {
    /// A new message with a fresh transaction, made `now` (wall clock).
    pub fn new(system_id: SystemId, now: Timestamp, body: Body) -> Self {
        let created_at = Some(to_micros(now));
        Self { header: Header { system_id, created_at, txn: Txn::random() }, correlation_id: None, body }
    }

    /// The same message as answer to, or start of, the exchange `correlation_id`.
    pub fn with_correlation_id(self, correlation_id: impl Into<String>) -> Self {
        Self { correlation_id: Some(correlation_id.into()), ..self }
    }

    /// The same message with the `correlationId` of `request`, if that has one.
    pub fn answering(self, request: &Self) -> Self {
        Self { correlation_id: request.correlation_id.clone(), ..self }
    }

    /// An acknowledgement of `txn`.
    pub fn ack(system_id: SystemId, now: Timestamp, txn: &Txn) -> Self {
        Self::reply(system_id, now, txn, Body::Ack(Ack {}))
    }

    /// A refusal of `txn` for the time being.
    pub fn nack(system_id: SystemId, now: Timestamp, txn: &Txn, retry_after: std::time::Duration) -> Self {
        Self::reply(system_id, now, txn, Body::Nack(Nack { retry_after }))
    }

    /// Peers look for the transaction in either place, so it is in both.
    fn reply(system_id: SystemId, now: Timestamp, txn: &Txn, body: Body) -> Self {
        let header = Header { system_id, created_at: Some(to_micros(now)), txn: txn.clone() };
        Self { header, correlation_id: Some(txn.as_str().to_owned()), body }
    }
}

fn to_micros(time: Timestamp) -> Timestamp {
    let whole = jiff::TimestampRound::new().smallest(Unit::Microsecond).mode(jiff::RoundMode::Floor);
    time.round(whole).unwrap_or(time)
}
