//! One certificate type and its token.

use std::collections::BTreeSet;
use std::sync::Arc;

use aos_token::{
    AuthPin, CertUrl, KeyKind, Library, ObjectKind, Pin, Pkcs11Url, SlotChoice, TokenError, TokenSession,
};

use super::chain::{self, Parsed};
use super::core::{CertRecord, KeyId, Scan};
use super::files::{self, KeyFiles};
use super::key::Key;
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
    place: Place,
}

/// Where the keys of a type are.
#[derive(Debug)]
enum Place {
    Token(Token),
    Files(KeyFiles),
}

#[derive(Debug)]
struct Token {
    library: Arc<Library>,
    choice: SlotChoice,
    pin: PinSource,
    session: Option<TokenSession>,
}

/// Access to the keys of a type.
#[derive(Debug, Clone)]
pub(super) enum Session {
    Token(TokenSession),
    Files(KeyFiles),
}

impl Module {
    /// Loads the library; the token is looked for when it is needed.
    pub(super) fn open(config: CertModule) -> Result<Self, Error> {
        let (pending, orphans) = (Vec::new(), BTreeSet::new());
        let params = &config.params;
        if !params.key_dir.as_os_str().is_empty() {
            tracing::warn!("keys of type '{}' are kept in files; this is for development only", config.id);
            let place = Place::Files(KeyFiles::new(&params.key_dir, &config.id));
            return Ok(Self { config, pending, orphans, place });
        }
        let library = Library::open(&params.library).map_err(|source| Error::Token {
            doing: "load the PKCS#11 library",
            cert_type: config.id.clone(),
            source: Box::new(source),
        })?;
        let choice = slot_choice(&config);
        let pin = PinSource::new(params)?;
        let place = Place::Token(Token { library, choice, pin, session: None });
        Ok(Self { config, pending, orphans, place })
    }

    pub(super) fn cert_type(&self) -> &str {
        &self.config.id
    }

    /// Whether both use the same token.
    pub(super) fn shares_token(&self, other: &Self) -> bool {
        match (&self.place, &other.place) {
            (Place::Token(one), Place::Token(two)) => {
                Arc::ptr_eq(&one.library, &two.library) && one.choice == two.choice
            }
            _ => self.config.id == other.config.id,
        }
    }

    /// Access to the keys; `None` as long as nobody owns the token.
    pub(super) fn session(&mut self) -> Result<Option<Session>, Error> {
        let failed = self.failed("open the token");
        let label = token_label(&self.config).to_owned();
        match &mut self.place {
            Place::Token(token) => Ok(token.session(&label).map_err(failed)?.map(Session::Token)),
            Place::Files(files) => Ok(files.is_owned().then(|| Session::Files(files.clone()))),
        }
    }

    /// The PIN that would be tried now; none when it cannot be read, or none is needed.
    pub(super) fn pin(&self) -> Option<AuthPin> {
        match &self.place {
            Place::Token(token) => token.pin.login_pin().ok(),
            Place::Files(_) => None,
        }
    }

    /// As [`Self::session`], where the token must be owned.
    pub(super) fn owned_session(&mut self) -> Result<Session, Error> {
        self.session()?.ok_or_else(|| {
            Error::Failed(format!(
                "the token of certificate type '{}' has no owner yet; provisioning must be started first",
                self.config.id
            ))
        })
    }

    /// Initialises the token of `sharing`, all of which use the same one. Everything on it is erased.
    pub(super) fn set_owner(sharing: &mut [&mut Self], password: &str) -> Result<(), Error> {
        let mut sources = Vec::new();
        for module in sharing.iter_mut() {
            match &mut module.place {
                Place::Files(files) => files.take_over()?,
                Place::Token(token) => {
                    token.session = None;
                    sources.push(token.pin.clone());
                }
            }
        }
        if let Some(source) = sources.first() {
            let user_pin = pin::settle(&sources.iter().collect::<Vec<_>>())?;
            let so_pin = match source {
                PinSource::Tee(_) => AuthPin::from(String::new()),
                PinSource::File(_) => AuthPin::from(password.to_owned()),
            };
            if let Some(first) = sharing.first_mut() {
                let failed = first.failed("take ownership of the token");
                let label = token_label(&first.config).to_owned();
                if let Place::Token(token) = &mut first.place {
                    token.set_owner(&label, &so_pin, &user_pin).map_err(failed)?;
                }
            }
        }
        for module in sharing.iter_mut() {
            module.pending.clear();
            module.orphans.clear();
        }
        Ok(())
    }

    /// What the token holds for this type.
    pub(super) fn scan(&self, session: &Session) -> Result<Scan, Error> {
        let session = match session {
            Session::Token(session) => session,
            Session::Files(files) => {
                let (keys, certificates) = files.list()?;
                let record = |(id, leaf): (KeyId, Option<Parsed>)| {
                    let record = leaf.map(|leaf| self.record(&leaf, &id));
                    (id, record)
                };
                return Ok(Scan {
                    private_keys: keys.clone(),
                    public_keys: keys,
                    certificates: certificates.into_iter().map(record).collect(),
                });
            }
        };
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

    pub(super) fn generate_key(&self, session: &Session, id: [u8; 16]) -> Result<Key, Error> {
        let session = match session {
            Session::Token(session) => session,
            Session::Files(files) => {
                return Ok(Key::File(Box::new(files.generate(self.config.algorithm, &id)?)));
            }
        };
        let kind = match self.config.algorithm {
            Algorithm::Ecc => KeyKind::EcP384,
            Algorithm::Rsa => KeyKind::Rsa2048,
        };
        let key = self
            .again(|| session.generate_key(kind, id, &self.config.id))
            .map_err(self.failed("generate a key"))?;
        self.read_back(|| session.private_key(&id, &self.config.id).map(drop))
            .map_err(self.failed("find the new key in the token, which may be full,"))?;
        Ok(Key::Token(key))
    }

    /// Looks after what was written, through a module that has read its tokens anew: some tell nothing of a full
    /// disk and keep in memory what they could not store.
    fn read_back(&self, look: impl Fn() -> Result<(), TokenError>) -> Result<(), TokenError> {
        if let Place::Token(token) = &self.place {
            token.library.refresh()?;
        }
        look()
    }

    /// The waiting key that `certificate` is for.
    pub(super) fn key_of(&self, session: &Session, certificate: &Parsed) -> Result<KeyId, Error> {
        for id in self.pending.iter().rev() {
            let matches = match session {
                Session::Token(session) => self
                    .again(|| session.private_key(id, &self.config.id))
                    .and_then(|key| key.matches_certificate(&certificate.der))
                    .map_err(self.failed("use a waiting key")),
                Session::Files(files) => files.matches(id, certificate),
            };
            match matches {
                Ok(true) => return Ok(id.clone()),
                Ok(false) => {}
                Err(error) => tracing::warn!("{}", aos_logging::with_causes(&error)),
            }
        }
        Err(Error::NotFound(format!(
            "no key of certificate type '{}' waits for this certificate",
            self.config.id
        )))
    }

    /// Tries what fails once more after the module has read its tokens anew: one that went away and came back, or
    /// was changed by another process, is not seen before.
    fn again<T>(&self, operation: impl Fn() -> Result<T, TokenError>) -> Result<T, TokenError> {
        match (operation(), &self.place) {
            (
                Err(TokenError::NoToken { .. } | TokenError::NotFound { .. } | TokenError::Call { .. }),
                Place::Token(token),
            ) => {
                token.library.refresh()?;
                operation()
            }
            (other, _) => other,
        }
    }

    /// Stores a chain, leaf first. The leaf comes last: with it the certificate counts as complete.
    pub(super) fn import(&self, session: &Session, chain: &[Parsed], id: &[u8]) -> Result<(), Error> {
        let session = match session {
            Session::Token(session) => session,
            Session::Files(files) => return files.import(chain, id),
        };
        let failed = self.failed("store a certificate in the token");
        let Some((leaf, authorities)) = chain.split_first() else { return Ok(()) };
        for authority in authorities {
            self.again(|| session.import_ca_certificate(&authority.der)).map_err(&failed)?;
        }
        self.again(|| session.import_certificate(&leaf.der, id, &self.config.id)).map_err(failed)?;
        self.read_back(|| session.find_certificate(id, &self.config.id).map(drop))
            .map_err(self.failed("find the new certificate in the token, which may be full,"))
    }

    /// Destroys certificate and key pair with this identity.
    pub(super) fn destroy(&self, session: &Session, id: &[u8]) -> Result<(), Error> {
        let session = match session {
            Session::Token(session) => session,
            Session::Files(files) => return files.destroy(id),
        };
        let failed = self.failed("remove objects from the token");
        self.again(|| session.destroy_certificate(id, &self.config.id)).map_err(&failed)?;
        self.again(|| session.destroy_key_pair(id, &self.config.id)).map_err(failed)
    }

    /// The row for a certificate whose key has this identity.
    pub(super) fn record(&self, certificate: &Parsed, id: &[u8]) -> CertRecord {
        let (cert_url, key_url) = match &self.place {
            Place::Files(files) => files.urls(id),
            Place::Token(token) => {
                let url = self.url(&token.pin, id);
                (url.clone(), url)
            }
        };
        CertRecord {
            cert_type: self.config.id.clone(),
            issuer: certificate.issuer.clone(),
            serial: certificate.serial.clone(),
            cert_url,
            key_url,
            not_after: certificate.not_after,
        }
    }

    fn url(&self, pin: &PinSource, id: &[u8]) -> String {
        let params = &self.config.params;
        CertUrl::Pkcs11(Pkcs11Url {
            token: Some(token_label(&self.config).to_owned()),
            object: self.config.id.clone(),
            id: id.to_vec(),
            module_path: params.module_path_in_url.then(|| params.library.clone()),
            pin: match pin {
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

impl Token {
    fn session(&mut self, label: &str) -> Result<Option<TokenSession>, TokenError> {
        if let Some(session) = &self.session {
            return Ok(Some(session.clone()));
        }
        let Some(token) = self.library.find_token(&self.choice)? else {
            return Err(TokenError::NoToken { label: label.to_owned() });
        };
        if !token.is_initialised()? {
            return Ok(None);
        }
        let session = token.open(&self.pin.login_pin()?)?;
        self.session = Some(session.clone());
        Ok(Some(session))
    }

    fn set_owner(&mut self, label: &str, so_pin: &AuthPin, user_pin: &AuthPin) -> Result<(), TokenError> {
        let token = self.library.find_token(&self.choice)?;
        let token = token.ok_or_else(|| TokenError::NoToken { label: label.to_owned() })?;
        token.init(so_pin, label, user_pin)?;
        // Some tokens keep objects of the owner over an initialisation.
        if let Some(session) = self.session(label)? {
            session.clear()?;
        }
        Ok(())
    }
}

/// The slot that the configuration means.
pub(super) fn slot_choice(config: &CertModule) -> SlotChoice {
    match (config.params.slot_id, config.params.slot_index) {
        (Some(id), _) => SlotChoice::Id(id.into()),
        (None, Some(index)) => SlotChoice::Index(index as usize),
        (None, None) => SlotChoice::Label(token_label(config).to_owned()),
    }
}

/// The label of the token.
pub(super) fn token_label(config: &CertModule) -> &str {
    match config.params.token_label.as_str() {
        "" => DEFAULT_LABEL,
        label => label,
    }
}

/// CKA_ID in a URL of ours.
pub(super) fn id_of_url(url: &str) -> Option<KeyId> {
    match CertUrl::parse(url) {
        Ok(CertUrl::Pkcs11(url)) => Some(url.id),
        Ok(CertUrl::File(path)) => files::id_of(&path),
        Err(_) => None,
    }
}
