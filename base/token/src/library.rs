//! PKCS#11 modules and the tokens in their slots.
//!
//! A module is loaded and initialised once per path and process, and stays loaded: its state is global to
//! the process. Slots are renumbered by some modules when a token is initialised, so tokens are recognised
//! by serial number and label together.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, Weak};
use std::time::{Duration, Instant};

use cryptoki::context::{CInitializeArgs, CInitializeFlags, Pkcs11};
use cryptoki::error::{Error, RvError};
use cryptoki::object::Attribute;
use cryptoki::session::UserType;
use cryptoki::slot::{Slot, TokenInfo};
use cryptoki::types::AuthPin;

use crate::probe::step;
use crate::shared::Shared;
use crate::{TokenError, TokenSession};

/// Least time between two readings that nobody asked for: a token that stays away must not cost one for each
/// signature.
const REFRESH_PAUSE: Duration = Duration::from_secs(1);
/// Readings of the tokens before one counts as missing: SoftHSM rewrites a token's file at each login, and who
/// reads it in that moment sees no token.
const READINGS: u32 = 3;
/// Longest token label, bytes.
const MAX_LABEL: usize = 32;

static LIBRARIES: OnceLock<Mutex<Vec<Arc<Library>>>> = OnceLock::new();

/// A loaded PKCS#11 module.
#[derive(Debug)]
pub struct Library {
    path: PathBuf,
    pub(crate) pkcs11: Pkcs11,
    /// Sessions in use; the lock also serialises everything that concerns the module as a whole.
    sessions: Mutex<Vec<Weak<Shared>>>,
    /// When the module last read its tokens anew of its own accord.
    refreshed: Mutex<Option<Instant>>,
}

/// Which slot to use.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SlotChoice {
    /// The slot with this number.
    Id(u64),
    /// The slot at this place, from 0, among all slots.
    Index(usize),
    /// The token with this label; failing that, the first token that is not initialised.
    Label(String),
}

impl Library {
    /// Loads and initialises the module, or returns the one already loaded from this path.
    pub fn open(path: impl AsRef<Path>) -> Result<Arc<Self>, TokenError> {
        let path = path.as_ref();
        let mut libraries =
            LIBRARIES.get_or_init(Default::default).lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(library) = libraries.iter().find(|library| library.path == path) {
            return Ok(Arc::clone(library));
        }
        let failed = |source| TokenError::Load { path: path.to_owned(), source };
        let pkcs11 = Pkcs11::new(path).map_err(failed)?;
        initialize(&pkcs11).map_err(failed)?;
        let library = Arc::new(Self {
            path: path.to_owned(),
            pkcs11,
            sessions: Mutex::default(),
            refreshed: Mutex::default(),
        });
        libraries.push(Arc::clone(&library));
        Ok(library)
    }

    /// The token that `choice` means; `None` when a label fits none and every token is initialised.
    pub fn find_token(self: &Arc<Self>, choice: &SlotChoice) -> Result<Option<Token>, TokenError> {
        let _alone = self.alone();
        let listed = |source| TokenError::Call { action: "list slots", source };
        match choice {
            SlotChoice::Id(number) => {
                let slot = Slot::try_from(*number).map_err(listed)?;
                self.token(slot).map(Some).map_err(|error| match error {
                    Error::Pkcs11(RvError::SlotIdInvalid, _) => TokenError::NoSlot { slot: *number },
                    source => TokenError::Call { action: "read the token of a slot", source },
                })
            }
            SlotChoice::Index(index) => {
                let slots = self.pkcs11.get_all_slots().map_err(listed)?;
                let number = u64::try_from(*index).unwrap_or(u64::MAX);
                let slot = slots.get(*index).ok_or(TokenError::NoSlot { slot: number })?;
                self.token(*slot)
                    .map(Some)
                    .map_err(|source| TokenError::Call { action: "read the token of a slot", source })
            }
            SlotChoice::Label(label) => {
                if let Some(token) = self.initialised(|info| info.label() == label).map_err(listed)? {
                    return Ok(Some(token));
                }
                for slot in self.pkcs11.get_slots_with_token().map_err(listed)? {
                    if self.pkcs11.get_token_info(slot).is_ok_and(|info| !info.token_initialized()) {
                        return Ok(Some(Token::new(self, slot, None)));
                    }
                }
                Ok(None)
            }
        }
    }

    /// The initialised token with this label, or the first one of all without a label.
    ///
    /// Modules that read their tokens only when initialised do not see one that another process made since;
    /// if none is found they are initialised again, at most three times per call.
    pub fn find_initialised(self: &Arc<Self>, label: Option<&str>) -> Result<Token, TokenError> {
        let sessions = self.alone();
        let wanted = |info: &TokenInfo| label.is_none_or(|label| info.label() == label);
        let failed = |source| TokenError::Call { action: "look for a token", source };
        if let Some(token) = self.initialised(wanted).map_err(failed)? {
            return Ok(token);
        }
        for _ in 0..READINGS {
            self.restart(&sessions)?;
            if let Some(token) = self.initialised(wanted).map_err(failed)? {
                return Ok(token);
            }
        }
        Err(TokenError::NoToken { label: label.unwrap_or_default().to_owned() })
    }

    /// Makes the module read its tokens anew, for when another process has replaced one.
    pub fn refresh(&self) -> Result<(), TokenError> {
        self.restart(&self.alone())
    }

    /// As [`Self::refresh`], unless that was just done; says whether it was done now.
    pub(crate) fn refresh_at_times(&self) -> Result<bool, TokenError> {
        {
            let mut last = self.refreshed.lock().unwrap_or_else(PoisonError::into_inner);
            if last.is_some_and(|last| last.elapsed() < REFRESH_PAUSE) {
                return Ok(false);
            }
            *last = Some(Instant::now());
        }
        self.refresh().map(|()| true)
    }

    /// Initialises the module again, so that it reads its tokens anew. Sessions are held still meanwhile and
    /// open again with their next use.
    fn restart(&self, sessions: &[Weak<Shared>]) -> Result<(), TokenError> {
        let sessions: Vec<_> = sessions.iter().filter_map(Weak::upgrade).collect();
        let _still: Vec<_> = sessions.iter().map(|session| session.hold_still()).collect();
        let failed = |source| TokenError::Load { path: self.path.clone(), source };
        match self.pkcs11.clone().finalize() {
            // The last initialisation failed: the token was away then.
            Ok(()) | Err(Error::Pkcs11(RvError::CryptokiNotInitialized, _)) => {}
            Err(error) => return Err(failed(error)),
        }
        initialize(&self.pkcs11).map_err(failed)
    }

    fn alone(&self) -> MutexGuard<'_, Vec<Weak<Shared>>> {
        self.sessions.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn token(self: &Arc<Self>, slot: Slot) -> Result<Token, Error> {
        let info = self.pkcs11.get_token_info(slot)?;
        Ok(Token::new(self, slot, TokenName::of(&info)))
    }

    fn initialised(self: &Arc<Self>, wanted: impl Fn(&TokenInfo) -> bool) -> Result<Option<Token>, Error> {
        for slot in self.pkcs11.get_slots_with_token()? {
            // A token may vanish between the two calls.
            let Ok(info) = self.pkcs11.get_token_info(slot) else { continue };
            if info.token_initialized() && wanted(&info) {
                return Ok(Some(Token::new(self, slot, TokenName::of(&info))));
            }
        }
        Ok(None)
    }

    /// Slot of this token now.
    pub(crate) fn slot_of(&self, name: &TokenName) -> Result<Option<Slot>, Error> {
        for slot in self.pkcs11.get_slots_with_token()? {
            let Ok(info) = self.pkcs11.get_token_info(slot) else { continue };
            if TokenName::of(&info).as_ref() == Some(name) {
                return Ok(Some(slot));
            }
        }
        Ok(None)
    }
}

fn initialize(pkcs11: &Pkcs11) -> Result<(), Error> {
    match pkcs11.initialize(CInitializeArgs::new(CInitializeFlags::OS_LOCKING_OK)) {
        Ok(()) | Err(Error::Pkcs11(RvError::CryptokiAlreadyInitialized, _)) => Ok(()),
        Err(error) => Err(error),
    }
}

fn may_be_stale(error: &TokenError) -> bool {
    use RvError::{PinIncorrect, UserPinNotInitialized};
    match error {
        TokenError::NoToken { .. } => true,
        TokenError::Call { source: Error::Pkcs11(code, _), .. } => {
            matches!(code, PinIncorrect | UserPinNotInitialized)
        }
        _ => false,
    }
}

/// How a token is recognised. Some modules give all their tokens one serial number, others another one with
/// each initialisation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct TokenName {
    serial: String,
    pub(crate) label: String,
}

impl TokenName {
    fn of(info: &TokenInfo) -> Option<Self> {
        info.token_initialized()
            .then(|| Self { serial: info.serial_number().to_owned(), label: info.label().to_owned() })
    }
}

/// A token in a slot.
#[derive(Debug, Clone)]
pub struct Token {
    library: Arc<Library>,
    slot: Slot,
    /// `None` as long as the token is not initialised.
    name: Option<TokenName>,
}

impl Token {
    fn new(library: &Arc<Library>, slot: Slot, name: Option<TokenName>) -> Self {
        Self { library: Arc::clone(library), slot, name }
    }

    /// Whether the token has been initialised, so that it has a label and an owner.
    pub fn is_initialised(&self) -> Result<bool, TokenError> {
        self.info_now("read the state of a token").map(|(_, info)| info.token_initialized())
    }

    /// The slot and what the module says of the token in it.
    pub(crate) fn info_now(&self, action: &'static str) -> Result<(Slot, TokenInfo), TokenError> {
        let _alone = self.library.alone();
        self.slot_now()
            .and_then(|slot| Ok((slot, self.library.pkcs11.get_token_info(slot)?)))
            .map_err(|source| TokenError::Call { action, source })
    }

    /// The slot may have got another number since the token was found.
    fn slot_now(&self) -> Result<Slot, Error> {
        let Some(name) = &self.name else { return Ok(self.slot) };
        Ok(self.library.slot_of(name)?.unwrap_or(self.slot))
    }

    /// Takes ownership: erases every object, names the token and sets both PINs. Sessions and keys of the
    /// token held in this process become [`TokenError::Reinitialised`]. Returns the token as it is then, for
    /// its slot may have another number.
    pub fn init(&self, so_pin: &AuthPin, label: &str, user_pin: &AuthPin) -> Result<Self, TokenError> {
        if label.is_empty() || label.len() > MAX_LABEL {
            return Err(TokenError::Length { what: "token label", length: label.len(), max: MAX_LABEL });
        }
        let mut sessions = self.library.alone();
        sessions.retain(|session| match session.upgrade() {
            Some(shared) if self.name.as_ref() == Some(shared.name()) => {
                shared.retire();
                false
            }
            Some(_) => true,
            None => false,
        });
        let call = |action| move |source| TokenError::Call { action, source };
        let pkcs11 = &self.library.pkcs11;
        let slot = self.slot_now().map_err(call("look for the token"))?;
        step("initialise the token");
        match pkcs11.init_token(slot, so_pin, label) {
            Err(Error::Pkcs11(RvError::ArgumentsBad | RvError::FunctionNotSupported, _))
                if self.name.as_ref().is_some_and(|name| name.label == label) =>
            {
                return self.empty(slot, so_pin, user_pin);
            }
            other => other.map_err(call("initialise the token"))?,
        }
        step("initialise the token");
        let token = self.after_init(slot, label).map_err(call("find the initialised token"))?;
        let token = token.ok_or_else(|| TokenError::NoToken { label: label.to_owned() })?;
        let session = pkcs11.open_rw_session(token.slot).map_err(call("open a session of the owner"))?;
        session.login(UserType::So, Some(so_pin)).map_err(call("log in as owner"))?;
        step("set the user PIN");
        session.init_pin(user_pin).map_err(call("set the user PIN"))?;
        step("set the user PIN");
        session.logout().map_err(call("log out as owner"))?;
        Ok(token)
    }

    /// Takes ownership of a token that its module does not initialise twice: the owner gives it a new user PIN,
    /// and the user erases what is on it.
    fn empty(&self, slot: Slot, so_pin: &AuthPin, user_pin: &AuthPin) -> Result<Self, TokenError> {
        let call = |action| move |source| TokenError::Call { action, source };
        let session =
            self.library.pkcs11.open_rw_session(slot).map_err(call("open a session of the owner"))?;
        session.login(UserType::So, Some(so_pin)).map_err(call("log in as owner"))?;
        step("set the user PIN");
        session.init_pin(user_pin).map_err(call("set the user PIN"))?;
        step("set the user PIN");
        session.logout().map_err(call("log out as owner"))?;
        session.login(UserType::User, Some(user_pin)).map_err(call("log in to the token"))?;
        let objects = session.find_objects(&[Attribute::Token(true)]).map_err(call("list objects"))?;
        for object in objects {
            step("clear the token");
            session.destroy_object(object).map_err(call("clear the token"))?;
            step("clear the token");
        }
        session.logout().map_err(call("log out of the token"))?;
        Ok(self.clone())
    }

    fn after_init(&self, slot: Slot, label: &str) -> Result<Option<Self>, Error> {
        if let Ok(token) = self.library.token(slot)
            && token.name.is_some()
            && self.library.pkcs11.get_token_info(slot)?.label() == label
        {
            return Ok(Some(token));
        }
        self.library.initialised(|info| info.label() == label)
    }

    /// The session that this process has with the token under this PIN, without trying a PIN that the token
    /// refused before.
    pub fn opened(&self, user_pin: &AuthPin) -> Result<TokenSession, TokenError> {
        let sessions = self.library.alone();
        let mut live = sessions.iter().filter_map(Weak::upgrade);
        live.find(|shared| {
            self.name.as_ref() == Some(shared.name()) && crate::same_pin(shared.pin(), user_pin)
        })
        .map(TokenSession::new)
        .ok_or(TokenError::RefusedBefore)
    }

    /// Logs in as user. All sessions of one token share one PKCS#11 session and its login. A PIN that the
    /// module refuses is tried a second time after the module has read its tokens anew, for another process
    /// may have given the token a new one.
    pub fn open(&self, user_pin: &AuthPin) -> Result<TokenSession, TokenError> {
        let mut sessions = self.library.alone();
        sessions.retain(|session| session.strong_count() > 0);
        let Some(name) = &self.name else {
            return Err(TokenError::NoToken { label: String::new() });
        };
        let of_this = sessions.iter().filter_map(Weak::upgrade).filter(|shared| shared.name() == name);
        for shared in of_this {
            if crate::same_pin(shared.pin(), user_pin) {
                shared.connect()?;
                return Ok(TokenSession::new(shared));
            }
            // Logged in with another PIN, the token would accept any PIN now.
            shared.disconnect();
        }
        let shared = Arc::new(Shared::new(Arc::clone(&self.library), name.clone(), user_pin.clone()));
        match shared.connect() {
            Err(error) if may_be_stale(&error) => {
                self.library.restart(&sessions)?;
                shared.connect()?;
            }
            other => other?,
        }
        sessions.push(Arc::downgrade(&shared));
        Ok(TokenSession::new(shared))
    }
}
