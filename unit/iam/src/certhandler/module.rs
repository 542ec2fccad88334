//! One certificate type and its token.

use std::collections::BTreeSet;
use std::sync::Arc;

use aos_token::{
    AuthPin, CertUrl, KeyKind, Library, ObjectKind, Pin, Pkcs11Url, SlotChoice, TokenError, TokenKey,
    TokenSession,
};

use super::chain::{self, Parsed};
use super::core::{CertRecord, KeyId, Scan};
use super::pin::{self, PinSource};
use crate::Error;
use crate::config::{Algorithm, CertModule};

const DEFAULT_LABEL: &str = "aos";

/// A certificate type with its token.
#[derive(Debug)]
pub(super) struct Module {
    pub(super) config: CertModule,
    /// Keys that wait for their certificate, oldest first.
    pub(super) pending: Vec<KeyId>,
    /// Objects to destroy before the next key is made.
    pub(super) orphans: BTreeSet<KeyId>,
    library: Arc<Library>,
    choice: SlotChoice,
    pin: PinSource,
    session: Option<TokenSession>,
}

impl Module {
    /// Loads the library; the token is looked for when it is needed.
    pub(super) fn open(config: CertModule) -> Result<Self, Error> {
        let params = &config.params;
        let library = Library::open(&params.library).map_err(|source| Error::Token {
            doing: "load the PKCS#11 library",
            cert_type: config.id.clone(),
            source: Box::new(source),
        })?;
        let choice = match (params.slot_id, params.slot_index) {
            (Some(id), _) => SlotChoice::Id(id.into()),
            (None, Some(index)) => SlotChoice::Index(index as usize),
            (None, None) => SlotChoice::Label(token_label(&config).to_owned()),
        };
        let pin = PinSource::new(params)?;
        Ok(Self {
            pending: Vec::new(),
            orphans: BTreeSet::new(),
            library,
            choice,
            pin,
            session: None,
            config,
        })
    }

    pub(super) fn cert_type(&self) -> &str {
        &self.config.id
    }

    /// Whether both use the same token.
    pub(super) fn shares_token(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.library, &other.library) && self.choice == other.choice
    }

    /// A logged-in session; `None` as long as nobody owns the token.
    pub(super) fn session(&mut self) -> Result<Option<TokenSession>, Error> {
        if let Some(session) = &self.session {
            return Ok(Some(session.clone()));
        }
        let failed = self.failed("open the token");
        let Some(token) = self.library.find_token(&self.choice).map_err(&failed)? else {
            return Err(failed(TokenError::NoToken { label: token_label(&self.config).to_owned() }));
        };
        if !token.is_initialised().map_err(&failed)? {
            return Ok(None);
        }
        let pin = self.pin.login_pin().map_err(&failed)?;
        let session = token.open(&pin).map_err(&failed)?;
        self.session = Some(session.clone());
        Ok(Some(session))
    }

    /// As [`Self::session`], where the token must be owned.
    pub(super) fn owned_session(&mut self) -> Result<TokenSession, Error> {
        self.session()?.ok_or_else(|| {
            Error::Failed(format!(
                "the token of certificate type '{}' has no owner yet; provisioning must be started first",
                self.config.id
            ))
        })
    }

    /// Initialises the token of `sharing`, all of which use the same one. Everything on it is erased.
    pub(super) fn set_owner(sharing: &mut [&mut Self], password: &str) -> Result<(), Error> {
        let sources: Vec<&PinSource> = sharing.iter().map(|module| &module.pin).collect();
        let user_pin = pin::settle(&sources)?;
        let so_pin = match sources.first() {
            Some(PinSource::Tee(_)) => AuthPin::from(String::new()),
            _ => AuthPin::from(password.to_owned()),
        };
        for module in sharing.iter_mut() {
            module.session = None;
            module.pending.clear();
            module.orphans.clear();
        }
        let Some(first) = sharing.first_mut() else { return Ok(()) };
        let failed = first.failed("take ownership of the token");
        let label = token_label(&first.config).to_owned();
        let token = first.library.find_token(&first.choice).map_err(&failed)?;
        let token = token.ok_or_else(|| failed(TokenError::NoToken { label: label.clone() }))?;
        token.init(&so_pin, &label, &user_pin).map_err(&failed)?;
        // Some tokens keep objects of the owner over an initialisation.
        if let Some(session) = first.session()? {
            session.clear().map_err(&failed)?;
        }
        Ok(())
    }

    /// What the token holds for this type.
    pub(super) fn scan(&self, session: &TokenSession) -> Result<Scan, Error> {
        let failed = self.failed("look through the token");
        let mut scan = Scan::default();
        for object in session.list_objects(Some(&self.config.id)).map_err(&failed)? {
            match object.kind {
                ObjectKind::PrivateKey => drop(scan.private_keys.insert(object.id)),
                ObjectKind::PublicKey => drop(scan.public_keys.insert(object.id)),
                ObjectKind::Certificate => {
                    let der = session.find_certificate(&object.id, &self.config.id).map_err(&failed)?;
                    let record = chain::parse(&der).map(|parsed| self.record(&parsed, &object.id));
                    if let Err(error) = &record {
                        tracing::warn!("token has an unreadable certificate '{}': {error}", self.config.id);
                    }
                    scan.certificates.push((object.id, record.ok()));
                }
                ObjectKind::Other => {}
            }
        }
        Ok(scan)
    }

    pub(super) fn generate_key(&self, session: &TokenSession, id: [u8; 16]) -> Result<TokenKey, Error> {
        let kind = match self.config.algorithm {
            Algorithm::Ecc => KeyKind::EcP384,
            Algorithm::Rsa => KeyKind::Rsa2048,
        };
        session.generate_key(kind, id, &self.config.id).map_err(self.failed("generate a key"))
    }

    /// The waiting key that `certificate` is for.
    pub(super) fn key_of(&self, session: &TokenSession, certificate: &Parsed) -> Result<KeyId, Error> {
        for id in self.pending.iter().rev() {
            let matches = session
                .private_key(id, &self.config.id)
                .and_then(|key| key.matches_certificate(&certificate.der));
            match matches {
                Ok(true) => return Ok(id.clone()),
                Ok(false) => {}
                Err(error) => tracing::warn!("a waiting key of '{}' cannot be used: {error}", self.config.id),
            }
        }
        Err(Error::NotFound(format!(
            "no key of certificate type '{}' waits for this certificate",
            self.config.id
        )))
    }

    /// Stores a chain, leaf first. The leaf comes last: with it the certificate counts as complete.
    pub(super) fn import(&self, session: &TokenSession, chain: &[Parsed], id: &[u8]) -> Result<(), Error> {
        let failed = self.failed("store a certificate in the token");
        let Some((leaf, authorities)) = chain.split_first() else { return Ok(()) };
        for authority in authorities {
            session.import_ca_certificate(&authority.der).map_err(&failed)?;
        }
        session.import_certificate(&leaf.der, id, &self.config.id).map_err(failed)
    }

    /// Destroys certificate and key pair with this identity.
    pub(super) fn destroy(&self, session: &TokenSession, id: &[u8]) -> Result<(), Error> {
        let failed = self.failed("remove objects from the token");
        session.destroy_certificate(id, &self.config.id).map_err(&failed)?;
        session.destroy_key_pair(id, &self.config.id).map_err(failed)
    }

    /// The row for a certificate whose key has this identity.
    pub(super) fn record(&self, certificate: &Parsed, id: &[u8]) -> CertRecord {
        let url = self.url(id);
        CertRecord {
            cert_type: self.config.id.clone(),
            issuer: certificate.issuer.clone(),
            serial: certificate.serial.clone(),
            cert_url: url.clone(),
            key_url: url,
            not_after: certificate.not_after,
        }
    }

    fn url(&self, id: &[u8]) -> String {
        let params = &self.config.params;
        CertUrl::Pkcs11(Pkcs11Url {
            token: Some(token_label(&self.config).to_owned()),
            object: self.config.id.clone(),
            id: id.to_vec(),
            module_path: params.module_path_in_url.then(|| params.library.clone()),
            pin: match &self.pin {
                PinSource::File(path) => Pin::Source(path.clone()),
                PinSource::Tee(_) => Pin::None,
            },
        })
        .to_string()
    }

    fn failed(&self, doing: &'static str) -> impl Fn(TokenError) -> Error + use<> {
        let cert_type = self.config.id.clone();
        move |source| Error::Token { doing, cert_type: cert_type.clone(), source: Box::new(source) }
    }
}

fn token_label(config: &CertModule) -> &str {
    match config.params.token_label.as_str() {
        "" => DEFAULT_LABEL,
        label => label,
    }
}

/// CKA_ID in a URL of ours.
pub(super) fn id_of_url(url: &str) -> Option<KeyId> {
    match CertUrl::parse(url) {
        Ok(CertUrl::Pkcs11(url)) => Some(url.id),
        _ => None,
    }
}
