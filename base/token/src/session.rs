//! What can be done in a logged-in session: key pairs and certificates by id and label.
//!
//! Both halves of a key pair and the certificate issued for it carry the same CKA_ID and the certificate
//! type as CKA_LABEL. Certificates of authorities have a random id and no label and are shared by all types.

use std::sync::Arc;

use cryptoki::object::{Attribute, CertificateType, ObjectClass};
use cryptoki::session::Session;
use rustls_pki_types::CertificateDer;
use x509_parser::extensions::ParsedExtension;
use x509_parser::prelude::{FromDer, X509Certificate};

use crate::key::{KeyKind, TokenKey};
use crate::object::{self, ObjectInfo, check_name, id_text, named};
use crate::probe::step;
use crate::shared::{OpError, Shared};
use crate::{TokenError, der};

/// Longest chain that is followed, certificates.
const MAX_CHAIN: usize = 8;

/// A logged-in session with a token. Cheap to clone; clones, keys and other sessions of the same token share
/// one PKCS#11 session. All methods block.
#[derive(Debug, Clone)]
pub struct TokenSession(Arc<Shared>);

impl TokenSession {
    pub(crate) fn new(shared: Arc<Shared>) -> Self {
        Self(shared)
    }

    /// Generates a key pair whose private half cannot leave the token. `label` is the certificate type, 1 to
    /// 32 bytes.
    pub fn generate_key(&self, kind: KeyKind, id: [u8; 16], label: &str) -> Result<TokenKey, TokenError> {
        check_name("label", label.len())?;
        TokenKey::generate(Arc::clone(&self.0), kind, &id, label)
    }

    /// The key pair with this id and label.
    pub fn private_key(&self, id: &[u8], label: &str) -> Result<TokenKey, TokenError> {
        TokenKey::find(Arc::clone(&self.0), id, label)
    }

    /// Stores the certificate of a key pair under the names of the key.
    pub fn import_certificate(&self, der: &[u8], id: &[u8], label: &str) -> Result<(), TokenError> {
        check_name("id", id.len())?;
        check_name("label", label.len())?;
        let mut template = certificate_template(der)?;
        template.push(Attribute::Id(id.to_vec()));
        template.push(Attribute::Label(label.as_bytes().to_vec()));
        step("store a certificate");
        self.0.run("store a certificate", |live| Ok(live.session.create_object(&template)?))?;
        step("store a certificate");
        Ok(())
    }

    /// Stores the certificate of an authority, unless one of the same issuer and serial number is there.
    pub fn import_ca_certificate(&self, der: &[u8]) -> Result<(), TokenError> {
        let mut template = certificate_template(der)?;
        let same: Vec<Attribute> = template
            .iter()
            .filter(|attribute| {
                matches!(attribute, Attribute::Class(_) | Attribute::Issuer(_) | Attribute::SerialNumber(_))
            })
            .cloned()
            .collect();
        template.push(Attribute::Id(uuid::Uuid::new_v4().into_bytes().to_vec()));
        self.0.run("store the certificate of an authority", |live| {
            if object::find(&live.session, &same)?.is_none() {
                step("store the certificate of an authority");
                live.session.create_object(&template)?;
                step("store the certificate of an authority");
            }
            Ok(())
        })
    }

    /// The certificate with this id and label.
    pub fn find_certificate(&self, id: &[u8], label: &str) -> Result<CertificateDer<'static>, TokenError> {
        self.0.run("read a certificate", |live| {
            let found = object::find(&live.session, &named(ObjectClass::CERTIFICATE, id, label))?;
            let found = found.ok_or_else(|| TokenError::NotFound { what: "certificate", id: id_text(id) })?;
            object::certificate(&live.session, found)
        })
    }

    /// `leaf` and the certificates of its issuers that the token holds, in order, up to a self-issued one.
    /// Signatures are not checked.
    pub fn chain_of(
        &self,
        leaf: CertificateDer<'static>,
    ) -> Result<Vec<CertificateDer<'static>>, TokenError> {
        let mut chain = vec![leaf];
        while let Some(last) = chain.last()
            && chain.len() < MAX_CHAIN
        {
            let Some(wanted) = IssuerOf::read(last)? else { break };
            let issuer = self.0.run("look for an issuer", |live| wanted.find(&live.session))?;
            match issuer {
                Some(issuer) if !chain.contains(&issuer) => chain.push(issuer),
                _ => break,
            }
        }
        Ok(chain)
    }

    /// Objects with this label, or all without one.
    pub fn list_objects(&self, label: Option<&str>) -> Result<Vec<ObjectInfo>, TokenError> {
        let mut template = vec![Attribute::Token(true)];
        template.extend(label.map(|label| Attribute::Label(label.as_bytes().to_vec())));
        self.0.run("list objects", |live| {
            let objects = live.session.find_objects(&template)?;
            objects.into_iter().map(|object| object::info(&live.session, object)).collect()
        })
    }

    /// Destroys both halves of a key pair. What is not there is no error.
    pub fn destroy_key_pair(&self, id: &[u8], label: &str) -> Result<(), TokenError> {
        self.destroy("destroy a key pair", &named(ObjectClass::PRIVATE_KEY, id, label))?;
        self.destroy("destroy a key pair", &named(ObjectClass::PUBLIC_KEY, id, label))
    }

    /// Destroys the certificate of a key pair. What is not there is no error.
    pub fn destroy_certificate(&self, id: &[u8], label: &str) -> Result<(), TokenError> {
        self.destroy("destroy a certificate", &named(ObjectClass::CERTIFICATE, id, label))
    }

    /// Destroys every object of the token, whatever its label.
    pub fn clear(&self) -> Result<(), TokenError> {
        self.destroy("clear the token", &[Attribute::Token(true)])
    }

    fn destroy(&self, action: &'static str, template: &[Attribute]) -> Result<(), TokenError> {
        self.0.run(action, |live| {
            for object in live.session.find_objects(template)? {
                step(action);
                live.session.destroy_object(object)?;
                step(action);
            }
            Ok(())
        })
    }
}

fn parse(der: &[u8]) -> Result<X509Certificate<'_>, TokenError> {
    let parsed = X509Certificate::from_der(der);
    parsed.map(|(_, parsed)| parsed).map_err(|error| TokenError::Certificate { reason: error.to_string() })
}

fn certificate_template(der: &[u8]) -> Result<Vec<Attribute>, TokenError> {
    let parsed = parse(der)?;
    Ok(vec![
        Attribute::Class(ObjectClass::CERTIFICATE),
        Attribute::CertificateType(CertificateType::X_509),
        Attribute::Token(true),
        Attribute::Private(false),
        Attribute::Subject(parsed.subject().as_raw().to_vec()),
        Attribute::Issuer(parsed.issuer().as_raw().to_vec()),
        Attribute::SerialNumber(der::integer(parsed.raw_serial())),
        Attribute::Value(der.to_vec()),
    ])
}

/// How the issuer of a certificate is recognised.
struct IssuerOf {
    subject: Vec<u8>,
    key_id: Option<Vec<u8>>,
}

impl IssuerOf {
    /// `None` for a self-issued certificate.
    fn read(der: &[u8]) -> Result<Option<Self>, TokenError> {
        let parsed = parse(der)?;
        if parsed.issuer().as_raw() == parsed.subject().as_raw() {
            return Ok(None);
        }
        let key_id = parsed.extensions().iter().find_map(|extension| match extension.parsed_extension() {
            ParsedExtension::AuthorityKeyIdentifier(id) => id.key_identifier.as_ref().map(|id| id.0.to_vec()),
            _ => None,
        });
        Ok(Some(Self { subject: parsed.issuer().as_raw().to_vec(), key_id }))
    }

    /// By name, preferring the one with the right key; failing that by key alone.
    fn find(&self, session: &Session) -> Result<Option<CertificateDer<'static>>, OpError> {
        let certificates = Attribute::Class(ObjectClass::CERTIFICATE);
        let mut by_name = None;
        for object in
            session.find_objects(&[certificates.clone(), Attribute::Subject(self.subject.clone())])?
        {
            let candidate = object::certificate(session, object)?;
            if self.key_id.is_none() || self.has_key(&candidate) {
                return Ok(Some(candidate));
            }
            by_name = by_name.or(Some(candidate));
        }
        if by_name.is_some() || self.key_id.is_none() {
            return Ok(by_name);
        }
        for object in session.find_objects(&[certificates])? {
            let candidate = object::certificate(session, object)?;
            if self.has_key(&candidate) {
                return Ok(Some(candidate));
            }
        }
        Ok(None)
    }

    fn has_key(&self, der: &[u8]) -> bool {
        let Ok(parsed) = parse(der) else { return false };
        let key_id = parsed.extensions().iter().find_map(|extension| match extension.parsed_extension() {
            ParsedExtension::SubjectKeyIdentifier(id) => Some(id.0),
            _ => None,
        });
        key_id.is_some() && key_id == self.key_id.as_deref()
    }
}
