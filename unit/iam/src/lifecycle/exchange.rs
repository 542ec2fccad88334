//! Getting new certificates from the cloud's recovery endpoint.
//!
//! The challenge comes first: while the cloud is away no key is made. Requests are kept until they are
//! answered, so that a cloud that fails after the challenge does not cost a key each time. What the cloud
//! gives is checked against our roots before it is stored: the server was perhaps verified at an old time.

use std::collections::BTreeMap;

use aos_recovery_protocol::{
    CERTIFICATES_PATH, CHALLENGE_PATH, CertificateOf, Certificates, CertificatesRequest, Challenge,
    ChallengeRequest, CsrOf, Named, Token, stated,
};
use aos_tls::{Roots, TimeBasis};
use aos_unit_api::iamanager::v6::{ApplyCertRequest, CreateKeyRequest};
use aos_unit_api::iamanager::v7::iam_incoming_messages::IamIncomingMessage as ToNode;
use aos_unit_api::iamanager::v7::iam_outgoing_messages::IamOutgoingMessage as FromNode;
use url::Url;

use super::proof::{Prover, check_given};
use crate::certhandler::CertHandler;
use crate::nodemanager::NodeManager;
use crate::{Error, killpoint};

const OFFLINE: &str = "offline";
const IAM: &str = "iam";

/// What an exchange needs.
pub struct Exchange {
    pub(super) certs: CertHandler,
    pub(super) nodes: Option<NodeManager>,
    pub(super) roots: Roots,
    /// Requests without answer, by node and type.
    pub(super) csrs: BTreeMap<(String, String), String>,
}

/// What came of an exchange.
#[derive(Debug, Default)]
pub struct Outcome {
    /// Certificates stored.
    pub stored: usize,
    /// Begin of the newest one's validity, seconds: it was made just now.
    pub not_before: i64,
    /// What went wrong with others.
    pub failures: Vec<String>,
}

impl Exchange {
    /// Gets certificates of `types` for this node `node` and, as the cloud names them, for other nodes.
    pub async fn run(
        &mut self,
        server: &Url,
        system_id: &str,
        node: &str,
        types: &[String],
        token: Option<&Token>,
    ) -> Result<Outcome, Error> {
        let mut outcome = Outcome::default();
        let named = types.iter().map(|kind| Named { cert_type: kind.clone(), node: node.to_owned() });
        let due = self.round(server, system_id, node, named.collect(), token, &mut outcome).await?;
        let others: Vec<Named> = due.into_iter().filter(|one| one.node != node).collect();
        // A token is good for one request.
        if !others.is_empty()
            && token.is_none()
            && let Err(error) = self.round(server, system_id, node, others, None, &mut outcome).await
        {
            outcome.failures.push(aos_logging::with_causes(&error));
        }
        Ok(outcome)
    }

    async fn round(
        &mut self,
        server: &Url,
        system_id: &str,
        own: &str,
        named: Vec<Named>,
        token: Option<&Token>,
        outcome: &mut Outcome,
    ) -> Result<Vec<Named>, Error> {
        let challenge = self.challenge(server, system_id, basis(token)).await?;
        let mut requests = Vec::with_capacity(named.len());
        for one in named {
            match self.csr(own, &one, system_id).await {
                Ok(csr) => {
                    requests.push(CsrOf { cert_type: one.cert_type, node: one.node, csr, proved_by: None });
                }
                Err(error) => outcome.failures.push(told(&one.cert_type, &one.node, &error)),
            }
        }
        if requests.is_empty() {
            return Err(Error::Failed(format!("no key could be made: {}", outcome.failures.join("; "))));
        }
        let answer = self.send(server, system_id, challenge, requests, token).await?;
        for one in answer.refused {
            self.csrs.remove(&(one.node.clone(), one.cert_type.clone()));
            outcome.failures.push(format!("{} of {}: {}", one.cert_type, one.node, one.reason));
        }
        let mut given = answer.certificates;
        // Its change may disturb the streams that the others come through.
        given.sort_by_key(|one| (one.node == own, one.cert_type == IAM));
        for one in given {
            match self.store(own, &one).await {
                Ok(not_before) => {
                    outcome.stored += 1;
                    outcome.not_before = outcome.not_before.max(not_before);
                }
                Err(error) => outcome.failures.push(told(&one.cert_type, &one.node, &error)),
            }
            self.csrs.remove(&(one.node, one.cert_type));
        }
        Ok(answer.due)
    }

    /// Gets certificates that another node asked for and has proved to be a part of this Unit.
    pub async fn relay(
        &self,
        server: &Url,
        system_id: &str,
        requests: Vec<CsrOf>,
    ) -> Result<Certificates, Error> {
        let challenge = self.challenge(server, system_id, basis(None)).await?;
        self.send(server, system_id, challenge, requests, None).await
    }

    async fn challenge(&self, server: &Url, system_id: &str, basis: TimeBasis) -> Result<String, Error> {
        let asked = ChallengeRequest { system_id: system_id.to_owned() };
        let Challenge { challenge } =
            super::https::post(server, CHALLENGE_PATH, &asked, &self.roots, basis).await?;
        Ok(challenge)
    }

    async fn send(
        &self,
        server: &Url,
        system_id: &str,
        challenge: String,
        requests: Vec<CsrOf>,
        token: Option<&Token>,
    ) -> Result<Certificates, Error> {
        let mut signature = None;
        if token.is_none() {
            let text = stated(&challenge, system_id, &requests);
            signature = Some(hex::encode(self.offline().await?.sign(text).await?));
        }
        let (system_id, token, basis) = (system_id.to_owned(), token.cloned(), basis(token));
        let request = CertificatesRequest { system_id, challenge, signature, token, requests };
        killpoint::step("ask the cloud for certificates");
        let answer = super::https::post(server, CERTIFICATES_PATH, &request, &self.roots, basis).await?;
        killpoint::step("ask the cloud for certificates");
        Ok(answer)
    }

    /// The `offline` certificate that ends last.
    async fn offline(&self) -> Result<Prover, Error> {
        let record = self.certs.certificates().latest(OFFLINE).cloned();
        let record = record.ok_or_else(|| {
            Error::NotFound("there is no offline certificate; a token of an operator is needed".to_owned())
        })?;
        Prover::load(record).await
    }

    async fn csr(&mut self, own: &str, one: &Named, system_id: &str) -> Result<String, Error> {
        let key = (one.node.clone(), one.cert_type.clone());
        if let Some(csr) = self.csrs.get(&key) {
            return Ok(csr.clone());
        }
        let csr = if one.node == own {
            self.certs.create_key(one.cert_type.clone(), system_id.to_owned()).await?
        } else {
            let request = CreateKeyRequest {
                node_id: one.node.clone(),
                subject: system_id.to_owned(),
                r#type: one.cert_type.clone(),
                password: String::new(),
            };
            match self.ask(&one.node, ToNode::CreateKeyRequest(request)).await? {
                FromNode::CreateKeyResponse(answer) if answer.error.is_none() => answer.csr,
                FromNode::CreateKeyResponse(answer) => return Err(refused(answer.error)),
                _ => return Err(Error::Failed("the node answered something else".to_owned())),
            }
        };
        self.csrs.insert(key, csr.clone());
        Ok(csr)
    }

    async fn ask(&self, node: &str, request: ToNode) -> Result<FromNode, Error> {
        let nodes = self.nodes.as_ref();
        let nodes = nodes.ok_or_else(|| Error::NotSupported("only the main node knows nodes".to_owned()))?;
        nodes.call(node, request).await
    }

    /// Checks and stores a certificate; returns the begin of its validity.
    async fn store(&self, own: &str, one: &CertificateOf) -> Result<i64, Error> {
        let not_before = check_given(&self.roots, &one.certificate_chain)?;
        if one.node == own {
            self.certs.apply_cert(one.cert_type.clone(), one.certificate_chain.clone()).await?;
            return Ok(not_before);
        }
        let request = ApplyCertRequest {
            node_id: one.node.clone(),
            r#type: one.cert_type.clone(),
            cert: one.certificate_chain.clone(),
        };
        match self.ask(&one.node, ToNode::ApplyCertRequest(request)).await? {
            FromNode::ApplyCertResponse(answer) if answer.error.is_none() => Ok(not_before),
            FromNode::ApplyCertResponse(answer) => Err(refused(answer.error)),
            _ => Err(Error::Failed("the node answered something else".to_owned())),
        }
    }
}

/// A token must not be given to somebody whose certificate has ended; a signature says nothing new.
fn basis(token: Option<&Token>) -> TimeBasis {
    if token.is_some() { TimeBasis::Clock } else { TimeBasis::Floor }
}

fn refused(error: Option<aos_unit_api::common::v2::ErrorInfo>) -> Error {
    Error::Failed(error.map(|error| error.message).unwrap_or_default())
}

fn told(cert_type: &str, node: &str, error: &Error) -> String {
    format!("{cert_type} of {node}: {}", aos_logging::with_causes(error))
}
