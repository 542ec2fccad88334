//! What can go wrong in the store.

/// Errors of the store.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The database could not be opened or brought to the present version.
    #[error("cannot open the cloud's database")]
    Open(#[source] aos_durable::DurableError),
    /// The owning thread could not be started.
    #[error("cannot start the thread of the database")]
    Thread(#[source] std::io::Error),
    /// A statement failed.
    #[error("the database refused to {what}")]
    Sql {
        /// What was tried.
        what: &'static str,
        /// Why.
        #[source]
        source: rusqlite::Error,
    },
    /// A stored document cannot be read back.
    #[error("a stored {what} is damaged")]
    Damaged {
        /// Which document.
        what: &'static str,
        /// Why.
        #[source]
        source: serde_json::Error,
    },
    /// A rule forbids the change. The text is for the person who asked for it.
    #[error("{0}")]
    Conflict(String),
    /// Something addressed does not exist.
    #[error("{0} does not exist")]
    NotFound(&'static str),
    /// The owning thread has ended: the program is stopping.
    #[error("the database is closed")]
    Closed,
}
