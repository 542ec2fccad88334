//! New certificates for a node that is not the main one, from the main node.
//!
//! The way that does not need a valid certificate of ours: the main node's public server, verified at the floor of
//! time, and a signature by the key that our servers show, whether its certificate has ended or not. As towards
//! the cloud, the challenge comes first, requests are kept until they are answered, and what is given is
//! checked against our roots.

use std::collections::BTreeMap;
use std::time::Duration;

use aos_recovery_protocol::{CsrOf, stated};
use aos_tls::{HostCheck, IdentitySlot, PeerIdentity, Roots, TimeBasis};
use aos_unit_api::aosrecovery::v1::node_recovery_service_client::NodeRecoveryServiceClient;
use aos_unit_api::aosrecovery::v1::{CertificateRequest, GetCertificatesRequest, GetChallengeRequest};
use tonic::{Code, Status};

use super::exchange::Outcome;
use super::proof::{Prover, check_given};
use crate::certhandler::CertHandler;
use crate::{Error, killpoint};

/// The main node's own exchange with the cloud takes at most two times 30 s, after another one.
const EXCHANGE_TIME: Duration = Duration::from_mins(2);

/// The way to the main node.
pub struct MainNode {
    /// Its public server.
    pub(super) address: String,
    pub(super) roots: Roots,
    pub(super) certs: CertHandler,
    /// Type of the certificate that proves.
    pub(super) proves: String,
    /// Requests without answer, by type.
    pub(super) csrs: BTreeMap<String, String>,
}

impl MainNode {
    /// Gets certificates of `types` for this node `node`.
    pub async fn run(&mut self, node: &str, types: &[String]) -> Result<Outcome, Error> {
        let record = self.certs.certificates().latest(&self.proves).cloned();
        let record = record.ok_or_else(|| {
            Error::NotFound(format!(
                "there is no certificate '{}' to prove with: provision the node",
                self.proves
            ))
        })?;
        let prover = Prover::load(record).await?;
        let holder = prover.chain().first().and_then(|leaf| PeerIdentity::from_certificate(leaf).ok());
        let system_id = holder.and_then(|holder| holder.common_name).ok_or_else(|| {
            Error::Failed("the certificate to prove with names no Unit: provision the node".to_owned())
        })?;
        let late = Error::Timeout(format!("the main node at {} did not answer in time", self.address));
        let exchange = self.exchange(node, types, &prover, &system_id);
        tokio::time::timeout(EXCHANGE_TIME, exchange).await.unwrap_or(Err(late))
    }

    async fn exchange(
        &mut self,
        node: &str,
        types: &[String],
        prover: &Prover,
        system_id: &str,
    ) -> Result<Outcome, Error> {
        let prepared = |source| Error::Tls {
            doing: format!("prepare a connection to the main node at {}", self.address),
            source: Box::new(source),
        };
        let check = HostCheck::ChainOnly;
        let config =
            aos_tls::client_config_at(TimeBasis::Floor, self.roots.clone(), IdentitySlot::new(), check)
                .map_err(prepared)?;
        let channel = aos_tls::grpc_channel(&self.address, &config).map_err(prepared)?;
        let mut client = NodeRecoveryServiceClient::new(channel);
        let asked = GetChallengeRequest { node_id: node.to_owned() };
        let given = client.get_challenge(asked).await.map_err(|status| said(&self.address, &status))?;
        let challenge = given.into_inner().challenge;

        let mut outcome = Outcome::default();
        let mut requests = Vec::with_capacity(types.len());
        for cert_type in types {
            match self.csr(cert_type, system_id).await {
                Ok(csr) => requests.push(CsrOf {
                    cert_type: cert_type.clone(),
                    node: node.to_owned(),
                    csr,
                    proved_by: None,
                }),
                Err(error) => {
                    outcome.failures.push(format!("{cert_type}: {}", aos_logging::with_causes(&error)));
                }
            }
        }
        if requests.is_empty() {
            return Err(Error::Failed(format!("no key could be made: {}", outcome.failures.join("; "))));
        }
        let signature = prover.sign(stated(&challenge, system_id, &requests)).await?;
        let request = GetCertificatesRequest {
            node_id: node.to_owned(),
            challenge,
            chain: prover.chain().iter().map(|one| one.to_vec()).collect(),
            signature,
            requests: requests
                .into_iter()
                .map(|one| CertificateRequest { r#type: one.cert_type, csr: one.csr })
                .collect(),
        };
        killpoint::step("ask the main node for certificates");
        let answer = client.get_certificates(request).await.map_err(|status| said(&self.address, &status))?;
        killpoint::step("ask the main node for certificates");
        let answer = answer.into_inner();
        for one in answer.refused {
            self.csrs.remove(&one.r#type);
            outcome.failures.push(format!("{}: {}", one.r#type, one.reason));
        }
        let mut given = answer.certificates;
        // With its change the link to the main node begins anew.
        given.sort_by_key(|one| one.r#type == self.proves);
        for one in given {
            // The key was made just now and fits, or the certificate is refused there.
            let stored = match check_given(&self.roots, &one.chain) {
                Ok(from) => self.certs.apply_cert(one.r#type.clone(), one.chain).await.map(|_| from),
                Err(error) => Err(error),
            };
            match stored {
                Ok(from) => {
                    outcome.stored += 1;
                    outcome.not_before = outcome.not_before.max(from);
                }
                Err(error) => {
                    outcome.failures.push(format!("{}: {}", one.r#type, aos_logging::with_causes(&error)));
                }
            }
            self.csrs.remove(&one.r#type);
        }
        Ok(outcome)
    }

    async fn csr(&mut self, cert_type: &str, system_id: &str) -> Result<String, Error> {
        if let Some(csr) = self.csrs.get(cert_type) {
            return Ok(csr.clone());
        }
        let csr = self.certs.create_key(cert_type.to_owned(), system_id.to_owned()).await?;
        self.csrs.insert(cert_type.to_owned(), csr.clone());
        Ok(csr)
    }
}

fn said(address: &str, status: &Status) -> Error {
    if status.code() == Code::Unimplemented {
        return Error::NotSupported(format!(
            "the main node at {address} gets no certificates for nodes; once they have ended, this node has to be \
             provisioned again"
        ));
    }
    Error::Failed(format!("the main node at {address} gives no certificates: {}", status.message()))
}
