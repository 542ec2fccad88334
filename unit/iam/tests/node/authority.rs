//! A certificate authority for the tests.

use std::sync::Arc;
use std::time::SystemTime;

use rustls::sign::CertifiedKey;

use crate::rig::SHORT;

/// A certificate authority with its key in memory.
pub struct Authority {
    certificate: rcgen::Certificate,
    issuer: rcgen::Issuer<'static, rcgen::KeyPair>,
}

impl Authority {
    pub fn new(name: &str) -> Self {
        let key = rcgen::KeyPair::generate().unwrap();
        let mut params = rcgen::CertificateParams::default();
        params.distinguished_name = rcgen::DistinguishedName::new();
        params.distinguished_name.push(rcgen::DnType::CommonName, name);
        params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        let certificate = params.self_signed(&key).unwrap();
        Self { certificate, issuer: rcgen::Issuer::new(params, key) }
    }

    pub fn pem(&self) -> String {
        self.certificate.pem()
    }

    /// The certificate for a request, with the root: the chain to apply.
    pub fn sign(&self, csr: &str, year: i32) -> String {
        self.sign_leaf(csr, year) + &self.pem()
    }

    pub fn sign_leaf(&self, csr: &str, year: i32) -> String {
        self.sign_from(csr, rcgen::date_time_ymd(2020, 1, 1).into(), rcgen::date_time_ymd(year, 1, 1).into())
    }

    /// The certificate alone, valid in this time.
    pub fn sign_from(&self, csr: &str, from: SystemTime, until: SystemTime) -> String {
        let mut request = rcgen::CertificateSigningRequestParams::from_pem(csr).unwrap();
        request.params.not_before = from.into();
        request.params.not_after = until.into();
        request.signed_by(&self.issuer).unwrap().pem()
    }

    /// The chain to apply, of a certificate that names the address of its cloud.
    pub fn sign_for_cloud(&self, csr: &str, address: &str) -> String {
        let mut request = rcgen::CertificateSigningRequestParams::from_pem(csr).unwrap();
        request.params.not_after = rcgen::date_time_ymd(2100, 1, 1);
        let length = u8::try_from(address.len()).unwrap();
        let names = [&[0x30, length + 2, 0x86, length], address.as_bytes()].concat();
        let issuer_names = rcgen::CustomExtension::from_oid_content(&[2, 5, 29, 18], names);
        request.params.custom_extensions.push(issuer_names);
        request.signed_by(&self.issuer).unwrap().pem() + &self.pem()
    }

    /// The chain to apply, of a certificate that lived for [`SHORT`] and has ended.
    pub fn sign_ended(&self, csr: &str) -> String {
        let end = SystemTime::from(rcgen::date_time_ymd(2021, 1, 1));
        self.sign_from(csr, end - SHORT, end) + &self.pem()
    }

    /// A client with a key in memory.
    pub fn client(&self) -> Arc<CertifiedKey> {
        self.client_of("a client of nobody")
    }

    /// As [`Self::client`], with this common name.
    pub fn client_of(&self, name: &str) -> Arc<CertifiedKey> {
        self.key_of(name, rcgen::ExtendedKeyUsagePurpose::ClientAuth)
    }

    /// A server with a key in memory.
    pub fn server(&self, name: &str) -> Arc<CertifiedKey> {
        self.key_of(name, rcgen::ExtendedKeyUsagePurpose::ServerAuth)
    }

    /// As [`Self::client_of`], valid in this time.
    pub fn client_valid(&self, name: &str, from: SystemTime, until: SystemTime) -> Arc<CertifiedKey> {
        self.key_with(name, rcgen::ExtendedKeyUsagePurpose::ClientAuth, |params| {
            params.not_before = from.into();
            params.not_after = until.into();
        })
    }

    fn key_of(&self, name: &str, usage: rcgen::ExtendedKeyUsagePurpose) -> Arc<CertifiedKey> {
        self.key_with(name, usage, |_| {})
    }

    fn key_with(
        &self,
        name: &str,
        usage: rcgen::ExtendedKeyUsagePurpose,
        change: impl FnOnce(&mut rcgen::CertificateParams),
    ) -> Arc<CertifiedKey> {
        let key = rcgen::KeyPair::generate().unwrap();
        let named =
            if usage == rcgen::ExtendedKeyUsagePurpose::ServerAuth { vec![name.to_owned()] } else { vec![] };
        let mut params = rcgen::CertificateParams::new(named).unwrap();
        params.distinguished_name.push(rcgen::DnType::CommonName, name);
        params.extended_key_usages = vec![usage];
        change(&mut params);
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        let der = rustls::pki_types::PrivateKeyDer::Pkcs8(key.serialize_der().into());
        let key = aos_tls::provider().key_provider.load_private_key(der).unwrap();
        Arc::new(CertifiedKey::new(vec![certificate.der().clone()], key))
    }
}
