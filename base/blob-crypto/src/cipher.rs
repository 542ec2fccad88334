//! AES in CBC mode with PKCS#7 padding, and in GCM mode.
//!
//! CBC streams. GCM (12-byte IV, 16-byte tag behind the ciphertext, no additional data) is a convention of
//! ours; its bytes may not be released before the tag is checked, so such a blob is held in memory and limited
//! to [`MAX_GCM`].

use std::io::{self, Read, Write};

use aws_lc_rs::aead::{self, Aad, LessSafeKey, Nonce, UnboundKey};
use aws_lc_rs::cipher::{
    AES_128, AES_192, AES_256, DecryptionContext, EncryptionContext, StreamingDecryptingKey,
    StreamingEncryptingKey, UnboundCipherKey,
};
use aws_lc_rs::iv::FixedLength;

use crate::{CryptoError, io_failed};

pub(crate) const CHUNK: usize = 64 * 1024;
const BLOCK: usize = 16;
/// Longest blob in GCM mode, bytes.
pub(crate) const MAX_GCM: u64 = 16 * 1024 * 1024;

#[derive(Clone, Copy, PartialEq, Eq)]
enum Mode {
    Cbc([u8; BLOCK]),
    Gcm([u8; 12]),
}

/// How a blob is decrypted. Shows nothing of the key when printed.
#[derive(Clone)]
pub struct Decryption {
    key: Vec<u8>,
    mode: Mode,
}

impl std::fmt::Debug for Decryption {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let mode = if matches!(self.mode, Mode::Cbc(_)) { "CBC" } else { "GCM" };
        write!(f, "Decryption(AES{}/{mode})", self.key.len() * 8)
    }
}

impl Decryption {
    /// Checks `block_alg` (such as `AES256/CBC/pkcs7`; mode and padding default to these, any case) against
    /// the lengths of key and IV: 16, 24 or 32 bytes of key; 16 bytes of IV for CBC, 12 for GCM.
    pub fn new(block_alg: &str, key: &[u8], iv: &[u8]) -> Result<Self, CryptoError> {
        let unsupported = || CryptoError::UnsupportedCipher(block_alg.chars().take(40).collect());
        let upper = block_alg.to_ascii_uppercase();
        let mut parts = upper.split('/').map(str::trim);
        let key_len = match parts.next() {
            Some("AES128") => 16,
            Some("AES192") => 24,
            Some("AES256") => 32,
            _ => return Err(unsupported()),
        };
        let mode = parts.next().unwrap_or_default();
        if parts.count() > 1 {
            return Err(unsupported());
        }
        if key.len() != key_len {
            return Err(CryptoError::BadKey(format!("the block key has {} bytes, not {key_len}", key.len())));
        }
        let bad_iv = |expected: usize| {
            CryptoError::BadKey(format!("the initialisation vector has {} bytes, not {expected}", iv.len()))
        };
        let mode = match mode {
            "" | "CBC" => Mode::Cbc(iv.try_into().map_err(|_| bad_iv(BLOCK))?),
            "GCM" => Mode::Gcm(iv.try_into().map_err(|_| bad_iv(12))?),
            _ => return Err(unsupported()),
        };
        Ok(Self { key: key.to_vec(), mode })
    }

    pub(crate) fn start(&self) -> Result<Decryptor, CryptoError> {
        let failed = |_| CryptoError::Decrypt;
        match self.mode {
            Mode::Cbc(iv) => {
                let context = DecryptionContext::Iv128(FixedLength::from(iv));
                let key = StreamingDecryptingKey::cbc_pkcs7(unbound(&self.key)?, context).map_err(failed)?;
                Ok(Decryptor::Cbc { key, output: vec![0; CHUNK + BLOCK] })
            }
            Mode::Gcm(iv) => {
                let algorithm = match self.key.len() {
                    16 => &aead::AES_128_GCM,
                    24 => &aead::AES_192_GCM,
                    _ => &aead::AES_256_GCM,
                };
                let key = LessSafeKey::new(UnboundKey::new(algorithm, &self.key).map_err(failed)?);
                Ok(Decryptor::Gcm { key, iv, sealed: Vec::new() })
            }
        }
    }
}

/// A decryption under way. Gives bytes out as they become known.
pub(crate) enum Decryptor {
    Cbc { key: StreamingDecryptingKey, output: Vec<u8> },
    Gcm { key: LessSafeKey, iv: [u8; 12], sealed: Vec<u8> },
}

impl Decryptor {
    /// Takes at most [`CHUNK`] bytes and answers the plain bytes known by now.
    pub(crate) fn update(&mut self, bytes: &[u8]) -> Result<&[u8], CryptoError> {
        match self {
            Self::Cbc { key, output } => {
                let update = key.update(bytes, output).map_err(|_| CryptoError::Decrypt)?;
                let length = update.written().len();
                Ok(&output[..length])
            }
            Self::Gcm { sealed, .. } => {
                let size = sealed.len() as u64 + bytes.len() as u64;
                if size > MAX_GCM {
                    return Err(CryptoError::TooLargeForGcm { size, max: MAX_GCM });
                }
                sealed.extend_from_slice(bytes);
                Ok(&[])
            }
        }
    }

    /// Checks padding or tag and answers the last plain bytes.
    pub(crate) fn finish(self) -> Result<Vec<u8>, CryptoError> {
        match self {
            Self::Cbc { key, mut output } => {
                let last = key.finish(&mut output).map_err(|_| CryptoError::Decrypt)?.written().len();
                output.truncate(last);
                Ok(output)
            }
            Self::Gcm { key, iv, mut sealed } => {
                let nonce = Nonce::assume_unique_for_key(iv);
                let plain = key.open_in_place(nonce, Aad::empty(), &mut sealed);
                let length = plain.map_err(|_| CryptoError::Decrypt)?.len();
                sealed.truncate(length);
                Ok(sealed)
            }
        }
    }
}

fn unbound(key: &[u8]) -> Result<UnboundCipherKey, CryptoError> {
    let algorithm = match key.len() {
        16 => &AES_128,
        24 => &AES_192,
        32 => &AES_256,
        other => return Err(CryptoError::BadKey(format!("a key of {other} bytes is no AES key"))),
    };
    UnboundCipherKey::new(algorithm, key).map_err(|_| CryptoError::BadKey("unusable AES key".to_owned()))
}

/// Encrypts everything `reader` yields with AES-CBC and PKCS#7 padding; answers the length written, bytes.
///
/// `key` has 16, 24 or 32 bytes. Key and `iv` must be fresh random values for each blob.
pub fn encrypt_cbc(
    mut reader: impl Read,
    mut writer: impl Write,
    key: &[u8],
    iv: &[u8; 16],
) -> Result<u64, CryptoError> {
    let failed = |_| CryptoError::BadKey("AES-CBC encryption failed".to_owned());
    let context = EncryptionContext::Iv128(FixedLength::from(*iv));
    let mut cipher = StreamingEncryptingKey::less_safe_cbc_pkcs7(unbound(key)?, context).map_err(failed)?;
    let (mut chunk, mut output, mut length) = (vec![0; CHUNK], vec![0; CHUNK + BLOCK], 0);
    loop {
        let n = read_some(&mut reader, &mut chunk)?;
        if n == 0 {
            break;
        }
        let update = cipher.update(&chunk[..n], &mut output).map_err(failed)?;
        writer.write_all(update.written()).map_err(io_failed("write"))?;
        length += update.written().len() as u64;
    }
    let (_, last) = cipher.finish(&mut output).map_err(failed)?;
    writer.write_all(last.written()).map_err(io_failed("write"))?;
    length += last.written().len() as u64;
    writer.flush().map_err(io_failed("write"))?;
    Ok(length)
}

/// Reads until `chunk` has some bytes; 0 at the end.
pub(crate) fn read_some(reader: &mut impl Read, chunk: &mut [u8]) -> Result<usize, CryptoError> {
    loop {
        match reader.read(chunk) {
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            other => return other.map_err(io_failed("read")),
        }
    }
}
