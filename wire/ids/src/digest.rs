//! Content digests. SHA-256 is the only algorithm any peer uses for content.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// Why a text is not a digest.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DigestError {
    /// No `algorithm:` part.
    #[error("digest '{0}' has no algorithm, expected sha256:<64 hex digits>")]
    NoAlgorithm(String),
    /// An algorithm other than SHA-256.
    #[error("digest algorithm '{0}' is not supported, expected sha256")]
    UnsupportedAlgorithm(String),
    /// The hexadecimal part is not 64 digits.
    #[error("digest '{0}' is not 64 hexadecimal digits")]
    BadHex(String),
}

/// SHA-256 digest of some content, written `sha256:<64 lower-case hex digits>`.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Digest([u8; 32]);

impl Digest {
    /// Wraps a computed SHA-256 value.
    pub const fn from_sha256(value: [u8; 32]) -> Self {
        Self(value)
    }

    /// The raw 32 bytes.
    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// The 64 hexadecimal digits without the algorithm; used as file name.
    pub fn hex(&self) -> String {
        hex::encode(self.0)
    }
}

impl FromStr for Digest {
    type Err = DigestError;

    fn from_str(text: &str) -> Result<Self, DigestError> {
        let shown = || text.chars().take(100).collect::<String>();
        let (algorithm, digits) = text.split_once(':').ok_or_else(|| DigestError::NoAlgorithm(shown()))?;
        if !algorithm.eq_ignore_ascii_case("sha256") {
            return Err(DigestError::UnsupportedAlgorithm(algorithm.chars().take(40).collect()));
        }
        let mut value = [0; 32];
        hex::decode_to_slice(digits, &mut value).map_err(|_| DigestError::BadHex(shown()))?;
        Ok(Self(value))
    }
}

impl TryFrom<String> for Digest {
    type Error = DigestError;
    fn try_from(text: String) -> Result<Self, DigestError> {
        text.parse()
    }
}

impl From<Digest> for String {
    fn from(digest: Digest) -> String {
        digest.to_string()
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "sha256:{}", hex::encode(self.0))
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_and_writes_the_wire_form() {
        let text = format!("sha256:{}", "0b".repeat(32));
        let digest: Digest = text.parse().unwrap();
        assert_eq!(digest.to_string(), text);
        assert_eq!(format!("SHA256:{}", "0B".repeat(32)).parse::<Digest>().unwrap(), digest);
    }

    #[test]
    fn refuses_other_forms() {
        assert!(matches!("abc".parse::<Digest>(), Err(DigestError::NoAlgorithm(_))));
        assert!(matches!("md5:00".parse::<Digest>(), Err(DigestError::UnsupportedAlgorithm(_))));
        for bad in ["sha256:", "sha256:00", "sha256:../../etc/passwd"] {
            assert!(matches!(bad.parse::<Digest>(), Err(DigestError::BadHex(_))), "{bad}");
        }
    }
}
