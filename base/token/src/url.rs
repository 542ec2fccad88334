//! Names of certificates and keys: `pkcs11:` and `file:` URLs as all components of a Unit exchange them.
//!
//! Only the `id` is percent-encoded, as peers write it; the other values stand as they are. A PIN inside a
//! URL never appears in `Debug` output.

use std::fmt::{self, Write as _};
use std::path::{Path, PathBuf};

use cryptoki::types::AuthPin;
use secrecy::ExposeSecret;

use crate::TokenError;

/// The module that a URL without `module-path` means.
pub const DEFAULT_MODULE: &str = "/usr/lib/softhsm/libsofthsm2.so";

const MAX_URL: usize = 4096;
const MAX_PIN_FILE: u64 = 4096;

/// Where the user PIN of a token comes from.
#[derive(Clone, Default)]
pub enum Pin {
    /// No PIN, or an empty one.
    #[default]
    None,
    /// Inside the URL, as older releases stored it.
    Value(AuthPin),
    /// Content of a file.
    Source(PathBuf),
}

impl Pin {
    /// The PIN itself. A file is taken as it is, but for one newline at its end.
    pub fn read(&self) -> Result<AuthPin, TokenError> {
        match self {
            Self::None => Ok(AuthPin::from(String::new())),
            Self::Value(pin) => Ok(pin.clone()),
            Self::Source(path) => read_pin_file(path),
        }
    }
}

impl fmt::Debug for Pin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::None => f.write_str("None"),
            Self::Value(_) => f.write_str("Value(..)"),
            Self::Source(path) => f.debug_tuple("Source").field(path).finish(),
        }
    }
}

/// Whether two PINs are the same.
pub fn same_pin(one: &AuthPin, other: &AuthPin) -> bool {
    one.expose_secret() == other.expose_secret()
}

/// Reads a PIN file: plain text, at most 4 KiB, one newline at the end tolerated.
pub fn read_pin_file(path: &Path) -> Result<AuthPin, TokenError> {
    use std::io::Read;

    let read = || {
        let mut text = String::new();
        std::fs::File::open(path)?.take(MAX_PIN_FILE).read_to_string(&mut text)?;
        Ok(text)
    };
    let mut text: String = read().map_err(|source| TokenError::ReadFile { path: path.to_owned(), source })?;
    if text.ends_with('\n') {
        text.pop();
    }
    Ok(AuthPin::from(text))
}

/// An object of a token.
#[derive(Debug, Clone)]
pub struct Pkcs11Url {
    /// Label of the token; absent means the first initialised one.
    pub token: Option<String>,
    /// CKA_LABEL: the certificate type.
    pub object: String,
    /// CKA_ID.
    pub id: Vec<u8>,
    /// The module; absent means [`DEFAULT_MODULE`].
    pub module_path: Option<PathBuf>,
    /// The user PIN.
    pub pin: Pin,
}

impl Pkcs11Url {
    /// The module to load.
    pub fn module(&self) -> &Path {
        self.module_path.as_deref().unwrap_or(Path::new(DEFAULT_MODULE))
    }
}

/// Name of a certificate or of a key.
#[derive(Debug, Clone)]
pub enum CertUrl {
    /// In a token.
    Pkcs11(Pkcs11Url),
    /// In a PEM file.
    File(PathBuf),
}

impl CertUrl {
    /// Reads a URL, at most 4 KiB long.
    pub fn parse(text: &str) -> Result<Self, TokenError> {
        let wrong = |reason| TokenError::Url { reason };
        if text.len() > MAX_URL {
            return Err(wrong("it is too long"));
        }
        if let Some(path) = text.strip_prefix("file:") {
            let path = path.strip_prefix("//").unwrap_or(path);
            return if path.is_empty() {
                Err(wrong("it names no file"))
            } else {
                Ok(Self::File(path.into()))
            };
        }
        let rest = text.strip_prefix("pkcs11:").ok_or_else(|| wrong("it is neither pkcs11: nor file:"))?;
        let (path, query) = rest.split_once('?').unwrap_or((rest, ""));
        let (mut token, mut object, mut id, mut module_path) = (None, None, None, None);
        let (mut pin_value, mut pin_source) = (None, None);
        for (name, value) in pairs(path, ';') {
            match name {
                "token" => token = Some(value.to_owned()),
                "object" => object = Some(value.to_owned()),
                "id" => id = Some(percent_decode(value)?),
                _ => {}
            }
        }
        for (name, value) in pairs(query, '&') {
            match name {
                "module-path" => module_path = Some(PathBuf::from(value)),
                "pin-value" => pin_value = Some(AuthPin::from(value.to_owned())),
                "pin-source" => {
                    pin_source = Some(PathBuf::from(value.strip_prefix("file:").unwrap_or(value)));
                }
                _ => {}
            }
        }
        let pin = match (pin_value, pin_source) {
            (Some(_), Some(_)) => return Err(wrong("it has both pin-value and pin-source")),
            (Some(value), None) => Pin::Value(value),
            (None, Some(path)) => Pin::Source(path),
            (None, None) => Pin::None,
        };
        Ok(Self::Pkcs11(Pkcs11Url {
            token: token.filter(|label| !label.is_empty()),
            object: object.ok_or_else(|| wrong("it has no object"))?,
            id: id.ok_or_else(|| wrong("it has no id"))?,
            module_path,
            pin,
        }))
    }
}

fn pairs(text: &str, separator: char) -> impl Iterator<Item = (&str, &str)> {
    text.split(separator).filter_map(|pair| pair.split_once('='))
}

fn percent_decode(text: &str) -> Result<Vec<u8>, TokenError> {
    let mut bytes = Vec::with_capacity(text.len() / 3);
    let mut rest = text.as_bytes();
    while let Some((&first, tail)) = rest.split_first() {
        if first != b'%' {
            bytes.push(first);
            rest = tail;
            continue;
        }
        let digit = |at: usize| tail.get(at).and_then(|&byte| char::from(byte).to_digit(16));
        let (Some(high), Some(low)) = (digit(0), digit(1)) else {
            return Err(TokenError::Url { reason: "its id has a broken escape" });
        };
        // Two hexadecimal digits always fit.
        bytes.push(u8::try_from(high * 16 + low).unwrap_or_default());
        rest = &tail[2..];
    }
    Ok(bytes)
}

/// The text to store and to send; it contains the PIN when that is part of the URL.
impl fmt::Display for CertUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let url = match self {
            Self::File(path) => return write!(f, "file:{}", path.display()),
            Self::Pkcs11(url) => url,
        };
        f.write_str("pkcs11:")?;
        if let Some(token) = &url.token {
            write!(f, "token={token};")?;
        }
        write!(f, "object={};id=", url.object)?;
        for byte in &url.id {
            write!(f, "%{byte:02X}")?;
        }
        f.write_char('?')?;
        let mut separator = "";
        if let Some(path) = &url.module_path {
            write!(f, "module-path={}", path.display())?;
            separator = "&";
        }
        match &url.pin {
            Pin::None => Ok(()),
            Pin::Value(pin) => write!(f, "{separator}pin-value={}", pin.expose_secret()),
            Pin::Source(path) => write!(f, "{separator}pin-source={}", path.display()),
        }
    }
}
