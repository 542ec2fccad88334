//! How a Unit gets certificates without a session: two HTTPS requests to a listener of the cloud that asks
//! for no client certificate.
//!
//! The first brings a challenge, the second the requests for certificates with a proof of who asks: a
//! signature by the key of the Unit's unexpired `offline` certificate, or an operator's one-time token. What
//! is signed names challenge, Unit and the digest of all requests, so that a proof is good for nothing else.
//! Bodies are JSON of at most [`MAX_BODY`] bytes; what fails is a status and a [`Refusal`].
//!
//! A node other than the main one asks the main node's manager in the same way over gRPC, with the same
//! challenges and statements; the main node asks the cloud in its stead.

mod challenges;
mod proof;

use std::fmt;

use serde::{Deserialize, Serialize};

pub use challenges::{CHALLENGE_LIFE, Challenges};
pub use proof::{listed, signed_by, stated};

/// Path of the first request: [`ChallengeRequest`] to [`Challenge`].
pub const CHALLENGE_PATH: &str = "/recovery/v1/challenge";
/// Path of the second request: [`CertificatesRequest`] to [`Certificates`].
pub const CERTIFICATES_PATH: &str = "/recovery/v1/certificates";
/// Port of the listener where only the cloud's host is known.
pub const DEFAULT_PORT: u16 = 9443;
/// Largest body of a request or answer, bytes.
pub const MAX_BODY: usize = 1024 * 1024;
/// Most requests for certificates at once.
pub const MAX_REQUESTS: usize = 80;
/// Longest request for a certificate (PEM), bytes.
pub const MAX_CSR: usize = 16 * 1024;

/// Asks for a challenge.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ChallengeRequest {
    /// System ID of the Unit, 1 to 64 bytes.
    pub system_id: String,
}

/// A challenge, good for some minutes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Challenge {
    /// To be given back as it is; hexadecimal.
    pub challenge: String,
}

/// A one-time token of an operator; never shown.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Token(String);

impl Token {
    /// Keeps a token.
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    /// The token itself.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Token(hidden)")
    }
}

/// A request for one certificate.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CsrOf {
    /// Type of the certificate.
    #[serde(rename = "type")]
    pub cert_type: String,
    /// The node that holds the key.
    pub node: String,
    /// The request, PEM, at most [`MAX_CSR`] bytes.
    pub csr: String,
    /// Serial number (hexadecimal) of the certificate by whose key a node proved to the main node that it asks
    /// for this itself. The request is refused unless it was issued for that node and not revoked.
    #[serde(rename = "provedBy", default, skip_serializing_if = "Option::is_none")]
    pub proved_by: Option<String>,
}

/// Asks for certificates.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct CertificatesRequest {
    /// System ID of the Unit.
    pub system_id: String,
    /// The challenge.
    pub challenge: String,
    /// Signature over [`statement`] by the `offline` key, hexadecimal: RSA PKCS#1 v1.5 with SHA-256, ECDSA
    /// with the digest of the curve.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub signature: Option<String>,
    /// Token of an operator, in place of a signature.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub token: Option<Token>,
    /// 1 to [`MAX_REQUESTS`] requests, at most one for each type and node.
    pub requests: Vec<CsrOf>,
}

/// An issued certificate.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct CertificateOf {
    /// Its type.
    #[serde(rename = "type")]
    pub cert_type: String,
    /// The node that holds the key.
    pub node: String,
    /// PEM chain, leaf first, root last.
    pub certificate_chain: String,
}

/// A request that was refused.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RefusedOf {
    /// Type of the certificate.
    #[serde(rename = "type")]
    pub cert_type: String,
    /// The node.
    pub node: String,
    /// Why.
    pub reason: String,
}

/// A certificate of the Unit.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Named {
    /// Its type.
    #[serde(rename = "type")]
    pub cert_type: String,
    /// The node that holds the key.
    pub node: String,
}

/// The answer to [`CertificatesRequest`].
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Certificates {
    /// What was issued.
    #[serde(default)]
    pub certificates: Vec<CertificateOf>,
    /// What was not.
    #[serde(default)]
    pub refused: Vec<RefusedOf>,
    /// Further certificates of the Unit that end soon or have ended, as the cloud's record has it: those of
    /// other nodes, which the Unit's main node cannot know.
    #[serde(default)]
    pub due: Vec<Named>,
}

/// Why a request was refused as a whole.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Refusal {
    /// For people.
    #[serde(default)]
    pub message: String,
}

const DOMAIN: &[u8] = b"Aos certificate recovery 1";

/// Stands where the length of a part would, before a request with four parts.
const FOUR_PARTS: u64 = u64::MAX;

/// All requests as one text whose SHA-256 goes into the [`statement`]. Every part has its length before it.
pub fn listing(requests: &[CsrOf]) -> Vec<u8> {
    let mut text = Vec::new();
    for one in requests {
        if let Some(serial) = &one.proved_by {
            text.extend_from_slice(&FOUR_PARTS.to_be_bytes());
            append(&mut text, serial.as_bytes());
        }
        for part in [&one.cert_type, &one.node, &one.csr] {
            append(&mut text, part.as_bytes());
        }
    }
    text
}

/// What a Unit signs: purpose, challenge, Unit, digest (SHA-256) of the [`listing`].
pub fn statement(challenge: &str, system_id: &str, digest: &[u8]) -> Vec<u8> {
    let mut text = Vec::new();
    for part in [DOMAIN, challenge.as_bytes(), system_id.as_bytes(), digest] {
        append(&mut text, part);
    }
    text
}

fn append(text: &mut Vec<u8>, part: &[u8]) {
    text.extend_from_slice(&u64::try_from(part.len()).unwrap_or(u64::MAX).to_be_bytes());
    text.extend_from_slice(part);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn csr(cert_type: &str, node: &str, csr: &str) -> CsrOf {
        CsrOf { cert_type: cert_type.into(), node: node.into(), csr: csr.into(), proved_by: None }
    }

    #[test]
    fn different_things_never_have_the_same_text() {
        let one = listing(&[csr("ab", "c", "d")]);
        assert_ne!(one, listing(&[csr("a", "bc", "d")]));
        assert_ne!(one, listing(&[csr("ab", "c", ""), csr("", "", "d")]));
        let proved = CsrOf { proved_by: Some("e".into()), ..csr("ab", "c", "d") };
        assert_ne!(one, listing(&[proved]));
        assert_ne!(statement("ab", "c", b"d"), statement("a", "bc", b"d"));
        assert!(statement("x", "y", b"").windows(DOMAIN.len()).any(|part| part == DOMAIN));
    }

    #[test]
    fn the_wire_form() {
        let request = CertificatesRequest {
            system_id: "u".into(),
            challenge: "00".into(),
            signature: None,
            token: Some(Token::new("secret")),
            requests: vec![csr("online", "main", "pem")],
        };
        let text = serde_json::to_string(&request).unwrap();
        let expected = r#"{"systemId":"u","challenge":"00","token":"secret","requests":[{"type":"online","node":"main","csr":"pem"}]}"#;
        assert_eq!(text, expected);
        assert_eq!(serde_json::from_str::<CertificatesRequest>(&text).unwrap(), request);
        assert!(!format!("{request:?}").contains("secret"));
        assert_eq!(serde_json::from_str::<Certificates>("{}").unwrap(), Certificates::default());
    }
}
