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
    /// The change was made, but could not be kept.
    #[error("the change could not be made durable")]
    Commit(#[source] std::sync::Arc<StoreError>),
    /// Another change that shared the transaction made the database give up all of it.
    #[error("the database gave up the whole transaction")]
    Undone,
    /// A file beside the database failed.
    #[error(transparent)]
    File(#[from] aos_durable::DurableError),
    /// A received log cannot be written or read.
    #[error("cannot use {}", .path.display())]
    Folder {
        /// Which file or folder.
        path: std::path::PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
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
