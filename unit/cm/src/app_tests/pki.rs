//! Certificates of one test world, as files.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair};
use rustls::RootCertStore;
use rustls::sign::CertifiedKey;

pub struct Pki {
    dir: PathBuf,
    issuer: Issuer<'static, KeyPair>,
}

impl Pki {
    pub fn new(dir: &Path) -> Self {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(DnType::CommonName, "test root");
        let key = KeyPair::generate().unwrap();
        let root = params.self_signed(&key).unwrap();
        std::fs::write(dir.join("root.pem"), root.pem()).unwrap();
        Self { dir: dir.to_owned(), issuer: Issuer::new(params, key) }
    }

    pub fn root_file(&self) -> PathBuf {
        self.dir.join("root.pem")
    }

    pub fn roots(&self) -> Arc<RootCertStore> {
        aos_tls::roots_from_pem_file(&self.root_file()).unwrap()
    }

    /// Issues a certificate; answers its URL and that of its key.
    pub fn issue(&self, name: &str) -> (String, String) {
        let mut params = CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
        params.distinguished_name = rcgen::DistinguishedName::new();
        params.distinguished_name.push(DnType::CommonName, "unit-1");
        let key = KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        let (cert_file, key_file) =
            (self.dir.join(format!("{name}.pem")), self.dir.join(format!("{name}.key")));
        std::fs::write(&cert_file, certificate.pem()).unwrap();
        std::fs::write(&key_file, key.serialize_pem()).unwrap();
        (format!("file://{}", cert_file.display()), format!("file://{}", key_file.display()))
    }

    pub fn identity(&self, name: &str) -> Arc<CertifiedKey> {
        let (cert, key) = self.issue(name);
        aos_token::load_identity(&cert, &key).unwrap().certified_key()
    }
}
