//! What can go wrong while serving Units.

/// Errors of the gateway.
#[derive(Debug, thiserror::Error)]
pub enum GatewayError {
    /// The store refused.
    #[error("cannot reach the store")]
    Store(#[from] aos_cloud_store::StoreError),
    /// What waits for a Unit cannot be read.
    #[error("cannot read what waits for the Unit")]
    Flow(#[from] aos_cloud_handlers::FlowError),
    /// A stored document cannot be read back or written.
    #[error("a stored {what} cannot be used")]
    Document {
        /// Which one.
        what: &'static str,
        /// Why.
        #[source]
        source: serde_json::Error,
    },
    /// A message cannot be sealed for its Unit.
    #[error("cannot seal a message for the Unit")]
    Seal(#[source] aos_blob_crypto::CryptoError),
    /// Messages for the Unit must be sealed, but nothing is there to seal them with.
    #[error(
        "the Unit's main node has no offline certificate that messages can be sealed for (RSA, not expired): \
         renew it, or switch sealing off with `aosctl unit seal UNIT off`"
    )]
    NoSealing,
    /// A stored value is not what it must be.
    #[error("a stored {0} is not valid")]
    Value(&'static str),
}

impl GatewayError {
    pub(crate) fn document(what: &'static str) -> impl FnOnce(serde_json::Error) -> Self {
        move |source| Self::Document { what, source }
    }
}
