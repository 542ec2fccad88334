//! The one PKCS#11 session that this process keeps with a token.
//!
//! A lock serialises all use but key generation, which may take seconds. When the token went away, was logged
//! out or lost the session, the session is opened and logged in again and the operation is tried a second time,
//! once. Object handles belong to a session: its generation tells whether a remembered handle still counts.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use cryptoki::error::{Error, RvError};
use cryptoki::session::{Session, UserType};
use cryptoki::types::AuthPin;

use crate::TokenError;
use crate::library::{Library, TokenName};
use crate::probe::step;

/// Failure inside an operation: of the token, which may be worth a second try, or our own finding.
pub(crate) enum OpError {
    Token(Error),
    Own(TokenError),
}

impl From<Error> for OpError {
    fn from(error: Error) -> Self {
        Self::Token(error)
    }
}

impl From<TokenError> for OpError {
    fn from(error: TokenError) -> Self {
        Self::Own(error)
    }
}

/// An open session and its number among those this process had with the token.
pub(crate) struct Live {
    pub(crate) session: Session,
    pub(crate) generation: u64,
}

#[derive(Default)]
struct State {
    live: Option<Live>,
    opened: u64,
    retired: bool,
}

pub(crate) struct Shared {
    library: Arc<Library>,
    name: TokenName,
    pin: AuthPin,
    /// Held during a long operation that has a session of its own; taken before `state`.
    apart: Mutex<()>,
    state: Mutex<State>,
}

impl std::fmt::Debug for Shared {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Shared").field("name", &self.name).finish_non_exhaustive()
    }
}

impl Shared {
    pub(crate) fn new(library: Arc<Library>, name: TokenName, pin: AuthPin) -> Self {
        Self { library, name, pin, apart: Mutex::default(), state: Mutex::default() }
    }

    pub(crate) fn name(&self) -> &TokenName {
        &self.name
    }

    pub(crate) fn library(&self) -> &Arc<Library> {
        &self.library
    }

    pub(crate) fn pin(&self) -> &AuthPin {
        &self.pin
    }

    /// Makes sure that a session is open and logged in.
    pub(crate) fn connect(&self) -> Result<(), TokenError> {
        self.run_now("log in to the token", &mut |_| Ok(()))
    }

    /// Closes the session; the next operation opens one again.
    pub(crate) fn disconnect(&self) {
        self.lock().live = None;
    }

    /// Waits for what is going on, closes the session and keeps others from opening one as long as the
    /// guard lives.
    pub(crate) fn hold_still(&self) -> impl Sized {
        let apart = self.apart.lock().unwrap_or_else(PoisonError::into_inner);
        let mut state = self.lock();
        state.live = None;
        (state, apart)
    }

    /// Closes the session for good.
    pub(crate) fn retire(&self) {
        let _apart = self.apart.lock().unwrap_or_else(PoisonError::into_inner);
        let mut state = self.lock();
        state.live = None;
        state.retired = true;
    }

    /// Runs `operation` in the session. It may run several times and must look objects up by itself.
    ///
    /// A token that the module does not see, or not with its objects, may be back: the module reads its tokens
    /// anew for that, so no lock of the library may be held here.
    pub(crate) fn run<T>(
        &self,
        action: &'static str,
        mut operation: impl FnMut(&Live) -> Result<T, OpError>,
    ) -> Result<T, TokenError> {
        match self.run_now(action, &mut operation) {
            Err(error) if is_unseen(&error) && self.library.refresh_at_times()? => {
                self.run_now(action, &mut operation)
            }
            other => other,
        }
    }

    fn run_now<T>(
        &self,
        action: &'static str,
        operation: &mut impl FnMut(&Live) -> Result<T, OpError>,
    ) -> Result<T, TokenError> {
        let mut state = self.lock();
        let mut second_try = false;
        loop {
            let live = self.live(&mut state)?;
            match operation(live) {
                Ok(value) => return Ok(value),
                Err(OpError::Own(error)) => return Err(error),
                Err(OpError::Token(error)) if second_try || !is_lost(&error) => {
                    return Err(TokenError::Call { action, source: error });
                }
                Err(OpError::Token(_)) => {
                    second_try = true;
                    state.live = None;
                }
            }
        }
    }

    /// Runs a long `operation` in a session of its own, so that signatures do not wait for it. It runs once.
    pub(crate) fn run_apart<T>(
        &self,
        action: &'static str,
        operation: impl FnOnce(&Live) -> Result<T, OpError>,
    ) -> Result<T, TokenError> {
        let _apart = self.apart.lock().unwrap_or_else(PoisonError::into_inner);
        // A token is logged in for the whole process.
        let own = self.run_now(action, &mut |live: &Live| {
            let slot = live.session.get_session_info()?.slot_id();
            let session = self.library.pkcs11.open_rw_session(slot)?;
            Ok(Live { session, generation: live.generation })
        })?;
        step(action);
        let result = operation(&own).map_err(|error| match error {
            OpError::Token(source) => TokenError::Call { action, source },
            OpError::Own(error) => error,
        });
        step(action);
        result
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn live<'a>(&self, state: &'a mut State) -> Result<&'a Live, TokenError> {
        if state.retired {
            return Err(TokenError::Reinitialised);
        }
        let live = if let Some(live) = state.live.take() {
            live
        } else {
            state.opened += 1;
            Live { session: self.open()?, generation: state.opened }
        };
        Ok(state.live.insert(live))
    }

    fn open(&self) -> Result<Session, TokenError> {
        let call = |action| move |source| TokenError::Call { action, source };
        let slot = self.library.slot_of(&self.name).map_err(call("look for the token"))?;
        let slot = slot.ok_or_else(|| TokenError::NoToken { label: self.name.label.clone() })?;
        let session =
            self.library.pkcs11.open_rw_session(slot).map_err(call("open a session with the token"))?;
        match session.login(UserType::User, Some(&self.pin)) {
            Ok(()) | Err(Error::Pkcs11(RvError::UserAlreadyLoggedIn, _)) => Ok(session),
            Err(source) => Err(TokenError::Call { action: "log in to the token", source }),
        }
    }
}

/// Whether it may help that the module reads its tokens anew.
fn is_unseen(error: &TokenError) -> bool {
    use RvError as E;
    match error {
        TokenError::NoToken { .. } | TokenError::NotFound { .. } => true,
        TokenError::Call { source: Error::Pkcs11(code, _), .. } => matches!(
            code,
            E::CryptokiNotInitialized
                | E::TokenNotPresent
                | E::TokenNotRecognized
                | E::DeviceRemoved
                | E::DeviceError
                | E::SessionHandleInvalid
                | E::UserNotLoggedIn
                | E::UserPinNotInitialized
                | E::KeyHandleInvalid
                | E::ObjectHandleInvalid
        ),
        _ => false,
    }
}

/// Whether a new session may help. The unspecific errors are what modules answer when another process
/// changed the token underneath.
fn is_lost(error: &Error) -> bool {
    use RvError as E;
    let Error::Pkcs11(code, _) = error else { return false };
    matches!(
        code,
        E::SessionHandleInvalid
            | E::SessionClosed
            | E::DeviceRemoved
            | E::DeviceError
            | E::TokenNotPresent
            | E::UserNotLoggedIn
            | E::KeyHandleInvalid
            | E::ObjectHandleInvalid
            | E::OperationActive
            | E::GeneralError
            | E::FunctionFailed
    )
}
