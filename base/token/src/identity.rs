//! From certificate and key URLs to what TLS presents.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::sign::{CertifiedKey, SigningKey};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use x509_parser::prelude::{FromDer, X509Certificate};

use crate::{CertUrl, Library, Pkcs11Url, TokenError, TokenKey, TokenSession};

/// Largest PEM file that is read, bytes.
const MAX_PEM_FILE: u64 = 64 * 1024;

/// A certificate chain and its key, ready for TLS. The root is left out of the chain: peers have their own.
#[derive(Debug, Clone)]
pub struct Identity(Arc<CertifiedKey>);

impl Identity {
    /// The chain, leaf first.
    pub fn chain(&self) -> &[CertificateDer<'static>] {
        &self.0.cert
    }

    /// The certificate itself.
    pub fn leaf(&self) -> Option<&CertificateDer<'static>> {
        self.0.cert.first()
    }

    /// The key.
    pub fn key(&self) -> &Arc<dyn SigningKey> {
        &self.0.key
    }

    /// Chain and key as rustls wants them; no copy.
    pub fn certified_key(&self) -> Arc<CertifiedKey> {
        Arc::clone(&self.0)
    }
}

/// Loads a certificate with its issuers and the key. Blocks: loads the module, logs in, reads the token.
pub fn load_identity(cert_url: &str, key_url: &str) -> Result<Identity, TokenError> {
    let chain = match CertUrl::parse(cert_url)? {
        CertUrl::Pkcs11(url) => {
            in_token(&url, |session| session.chain_of(session.find_certificate(&url.id, &url.object)?))?
        }
        CertUrl::File(path) => read_chain(&path)?,
    };
    let key = match CertUrl::parse(key_url)? {
        CertUrl::Pkcs11(url) => key_of(&url)?.rustls_key(),
        CertUrl::File(path) => read_key(&path)?,
    };
    Ok(Identity(Arc::new(CertifiedKey::new(without_root(chain)?, key))))
}

/// Opens the key of a `pkcs11:` URL, for decryption and requests.
pub fn load_key(key_url: &str) -> Result<TokenKey, TokenError> {
    match CertUrl::parse(key_url)? {
        CertUrl::Pkcs11(url) => key_of(&url),
        CertUrl::File(_) => Err(TokenError::Url { reason: "a key in a token is needed here" }),
    }
}

fn key_of(url: &Pkcs11Url) -> Result<TokenKey, TokenError> {
    in_token(url, |session| session.private_key(&url.id, &url.object))
}

/// Reads from the token of `url`. What the module does not have may be new there from another process, so it
/// reads its tokens anew before the second and last try.
fn in_token<T>(
    url: &Pkcs11Url,
    read: impl Fn(TokenSession) -> Result<T, TokenError>,
) -> Result<T, TokenError> {
    let library = Library::open(url.module())?;
    match open(&library, url).and_then(&read) {
        // Tokens count wrong PINs; the second try with those is made where the session opens.
        Err(error) if error.is_pin_refused() => Err(error),
        Err(TokenError::NotFound { .. } | TokenError::Call { .. }) => {
            library.refresh()?;
            open(&library, url).and_then(read)
        }
        other => other,
    }
}

fn open(library: &Arc<Library>, url: &Pkcs11Url) -> Result<TokenSession, TokenError> {
    library.find_initialised(url.token.as_deref())?.open(&url.pin.read()?)
}

fn without_root(mut chain: Vec<CertificateDer<'static>>) -> Result<Vec<CertificateDer<'static>>, TokenError> {
    if chain.len() > 1
        && let Some(last) = chain.last()
    {
        let (_, parsed) = X509Certificate::from_der(last)
            .map_err(|error| TokenError::Certificate { reason: error.to_string() })?;
        if parsed.issuer().as_raw() == parsed.subject().as_raw() {
            chain.pop();
        }
    }
    Ok(chain)
}

fn read_chain(path: &Path) -> Result<Vec<CertificateDer<'static>>, TokenError> {
    let text = read_pem(path)?;
    let chain: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&text).collect();
    let chain = chain.map_err(|error| TokenError::Certificate { reason: error.to_string() })?;
    if chain.is_empty() {
        return Err(TokenError::Certificate { reason: format!("{} has none", path.display()) });
    }
    Ok(chain)
}

fn read_key(path: &Path) -> Result<Arc<dyn SigningKey>, TokenError> {
    let key = PrivateKeyDer::from_pem_slice(&read_pem(path)?)
        .map_err(|error| TokenError::KeyFile { reason: error.to_string() })?;
    rustls::crypto::aws_lc_rs::sign::any_supported_type(&key)
        .map_err(|error| TokenError::KeyFile { reason: error.to_string() })
}

fn read_pem(path: &Path) -> Result<Vec<u8>, TokenError> {
    use std::io::Read;

    let read = || {
        let mut text = Vec::new();
        std::fs::File::open(path)?.take(MAX_PEM_FILE).read_to_end(&mut text)?;
        Ok(text)
    };
    read().map_err(|source| TokenError::ReadFile { path: PathBuf::from(path), source })
}
