//! WebSocket frames (RFC 6455), pure: bytes in, messages out, no socket and no clock.
//!
//! Made for servers with very many connections that are idle nearly always: between frames a [`Reader`]
//! holds no memory but itself. A message grows with the bytes that arrive, never with the length that a
//! header promises. Fragments are put together, control frames between them are given out as they come,
//! text must be UTF-8, masks must be as the [`Role`] demands, extensions are refused. Limits: messages as
//! told to the reader, control frames 125 bytes.

mod reader;
mod violation;
mod writer;

pub use reader::{Event, Reader};
pub use violation::Violation;
pub use writer::{Frame, close_payload, encode};

/// Which end reads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// A server: what it reads is masked.
    Server,
    /// A client: what it reads is not masked.
    Client,
}

/// Codes of close frames that are used here.
pub mod close_code {
    /// Nothing is wrong.
    pub const NORMAL: u16 = 1000;
    /// The end goes away.
    pub const AWAY: u16 = 1001;
    /// WebSocket was violated.
    pub const PROTOCOL: u16 = 1002;
    /// Text that is none.
    pub const CONTENT: u16 = 1007;
    /// A rule of the application was broken.
    pub const POLICY: u16 = 1008;
    /// A message is too long.
    pub const SIZE: u16 = 1009;
    /// Come back: the server restarts or moves its clients.
    pub const RESTART: u16 = 1012;
    /// Come back later: the server has too much to do.
    pub const LATER: u16 = 1013;
}

/// Largest content of a control frame, bytes.
pub const MAX_CONTROL: usize = 125;

pub(crate) const CONTINUATION: u8 = 0;
pub(crate) const TEXT: u8 = 1;
pub(crate) const BINARY: u8 = 2;
pub(crate) const CLOSE: u8 = 8;
pub(crate) const PING: u8 = 9;
pub(crate) const PONG: u8 = 10;
