//! Issuing leaf certificates. Times are seconds since 1970 UTC.

use std::time::Duration;

use rcgen::{
    CertificateParams, DistinguishedName, DnType, DnValue, ExtendedKeyUsagePurpose, IsCa, KeyPair,
    KeyUsagePurpose, PKCS_ECDSA_P256_SHA256, SanType, SerialNumber,
};
use rustls_pki_types::{CertificateDer, PrivateKeyDer};

use crate::authority::{Authority, Domain, Pki};
use crate::csr::{CertType, Request};
use crate::error::PkiError;
use crate::extension::issuer_alt_name;
use crate::pem::certificate_to_pem;

const DAY: i64 = 24 * 3600;
/// Devices start with clocks that lag; a fresh certificate must be valid for them.
const BACKDATE: i64 = 3600;
/// At most this part of a short life lies before its issue.
const BACKDATE_PART: i64 = 20;
const USER_LIFETIME: i64 = 730 * DAY;
const SERVER_LIFETIME: i64 = 730 * DAY;
/// `1.2.840.113549.1.9.1`
const EMAIL_ADDRESS: [u64; 7] = [1, 2, 840, 113_549, 1, 9, 1];

/// How long certificates of Units are good, seconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct UnitLives {
    /// All types but `offline`.
    pub usual: i64,
    /// Type `offline`: its key proves who a Unit is after all others have ended, so it lives longer.
    pub offline: i64,
}

impl Default for UnitLives {
    fn default() -> Self {
        Self { usual: 730 * DAY, offline: 3650 * DAY }
    }
}

/// A certificate just issued, with what the record of issued certificates needs.
#[derive(Debug, Clone)]
pub struct Issued {
    /// Leaf, intermediate, root as PEM.
    pub chain_pem: String,
    /// DER of the issuer's name; with `serial` it identifies the certificate.
    pub issuer_der: Vec<u8>,
    /// Serial number, see [`crate::serial_text`].
    pub serial: String,
    /// Start of validity.
    pub not_before: i64,
    /// End of validity.
    pub not_after: i64,
    /// SHA-256 of the public key (SubjectPublicKeyInfo).
    pub key_hash: [u8; 32],
}

/// What goes into a user certificate.
#[derive(Debug, Clone)]
pub struct UserSubject {
    /// CN.
    pub username: String,
    /// OU.
    pub company: String,
    /// emailAddress.
    pub email: String,
}

/// The cloud's own server certificate.
pub struct ServerCertificate {
    /// Leaf and intermediate; the root is known to clients.
    pub chain: Vec<CertificateDer<'static>>,
    /// PKCS#8 key.
    pub key: PrivateKeyDer<'static>,
    /// End of validity.
    pub not_after: i64,
}

impl Pki {
    /// Issues a user certificate; subject and names come from the account, only the key from the request.
    pub fn issue_user(&self, request: &Request, user: &UserSubject, now: i64) -> Result<Issued, PkiError> {
        let mut params = leaf(now, USER_LIFETIME, request.is_rsa());
        let name = &mut params.distinguished_name;
        name.push(DnType::CommonName, text(&user.username)?);
        name.push(DnType::OrganizationalUnitName, text(&user.company)?);
        name.push(DnType::OrganizationName, text(self.domain())?);
        let email = user
            .email
            .as_str()
            .try_into()
            .map_err(|_| PkiError::Refused("the e-mail address is not ASCII".to_owned()))?;
        name.push(DnType::CustomDnType(EMAIL_ADDRESS.to_vec()), DnValue::Ia5String(email));
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        let urn = format!("urn:aos:domain:{}", self.domain());
        let urn = urn.try_into().map_err(|source| PkiError::Make { what: "user", source })?;
        params.subject_alt_names = vec![SanType::URI(urn)];
        self.sign(Domain::Users, params, request, "user")
    }

    /// Issues a Unit certificate with CN = `system_id`. Requested usages and names are copied after the
    /// policy check; `online` gets `discovery_url` as issuerAltName and never more than clientAuth.
    pub fn issue_unit(
        &self,
        request: &Request,
        system_id: &str,
        cert_type: CertType,
        discovery_url: &str,
        now: i64,
    ) -> Result<Issued, PkiError> {
        request.check_unit(system_id, self.hosts())?;
        let lives = self.unit_lives();
        let lifetime = if cert_type == CertType::Offline { lives.offline } else { lives.usual };
        let mut params = leaf(now, lifetime, request.is_rsa());
        params.distinguished_name.push(DnType::CommonName, text(system_id)?);
        params.subject_alt_names = request.names().to_vec();
        match cert_type {
            CertType::Online => {
                params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
                params.custom_extensions = vec![issuer_alt_name(discovery_url)];
            }
            CertType::Offline => {}
            CertType::Iam | CertType::Cm | CertType::Sm | CertType::Um => {
                params.extended_key_usages = request.usages().to_vec();
            }
        }
        self.sign(Domain::Units, params, request, "Unit")
    }

    /// Issues a certificate for this cloud's listeners with a key of its own.
    pub(crate) fn issue_server(&self, now: i64) -> Result<(CertificateDer<'static>, KeyPair), PkiError> {
        let make = |source| PkiError::Make { what: "server", source };
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).map_err(make)?;
        let mut params = CertificateParams::new(self.hosts().to_vec()).map_err(make)?;
        let frame = leaf(now, SERVER_LIFETIME, false);
        params.not_before = frame.not_before;
        params.not_after = frame.not_after;
        params.is_ca = frame.is_ca;
        params.key_usages = frame.key_usages;
        params.use_authority_key_identifier_extension = true;
        params.distinguished_name = DistinguishedName::new();
        params.distinguished_name.push(DnType::CommonName, text(self.domain())?);
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        let (serial, _) = fresh_serial()?;
        params.serial_number = Some(serial);
        let ca = self.ca(Domain::Servers);
        clamp(&mut params, ca);
        let certificate = params.signed_by(&key, &ca.issuer).map_err(make)?;
        Ok((certificate.der().clone(), key))
    }

    fn sign(
        &self,
        domain: Domain,
        mut params: CertificateParams,
        request: &Request,
        what: &'static str,
    ) -> Result<Issued, PkiError> {
        let ca = self.ca(domain);
        let (serial_number, serial) = fresh_serial()?;
        params.serial_number = Some(serial_number);
        clamp(&mut params, ca);
        let certificate =
            params.signed_by(&request.key, &ca.issuer).map_err(|source| PkiError::Make { what, source })?;
        let mut chain_pem = certificate_to_pem(certificate.der());
        chain_pem.push_str(&certificate_to_pem(&ca.der));
        chain_pem.push_str(self.root_pem());
        Ok(Issued {
            chain_pem,
            issuer_der: ca.subject_der.clone(),
            serial,
            not_before: params.not_before.unix_timestamp(),
            not_after: params.not_after.unix_timestamp(),
            key_hash: *request.key_hash(),
        })
    }
}

/// Parameters common to all leaves.
fn leaf(now: i64, lifetime: i64, rsa: bool) -> CertificateParams {
    let mut params = CertificateParams::default();
    set_validity(&mut params, now - BACKDATE.min(lifetime / BACKDATE_PART), now + lifetime);
    params.distinguished_name = DistinguishedName::new();
    params.is_ca = IsCa::ExplicitNoCa;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    if rsa {
        params.key_usages.push(KeyUsagePurpose::KeyEncipherment);
    }
    params.use_authority_key_identifier_extension = true;
    params
}

/// No certificate outlives its issuer.
fn clamp(params: &mut CertificateParams, ca: &Authority) {
    let from = params.not_before.unix_timestamp();
    if params.not_after.unix_timestamp() > ca.not_after {
        set_validity(params, from, ca.not_after);
    }
}

/// Sets the validity; both ends are seconds since 1970 UTC.
pub(crate) fn set_validity(params: &mut CertificateParams, from: i64, to: i64) {
    let epoch = rcgen::date_time_ymd(1970, 1, 1);
    params.not_before = epoch + Duration::from_secs(from.max(0).unsigned_abs());
    params.not_after = epoch + Duration::from_secs(to.max(0).unsigned_abs());
}

/// A random serial number of 16 bytes whose first byte is 1..=127, so that its DER form is the same bytes.
pub(crate) fn fresh_serial() -> Result<(SerialNumber, String), PkiError> {
    let mut bytes = [0; 16];
    aws_lc_rs::rand::fill(&mut bytes).map_err(|_| PkiError::Crypto("draw a serial number"))?;
    bytes[0] = (bytes[0] & 0x7f).max(1);
    Ok((SerialNumber::from_slice(&bytes), crate::serial_text(&bytes)))
}

/// A subject attribute: printable, not empty, at most 64 characters as X.520 allows.
fn text(value: &str) -> Result<DnValue, PkiError> {
    if value.is_empty() || value.chars().count() > 64 || value.chars().any(char::is_control) {
        return Err(PkiError::Refused("names must have 1 to 64 printable characters".to_owned()));
    }
    Ok(DnValue::Utf8String(value.to_owned()))
}
