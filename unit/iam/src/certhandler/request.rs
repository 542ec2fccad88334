//! What certificate requests and self-signed certificates contain.

use rcgen::{
    CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, KeyIdMethod, SanType, SerialNumber, SigningKey,
};

use crate::Error;
use crate::config::{CertModule, KeyUsage};

const MAX_SUBJECT: usize = 128;
const SELF_SIGNED_NAME: &str = "Aos Core";
const SELF_SIGNED_YEARS: i16 = 100;

/// The request for `subject` (a system ID), signed by `key`, as PEM.
pub fn csr(module: &CertModule, subject: &str, key: &impl SigningKey) -> Result<String, Error> {
    let text = format!("CN={subject}");
    if subject.is_empty() || text.len() > MAX_SUBJECT {
        return Err(Error::InvalidArgument(format!(
            "subject of a certificate request needs 1 to {} bytes",
            MAX_SUBJECT - 3
        )));
    }
    let build = |source| Error::Build { doing: "build a certificate request", source };
    let mut params = named(subject);
    for name in &module.alternative_names {
        let name = name.as_str().try_into().map_err(build)?;
        params.subject_alt_names.push(SanType::DnsName(name));
    }
    params.extended_key_usages = module
        .extended_key_usage
        .iter()
        .map(|usage| match usage {
            KeyUsage::ClientAuth => ExtendedKeyUsagePurpose::ClientAuth,
            KeyUsage::ServerAuth => ExtendedKeyUsagePurpose::ServerAuth,
        })
        .collect();
    params.serialize_request(key).and_then(|request| request.pem()).map_err(build)
}

/// A certificate for `key` by itself, as DER. `now` is the wall clock.
pub fn self_signed(key: &impl SigningKey, now: jiff::Timestamp) -> Result<Vec<u8>, Error> {
    let mut params = named(SELF_SIGNED_NAME);
    let today = now.to_zoned(jiff::tz::TimeZone::UTC).date();
    let (month, day) = (today.month().unsigned_abs(), today.day().unsigned_abs().min(28));
    params.not_before = rcgen::date_time_ymd(today.year().into(), month, day);
    params.not_after = rcgen::date_time_ymd((today.year() + SELF_SIGNED_YEARS).into(), month, day);
    let nanoseconds = u64::try_from(now.as_nanosecond()).unwrap_or(1);
    params.serial_number = Some(SerialNumber::from_slice(&nanoseconds.to_le_bytes()));
    let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA1_FOR_LEGACY_USE_ONLY, key.der_bytes());
    params.key_identifier_method = KeyIdMethod::PreSpecified(digest.as_ref().to_vec());
    params.use_authority_key_identifier_extension = true;
    params.is_ca = IsCa::ExplicitNoCa;
    params
        .self_signed(key)
        .map(|certificate| certificate.der().to_vec())
        .map_err(|source| Error::Build { doing: "build a self-signed certificate", source })
}

fn named(common_name: &str) -> CertificateParams {
    let mut params = CertificateParams::default();
    // The default of the library names itself.
    params.distinguished_name = rcgen::DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, common_name);
    params
}
