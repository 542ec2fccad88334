//! Permissions of instances at IAM.

use std::fmt;

/// What an instance shows to IAM's clients to prove who it is. Never printed.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    /// A secret as IAM gave it.
    #[allow(dead_code, reason = "registration follows")]
    pub fn new(text: String) -> Self {
        Self(text)
    }

    /// The text, for the environment of the instance.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("Secret")
    }
}
