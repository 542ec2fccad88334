//! A key pair in the token: certificate requests, TLS signatures, decryption.
//!
//! ECDSA digests are computed here because common modules sign raw digests only; RSA is hashed and padded
//! by the module.

use std::sync::{Arc, Mutex, PoisonError};

use aws_lc_rs::digest;
use cryptoki::mechanism::rsa::{PkcsMgfType, PkcsPssParams};
use cryptoki::mechanism::{Mechanism, MechanismType};
use cryptoki::object::{Attribute, AttributeType, KeyType, ObjectClass, ObjectHandle};
use cryptoki::session::Session;
use rustls::SignatureScheme as Scheme;
use x509_parser::prelude::{FromDer, X509Certificate};

use crate::object::{self, id_text, named};
use crate::shared::{Live, OpError, Shared};
use crate::{TokenError, der};

const OID_P256: [u8; 10] = [0x06, 0x08, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x03, 0x01, 0x07];
const OID_P384: [u8; 7] = [0x06, 0x05, 0x2b, 0x81, 0x04, 0x00, 0x22];
const RSA_EXPONENT: [u8; 3] = [1, 0, 1];
const RSA_BITS: u64 = 2048;

/// Kind of a key pair.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KeyKind {
    /// Elliptic curve NIST P-256.
    EcP256,
    /// Elliptic curve NIST P-384.
    EcP384,
    /// RSA. 2048 bits when generated here; keys found in a token may be larger.
    Rsa2048,
}

impl KeyKind {
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::EcP256 => "P-256",
            Self::EcP384 => "P-384",
            Self::Rsa2048 => "RSA",
        }
    }

    /// Bytes of one coordinate; 0 for RSA.
    const fn coordinate(self) -> usize {
        match self {
            Self::EcP256 => 32,
            Self::EcP384 => 48,
            Self::Rsa2048 => 0,
        }
    }

    /// TLS signature schemes, best first.
    pub(crate) const fn schemes(self) -> &'static [Scheme] {
        match self {
            Self::EcP256 => &[Scheme::ECDSA_NISTP256_SHA256],
            Self::EcP384 => &[Scheme::ECDSA_NISTP384_SHA384],
            Self::Rsa2048 => &[
                Scheme::RSA_PSS_SHA256,
                Scheme::RSA_PSS_SHA384,
                Scheme::RSA_PSS_SHA512,
                Scheme::RSA_PKCS1_SHA256,
                Scheme::RSA_PKCS1_SHA384,
                Scheme::RSA_PKCS1_SHA512,
            ],
        }
    }
}

struct Inner {
    shared: Arc<Shared>,
    id: Vec<u8>,
    label: String,
    kind: KeyKind,
    /// Content of the subjectPublicKey: a curve point or an RSAPublicKey.
    public: Vec<u8>,
    handle: Mutex<Option<(u64, ObjectHandle)>>,
}

/// A key pair whose private half stays in the token. Cheap to clone. It outlives losses of the session; it
/// does not outlive a new initialisation of the token.
#[derive(Clone)]
pub struct TokenKey(Arc<Inner>);

impl std::fmt::Debug for TokenKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("TokenKey")
            .field("kind", &self.0.kind)
            .field("label", &self.0.label)
            .field("id", &id_text(&self.0.id))
            .finish()
    }
}

impl TokenKey {
    pub(crate) fn generate(
        shared: Arc<Shared>,
        kind: KeyKind,
        id: &[u8],
        label: &str,
    ) -> Result<Self, TokenError> {
        let names = [Attribute::Id(id.to_vec()), Attribute::Label(label.as_bytes().to_vec())];
        let mut public = vec![Attribute::Token(true), Attribute::Verify(true)];
        let mut private = vec![
            Attribute::Token(true),
            Attribute::Sign(true),
            Attribute::Sensitive(true),
            Attribute::Extractable(false),
        ];
        public.extend_from_slice(&names);
        private.extend_from_slice(&names);
        let mechanism = match kind {
            KeyKind::EcP256 | KeyKind::EcP384 => {
                let curve = if kind == KeyKind::EcP256 { OID_P256.to_vec() } else { OID_P384.to_vec() };
                public.push(Attribute::EcParams(curve));
                Mechanism::EccKeyPairGen
            }
            KeyKind::Rsa2048 => {
                public.extend([
                    Attribute::Encrypt(true),
                    Attribute::ModulusBits(RSA_BITS.into()),
                    Attribute::PublicExponent(RSA_EXPONENT.to_vec()),
                ]);
                private.push(Attribute::Decrypt(true));
                Mechanism::RsaPkcsKeyPairGen
            }
        };
        let (bits, handle) = shared.run_apart("generate a key pair", |live| {
            let (public, private) = live.session.generate_key_pair(&mechanism, &public, &private)?;
            let bits = public_bits(&live.session, public, kind)?;
            Ok((bits, (live.generation, private)))
        })?;
        Ok(Self(Arc::new(Inner {
            shared,
            id: id.to_vec(),
            label: label.to_owned(),
            kind,
            public: bits,
            handle: Mutex::new(Some(handle)),
        })))
    }

    pub(crate) fn find(shared: Arc<Shared>, id: &[u8], label: &str) -> Result<Self, TokenError> {
        let (kind, public, handle) = shared.run("look for a private key", |live| {
            let session = &live.session;
            let private = private_handle(session, id, label)?;
            let kind = kind_of(session, private)?;
            let public = match object::find(session, &named(ObjectClass::PUBLIC_KEY, id, label))? {
                Some(public) => public_bits(session, public, kind)?,
                None => certified_bits(session, id, label)?,
            };
            Ok((kind, public, (live.generation, private)))
        })?;
        Ok(Self(Arc::new(Inner {
            shared,
            id: id.to_vec(),
            label: label.to_owned(),
            kind,
            public,
            handle: Mutex::new(Some(handle)),
        })))
    }

    /// Kind of the key.
    pub fn kind(&self) -> KeyKind {
        self.0.kind
    }

    /// CKA_ID.
    pub fn id(&self) -> &[u8] {
        &self.0.id
    }

    /// CKA_LABEL: the certificate type.
    pub fn label(&self) -> &str {
        &self.0.label
    }

    /// Whether the certificate (DER) is for this key.
    pub fn matches_certificate(&self, der: &[u8]) -> Result<bool, TokenError> {
        let (_, parsed) = X509Certificate::from_der(der)
            .map_err(|error| TokenError::Certificate { reason: error.to_string() })?;
        Ok(parsed.public_key().subject_public_key.data.as_ref() == self.0.public.as_slice())
    }

    /// Signs `message`, hashed and encoded as `scheme` says.
    pub fn sign_with(&self, scheme: Scheme, message: &[u8]) -> Result<Vec<u8>, TokenError> {
        let unsupported = TokenError::Unsupported { kind: self.0.kind.name(), action: "sign this way" };
        if !self.0.kind.schemes().contains(&scheme) {
            return Err(unsupported);
        }
        let mechanism = match scheme {
            Scheme::ECDSA_NISTP256_SHA256 => return self.sign_ecdsa(&digest::SHA256, message),
            Scheme::ECDSA_NISTP384_SHA384 => return self.sign_ecdsa(&digest::SHA384, message),
            Scheme::RSA_PKCS1_SHA256 => Mechanism::Sha256RsaPkcs,
            Scheme::RSA_PKCS1_SHA384 => Mechanism::Sha384RsaPkcs,
            Scheme::RSA_PKCS1_SHA512 => Mechanism::Sha512RsaPkcs,
            Scheme::RSA_PSS_SHA256 => {
                Mechanism::Sha256RsaPkcsPss(pss(MechanismType::SHA256, PkcsMgfType::MGF1_SHA256, 32))
            }
            Scheme::RSA_PSS_SHA384 => {
                Mechanism::Sha384RsaPkcsPss(pss(MechanismType::SHA384, PkcsMgfType::MGF1_SHA384, 48))
            }
            Scheme::RSA_PSS_SHA512 => {
                Mechanism::Sha512RsaPkcsPss(pss(MechanismType::SHA512, PkcsMgfType::MGF1_SHA512, 64))
            }
            _ => return Err(unsupported),
        };
        self.with_handle("sign", |session, key| Ok(session.sign(&mechanism, key, message)?))
    }

    /// Decrypts what was encrypted to the public half with RSA PKCS#1 v1.5.
    pub fn decrypt_rsa_pkcs1(&self, ciphertext: &[u8]) -> Result<Vec<u8>, TokenError> {
        if self.0.kind != KeyKind::Rsa2048 {
            return Err(TokenError::Unsupported { kind: self.0.kind.name(), action: "decrypt" });
        }
        self.with_handle("decrypt", |session, key| {
            Ok(session.decrypt(&Mechanism::RsaPkcs, key, ciphertext)?)
        })
    }

    /// The signature schemes that the module can do with this key, best first.
    pub(crate) fn schemes(&self) -> Vec<Scheme> {
        let all = self.0.kind.schemes();
        if self.0.kind != KeyKind::Rsa2048 {
            return all.to_vec();
        }
        // Some modules, for example a TPM without resource manager, cannot do PSS.
        let known = self.0.shared.run("list mechanisms", |live| {
            let slot = live.session.get_session_info()?.slot_id();
            Ok(self.0.shared.library().pkcs11.get_mechanism_list(slot)?)
        });
        let Ok(known) = known else { return all.to_vec() };
        let able = |scheme: &Scheme| mechanism_of(*scheme).is_none_or(|mechanism| known.contains(&mechanism));
        all.iter().copied().filter(able).collect()
    }

    fn sign_ecdsa(&self, hash: &'static digest::Algorithm, message: &[u8]) -> Result<Vec<u8>, TokenError> {
        let digest = digest::digest(hash, message);
        let raw = self.with_handle("sign", |session, key| {
            Ok(session.sign(&Mechanism::Ecdsa, key, digest.as_ref())?)
        })?;
        if raw.len() != 2 * self.0.kind.coordinate() {
            return Err(TokenError::Attribute { what: "a signature" });
        }
        let (r, s) = raw.split_at(raw.len() / 2);
        Ok(der::sequence(&[der::integer(r), der::integer(s)]))
    }

    fn with_handle<T>(
        &self,
        action: &'static str,
        mut operation: impl FnMut(&Session, ObjectHandle) -> Result<T, OpError>,
    ) -> Result<T, TokenError> {
        self.0.shared.run(action, |live| operation(&live.session, self.handle(live)?))
    }

    fn handle(&self, live: &Live) -> Result<ObjectHandle, OpError> {
        let mut known = self.0.handle.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((generation, handle)) = *known
            && generation == live.generation
        {
            return Ok(handle);
        }
        let handle = private_handle(&live.session, &self.0.id, &self.0.label)?;
        *known = Some((live.generation, handle));
        Ok(handle)
    }
}

impl rcgen::PublicKeyData for TokenKey {
    fn der_bytes(&self) -> &[u8] {
        &self.0.public
    }

    fn algorithm(&self) -> &'static rcgen::SignatureAlgorithm {
        match self.0.kind {
            KeyKind::EcP256 => &rcgen::PKCS_ECDSA_P256_SHA256,
            KeyKind::EcP384 => &rcgen::PKCS_ECDSA_P384_SHA384,
            KeyKind::Rsa2048 => &rcgen::PKCS_RSA_SHA256,
        }
    }
}

impl rcgen::SigningKey for TokenKey {
    fn sign(&self, message: &[u8]) -> Result<Vec<u8>, rcgen::Error> {
        let scheme = match self.0.kind {
            KeyKind::EcP256 => Scheme::ECDSA_NISTP256_SHA256,
            KeyKind::EcP384 => Scheme::ECDSA_NISTP384_SHA384,
            KeyKind::Rsa2048 => Scheme::RSA_PKCS1_SHA256,
        };
        self.sign_with(scheme, message).map_err(|_| rcgen::Error::RemoteKeyError)
    }
}

fn pss(hash_alg: MechanismType, mgf: PkcsMgfType, salt: u64) -> PkcsPssParams {
    PkcsPssParams { hash_alg, mgf, s_len: salt.into() }
}

fn mechanism_of(scheme: Scheme) -> Option<MechanismType> {
    Some(match scheme {
        Scheme::RSA_PKCS1_SHA256 => MechanismType::SHA256_RSA_PKCS,
        Scheme::RSA_PKCS1_SHA384 => MechanismType::SHA384_RSA_PKCS,
        Scheme::RSA_PKCS1_SHA512 => MechanismType::SHA512_RSA_PKCS,
        Scheme::RSA_PSS_SHA256 => MechanismType::SHA256_RSA_PKCS_PSS,
        Scheme::RSA_PSS_SHA384 => MechanismType::SHA384_RSA_PKCS_PSS,
        Scheme::RSA_PSS_SHA512 => MechanismType::SHA512_RSA_PKCS_PSS,
        _ => return None,
    })
}

fn private_handle(session: &Session, id: &[u8], label: &str) -> Result<ObjectHandle, OpError> {
    let found = object::find(session, &named(ObjectClass::PRIVATE_KEY, id, label))?;
    Ok(found.ok_or_else(|| TokenError::NotFound { what: "private key", id: id_text(id) })?)
}

fn kind_of(session: &Session, key: ObjectHandle) -> Result<KeyKind, OpError> {
    match session.get_attributes(key, &[AttributeType::KeyType])?.first() {
        Some(Attribute::KeyType(KeyType::RSA)) => Ok(KeyKind::Rsa2048),
        Some(Attribute::KeyType(KeyType::EC)) => {
            let curve = object::bytes(session, key, AttributeType::EcParams)?.unwrap_or_default();
            match curve.as_slice() {
                oid if oid == OID_P256 => Ok(KeyKind::EcP256),
                oid if oid == OID_P384 => Ok(KeyKind::EcP384),
                _ => Err(TokenError::Attribute { what: "the curve of a key" }.into()),
            }
        }
        _ => Err(TokenError::Attribute { what: "the type of a key" }.into()),
    }
}

fn public_bits(session: &Session, key: ObjectHandle, kind: KeyKind) -> Result<Vec<u8>, OpError> {
    let unreadable = || TokenError::Attribute { what: "a public key" };
    let read = |what| object::bytes(session, key, what)?.ok_or_else(|| OpError::from(unreadable()));
    if kind == KeyKind::Rsa2048 {
        let modulus = read(AttributeType::Modulus)?;
        let exponent = read(AttributeType::PublicExponent)?;
        return Ok(der::sequence(&[der::integer(&modulus), der::integer(&exponent)]));
    }
    // The point comes wrapped in an OCTET STRING as the standard says, or bare from some modules. Both
    // begin with 4, so only the length tells.
    let point = read(AttributeType::EcPoint)?;
    let bare = 1 + 2 * kind.coordinate();
    match point.len().checked_sub(bare) {
        Some(0) => Ok(point),
        Some(2) => Ok(point[2..].to_vec()),
        _ => Err(unreadable().into()),
    }
}

/// The public key out of the certificate of the same name, for tokens whose public object is gone.
fn certified_bits(session: &Session, id: &[u8], label: &str) -> Result<Vec<u8>, OpError> {
    let found = object::find(session, &named(ObjectClass::CERTIFICATE, id, label))?;
    let found = found.ok_or_else(|| TokenError::NotFound { what: "public key", id: id_text(id) })?;
    let certificate = object::certificate(session, found)?;
    let (_, parsed) = X509Certificate::from_der(&certificate)
        .map_err(|error| TokenError::Certificate { reason: error.to_string() })?;
    Ok(parsed.public_key().subject_public_key.data.to_vec())
}
