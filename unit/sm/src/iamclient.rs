//! What the Service Manager needs of IAM: the description of this node and our certificate.
//!
//! The node's description is remembered, so that a start without IAM (a cold boot, say) uses the last one.

use std::sync::Arc;
use std::time::Duration;

use aos_backoff::Backoff;
use aos_iam_link::IamLink;
use aos_token::Identity;
use aos_unit_api::iamanager::v6::NodeInfo;
use prost::Message;
use rustls::pki_types::CertificateDer;
use tokio::sync::watch;

use crate::Error;
use crate::database::Database;
use crate::smclient::CertifiedKey;

const FACT: &str = "node";
/// Pauses between questions to an IAM that is away, from the first to the longest.
const RETRY: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(1));

/// Our certificate, always the newest.
#[derive(Clone)]
pub struct CertificateSource {
    newest: watch::Receiver<Option<Arc<Identity>>>,
    /// Its tasks, which keep the certificate up to date, end with the last clone of the link.
    _link: IamLink,
    /// The one last given out.
    used: Option<CertificateDer<'static>>,
}

impl CertificateSource {
    /// The certificate of a type at IAM.
    pub fn of(link: &IamLink, cert_type: &str) -> Self {
        Self { newest: link.identity(cert_type), _link: link.clone(), used: None }
    }

    /// The certificate, when it has been loaded.
    pub fn present(&mut self) -> Option<CertifiedKey> {
        let identity = self.newest.borrow_and_update().clone()?;
        self.used = identity.leaf().cloned();
        Some(identity.certified_key())
    }

    /// Waits for another certificate than the one last given out; the same one told again is no change.
    pub async fn changed(&mut self) {
        loop {
            let leaf = self.newest.borrow_and_update().as_ref().and_then(|identity| identity.leaf().cloned());
            if leaf.is_some() && leaf != self.used {
                return;
            }
            if self.newest.changed().await.is_err() {
                std::future::pending::<()>().await;
            }
        }
    }
}

/// The description of this node: from IAM, or the remembered one when IAM does not answer. Without either it
/// waits for IAM.
pub async fn node_info(link: &IamLink, database: &Database) -> Result<NodeInfo, Error> {
    let mut noted = false;
    let mut backoff = Backoff::new(RETRY.0, RETRY.1, 0.0);
    loop {
        match link.current_node_info().await {
            Ok(info) => {
                database.set_fact(FACT, info.encode_to_vec()).await?;
                return Ok(info);
            }
            Err(error) => {
                let remembered = database.fact(FACT).await?;
                if let Some(info) = remembered.and_then(|bytes| NodeInfo::decode(bytes.as_slice()).ok()) {
                    tracing::warn!(
                        "IAM does not describe this node, the remembered description is used: {error}"
                    );
                    return Ok(info);
                }
                if !noted {
                    noted = true;
                    tracing::warn!("waiting for IAM to describe this node: {error}");
                }
            }
        }
        tokio::time::sleep(backoff.next(0.0)).await;
    }
}
