//! Why the keeper does not do what a client asks. The texts go to the client.

use std::io;

/// A request that is not carried out.
#[derive(Debug, thiserror::Error)]
pub enum Refusal {
    /// See [`crate::protocol::is_valid_id`].
    #[error("the name or process ID is not usable")]
    Name,
    /// One process a name.
    #[error("{0} is started already")]
    Started(String),
    /// See [`crate::protocol::MAX_WATCHED`].
    #[error("too many processes are watched")]
    Full,
    /// The program is missing, or its log cannot be opened.
    #[error("cannot run the command: {0}")]
    Command(#[source] io::Error),
    /// The name server could not be set up; the keeper's log tells why.
    #[error("there is no name server")]
    NoNames,
    /// Names are not taken.
    #[error("{}", crate::server::describe_error(.0))]
    Names(#[source] aos_names::Error),
    /// The record of an exit cannot be removed.
    #[error("cannot forget an exit: {}", crate::server::describe_error(.0))]
    Record(#[source] crate::Error),
}
