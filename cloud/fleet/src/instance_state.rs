//! Whether a new state of an instance is accepted.

use aos_cloud_protocol::{MAX_STATE, StateChecksum};

/// A state as a Unit tells it.
#[derive(Debug, Clone, Copy)]
pub struct Told<'a> {
    /// Its checksum as written by the Unit.
    pub checksum: &'a StateChecksum,
    /// The checksum of its content by the algorithm that the Unit's checksum has the length of; `None`
    /// when there is no such algorithm.
    pub computed: Option<&'a [u8]>,
    /// Its length, bytes.
    pub bytes: usize,
}

/// What is known about the instance.
#[derive(Debug, Clone, Copy, Default)]
pub struct KnownInstance<'a> {
    /// The Unit runs it, or shall run it.
    pub exists: bool,
    /// Checksum of a state that was set here and has not arrived yet.
    pub on_its_way: Option<&'a str>,
}

/// Why a state is not accepted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum StateRefusal {
    /// The Unit has no such instance.
    #[error("unknown instance")]
    UnknownInstance,
    /// It is larger than the protocol allows.
    #[error("state is larger than {MAX_STATE} bytes")]
    TooLarge,
    /// Its checksum is of another content, or of an unknown kind.
    #[error("checksum does not match the state")]
    Checksum,
    /// A state that was set here is on its way.
    #[error("the cloud has set another state")]
    Overruled,
}

/// Accepts a state or says why not.
pub fn accept_state(told: Told<'_>, known: KnownInstance<'_>) -> Result<(), StateRefusal> {
    if !known.exists {
        return Err(StateRefusal::UnknownInstance);
    }
    if told.bytes > MAX_STATE {
        return Err(StateRefusal::TooLarge);
    }
    if told.computed.is_none() || told.checksum.bytes().as_deref() != told.computed {
        return Err(StateRefusal::Checksum);
    }
    match known.on_its_way.map(StateChecksum::new) {
        Some(Ok(other)) if !other.same_as(told.checksum) => Err(StateRefusal::Overruled),
        _ => Ok(()),
    }
}
