//! What a peer can do wrong.

use crate::close_code;

/// How a peer broke the rules. The connection cannot go on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Violation {
    /// A reserved bit is set: an extension that nobody agreed on.
    #[error("a reserved bit is set")]
    Reserved,
    /// An opcode without meaning.
    #[error("unknown opcode {0}")]
    Opcode(u8),
    /// A client that does not mask, or a server that does.
    #[error("masked where it must not be, or not where it must")]
    Mask,
    /// A control frame in pieces or of more than 125 bytes.
    #[error("a control frame in pieces or too long")]
    Control,
    /// A continuation of nothing, or a new message inside another.
    #[error("fragments out of order")]
    Fragments,
    /// A close frame with half a code, a forbidden code or a reason that is no text.
    #[error("a malformed close frame")]
    Close,
    /// Text that is not UTF-8.
    #[error("text that is not UTF-8")]
    Text,
    /// A length of 2^63 or more.
    #[error("an impossible length")]
    Length,
    /// A message longer than the reader takes.
    #[error("a message of more than {limit} bytes")]
    TooLong {
        /// The limit.
        limit: usize,
    },
}

impl Violation {
    /// The code to close with.
    pub const fn close_code(self) -> u16 {
        match self {
            Self::Text => close_code::CONTENT,
            Self::TooLong { .. } => close_code::SIZE,
            _ => close_code::PROTOCOL,
        }
    }
}
