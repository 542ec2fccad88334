//! Failures of calls to IAM.

use aos_tls::TlsError;
use tonic::{Code, Status};

/// A call to IAM that gave no answer, or a link that cannot be made.
#[derive(Debug, thiserror::Error)]
pub enum LinkError {
    /// Roots or addresses are wrong.
    #[error("cannot prepare the link to IAM")]
    Prepare(#[from] TlsError),
    /// IAM answered with an error, or is not there.
    #[error("IAM did not answer {call}: {}", source.message())]
    Call {
        /// The method called.
        call: &'static str,
        /// The status received or made by the transport.
        #[source]
        source: Box<Status>,
    },
    /// No answer in time.
    #[error("IAM did not answer {call} within {seconds} s")]
    Deadline {
        /// The method called.
        call: &'static str,
        /// Time allowed, seconds.
        seconds: u64,
    },
}

impl LinkError {
    /// Whether IAM is away or slow, so that the same call may succeed later.
    pub fn is_passing(&self) -> bool {
        match self {
            Self::Prepare(_) => false,
            Self::Deadline { .. } => true,
            // A status with a source was made here, of a broken connection.
            Self::Call { source, .. } => {
                std::error::Error::source(source).is_some()
                    || matches!(source.code(), Code::Unavailable | Code::DeadlineExceeded | Code::Cancelled)
            }
        }
    }
}
