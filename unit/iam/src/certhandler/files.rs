//! Keys in files, for development machines without a token: whoever may read the folder has the keys, so the
//! configuration has to allow them in so many words (`allowFileKeys`).
//!
//! `<keyDir>/<type>/` holds `<id>.key` (PKCS#8) and `<id>.pem` (the chain, leaf first) for each key. The folder
//! is made when provisioning starts; as long as it is not there, nobody owns it.

use std::collections::BTreeSet;
use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use aos_token::CertUrl;
use rcgen::{KeyPair, PKCS_ECDSA_P384_SHA384, PKCS_RSA_SHA256, PublicKeyData, RsaKeySize};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;

use super::chain::{self, Parsed};
use super::core::KeyId;
use crate::config::Algorithm;
use crate::{Error, killpoint};

const KEY: &str = "key";
const CHAIN: &str = "pem";
const MAX_FILE: u64 = 64 * 1024;

/// Identities of keys, and certificates; `None` for one that cannot be read.
type Listed = (BTreeSet<KeyId>, Vec<(KeyId, Option<Parsed>)>);

/// The folder of one certificate type.
#[derive(Debug, Clone)]
pub(super) struct KeyFiles {
    dir: PathBuf,
}

impl KeyFiles {
    pub(super) fn new(key_dir: &Path, cert_type: &str) -> Self {
        Self { dir: key_dir.join(cert_type) }
    }

    pub(super) fn is_owned(&self) -> bool {
        self.dir.is_dir()
    }

    /// Erases what is there and makes the folder.
    pub(super) fn take_over(&self) -> Result<(), Error> {
        match fs::remove_dir_all(&self.dir) {
            Err(error) if error.kind() != ErrorKind::NotFound => {
                return Err(self.failed("erase the keys in")(error));
            }
            _ => {}
        }
        let failed = |source| Error::Durable {
            doing: "make the folder for keys",
            path: self.dir.clone(),
            source: Box::new(source),
        };
        aos_durable::create_dir(&self.dir, 0o700).map_err(failed)
    }

    /// Identities of the keys, and the certificates; `None` for one that cannot be read.
    pub(super) fn list(&self) -> Result<Listed, Error> {
        let (mut keys, mut certificates) = (BTreeSet::new(), Vec::new());
        for entry in fs::read_dir(&self.dir).map_err(self.failed("look through"))? {
            let path = entry.map_err(self.failed("look through"))?.path();
            let Some(id) = id_of(&path) else { continue };
            match path.extension().and_then(|extension| extension.to_str()) {
                Some(KEY) => drop(keys.insert(id)),
                Some(CHAIN) => certificates.push((id, self.leaf(&path))),
                _ => {}
            }
        }
        Ok((keys, certificates))
    }

    fn leaf(&self, path: &Path) -> Option<Parsed> {
        let read = self.read(path).and_then(|text| {
            let der = CertificateDer::from_pem_slice(&text)
                .map_err(|error| Error::InvalidArgument(format!("{}: {error}", path.display())))?;
            chain::parse(&der)
        });
        read.inspect_err(|error| {
            tracing::warn!("an unreadable certificate: {}", aos_logging::with_causes(error));
        })
        .ok()
    }

    pub(super) fn generate(&self, algorithm: Algorithm, id: &[u8]) -> Result<KeyPair, Error> {
        let build = |source| Error::Build { doing: "make a key", source };
        let key = match algorithm {
            Algorithm::Ecc => KeyPair::generate_for(&PKCS_ECDSA_P384_SHA384),
            Algorithm::Rsa => KeyPair::generate_rsa_for(&PKCS_RSA_SHA256, RsaKeySize::_2048),
        }
        .map_err(build)?;
        Self::write(&self.path(id, KEY), key.serialize_pem().as_bytes())?;
        Ok(key)
    }

    /// Whether the key of `id` is the one of `certificate`.
    pub(super) fn matches(&self, id: &[u8], certificate: &Parsed) -> Result<bool, Error> {
        let text = self.read(&self.path(id, KEY))?;
        let text = String::from_utf8_lossy(&text);
        let key =
            KeyPair::from_pem(&text).map_err(|source| Error::Build { doing: "read a key file", source })?;
        Ok(key.der_bytes() == certificate.public_key)
    }

    pub(super) fn import(&self, chain: &[Parsed], id: &[u8]) -> Result<(), Error> {
        let text: String = chain.iter().map(|certificate| chain::pem(&certificate.der)).collect();
        Self::write(&self.path(id, CHAIN), text.as_bytes())
    }

    /// Removes certificate and key; what is not there is no error.
    pub(super) fn destroy(&self, id: &[u8]) -> Result<(), Error> {
        for extension in [CHAIN, KEY] {
            let path = self.path(id, extension);
            killpoint::step("remove a key file");
            aos_durable::remove_durably(&path).map_err(|source| Error::Durable {
                doing: "remove",
                path,
                source: Box::new(source),
            })?;
        }
        Ok(())
    }

    /// Addresses of certificate and key.
    pub(super) fn urls(&self, id: &[u8]) -> (String, String) {
        let url = |extension| CertUrl::File(self.path(id, extension)).to_string();
        (url(CHAIN), url(KEY))
    }

    fn path(&self, id: &[u8], extension: &str) -> PathBuf {
        self.dir.join(hex::encode(id)).with_extension(extension)
    }

    fn read(&self, path: &Path) -> Result<Vec<u8>, Error> {
        use std::io::Read;

        let mut text = Vec::new();
        let file = fs::File::open(path).map_err(self.failed("read a file in"))?;
        file.take(MAX_FILE).read_to_end(&mut text).map_err(self.failed("read a file in"))?;
        Ok(text)
    }

    fn write(path: &Path, content: &[u8]) -> Result<(), Error> {
        killpoint::step("write a key file");
        aos_durable::write_atomic(path, content, 0o600).map_err(|source| Error::Durable {
            doing: "write",
            path: path.to_owned(),
            source: Box::new(source),
        })?;
        killpoint::step("write a key file");
        Ok(())
    }

    fn failed(&self, doing: &'static str) -> impl Fn(std::io::Error) -> Error + use<> {
        let path = self.dir.clone();
        move |source| Error::File { doing, path: path.clone(), source }
    }
}

/// The identity in a file name of ours.
pub(super) fn id_of(path: &Path) -> Option<KeyId> {
    hex::decode(path.file_stem()?.to_str()?).ok().filter(|id| !id.is_empty())
}
