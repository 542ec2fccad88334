//! States and error information shared by all wires.
//!
//! The words are the ones that appear in JSON, in gRPC string fields and in databases; the error codes are
//! the Aos codes 0..=14 that upstream defines. No behaviour lives here.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// Kind of an error as peers see it (`aosCode` in JSON, `aos_code` in gRPC).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(i32)]
pub enum AosCode {
    /// No error.
    None = 0,
    /// Unspecific failure.
    Failed = 1,
    /// Run-time error; `exit_code` carries an errno or an exit status.
    Runtime = 2,
    /// Out of memory, space or capacity.
    NoMemory = 3,
    /// A number is outside its range.
    OutOfRange = 4,
    /// Something addressed does not exist.
    NotFound = 5,
    /// An argument is wrong.
    InvalidArgument = 6,
    /// No answer in time.
    Timeout = 7,
    /// Something to be made exists.
    AlreadyExists = 8,
    /// Not possible in the present state.
    WrongState = 9,
    /// Content does not match its digest.
    InvalidChecksum = 10,
    /// A token session is logged in already.
    AlreadyLoggedIn = 11,
    /// Not supported.
    NotSupported = 12,
    /// End of data.
    Eof = 13,
    /// Cancelled on purpose.
    Canceled = 14,
}

impl AosCode {
    /// The code of a number from the wire; numbers we do not know count as unspecific failure.
    pub const fn from_number(number: i32) -> Self {
        match number {
            0 => Self::None,
            2 => Self::Runtime,
            3 => Self::NoMemory,
            4 => Self::OutOfRange,
            5 => Self::NotFound,
            6 => Self::InvalidArgument,
            7 => Self::Timeout,
            8 => Self::AlreadyExists,
            9 => Self::WrongState,
            10 => Self::InvalidChecksum,
            11 => Self::AlreadyLoggedIn,
            12 => Self::NotSupported,
            13 => Self::Eof,
            14 => Self::Canceled,
            _ => Self::Failed,
        }
    }

    /// The number on the wire.
    pub const fn number(self) -> i32 {
        self as i32
    }
}

/// Error attached to a status. Its absence means success; code [`AosCode::None`] is never sent.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ErrorInfo {
    /// Kind of the error, 0..=14.
    #[serde(alias = "code", default)]
    pub aos_code: i32,
    /// errno or process exit status when `aos_code` is 2, else 0.
    #[serde(default)]
    pub exit_code: i32,
    /// What happened, for people.
    #[serde(default)]
    pub message: String,
}

impl ErrorInfo {
    /// An error without an exit code.
    pub fn new(code: AosCode, message: impl Into<String>) -> Self {
        Self { aos_code: code.number(), exit_code: 0, message: message.into() }
    }

    /// A run-time error with errno or exit status.
    pub fn runtime(exit_code: i32, message: impl Into<String>) -> Self {
        Self { aos_code: AosCode::Runtime.number(), exit_code, message: message.into() }
    }

    /// Kind of the error.
    pub fn code(&self) -> AosCode {
        AosCode::from_number(self.aos_code)
    }
}

impl fmt::Display for ErrorInfo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.exit_code {
            0 => f.write_str(&self.message),
            code => write!(f, "{} [{code}]", self.message),
        }
    }
}

/// A word that is no state of the kind asked for.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("'{word}' is no {kind}")]
pub struct UnknownState {
    /// The word found.
    pub word: String,
    /// What was expected.
    pub kind: &'static str,
}

macro_rules! states {
    ($(#[$doc:meta])* $name:ident, $kind:literal { $($(#[$vdoc:meta])* $variant:ident = $word:literal,)+ }) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
        pub enum $name {
            $($(#[$vdoc])* #[serde(rename = $word)] $variant,)+
        }

        impl $name {
            /// The word on the wire.
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $word,)+ }
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.pad(self.as_str())
            }
        }

        impl FromStr for $name {
            type Err = UnknownState;
            fn from_str(word: &str) -> Result<Self, UnknownState> {
                match word {
                    $($word => Ok(Self::$variant),)+
                    _ => Err(UnknownState { word: word.chars().take(40).collect(), kind: $kind }),
                }
            }
        }
    };
}

states! {
    /// State of a deployable item on a Unit.
    ItemState, "item state" {
        /// Nothing known.
        Unknown = "unknown",
        /// Blobs are being fetched.
        Downloading = "downloading",
        /// Complete, waiting to be made the current one.
        Pending = "pending",
        /// Being installed.
        Installing = "installing",
        /// The current version.
        Installed = "installed",
        /// Being removed.
        Removing = "removing",
        /// Not wanted any more; may still be on disk.
        Removed = "removed",
        /// Could not be fetched or verified.
        Failed = "failed",
    }
}

states! {
    /// State of an instance.
    InstanceState, "instance state" {
        /// Being started.
        Activating = "activating",
        /// Running.
        Active = "active",
        /// Stopped on purpose.
        Inactive = "inactive",
        /// Could not be started, or ended and is not restarted.
        Failed = "failed",
    }
}

states! {
    /// State of a node as it reports it.
    NodeState, "node state" {
        /// No certificates yet.
        Unprovisioned = "unprovisioned",
        /// Part of the Unit.
        Provisioned = "provisioned",
        /// Taken out of service by the operator.
        Paused = "paused",
        /// Unusable.
        Error = "error",
    }
}

states! {
    /// State of the Unit's or a node's configuration.
    ConfigState, "configuration state" {
        /// None installed.
        Absent = "absent",
        /// In force.
        Installed = "installed",
        /// Could not be read or applied.
        Failed = "failed",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_survive_the_wire() {
        for number in 0..=14 {
            assert_eq!(AosCode::from_number(number).number(), number);
        }
        assert_eq!(AosCode::from_number(99), AosCode::Failed);
    }

    #[test]
    fn error_info_accepts_the_documents_form() {
        let info: ErrorInfo = serde_json::from_str(r#"{"code":5,"message":"gone"}"#).unwrap();
        assert_eq!(info, ErrorInfo::new(AosCode::NotFound, "gone"));
    }

    #[test]
    fn states_are_the_wire_words() {
        assert_eq!("activating".parse(), Ok(InstanceState::Activating));
        assert_eq!(serde_json::to_string(&ItemState::Pending).unwrap(), "\"pending\"");
        assert!("Active".parse::<InstanceState>().is_err());
    }
}
