//! What can go wrong in a flow.

/// Errors of flows.
#[derive(Debug, thiserror::Error)]
pub enum FlowError {
    /// The store refused.
    #[error(transparent)]
    Store(#[from] aos_cloud_store::StoreError),
    /// A blob cannot be described.
    #[error("cannot describe a blob")]
    Blob(#[from] aos_cloud_blobs::BlobError),
    /// A certificate cannot be issued, or a secret not sealed or opened.
    #[error("the certificate authority failed")]
    Pki(#[source] aos_cloud_pki::PkiError),
    /// A stored document cannot be read back or written.
    #[error("a stored {what} cannot be used")]
    Document {
        /// Which one.
        what: &'static str,
        /// Why.
        #[source]
        source: serde_json::Error,
    },
    /// A stored value is not what it must be.
    #[error("a stored {0} is not valid")]
    Value(&'static str),
    /// A message cannot be written.
    #[error("cannot write a message for the Unit")]
    Write(#[from] aos_cloud_protocol::WriteError),
    /// A stored message cannot be read back.
    #[error("cannot read back a message for the Unit")]
    Read(#[from] aos_cloud_protocol::ReadError),
    /// The Unit could not take the message: it goes beyond what Units accept.
    #[error("a Unit cannot take this: {0}")]
    Limit(#[from] aos_cloud_protocol::limits::LimitError),
    /// What was asked for makes no sense. The text is for who asked.
    #[error("{0}")]
    Invalid(String),
    /// Whoever asked may not do this.
    #[error("{0}")]
    Forbidden(&'static str),
    /// A received log cannot be read.
    #[error("cannot read a received log")]
    Log(#[source] std::io::Error),
    /// The program is stopping.
    #[error("interrupted by the stop of the program")]
    Interrupted,
}

impl FlowError {
    pub(crate) fn document(what: &'static str) -> impl FnOnce(serde_json::Error) -> Self {
        move |source| Self::Document { what, source }
    }

    pub(crate) fn conflict(text: impl Into<String>) -> Self {
        Self::Store(aos_cloud_store::StoreError::Conflict(text.into()))
    }

    /// True when the same message would fail again: it is at fault, not the cloud.
    pub(crate) const fn is_of_the_message(&self) -> bool {
        matches!(self, Self::Limit(_) | Self::Write(_) | Self::Invalid(_))
    }

    pub(crate) const fn missing(what: &'static str) -> Self {
        Self::Store(aos_cloud_store::StoreError::NotFound(what))
    }
}
