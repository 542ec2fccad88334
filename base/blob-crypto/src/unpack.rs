//! Served bytes to verified plain bytes, in one pass.

use std::io::{Read, Write};
use std::time::SystemTime;

use aos_ids::Digest;
use aws_lc_rs::digest::{Context, SHA256};

use crate::cipher::{CHUNK, Decryptor, read_some};
use crate::sign::Verifier;
use crate::{ChainStore, CryptoError, Decryption, ServedDigest, ServedHasher, SignatureInfo, io_failed};

/// What is known about a blob before it is unpacked. What is `None` is not checked or done.
#[derive(Debug, Clone)]
pub struct Recipe<'a> {
    /// SHA-256 of the plain bytes.
    pub digest: Digest,
    /// Digest of the served bytes.
    pub served: Option<ServedDigest>,
    /// How to decrypt.
    pub decryption: Option<Decryption>,
    /// The signature over the plain bytes, with what it is checked by.
    pub signature: Option<(SignatureInfo, &'a ChainStore)>,
}

/// Lengths of an unpacked blob.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Unpacked {
    /// Bytes read.
    pub served_bytes: u64,
    /// Bytes written.
    pub plain_bytes: u64,
}

/// Reads the served bytes, writes the plain bytes and checks everything the recipe names.
///
/// The certificate chain is checked before anything is read. On an error the writer has got bytes that must
/// not be used: write to a temporary file and make it the blob only after success.
pub fn unpack(
    mut reader: impl Read,
    mut writer: impl Write,
    recipe: &Recipe<'_>,
    now: SystemTime,
) -> Result<Unpacked, CryptoError> {
    let verifier = match &recipe.signature {
        Some((info, chains)) => Some(Verifier::start(info, chains, now)?),
        None => None,
    };
    let mut decryptor = recipe.decryption.as_ref().map(Decryption::start).transpose()?;
    let mut served = recipe.served.map(|announced| (announced, ServedHasher::default()));
    let mut plain = Plain { writer: &mut writer, hash: Context::new(&SHA256), verifier, length: 0 };
    let (mut chunk, mut served_bytes) = (vec![0; CHUNK], 0);
    // Decryption may fail on damaged bytes before their digest is known, yet "damaged on the way" is the
    // more useful finding: it means fetching again, not a wrong key.
    let mut decrypted = Ok(());
    loop {
        let n = read_some(&mut reader, &mut chunk)?;
        if n == 0 {
            break;
        }
        let bytes = &chunk[..n];
        served_bytes += n as u64;
        if let Some((_, hasher)) = &mut served {
            hasher.update(bytes);
        }
        if decrypted.is_ok() {
            decrypted = match &mut decryptor {
                Some(decryptor) => decryptor.update(bytes).and_then(|known| plain.take(known)),
                None => plain.take(bytes),
            };
        }
        if decrypted.is_err() && served.is_none() {
            break;
        }
    }
    if let Some((announced, hasher)) = served
        && !hasher.matches(&announced)
    {
        return Err(CryptoError::ServedMismatch);
    }
    decrypted?;
    if let Some(last) = decryptor.map(Decryptor::finish).transpose()? {
        plain.take(&last)?;
    }
    let plain_bytes = plain.finish(&recipe.digest)?;
    Ok(Unpacked { served_bytes, plain_bytes })
}

/// The plain side: writes, hashes, verifies.
struct Plain<'w, W> {
    writer: &'w mut W,
    hash: Context,
    verifier: Option<Verifier>,
    length: u64,
}

impl<W: Write> Plain<'_, W> {
    fn take(&mut self, bytes: &[u8]) -> Result<(), CryptoError> {
        self.hash.update(bytes);
        if let Some(verifier) = &mut self.verifier {
            verifier.update(bytes);
        }
        self.length += bytes.len() as u64;
        self.writer.write_all(bytes).map_err(io_failed("write"))
    }

    fn finish(self, expected: &Digest) -> Result<u64, CryptoError> {
        self.writer.flush().map_err(io_failed("write"))?;
        if let Some(verifier) = self.verifier {
            verifier.finish()?;
        }
        let mut value = [0; 32];
        value.copy_from_slice(self.hash.finish().as_ref());
        let found = Digest::from_sha256(value);
        if found == *expected {
            Ok(self.length)
        } else {
            Err(CryptoError::ContentMismatch { expected: *expected, found })
        }
    }
}
