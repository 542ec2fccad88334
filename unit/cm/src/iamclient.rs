//! What the cloud asks IAM for through us: provisioning of nodes and renewal of certificates.
//!
//! Each piece of work is a sequence of orders that may be given again from its beginning, so that it can be
//! repeated after a crash. While IAM is away the order at hand is repeated for two minutes; what a node
//! refuses is answered at once. The main node is never provisioned or deprovisioned by the cloud: that would
//! cut the branch we sit on.

use std::time::{Duration, Instant};

use aos_backoff::Backoff;
use aos_cloud_protocol::{
    AosIdentity, Body, CertificateRequest, CertificateToRenew, CertificateType, DeprovisioningRequest,
    FinishProvisioningRequest, InstallUnitCertificatesConfirmation, InstalledCertificate,
    IssueUnitCertificates, IssuedCertificate, IssuedUnitCertificates, MessageType, NodeCsr, NodeOutcome,
    RenewCertificatesNotification, Secret, StartProvisioningRequest, StartProvisioningResponse, UnitSecrets,
};
use aos_iam_link::{IamLink, OrderError, Orders};
use aos_ids::NodeId;
use aos_status::{AosCode, ErrorInfo, NodeState};
use serde::{Deserialize, Serialize};

/// How long an order is repeated while IAM is away.
const PATIENCE: Duration = Duration::from_mins(2);
/// Pauses between repetitions.
const PAUSE: (Duration, Duration) = (Duration::from_millis(200), Duration::from_secs(5));
/// Most certificates of one renewal.
pub const MAX_CERTIFICATES: usize = 80;

/// Work that takes long.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Work {
    /// Keys for a node that is to become part of the Unit.
    Start(StartProvisioningRequest),
    /// Certificates for it.
    Finish(FinishProvisioningRequest),
    /// A node is to leave the Unit.
    Leave(DeprovisioningRequest),
    /// Keys for new certificates.
    Renew(RenewCertificatesNotification),
    /// New certificates.
    Install(IssuedUnitCertificates),
}

impl Work {
    /// The kind of message that asked for it.
    pub fn kind(&self) -> MessageType {
        match self {
            Self::Start(_) => MessageType::StartProvisioningRequest,
            Self::Finish(_) => MessageType::FinishProvisioningRequest,
            Self::Leave(_) => MessageType::DeprovisioningRequest,
            Self::Renew(_) => MessageType::RenewCertificatesNotification,
            Self::Install(_) => MessageType::IssuedUnitCertificates,
        }
    }

    /// Work with the same word is done one after the other.
    pub fn lane(&self) -> &str {
        match self {
            Self::Start(StartProvisioningRequest { node, .. })
            | Self::Finish(FinishProvisioningRequest { node, .. })
            | Self::Leave(DeprovisioningRequest { node, .. }) => node.key().unwrap_or_default(),
            // No node is called that: a name is not empty and has no blank at its beginning.
            Self::Renew(_) | Self::Install(_) => " certificates",
        }
    }

    /// The answer when it cannot be done at all.
    pub fn refused(self, error: &ErrorInfo) -> Vec<Body> {
        let error = || Some(error.clone());
        let failed =
            |kind, node| InstalledCertificate { kind, node, serial: String::new(), error_info: error() };
        let confirmation: Vec<InstalledCertificate> = match self {
            Self::Start(request) => {
                let answer =
                    StartProvisioningResponse { node: request.node, error_info: error(), csrs: vec![] };
                return vec![Body::StartProvisioningResponse(answer)];
            }
            Self::Finish(request) => {
                let answer = NodeOutcome { node: request.node, error_info: error() };
                return vec![Body::FinishProvisioningResponse(answer)];
            }
            Self::Leave(request) => {
                let answer = NodeOutcome { node: request.node, error_info: error() };
                return vec![Body::DeprovisioningResponse(answer)];
            }
            Self::Renew(wish) => {
                wish.certificates.into_iter().map(|one| failed(one.kind, one.node)).collect()
            }
            Self::Install(issued) => {
                issued.certificates.into_iter().map(|one| failed(one.kind, one.node)).collect()
            }
        };
        confirmations(confirmation)
    }
}

fn confirmations(certificates: Vec<InstalledCertificate>) -> Vec<Body> {
    if certificates.is_empty() {
        return Vec::new();
    }
    vec![Body::InstallUnitCertificatesConfirmation(InstallUnitCertificatesConfirmation { certificates })]
}

/// Whoever carries out the work.
#[derive(Clone)]
pub struct IamClient {
    /// Questions to IAM.
    pub link: IamLink,
    /// Orders to IAM.
    pub orders: Orders,
    /// The node we run on.
    pub main: NodeId,
}

impl IamClient {
    /// Does the work and gives the answers to the cloud, in order. It always ends.
    pub async fn perform(&self, work: Work) -> Vec<Body> {
        match work {
            Work::Start(request) => {
                let mut csrs = Vec::new();
                let error_info = self.start(&request, &mut csrs).await.err();
                let answer = StartProvisioningResponse { node: request.node, error_info, csrs };
                vec![Body::StartProvisioningResponse(answer)]
            }
            Work::Finish(request) => {
                let error_info = self.finish(&request).await.err();
                let answer = NodeOutcome { node: request.node, error_info };
                vec![Body::FinishProvisioningResponse(answer)]
            }
            Work::Leave(request) => {
                let error_info = self.leave(&request).await.err();
                let answer = NodeOutcome { node: request.node, error_info };
                vec![Body::DeprovisioningResponse(answer)]
            }
            Work::Renew(wish) => self.renew(wish).await,
            Work::Install(issued) => self.install(issued).await,
        }
    }

    fn secondary(&self, node: &AosIdentity, what: &str) -> Result<NodeId, ErrorInfo> {
        let id = node_of(node)?;
        if id == self.main {
            return Err(ErrorInfo::new(AosCode::WrongState, format!("main node can't be {what}")));
        }
        Ok(id)
    }

    async fn start(
        &self,
        request: &StartProvisioningRequest,
        csrs: &mut Vec<NodeCsr>,
    ) -> Result<(), ErrorInfo> {
        let id = self.secondary(&request.node, "provisioned")?;
        let (node, password) = (id.as_str(), request.password.expose());
        insist(|| self.orders.start_provisioning(node, password)).await?;
        for kind in insist(|| self.orders.cert_types(node)).await? {
            let csr = insist(|| self.orders.create_key(node, &kind, password)).await?;
            csrs.push(NodeCsr { kind: CertificateType::from(kind), csr });
        }
        Ok(())
    }

    async fn finish(&self, request: &FinishProvisioningRequest) -> Result<(), ErrorInfo> {
        let id = self.secondary(&request.node, "provisioned")?;
        let node = id.as_str();
        for certificate in &request.certificates {
            let kind = certificate.kind.as_str();
            insist(|| self.orders.apply_cert(node, kind, &certificate.chain)).await?;
        }
        insist(|| self.orders.finish_provisioning(node, request.password.expose())).await
    }

    async fn leave(&self, request: &DeprovisioningRequest) -> Result<(), ErrorInfo> {
        let id = self.secondary(&request.node, "deprovisioned")?;
        let node = id.as_str();
        insist(|| async {
            // Whoever lost the answer to the order finds the node as it should be.
            let present = self.link.node_info(node).await?;
            if present.state == NodeState::Unprovisioned.as_str() {
                return Ok(());
            }
            self.orders.deprovision(node, request.password.expose()).await
        })
        .await
    }

    async fn renew(&self, wish: RenewCertificatesNotification) -> Vec<Body> {
        let (mut requests, mut failed) = (Vec::new(), Vec::new());
        for (number, one) in distinct(wish.certificates).into_iter().enumerate() {
            match self.new_key(number, &one, &wish.unit_secrets).await {
                Ok(csr) => requests.push(CertificateRequest { kind: one.kind, node: one.node, csr }),
                Err(error) => {
                    tracing::error!("no new {} certificate for a node: {error}", one.kind);
                    failed.push(InstalledCertificate {
                        kind: one.kind,
                        node: one.node,
                        serial: String::new(),
                        error_info: Some(error),
                    });
                }
            }
        }
        let mut answers = Vec::new();
        if !requests.is_empty() {
            answers.push(Body::IssueUnitCertificates(IssueUnitCertificates { requests }));
        }
        answers.extend(confirmations(failed));
        answers
    }

    async fn new_key(
        &self,
        number: usize,
        one: &CertificateToRenew,
        secrets: &UnitSecrets,
    ) -> Result<String, ErrorInfo> {
        if number >= MAX_CERTIFICATES {
            return Err(ErrorInfo::new(AosCode::NoMemory, "too many certificates in one renewal"));
        }
        let node = node_of(&one.node)?;
        let secret = secret_of(&node, secrets)
            .ok_or_else(|| ErrorInfo::new(AosCode::NotFound, "no secret for this node"))?;
        let (id, kind) = (node.as_str(), one.kind.as_str());
        insist(|| self.orders.create_key(id, kind, secret.expose())).await
    }

    async fn install(&self, issued: IssuedUnitCertificates) -> Vec<Body> {
        let mut installed = Vec::new();
        for one in in_order(issued.certificates, &self.main) {
            let result = self.apply(&one).await;
            if let Err(error) = &result {
                tracing::error!("a new {} certificate is not installed: {error}", one.kind);
            }
            installed.push(InstalledCertificate {
                kind: one.kind,
                node: one.node,
                serial: result.as_ref().map(hex::encode).unwrap_or_default(),
                error_info: result.err(),
            });
        }
        confirmations(installed)
    }

    async fn apply(&self, one: &IssuedCertificate) -> Result<Vec<u8>, ErrorInfo> {
        let node = node_of(&one.node)?;
        let (id, kind) = (node.as_str(), one.kind.as_str());
        insist(|| self.orders.apply_cert(id, kind, &one.certificate_chain)).await
    }
}

fn node_of(node: &AosIdentity) -> Result<NodeId, ErrorInfo> {
    node.node_id()
        .map_err(|error| ErrorInfo::new(AosCode::InvalidArgument, format!("no node is named: {error}")))
}

fn secret_of<'a>(node: &NodeId, secrets: &'a UnitSecrets) -> Option<&'a Secret> {
    let found = secrets.nodes.iter().find(|one| one.node.node_id().is_ok_and(|id| id == *node));
    found.map(|one| &one.secret)
}

/// A second key for the same certificate would make the first request worthless.
fn distinct(certificates: Vec<CertificateToRenew>) -> Vec<CertificateToRenew> {
    let mut kept: Vec<CertificateToRenew> = Vec::new();
    for one in certificates {
        let same = |known: &CertificateToRenew| known.kind == one.kind && known.node.key() == one.node.key();
        if !kept.iter().any(same) {
            kept.push(one);
        }
    }
    kept
}

/// Other nodes by name and then the main node; on each the certificate of IAM last, since its change may
/// disturb the link that the others come through.
fn in_order(mut certificates: Vec<IssuedCertificate>, main: &NodeId) -> Vec<IssuedCertificate> {
    certificates.sort_by_key(|one| {
        let node = one.node.node_id().map(|id| id.to_string()).unwrap_or_default();
        (node == main.as_str(), node, one.kind == CertificateType::Iam)
    });
    certificates
}

/// Repeats an order while IAM is away.
async fn insist<T, F: Future<Output = Result<T, OrderError>>>(order: impl Fn() -> F) -> Result<T, ErrorInfo> {
    let since = Instant::now();
    let mut backoff = Backoff::new(PAUSE.0, PAUSE.1, 0.2);
    loop {
        match order().await {
            Ok(done) => return Ok(done),
            Err(OrderError::Link(error)) if error.is_passing() && since.elapsed() < PATIENCE => {
                tracing::warn!("{error}; trying again");
                tokio::time::sleep(backoff.next(aos_backoff::random_fraction())).await;
            }
            Err(OrderError::Link(error)) => {
                let code = if error.is_passing() { AosCode::Timeout } else { AosCode::Failed };
                return Err(ErrorInfo::new(code, error.to_string()));
            }
            Err(OrderError::Refused { info, .. }) => return Err(info.into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn issued(list: &[(&str, &str)]) -> Vec<IssuedCertificate> {
        let one = |(node, kind): &(&str, &str)| IssuedCertificate {
            kind: CertificateType::from((*kind).to_owned()),
            node: AosIdentity::by_codename(*node),
            certificate_chain: String::new(),
        };
        list.iter().map(one).collect()
    }

    // PRO-97: the order of installation.
    #[test]
    fn iam_of_the_main_node_is_the_very_last() {
        let given = issued(&[
            ("main", "iam"),
            ("main", "online"),
            ("z", "iam"),
            ("a", "iam"),
            ("a", "sm"),
            ("main", "cm"),
            ("z", "sm"),
        ]);
        let order = in_order(given, &NodeId::new("main").unwrap());
        let words: Vec<String> =
            order.iter().map(|one| format!("{} {}", one.node.key().unwrap(), one.kind)).collect();
        assert_eq!(words, ["a sm", "a iam", "z sm", "z iam", "main online", "main cm", "main iam"]);
    }

    // PRO-94: every form of the secrets gives the secret of the node, and no other's.
    #[test]
    fn secrets_come_in_many_forms() {
        let forms = [
            serde_json::json!([{"node": {"codename": "b"}, "secret": "no"},
                {"node": {"codename": "a"}, "secret": "yes"}]),
            serde_json::json!({"node": {"codename": "a"}, "secret": "yes"}),
            serde_json::json!({"a": "yes", "b": "no"}),
        ];
        for nodes in forms {
            let secrets: UnitSecrets = serde_json::from_value(serde_json::json!({"nodes": nodes})).unwrap();
            let secret = |node: &str| secret_of(&NodeId::new(node).unwrap(), &secrets).map(Secret::expose);
            assert_eq!((secret("a"), secret("c")), (Some("yes"), None));
        }
        let none: UnitSecrets = serde_json::from_value(serde_json::json!({"nodes": null})).unwrap();
        assert!(secret_of(&NodeId::new("a").unwrap(), &none).is_none());
    }

    #[test]
    fn what_cannot_be_done_is_answered_in_its_own_form() {
        let error = ErrorInfo::new(AosCode::NoMemory, "full");
        let install = Work::Install(IssuedUnitCertificates { certificates: issued(&[("a", "sm")]) });
        assert_eq!(install.lane(), " certificates");
        let [Body::InstallUnitCertificatesConfirmation(answer)] = &install.refused(&error)[..] else {
            panic!("a confirmation is expected")
        };
        assert_eq!(answer.certificates[0].error_info.as_ref(), Some(&error));
        assert!(Work::Install(IssuedUnitCertificates::default()).refused(&error).is_empty());
        let node = AosIdentity::by_codename("rear");
        let leave = Work::Leave(DeprovisioningRequest { node: node.clone(), password: Secret::default() });
        assert_eq!(leave.lane(), "rear");
        assert!(matches!(&leave.refused(&error)[..], [Body::DeprovisioningResponse(_)]));
    }
}
