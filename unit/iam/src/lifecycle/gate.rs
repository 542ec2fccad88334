//! What the main node does for a node whose certificates end or have ended.
//!
//! Such a node cannot open its link any more: mutual TLS refuses what has ended. It asks on the public server
//! instead and proves with the key of a certificate that was issued to this Unit under our roots, whether or
//! not it is still valid, that it is one of the Unit's nodes. The cloud, which is asked in its stead, has the
//! last word: it knows which certificates are that node's and were not revoked.

use std::sync::Arc;

use aos_recovery_protocol::{Certificates, Challenges, CsrOf, MAX_CSR, signed_by, stated};
use aos_status::NodeState;
use aos_tls::{PeerIdentity, Roots};
use rustls::pki_types::CertificateDer;
use tokio::sync::{mpsc, oneshot};

use super::floor::reading;
use crate::Error;
use crate::identhandler::IdentHandler;
use crate::nodemanager::NodeManager;

const MAX_CHAIN: usize = 4;
const MAX_CERTIFICATE: usize = 8 * 1024;
/// Certificate types of a node.
const MAX_TYPES: usize = 8;
const MAX_NODE_ID: usize = 64;

/// Requests of a node that has proved itself, for the cloud.
pub struct Relay {
    /// The requests, all for that node.
    pub requests: Vec<CsrOf>,
    /// What the cloud gave.
    pub answer: oneshot::Sender<Result<Certificates, Error>>,
}

/// What a node asks.
#[derive(Debug)]
pub struct Asked {
    /// Its id.
    pub node: String,
    /// The challenge it was given.
    pub challenge: String,
    /// The certificate that it proves with, its issuers after it.
    pub chain: Vec<CertificateDer<'static>>,
    /// Over challenge, Unit and requests.
    pub signature: Vec<u8>,
    /// Type and request (PEM).
    pub requests: Vec<(String, String)>,
}

/// Lets nodes in that prove themselves. Cheap to clone.
#[derive(Clone)]
pub struct Gate {
    pub(super) challenges: Arc<Challenges>,
    pub(super) roots: Roots,
    pub(super) nodes: NodeManager,
    pub(super) identity: IdentHandler,
    pub(super) own: String,
    pub(super) relays: mpsc::Sender<Relay>,
}

impl Gate {
    /// A challenge for a node. Whether there is such a node is not told.
    pub fn challenge(&self, node: &str) -> Result<String, Error> {
        if node.is_empty() || node.len() > MAX_NODE_ID {
            return Err(Error::InvalidArgument("a node ID has 1 to 64 bytes".to_owned()));
        }
        let made = self.challenges.make(node, reading().monotonic);
        made.ok_or_else(|| Error::Failed("there are no random numbers for a challenge".to_owned()))
    }

    /// Gets certificates for a node that proves itself.
    pub async fn certificates(&self, asked: Asked) -> Result<Certificates, Error> {
        let node = asked.node.clone();
        let requests = self.proved(asked).await.inspect_err(|error| {
            tracing::warn!("node '{node}' asks for certificates but: {}", aos_logging::with_causes(error));
        })?;
        let (answer, result) = oneshot::channel();
        self.relays.try_send(Relay { requests, answer }).map_err(|error| match error {
            mpsc::error::TrySendError::Full(_) => {
                Error::TooMany("too many nodes recover at the same time: come again later".to_owned())
            }
            mpsc::error::TrySendError::Closed(_) => Error::Stopping,
        })?;
        result.await.map_err(|_| Error::Stopping)?
    }

    /// The requests for the cloud, if the proof holds.
    async fn proved(&self, asked: Asked) -> Result<Vec<CsrOf>, Error> {
        let small = asked.chain.iter().all(|one| one.len() <= MAX_CERTIFICATE)
            && asked.requests.iter().all(|(_, csr)| csr.len() <= MAX_CSR);
        let few = asked.chain.len() <= MAX_CHAIN && (1..=MAX_TYPES).contains(&asked.requests.len());
        let Some(leaf) = asked.chain.first().filter(|_| small && few) else {
            return Err(Error::InvalidArgument("one certificate and 1 to 8 requests are needed".to_owned()));
        };
        if !self.challenges.knows(&asked.challenge, &asked.node, reading().monotonic) {
            return Err(refused("the challenge is unknown or too old"));
        }
        let member = self
            .nodes
            .nodes()
            .get(&asked.node)
            .is_ok_and(|entry| entry.info.state != NodeState::Unprovisioned && asked.node != self.own);
        if !member {
            return Err(refused("it is no provisioned node of this Unit: provision it"));
        }
        if !aos_tls::chains_to(&self.roots.get(), &asked.chain) {
            return Err(refused("what it proves with does not lead to our roots"));
        }
        let system_id = self.identity.system().await?.system_id;
        let holder = PeerIdentity::from_certificate(leaf).ok();
        let holder = holder.filter(|holder| holder.common_name.as_deref() == Some(&system_id));
        let Some(holder) = holder else {
            return Err(refused("what it proves with was not issued to this Unit"));
        };
        let request = |(cert_type, csr): (String, String)| CsrOf {
            cert_type,
            node: asked.node.clone(),
            csr,
            proved_by: None,
        };
        let mut requests: Vec<CsrOf> = asked.requests.into_iter().map(request).collect();
        if !signed_by(leaf, &stated(&asked.challenge, &system_id, &requests), &asked.signature) {
            return Err(refused("the signature is not by the key of the certificate"));
        }
        let serial = hex::encode(&holder.serial);
        for one in &mut requests {
            one.proved_by = Some(serial.clone());
        }
        Ok(requests)
    }
}

fn refused(why: &'static str) -> Error {
    Error::Refused(why)
}
