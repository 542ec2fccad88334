//! Identifiers that are opaque text with a maximum length.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// Why a text is not an identifier.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum IdError {
    /// Empty text identifies nothing.
    #[error("{kind} is empty")]
    Empty {
        /// Name of the identifier type, for the message.
        kind: &'static str,
    },
    /// Longer than any peer accepts.
    #[error("{kind} has {length} bytes, at most {max} are allowed")]
    TooLong {
        /// Name of the identifier type.
        kind: &'static str,
        /// Length found, bytes.
        length: usize,
        /// Length allowed, bytes.
        max: usize,
    },
    /// Control characters would corrupt logs and file names.
    #[error("{kind} contains a control character")]
    ControlCharacter {
        /// Name of the identifier type.
        kind: &'static str,
    },
}

macro_rules! text_id {
    ($(#[$doc:meta])* $name:ident, $max:expr) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $name(String);

        impl $name {
            /// Longest accepted text, bytes.
            pub const MAX_LEN: usize = $max;

            /// Checks and wraps `text`.
            pub fn new(text: impl Into<String>) -> Result<Self, IdError> {
                let text = text.into();
                if text.is_empty() {
                    return Err(IdError::Empty { kind: stringify!($name) });
                }
                if text.len() > $max {
                    return Err(IdError::TooLong { kind: stringify!($name), length: text.len(), max: $max });
                }
                if text.chars().any(char::is_control) {
                    return Err(IdError::ControlCharacter { kind: stringify!($name) });
                }
                Ok(Self(text))
            }

            /// The text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{}({})", stringify!($name), self.0)
            }
        }

        impl FromStr for $name {
            type Err = IdError;
            fn from_str(text: &str) -> Result<Self, IdError> {
                Self::new(text)
            }
        }

        impl TryFrom<String> for $name {
            type Error = IdError;
            fn try_from(text: String) -> Result<Self, IdError> {
                Self::new(text)
            }
        }

        impl From<$name> for String {
            fn from(id: $name) -> String {
                id.0
            }
        }

        impl AsRef<str> for $name {
            fn as_ref(&self) -> &str {
                &self.0
            }
        }
    };
}

text_id!(
    /// A Unit: one vehicle, one gateway.
    SystemId,
    64
);
text_id!(
    /// A node of a Unit.
    NodeId,
    64
);
text_id!(
    /// A deployable item: service, component or layer.
    ItemId,
    64
);
text_id!(
    /// The group or user an item is assigned to.
    SubjectId,
    64
);
text_id!(
    /// The service provider or OEM that owns an item; also the identifier of its network on a Unit.
    OwnerId,
    64
);
text_id!(
    /// A runtime of a node.
    RuntimeId,
    64
);
text_id!(
    /// Transaction of a message. A UUID when we make it, any text when a peer does.
    Txn,
    128
);

impl Txn {
    /// A fresh random transaction.
    pub fn random() -> Self {
        Self(uuid::Uuid::new_v4().to_string())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refuses_what_peers_cannot_hold() {
        assert_eq!(NodeId::new(""), Err(IdError::Empty { kind: "NodeId" }));
        assert!(matches!(NodeId::new("x".repeat(65)), Err(IdError::TooLong { length: 65, max: 64, .. })));
        assert!(matches!(NodeId::new("a\nb"), Err(IdError::ControlCharacter { .. })));
        assert_eq!(NodeId::new("x".repeat(64)).unwrap().as_str().len(), 64);
    }

    #[test]
    fn fresh_transactions_differ() {
        assert_ne!(Txn::random(), Txn::random());
    }
}
