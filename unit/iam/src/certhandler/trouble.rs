//! Tokens that do not take the stored PIN, or are locked.
//!
//! Tokens count wrong PINs, so one that was refused is not tried again before the PIN file says another. A
//! locked token counts nothing: it is tried again after a pause, for its lock may end by time or by its owner.

use std::time::{Duration, Instant};

use aos_token::{AuthPin, TokenError};

use crate::Error;

/// Between two tries of a locked token.
const LOCKED_PAUSE: Duration = Duration::from_secs(10);

/// Why a token is left alone.
#[derive(Debug, Clone)]
pub(super) struct Trouble {
    locked: bool,
    /// What was refused; none when it could not be read.
    pin: Option<AuthPin>,
    since: Instant,
}

impl Trouble {
    /// What `error` means for the token; none when it is no matter of the PIN.
    pub(super) fn of(error: &Error, pin: Option<AuthPin>) -> Option<Self> {
        let (Error::Token { source, .. } | Error::TokenShut { source, .. }) = error else { return None };
        let (refused, locked) = (source.is_pin_refused(), source.is_locked());
        (refused || locked).then(|| Self { locked, pin, since: Instant::now() })
    }

    /// Whether the token may be tried with this PIN.
    pub(super) fn may_try(&self, pin: Option<&AuthPin>) -> bool {
        let same = match (pin, &self.pin) {
            (Some(pin), Some(refused)) => aos_token::same_pin(pin, refused),
            (None, None) => true,
            _ => false,
        };
        !same || (self.locked && self.since.elapsed() >= LOCKED_PAUSE)
    }

    /// What an order gets that needs the token.
    pub(super) fn error(&self, cert_type: &str) -> Error {
        let source = if self.locked { TokenError::LockedBefore } else { TokenError::RefusedBefore };
        shut(cert_type, source)
    }
}

/// The failure with the next step for people.
pub(super) fn told(error: Error) -> Error {
    match error {
        Error::Token { cert_type, source, .. } if source.is_pin_refused() || source.is_locked() => {
            shut(&cert_type, *source)
        }
        other => other,
    }
}

fn shut(cert_type: &str, source: TokenError) -> Error {
    let next = if source.is_locked() {
        "its owner has to unlock it, or to set a new user PIN and write it to the PIN file"
    } else {
        "restore its PIN file, or have its owner set a new user PIN and write that to the file"
    };
    Error::TokenShut { cert_type: cert_type.to_owned(), next, source: Box::new(source) }
}
