//! Certificates in the token: storing, finding, chains.

use rcgen::{
    BasicConstraints, Certificate, CertificateParams, DnType, IsCa, Issuer, KeyPair, PublicKeyData,
    SerialNumber,
};

use super::{new_session, with_softhsm};
use crate::{KeyKind, ObjectKind, TokenError};

pub(super) struct Authority {
    pub(super) issuer: Issuer<'static, KeyPair>,
    pub(super) certificate: Certificate,
}

fn params(name: &str) -> CertificateParams {
    let mut params = CertificateParams::new(vec![]).unwrap();
    params.distinguished_name = rcgen::DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, name);
    params.use_authority_key_identifier_extension = true;
    params
}

impl Authority {
    pub(super) fn root(name: &str) -> Self {
        let key = KeyPair::generate().unwrap();
        let mut params = params(name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let certificate = params.self_signed(&key).unwrap();
        Self { issuer: Issuer::new(params, key), certificate }
    }

    pub(super) fn below(&self, name: &str) -> Self {
        let key = KeyPair::generate().unwrap();
        let mut params = params(name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        Self { issuer: Issuer::new(params, key), certificate }
    }

    pub(super) fn issue(&self, name: &str, key: &impl PublicKeyData) -> Certificate {
        let mut params = params(name);
        // The highest bit needs a zero byte in front as an INTEGER.
        params.serial_number = Some(SerialNumber::from(vec![0xf0, 1, 2]));
        params.signed_by(key, &self.issuer).unwrap()
    }
}

#[test]
fn a_chain_is_stored_and_put_together_again() {
    with_softhsm("tests::certificates::a_chain_is_stored_and_put_together_again", |_| {
        let session = new_session();
        let root = Authority::root("root");
        let middle = root.below("middle");
        // Same name, other key: must not be taken for the issuer.
        let impostor = root.below("middle");
        let key = session.generate_key(KeyKind::EcP384, [1; 16], "online").unwrap();
        let leaf = middle.issue("unit", &key);
        assert!(key.matches_certificate(leaf.der()).unwrap());
        assert!(!key.matches_certificate(root.certificate.der()).unwrap());

        session.import_certificate(leaf.der(), &[1; 16], "online").unwrap();
        assert_eq!(session.chain_of(leaf.der().clone()).unwrap(), [leaf.der().clone()]);
        for authority in [&impostor, &middle, &root, &middle, &root] {
            session.import_ca_certificate(authority.certificate.der()).unwrap();
        }
        let found = session.find_certificate(&[1; 16], "online").unwrap();
        assert_eq!(&found, leaf.der());
        let chain = session.chain_of(found).unwrap();
        assert_eq!(
            chain,
            [leaf.der().clone(), middle.certificate.der().clone(), root.certificate.der().clone()]
        );

        let all = session.list_objects(None).unwrap();
        let authorities: Vec<_> = all.iter().filter(|object| object.label.is_empty()).collect();
        assert_eq!(authorities.len(), 3, "each authority is stored once");
        assert!(authorities.iter().all(|object| object.id.len() == 16));
        assert_eq!(session.list_objects(Some("online")).unwrap().len(), 3);
    });
}

#[test]
fn certificates_are_destroyed_one_by_one_or_all() {
    with_softhsm("tests::certificates::certificates_are_destroyed_one_by_one_or_all", |_| {
        let session = new_session();
        let root = Authority::root("root");
        for number in 0..20_u8 {
            let key = session.generate_key(KeyKind::EcP256, [number; 16], "sm").unwrap();
            let leaf = root.issue("sm", &key);
            session.import_certificate(leaf.der(), &[number; 16], "sm").unwrap();
        }
        session.destroy_certificate(&[3; 16], "sm").unwrap();
        assert!(matches!(session.find_certificate(&[3; 16], "sm"), Err(TokenError::NotFound { .. })));
        session.private_key(&[3; 16], "sm").unwrap();
        let objects = session.list_objects(Some("sm")).unwrap();
        assert_eq!(objects.len(), 59);
        assert_eq!(objects.iter().filter(|object| object.kind == ObjectKind::Certificate).count(), 19);
        session.clear().unwrap();
        assert_eq!(session.list_objects(None).unwrap(), []);
    });
}

#[test]
fn what_is_no_certificate_is_not_stored() {
    with_softhsm("tests::certificates::what_is_no_certificate_is_not_stored", |_| {
        let session = new_session();
        let wrong = session.import_certificate(b"nonsense", &[1; 16], "sm");
        assert!(matches!(wrong, Err(TokenError::Certificate { .. })));
        assert!(matches!(session.import_ca_certificate(b""), Err(TokenError::Certificate { .. })));
        let long = session.import_certificate(Authority::root("r").certificate.der(), &[1; 33], "sm");
        assert!(matches!(long, Err(TokenError::Length { .. })));
    });
}
