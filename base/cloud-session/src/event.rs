//! What happens to a session, and what it wants done.

use std::fmt;
use std::time::Duration;

use aos_cloud_protocol::{Envelope, Invalid, MessageType, Unreadable};
use aos_ids::{SystemId, Txn};
use bytes::Bytes;

use crate::Class;

/// Something that happened.
#[derive(Debug, Clone)]
pub enum Event<'a> {
    /// The WebSocket is open. `greeting` goes out before anything else: a Unit's full `unitStatus`.
    Connected {
        /// First message on the connection.
        greeting: Option<Box<Envelope>>,
    },
    /// The WebSocket is closed, for whatever reason.
    Disconnected,
    /// One whole data frame arrived, binary or text.
    Frame(&'a [u8]),
    /// A control frame arrived (ping, pong): the peer lives.
    PeerAlive,
    /// Queue a message. Sending one whose transaction is still queued changes nothing, so a durable outbox
    /// may hand over its content again.
    Send {
        /// The message; not an `ack` or `nack`.
        envelope: Box<Envelope>,
        /// What it is worth when the queue is full.
        class: Class,
    },
    /// A message of ours is not worth sending any more, for instance because its asker gave up.
    Withdraw(Txn),
    /// A delivered message has taken effect, or is kept durably: acknowledge it.
    Accepted(Txn),
    /// A delivered message cannot be taken now; forget that it came. A cloud answers with a nack when the
    /// message came within half of the timeout; a late cloud and a Unit say nothing and get it again.
    Refused {
        /// The message.
        txn: Txn,
        /// Pause before its repetition.
        retry_after: Duration,
    },
    /// A deadline has come.
    Tick,
}

impl Event<'_> {
    /// Queues `envelope` with the class that suits it.
    pub fn send(envelope: Envelope) -> Self {
        Self::Send { class: Class::of(&envelope.body), envelope: Box::new(envelope) }
    }

    /// Queues a message of a durable outbox: it is never dropped to make room, and parked when out of tries.
    pub fn keep(envelope: Envelope) -> Self {
        Self::Send { class: Class::Durable, envelope: Box::new(envelope) }
    }

    /// Opens the connection with `greeting`.
    pub fn connected(greeting: Option<Envelope>) -> Self {
        Self::Connected { greeting: greeting.map(Box::new) }
    }
}

/// Something to do, in the order given.
#[derive(Debug, Clone, PartialEq)]
pub enum Action {
    /// Send these bytes as one binary frame.
    Transmit(Bytes),
    /// Send a WebSocket ping.
    Ping,
    /// Process the message and answer with `Accepted` or `Refused`. Each comes once, in order of arrival.
    Deliver(Box<Envelope>),
    /// A message of ours arrived.
    Acknowledged(Outgoing),
    /// A durable message of ours is out of tries while the link lives. It is kept and tried again on the next
    /// connection, or after [`Config::parked`](crate::Config::parked). Comes once per message; report it.
    Parked(Outgoing, DropReason),
    /// A message of ours is given up.
    Dropped(Outgoing, DropReason),
    /// A frame of the peer changed nothing; log it.
    Rejected(Rejection),
    /// The peer is dead: close the connection and open another. Comes once per connection.
    Reconnect,
}

/// A message of ours.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outgoing {
    /// Its transaction.
    pub txn: Txn,
    /// Its kind.
    pub kind: MessageType,
    /// Its class.
    pub class: Class,
    /// Its exchange.
    pub correlation_id: Option<String>,
}

/// Why a message of ours is given up, or parked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DropReason {
    /// No acknowledgement after all tries; on a live link this nearly always means that the peer cannot read
    /// the message.
    NoAck,
    /// Nacked too often.
    Nacked,
    /// No room in the queue.
    QueueFull,
    /// A newer message says all it said.
    Superseded,
    /// Cannot be written, or is an `ack` or `nack`.
    Unwritable,
}

impl fmt::Display for DropReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NoAck => "not acknowledged after all tries",
            Self::Nacked => "refused too often by the peer",
            Self::QueueFull => "queue of outgoing messages is full",
            Self::Superseded => "superseded by a newer message",
            Self::Unwritable => "cannot be written",
        })
    }
}

/// Why a frame of the peer changed nothing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Rejection {
    /// Dropped without an answer.
    Unreadable(Unreadable),
    /// Acknowledged; to be reported as failed.
    Invalid(Box<Invalid>),
    /// Dropped: it is about another Unit. A cloud closes the connection with 1008.
    ForeignSystemId {
        /// The Unit named.
        found: SystemId,
    },
    /// Turned away: too many messages are being processed.
    Overload {
        /// The message.
        txn: Txn,
    },
}

impl fmt::Display for Rejection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unreadable(reason) => write!(f, "unreadable frame dropped: {reason}"),
            Self::Invalid(reason) => write!(f, "invalid message: {reason}"),
            Self::ForeignSystemId { found } => write!(f, "message for another Unit '{found}' dropped"),
            Self::Overload { txn } => write!(f, "message {txn} turned away, too many are being processed"),
        }
    }
}
