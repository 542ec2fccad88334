//! Label values: closed sets.

/// Why something of a peer was refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refused {
    /// A frame that is no envelope.
    Unreadable,
    /// An envelope whose content cannot be used; it was acknowledged.
    Invalid,
    /// A message or request about another Unit.
    Foreign,
    /// Too many messages of the Unit are being handled.
    Overload,
    /// The Unit sends more than it may.
    Rate,
    /// A frame or body that is too long.
    Oversize,
    /// WebSocket or HTTP was violated.
    Protocol,
    /// No session for this certificate, or not now.
    Admission,
}

impl Refused {
    /// All reasons.
    pub const ALL: [Self; 8] = [
        Self::Unreadable,
        Self::Invalid,
        Self::Foreign,
        Self::Overload,
        Self::Rate,
        Self::Oversize,
        Self::Protocol,
        Self::Admission,
    ];

    pub(crate) const fn index(self) -> usize {
        self as usize
    }

    /// Its label.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Unreadable => "unreadable",
            Self::Invalid => "invalid",
            Self::Foreign => "foreign",
            Self::Overload => "overload",
            Self::Rate => "rate",
            Self::Oversize => "oversize",
            Self::Protocol => "protocol",
            Self::Admission => "admission",
        }
    }
}

/// Why a session ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Closed {
    /// The Unit closed it.
    Peer,
    /// The connection was lost.
    Lost,
    /// No sign of life.
    Dead,
    /// The Unit took our bytes too slowly, or sent its own so.
    Slow,
    /// A newer session of the Unit.
    Replaced,
    /// Deprovisioned, certificate ended, or a message about another Unit.
    Policy,
    /// It sent more than it may.
    Rate,
    /// A frame that is too long.
    Oversize,
    /// WebSocket was violated.
    Protocol,
    /// Moved away by a drain.
    Moved,
    /// The cloud stops.
    Stopped,
    /// The cloud itself failed.
    Failed,
}

impl Closed {
    /// All reasons.
    pub const ALL: [Self; 12] = [
        Self::Peer,
        Self::Lost,
        Self::Dead,
        Self::Slow,
        Self::Replaced,
        Self::Policy,
        Self::Rate,
        Self::Oversize,
        Self::Protocol,
        Self::Moved,
        Self::Stopped,
        Self::Failed,
    ];

    pub(crate) const fn index(self) -> usize {
        self as usize
    }

    /// Its label.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Peer => "peer",
            Self::Lost => "lost",
            Self::Dead => "dead",
            Self::Slow => "slow",
            Self::Replaced => "replaced",
            Self::Policy => "policy",
            Self::Rate => "rate",
            Self::Oversize => "oversize",
            Self::Protocol => "protocol",
            Self::Moved => "moved",
            Self::Stopped => "stopped",
            Self::Failed => "failed",
        }
    }
}
