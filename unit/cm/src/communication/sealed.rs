//! Frames that the cloud sealed for the Unit's `offline` certificate: CMS envelopes, an option of the
//! configuration. The key stays in its token; IAM says which one belongs to the certificate an envelope names.

use std::time::Duration;

use aos_blob_crypto::CryptoError;
use aos_blob_crypto::cms::{self, KeyTransport, Recipient};
use aos_iam_link::{IamLink, LinkError};
use aos_token::{TokenError, TokenKey};

/// Certificate type of the keys.
const OFFLINE: &str = "offline";
/// Recipients of one envelope that are looked up.
const MAX_LOOKED_UP: usize = 4;
/// Time for IAM and the token.
const OPEN_TIME: Duration = Duration::from_secs(10);

/// Why an envelope stays closed.
#[derive(Debug, thiserror::Error)]
pub enum SealedError {
    /// It is damaged, or not for this Unit.
    #[error("opening an enveloped frame")]
    Envelope(#[from] CryptoError),
    /// IAM does not know the certificate, or is away.
    #[error("asking IAM for the key of an enveloped frame")]
    Iam(#[source] LinkError),
    /// The key cannot be used.
    #[error("opening the key of an enveloped frame")]
    Key(#[source] TokenError),
    /// The work was not finished.
    #[error("an enveloped frame could not be opened in time")]
    Time,
}

/// Issuer and serial number of a certificate.
type Name = (Vec<u8>, Vec<u8>);

/// Opens envelopes. The last key is remembered: a Unit has one `offline` certificate at a time.
pub struct Opener {
    iam: IamLink,
    known: Option<(Name, TokenKey)>,
}

impl Opener {
    /// Nothing is asked before the first envelope.
    pub fn new(iam: IamLink) -> Self {
        Self { iam, known: None }
    }

    /// The message inside.
    pub async fn open(&mut self, frame: bytes::Bytes) -> Result<Vec<u8>, SealedError> {
        tokio::time::timeout(OPEN_TIME, self.work(frame)).await.map_err(|_| SealedError::Time)?
    }

    async fn work(&mut self, frame: bytes::Bytes) -> Result<Vec<u8>, SealedError> {
        let (name, key) = self.key(&frame).await?;
        let (wanted, opening) = (name.clone(), key.clone());
        // Token and cipher take their time, and the runtime has one thread.
        let opened = tokio::task::spawn_blocking(move || {
            cms::open(&frame, |recipient| {
                let unwrap = |transport, wrapped: &[u8]| match transport {
                    KeyTransport::Pkcs1 => opening.decrypt_rsa_pkcs1(wrapped).ok(),
                    _ => None,
                };
                (name_of(recipient) == wanted).then_some(unwrap)
            })
        });
        let plain = opened.await.map_err(|_| SealedError::Time)??;
        self.known = Some((name, key));
        Ok(plain)
    }

    async fn key(&self, frame: &[u8]) -> Result<(Name, TokenKey), SealedError> {
        let names = recipients(frame)?;
        if let Some((name, key)) = &self.known
            && names.contains(name)
        {
            return Ok((name.clone(), key.clone()));
        }
        let mut failure = SealedError::Envelope(CryptoError::NotForUs);
        for name in names.into_iter().take(MAX_LOOKED_UP) {
            match self.iam.get_cert_of(OFFLINE, &name.0, &name.1).await {
                Err(error) => failure = SealedError::Iam(error),
                Ok(info) => {
                    let loading = tokio::task::spawn_blocking(move || aos_token::load_key(&info.key_url));
                    match loading.await.map_err(|_| SealedError::Time)? {
                        Ok(key) => return Ok((name, key)),
                        Err(error) => failure = SealedError::Key(error),
                    }
                }
            }
        }
        Err(failure)
    }
}

fn name_of(recipient: &Recipient<'_>) -> Name {
    (recipient.issuer.to_vec(), recipient.serial.to_vec())
}

/// Whom an envelope is for.
fn recipients(frame: &[u8]) -> Result<Vec<Name>, CryptoError> {
    let mut names = Vec::new();
    let none = |_: KeyTransport, _: &[u8]| None;
    let asked = cms::open(frame, |recipient| {
        names.push(name_of(recipient));
        Some(none).filter(|_| false)
    });
    match asked {
        Err(CryptoError::NotForUs) | Ok(_) => Ok(names),
        Err(error) => Err(error),
    }
}
