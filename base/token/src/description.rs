//! What a token says of itself, for people who look after it. Reading it needs no PIN and changes nothing.

use cryptoki::slot::TokenInfo;

use crate::{Token, TokenError};

/// A token as its module describes it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Description {
    /// Number of its slot now.
    pub slot: u64,
    /// Its name; empty before it is initialised.
    pub label: String,
    /// Its serial number.
    pub serial: String,
    /// Who made it.
    pub manufacturer: String,
    /// Its model.
    pub model: String,
    /// Whether it has an owner.
    pub initialised: bool,
    /// How the user PIN stands.
    pub pin: PinState,
    /// Bytes for public objects: all and free, where the module tells.
    pub public_memory: (Option<u64>, Option<u64>),
    /// Bytes for private objects: all and free, where the module tells.
    pub private_memory: (Option<u64>, Option<u64>),
}

/// How the user PIN of a token stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PinState {
    /// No refusal since the last login.
    Good,
    /// Refused at least once since the last login.
    Refused,
    /// One more refusal locks the token.
    FinalTry,
    /// The owner has to set a new PIN.
    Locked,
}

impl PinState {
    /// One word for tables.
    pub const fn word(self) -> &'static str {
        match self {
            Self::Good => "good",
            Self::Refused => "refused",
            Self::FinalTry => "final try",
            Self::Locked => "locked",
        }
    }

    fn of(info: &TokenInfo) -> Self {
        if info.user_pin_locked() {
            Self::Locked
        } else if info.user_pin_final_try() {
            Self::FinalTry
        } else if info.user_pin_count_low() {
            Self::Refused
        } else {
            Self::Good
        }
    }
}

impl Token {
    /// What the token says of itself now.
    pub fn describe(&self) -> Result<Description, TokenError> {
        let (slot, info) = self.info_now("read the description of a token")?;
        let bytes = |number: Option<usize>| number.and_then(|number| u64::try_from(number).ok());
        Ok(Description {
            slot: slot.id(),
            label: info.label().to_owned(),
            serial: info.serial_number().to_owned(),
            manufacturer: info.manufacturer_id().to_owned(),
            model: info.model().to_owned(),
            initialised: info.token_initialized(),
            pin: PinState::of(&info),
            public_memory: (bytes(info.total_public_memory()), bytes(info.free_public_memory())),
            private_memory: (bytes(info.total_private_memory()), bytes(info.free_private_memory())),
        })
    }
}
