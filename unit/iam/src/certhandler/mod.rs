//! Keys and certificates of this node.
//!
//! The handler and its token sessions belong to one worker; nobody else touches a token here. Readers
//! look at the newest certificates through a `watch` channel and so never wait for a key generation.
//! A key and its certificate live in the token; the database says what is where and which keys wait.

pub(crate) mod chain;
mod core;
mod files;
mod handler;
mod health;
mod key;
mod module;
mod pin;
mod request;
#[cfg(test)]
mod tests;
mod trouble;

use std::time::Duration;

use aos_supervise::Shutdown;
use tokio::sync::watch;

pub use self::core::{CertRecord, Snapshot};
pub use handler::{Handler, Shut};
pub use health::look;

use crate::Error;
use crate::worker::Worker;

/// The way to the certificates.
#[derive(Debug, Clone)]
pub struct CertHandler {
    handler: Worker<Handler>,
    certificates: watch::Receiver<Snapshot>,
    shut: watch::Receiver<Shut>,
}

/// Between two looks at tokens that do not open; nobody looks while all do.
const LOOK: Duration = Duration::from_secs(5);

/// Looks after tokens that do not open, until `stop`.
pub async fn mend(certs: CertHandler, stop: Shutdown) -> Result<(), Error> {
    let mut shut = certs.shut();
    loop {
        let look = async {
            if shut.borrow_and_update().is_empty() {
                // Fails only when the program stops.
                let _ = shut.changed().await;
            }
            tokio::time::sleep(LOOK).await;
        };
        tokio::select! {
            () = look => certs.handler.call(|handler| { handler.mend(); Ok(()) }).await?,
            () = stop.wait() => return Ok(()),
        }
    }
}

impl CertHandler {
    /// Talks to the handler in `worker`, whose certificates are `certificates`; `shut` are the types whose token
    /// does not open.
    pub fn new(
        handler: Worker<Handler>,
        certificates: watch::Receiver<Snapshot>,
        shut: watch::Receiver<Shut>,
    ) -> Self {
        Self { handler, certificates, shut }
    }

    /// The types whose token does not open, and their changes.
    pub fn shut(&self) -> watch::Receiver<Shut> {
        self.shut.clone()
    }

    /// The newest certificates.
    pub fn certificates(&self) -> Snapshot {
        self.certificates.borrow().clone()
    }

    /// The certificates and their changes.
    pub fn watch(&self) -> watch::Receiver<Snapshot> {
        self.certificates.clone()
    }

    /// Types that a certificate can be asked for.
    pub async fn cert_types(&self) -> Result<Vec<String>, Error> {
        self.handler.call(|handler| Ok(handler.cert_types())).await
    }

    /// The health of the tokens, for people; waits for what the tokens are doing.
    pub async fn health(&self) -> Result<serde_json::Value, Error> {
        self.handler.call(|handler| Ok(handler.health())).await
    }

    /// Takes ownership of all tokens; erases them.
    pub async fn set_owners(&self, password: String) -> Result<(), Error> {
        self.handler.call(move |handler| handler.set_owners(&password)).await
    }

    /// Makes a key and the request for its certificate.
    pub async fn create_key(&self, cert_type: String, subject: String) -> Result<String, Error> {
        self.handler.call(move |handler| handler.create_key(&cert_type, &subject)).await
    }

    /// Stores an issued certificate.
    pub async fn apply_cert(&self, cert_type: String, pem: String) -> Result<CertRecord, Error> {
        self.handler.call(move |handler| handler.apply_cert(&cert_type, &pem)).await
    }
}
