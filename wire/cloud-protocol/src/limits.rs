//! What an upstream Unit cannot take, found before it is sent.
//!
//! Such a Unit converts a message into structures of fixed size. What does not fit, or lacks something it
//! needs, is dropped whole, without acknowledgement, with one log line on the Unit: nobody at the cloud ever
//! learns why. Our own Units take far more. As a cloud does not know which kind of Unit it talks to, it stays
//! within these limits always.
//!
//! [`check_for_unit`] is for the cloud: its gateway calls it for each message before the message enters the
//! session, its API when an operator hands in what will become one. [`findings_for_unit`] tells all that is
//! wrong, for tools.

mod desired;
mod requests;

use crate::{AosIdentity, Body, CertificateType, MAX_CORRELATION_ID};

/// Most findings told of one message.
pub const MAX_FINDINGS: usize = 20;

/// Longest identifier, codename or title, bytes.
const ID: usize = 64;
/// Longest version text, bytes.
const VERSION: usize = 32;
/// Longest fingerprint, chain name, algorithm, label or secret, bytes.
const NAME: usize = 64;
/// Longest address, bytes.
const URL: usize = 4096;
/// Longest PEM certificate chain, bytes.
const CHAIN: usize = 16_384;
/// Most nodes.
const NODES: usize = 16;
/// Most certificates of one renewal.
const RENEWED: usize = 80;

/// Why an upstream Unit would drop a message. Paths are those of the JSON document below `data`.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LimitError {
    /// A value is too long.
    #[error("{path} has {length} bytes, Units take {max}")]
    TooLong {
        /// Where.
        path: String,
        /// Its length, bytes.
        length: usize,
        /// What fits, bytes.
        max: usize,
    },
    /// A list is too long.
    #[error("{path} has {count} entries, Units take {max}")]
    TooMany {
        /// Where.
        path: String,
        /// Its entries.
        count: usize,
        /// What fits.
        max: usize,
    },
    /// A value that a Unit needs is missing, or one that it does not know is there.
    #[error("{path} {reason}")]
    Unusable {
        /// Where.
        path: String,
        /// What is wrong, in words that continue the path.
        reason: &'static str,
    },
}

/// The first reason why an upstream Unit would drop the message; messages of Units are not looked at.
pub fn check_for_unit(correlation_id: Option<&str>, body: &Body) -> Result<(), LimitError> {
    findings_for_unit(correlation_id, body).into_iter().next().map_or(Ok(()), Err)
}

/// Every reason why an upstream Unit would drop the message, in the order of the document, at most
/// [`MAX_FINDINGS`].
pub fn findings_for_unit(correlation_id: Option<&str>, body: &Body) -> Vec<LimitError> {
    let mut findings = Findings::default();
    if body.direction() != crate::Direction::UnitToCloud {
        let id = correlation_id.unwrap_or_default();
        // An ack may refer to a transaction of any length; its correlationId is not looked at by Units, but
        // it has to fit.
        findings.length("correlationId", id.len(), MAX_CORRELATION_ID);
    }
    match body {
        Body::DesiredStatus(status) => desired::status(&mut findings, status),
        Body::BlobUrls(urls) => requests::blob_urls(&mut findings, correlation_id, urls),
        Body::RequestLog(request) => requests::request_log(&mut findings, request),
        Body::OverrideEnvVars(vars) => requests::override_env_vars(&mut findings, vars),
        Body::UpdateState(state) => requests::update_state(&mut findings, state),
        Body::StateAcceptance(acceptance) => requests::state_acceptance(&mut findings, acceptance),
        Body::RenewCertificatesNotification(renewal) => requests::renewal(&mut findings, renewal),
        Body::IssuedUnitCertificates(issued) => requests::issued(&mut findings, issued),
        Body::StartProvisioningRequest(request) => {
            requests::node_request(&mut findings, &request.node, &request.password);
        }
        Body::FinishProvisioningRequest(request) => requests::finish_provisioning(&mut findings, request),
        Body::DeprovisioningRequest(request) => {
            requests::node_request(&mut findings, &request.node, &request.password);
        }
        Body::Ack(_)
        | Body::Nack(_)
        | Body::UnitStatus(_)
        | Body::MonitoringData(_)
        | Body::Alerts(_)
        | Body::PushLog(_)
        | Body::OverrideEnvVarsStatus(_)
        | Body::RequestBlobUrls(_)
        | Body::NewState(_)
        | Body::StateRequest(_)
        | Body::IssueUnitCertificates(_)
        | Body::InstallUnitCertificatesConfirmation(_)
        | Body::StartProvisioningResponse(_)
        | Body::FinishProvisioningResponse(_)
        | Body::DeprovisioningResponse(_) => {}
    }
    findings.0
}

/// What was found so far.
#[derive(Default)]
struct Findings(Vec<LimitError>);

impl Findings {
    fn add(&mut self, finding: LimitError) {
        if self.0.len() < MAX_FINDINGS {
            self.0.push(finding);
        }
    }

    fn length(&mut self, path: impl Into<String>, length: usize, max: usize) {
        if length > max {
            self.add(LimitError::TooLong { path: path.into(), length, max });
        }
    }

    fn count(&mut self, path: impl Into<String>, count: usize, max: usize) {
        if count > max {
            self.add(LimitError::TooMany { path: path.into(), count, max });
        }
    }

    fn needs(&mut self, path: impl Into<String>, there: bool, reason: &'static str) {
        if !there {
            self.add(LimitError::Unusable { path: path.into(), reason });
        }
    }

    /// Lengths of the members of an identity.
    fn identity(&mut self, path: &str, identity: &AosIdentity) {
        for (member, text) in
            [("id", &identity.id), ("codename", &identity.codename), ("title", &identity.title)]
        {
            self.length(format!("{path}.{member}"), text.as_ref().map_or(0, String::len), ID);
        }
    }

    /// A node, which must go by codename.
    fn node(&mut self, path: &str, node: &AosIdentity) {
        self.identity(path, node);
        self.needs(path, is_given(node.codename.as_ref()), "has no codename");
    }

    /// Something the cloud delivers, which must go by id.
    fn delivered(&mut self, path: &str, identity: &AosIdentity) {
        self.identity(path, identity);
        self.needs(path, is_given(identity.id.as_ref()), "has no id");
    }

    /// A delivered thing that may be left out.
    fn optional(&mut self, path: &str, identity: Option<&AosIdentity>) {
        if let Some(identity) = identity {
            self.delivered(path, identity);
        }
    }

    fn certificate_type(&mut self, path: String, kind: &CertificateType) {
        let known = matches!(
            kind,
            CertificateType::Offline
                | CertificateType::Online
                | CertificateType::Sm
                | CertificateType::Cm
                | CertificateType::Iam
        );
        self.needs(path, known, "is none of the types offline, online, sm, cm and iam");
    }

    fn labels(&mut self, path: &str, labels: &[String]) {
        self.count(path, labels.len(), 4);
        for (at, label) in labels.iter().enumerate() {
            self.length(format!("{path}[{at}]"), label.len(), NAME);
        }
    }
}

fn is_given(text: Option<&String>) -> bool {
    text.is_some_and(|text| !text.is_empty())
}
