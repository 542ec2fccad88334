//! Certificate signing requests: reading, proof of possession and the policy for what may be copied.
//!
//! Limits: 16 KiB of PEM, 8 subject alternative names of at most 253 characters. Keys: RSA 2048..=4096,
//! EC P-256, P-384 or P-521.

use std::net::IpAddr;
use std::str::FromStr;

use rcgen::{ExtendedKeyUsagePurpose, SanType, SubjectPublicKeyInfo};
use x509_parser::certification_request::X509CertificationRequest;
use x509_parser::extensions::{GeneralName, ParsedExtension};
use x509_parser::prelude::FromDer;
use x509_parser::public_key::PublicKey;

use crate::error::PkiError;

const MAX_PEM: usize = 16 * 1024;
const MAX_NAMES: usize = 8;
const MAX_NAME: usize = 253;

/// Types of Unit certificates that the cloud issues.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum CertType {
    /// Opens a Unit's session with the cloud.
    Online,
    /// Opens envelopes encrypted for the Unit.
    Offline,
    /// Identity and access manager.
    Iam,
    /// Communication manager.
    Cm,
    /// Service manager.
    Sm,
    /// Update manager of older Units.
    Um,
}

impl CertType {
    /// The word on all wires.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Online => "online",
            Self::Offline => "offline",
            Self::Iam => "iam",
            Self::Cm => "cm",
            Self::Sm => "sm",
            Self::Um => "um",
        }
    }
}

impl FromStr for CertType {
    type Err = PkiError;

    fn from_str(word: &str) -> Result<Self, PkiError> {
        [Self::Online, Self::Offline, Self::Iam, Self::Cm, Self::Sm, Self::Um]
            .into_iter()
            .find(|kind| kind.as_str() == word)
            .ok_or_else(|| {
                let shown: String = word.chars().take(40).collect();
                PkiError::Refused(format!("certificate type '{shown}' is not issued by this cloud"))
            })
    }
}

/// A request whose self-signature was verified.
#[derive(Debug, Clone)]
pub struct Request {
    pub(crate) key: SubjectPublicKeyInfo,
    key_hash: [u8; 32],
    is_rsa: bool,
    common_name: Option<String>,
    names: Vec<SanType>,
    usages: Vec<ExtendedKeyUsagePurpose>,
}

impl Request {
    /// Reads a PEM request and proves that its sender holds the key.
    pub fn from_pem(pem: &str) -> Result<Self, PkiError> {
        if pem.len() > MAX_PEM {
            return Err(refused("it is larger than 16 KiB"));
        }
        let (_, block) =
            x509_parser::pem::parse_x509_pem(pem.as_bytes()).map_err(|_| refused("it is not PEM"))?;
        if block.label != "CERTIFICATE REQUEST" && block.label != "NEW CERTIFICATE REQUEST" {
            return Err(refused("the PEM block is no certificate request"));
        }
        let (_, csr) = X509CertificationRequest::from_der(&block.contents)
            .map_err(|_| refused("it is not a PKCS#10 request"))?;
        csr.verify_signature().map_err(|_| refused("its signature does not match its key"))?;

        let info = &csr.certification_request_info;
        let is_rsa = match info.subject_pki.parsed() {
            Ok(PublicKey::RSA(rsa)) => {
                if !(2048..=4096).contains(&rsa.key_size()) {
                    return Err(refused("RSA keys must have 2048 to 4096 bits"));
                }
                true
            }
            Ok(PublicKey::EC(_)) => false,
            _ => return Err(refused("the key is neither RSA nor EC")),
        };
        let key = SubjectPublicKeyInfo::from_der(info.subject_pki.raw)
            .map_err(|_| refused("the key is neither RSA nor EC on P-256, P-384 or P-521"))?;
        let key_hash = sha256(info.subject_pki.raw);

        let common_name = info
            .subject
            .iter_common_name()
            .next()
            .and_then(|name| name.as_str().ok())
            .filter(|name| !name.is_empty())
            .map(str::to_owned);

        let mut names = Vec::new();
        let mut usages = Vec::new();
        for extension in csr.requested_extensions().into_iter().flatten() {
            match extension {
                ParsedExtension::SubjectAlternativeName(san) => {
                    names = san.general_names.iter().map(requested_name).collect::<Result<_, _>>()?;
                }
                ParsedExtension::ExtendedKeyUsage(eku) => {
                    if eku.any || eku.code_signing || eku.email_protection || eku.time_stamping {
                        return Err(refused("only serverAuth and clientAuth may be requested"));
                    }
                    if eku.ocsp_signing || !eku.other.is_empty() {
                        return Err(refused("only serverAuth and clientAuth may be requested"));
                    }
                    if eku.server_auth {
                        usages.push(ExtendedKeyUsagePurpose::ServerAuth);
                    }
                    if eku.client_auth {
                        usages.push(ExtendedKeyUsagePurpose::ClientAuth);
                    }
                }
                // Key usage and constraints are the issuer's to decide; other requests are not copied.
                _ => {}
            }
        }
        if names.len() > MAX_NAMES {
            return Err(refused("more than 8 subject alternative names"));
        }
        Ok(Self { key, key_hash, is_rsa, common_name, names, usages })
    }

    /// SHA-256 of the public key's SubjectPublicKeyInfo: equal keys make equal requests.
    pub fn key_hash(&self) -> &[u8; 32] {
        &self.key_hash
    }

    /// True for RSA keys.
    pub fn is_rsa(&self) -> bool {
        self.is_rsa
    }

    /// Checks the request against what a Unit may have, given the cloud's own host names.
    pub(crate) fn check_unit(&self, system_id: &str, hosts: &[String]) -> Result<(), PkiError> {
        if self.common_name.as_deref().is_some_and(|name| name != system_id) {
            return Err(refused("its common name is not the Unit's system id"));
        }
        for name in &self.names {
            // A Unit's certificate ends in the same root as the cloud's: it must never carry our names.
            let ours = match name {
                SanType::DnsName(dns) => {
                    let text = dns.as_str();
                    !is_loopback_name(text) && hosts.iter().any(|host| host.eq_ignore_ascii_case(text))
                }
                SanType::IpAddress(ip) => !ip.is_loopback() && hosts.contains(&ip.to_string()),
                _ => false,
            };
            if ours {
                return Err(refused("it asks for a name of the cloud itself"));
            }
        }
        Ok(())
    }

    pub(crate) fn names(&self) -> &[SanType] {
        &self.names
    }

    pub(crate) fn usages(&self) -> &[ExtendedKeyUsagePurpose] {
        &self.usages
    }
}

fn is_loopback_name(name: &str) -> bool {
    name.eq_ignore_ascii_case("localhost")
}

fn requested_name(name: &GeneralName<'_>) -> Result<SanType, PkiError> {
    match name {
        GeneralName::DNSName(dns) => {
            let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '.' | '_');
            if dns.is_empty() || dns.len() > MAX_NAME || !dns.chars().all(plain) {
                return Err(refused("a DNS name is empty, too long or not plain"));
            }
            let text = (*dns).try_into().map_err(|_| refused("a DNS name is not ASCII"))?;
            Ok(SanType::DnsName(text))
        }
        GeneralName::IPAddress(bytes) => {
            let ip = match *bytes {
                [a, b, c, d] => IpAddr::from([*a, *b, *c, *d]),
                other => {
                    let v6: [u8; 16] =
                        other.try_into().map_err(|_| refused("an IP address has a wrong length"))?;
                    IpAddr::from(v6)
                }
            };
            Ok(SanType::IpAddress(ip))
        }
        _ => Err(refused("subject alternative names may be DNS names and IP addresses only")),
    }
}

fn sha256(bytes: &[u8]) -> [u8; 32] {
    let mut out = [0; 32];
    out.copy_from_slice(aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, bytes).as_ref());
    out
}

fn refused(why: &str) -> PkiError {
    PkiError::Refused(why.to_owned())
}
