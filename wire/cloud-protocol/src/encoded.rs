//! Values that travel as encoded text: base64, hexadecimal, secrets, error information.

use std::fmt;

use aos_status::ErrorInfo;
use base64::Engine;
use base64::alphabet::STANDARD;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

const BASE64: GeneralPurpose = GeneralPurpose::new(
    &STANDARD,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

/// Decodes base64 with white space anywhere and with or without padding.
pub(crate) fn decode_base64(text: &str) -> Result<Vec<u8>, base64::DecodeError> {
    let tight: Vec<u8> = text.bytes().filter(|byte| !byte.is_ascii_whitespace()).collect();
    BASE64.decode(tight)
}

/// Bytes that travel as base64 on one line. `Debug` shows only the length: keys travel in this form too.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Base64Bytes(pub Vec<u8>);

impl fmt::Debug for Base64Bytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "<{} bytes>", self.0.len())
    }
}

impl From<Vec<u8>> for Base64Bytes {
    fn from(bytes: Vec<u8>) -> Self {
        Self(bytes)
    }
}

impl Serialize for Base64Bytes {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&BASE64.encode(&self.0))
    }
}

impl<'de> Deserialize<'de> for Base64Bytes {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        decode_base64(&text).map(Self).map_err(|error| de::Error::custom(format_args!("no base64: {error}")))
    }
}

/// A password or owner secret. `Debug` never shows it.
#[derive(Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Secret(String);

impl Secret {
    /// Wraps a secret.
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    /// The secret itself, for the one place that needs it.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("<secret>")
    }
}

/// Hash of the bytes a blob server sends: SHA3-256, from some clouds SHA-256. Written as 64 hexadecimal
/// digits; read from those or from base64 of 32 bytes.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct ServedHash(pub [u8; 32]);

impl ServedHash {
    /// Reads either text form.
    pub fn parse(text: &str) -> Option<Self> {
        let text = text.trim();
        let mut value = [0; 32];
        if text.len() == 64 && hex::decode_to_slice(text, &mut value).is_ok() {
            return Some(Self(value));
        }
        decode_base64(text).ok().and_then(|bytes| bytes.try_into().ok()).map(Self)
    }
}

impl fmt::Display for ServedHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex::encode(self.0))
    }
}

impl fmt::Debug for ServedHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl Serialize for ServedHash {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for ServedHash {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        Self::parse(&text)
            .ok_or_else(|| de::Error::custom("neither 64 hexadecimal digits nor base64 of 32 bytes"))
    }
}

/// Checksum of an instance state, kept as the text received so that it can be repeated unchanged. Ours are
/// SHA3-224 in lower-case hexadecimal digits. 1 to 256 characters.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct StateChecksum(String);

/// A checksum text of a length that the protocol does not allow.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("state checksum has {0} characters, 1 to 256 are allowed")]
pub struct ChecksumLength(usize);

impl StateChecksum {
    /// Wraps the text of a checksum.
    pub fn new(text: impl Into<String>) -> Result<Self, ChecksumLength> {
        let text = text.into();
        if text.is_empty() || text.len() > 256 { Err(ChecksumLength(text.len())) } else { Ok(Self(text)) }
    }

    /// A computed checksum: lower-case hexadecimal digits.
    pub fn from_bytes(bytes: &[u8; 28]) -> Self {
        Self(hex::encode(bytes))
    }

    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The bytes, from hexadecimal digits or base64. 28 bytes are SHA3-224, 32 bytes are SHA-256.
    pub fn bytes(&self) -> Option<Vec<u8>> {
        hex::decode(&self.0).or_else(|_| decode_base64(&self.0)).ok()
    }

    /// True when both mean the same bytes, whatever their text form.
    pub fn same_as(&self, other: &Self) -> bool {
        self == other || self.bytes().is_some_and(|bytes| Some(bytes) == other.bytes())
    }
}

impl TryFrom<String> for StateChecksum {
    type Error = ChecksumLength;
    fn try_from(text: String) -> Result<Self, ChecksumLength> {
        Self::new(text)
    }
}

impl From<StateChecksum> for String {
    fn from(checksum: StateChecksum) -> String {
        checksum.0
    }
}

/// Reads an optional checksum; the empty text is none.
pub(crate) fn optional_checksum<'de, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<Option<StateChecksum>, D::Error> {
    let text = Option::<String>::deserialize(deserializer)?.filter(|text| !text.is_empty());
    text.map(StateChecksum::new).transpose().map_err(de::Error::custom)
}

/// Reads optional error information; code 0 without anything else means success.
pub(crate) fn error_info<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<ErrorInfo>, D::Error> {
    let info = Option::<ErrorInfo>::deserialize(deserializer)?;
    Ok(info.filter(|info| info.aos_code != 0 || info.exit_code != 0 || !info.message.is_empty()))
}

/// True when there is no error to write.
#[allow(clippy::ref_option, reason = "serde calls it with a reference to the field")]
pub(crate) fn no_error(info: &Option<ErrorInfo>) -> bool {
    info.as_ref().is_none_or(|info| info.aos_code == 0)
}

/// Reads a text of `min` to `max` characters.
pub(crate) fn text_within<'de, D: Deserializer<'de>>(
    deserializer: D,
    min: usize,
    max: usize,
) -> Result<String, D::Error> {
    let text = String::deserialize(deserializer)?;
    let length = text.chars().count();
    if (min..=max).contains(&length) {
        Ok(text)
    } else {
        Err(de::Error::custom(format_args!("{length} characters, {min} to {max} are allowed")))
    }
}
