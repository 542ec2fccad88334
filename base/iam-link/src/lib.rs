//! The link of CM, SM and others to the Identity and Access Manager of their node.
//!
//! Answers questions over the public server, keeps identities (certificate and token key) up to date, and
//! gives out channels to the protected server that present them. Everything here outlives IAM: calls fail
//! with an error while it is away, subscriptions come back by themselves, within 3 s of its return.

mod calls;
mod error;
mod identities;
mod orders;
mod subscription;
mod watches;

use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use aos_tls::Roots;
use tonic::transport::Channel;

pub use error::LinkError;
pub use orders::{OrderError, Orders};

/// Where IAM is and whom to trust.
#[derive(Debug, Clone)]
pub struct IamLinkConfig {
    /// Public server, `host:port`.
    pub public_url: String,
    /// Protected server, `host:port`.
    pub protected_url: String,
    /// Root certificates of the Unit, PEM; followed when the file is replaced. Not read when `plaintext`.
    pub ca_cert: PathBuf,
    /// Provisioning mode: no TLS on either server.
    pub plaintext: bool,
}

/// Link to one IAM. Cheap to clone; clones share channels, subscriptions and identities. Tasks of the link end
/// with its last clone.
#[derive(Clone)]
pub struct IamLink(Arc<Inner>);

struct Inner {
    public: Channel,
    protected_url: String,
    /// Absent in plaintext.
    roots: Option<Roots>,
    identities: Mutex<identities::Identities>,
}

impl IamLink {
    /// Makes the link without connecting. Reads the root certificates; wrong addresses and an unreadable file
    /// are errors. Use it inside a tokio runtime.
    pub fn new(config: IamLinkConfig) -> Result<Self, LinkError> {
        let IamLinkConfig { public_url, protected_url, ca_cert, plaintext } = config;
        let roots = if plaintext { None } else { Some(Roots::from_file(&ca_cert)?) };
        let public = match &roots {
            None => aos_tls::plain_grpc_channel(&public_url)?,
            Some(roots) => {
                let check = aos_tls::HostCheck::ChainOnly;
                let config = aos_tls::client_config(roots.clone(), None, check)?;
                aos_tls::grpc_channel(&public_url, &config)?
            }
        };
        Ok(Self(Arc::new(Inner { public, protected_url, roots, identities: Mutex::default() })))
    }

    fn identities(&self) -> MutexGuard<'_, identities::Identities> {
        self.0.identities.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests;
