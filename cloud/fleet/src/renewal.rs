//! Who may have a certificate renewed, and when a renewal is over.

/// A certificate that a Unit holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Held<'a> {
    /// The node that holds the key.
    pub node_id: &'a str,
    /// Its type.
    pub cert_type: &'a str,
    /// When it ends, seconds since 1970 UTC.
    pub not_after: i64,
}

/// A Unit may ask on its own for what ends within this time, seconds.
pub const SELF_RENEWAL: i64 = 30 * 24 * 3600;

/// Why a Unit gets no certificate.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum CertificateRefusal {
    /// There is nothing to renew.
    #[error("the Unit holds no certificate of this type for this node")]
    NotHeld,
    /// Nobody asked for it, and it is good for long.
    #[error("no renewal asks for it and it does not end soon")]
    NotDue,
    /// It got enough of them lately.
    #[error("too many certificates of this type were issued today")]
    TooMany,
}

/// Decides about a request of a Unit for a certificate of `cert_type` for `node_id` at `now` (seconds since
/// 1970 UTC). `asked` tells that a renewal under way names it; else the present certificate must end soon.
pub fn may_renew(
    asked: bool,
    held: &[Held<'_>],
    node_id: &str,
    cert_type: &str,
    now: i64,
) -> Result<(), CertificateRefusal> {
    let mut same = held.iter().filter(|one| one.node_id == node_id && one.cert_type == cert_type).peekable();
    if same.peek().is_none() {
        return Err(CertificateRefusal::NotHeld);
    }
    if asked {
        return Ok(());
    }
    let last = same.map(|one| one.not_after).max().unwrap_or_default();
    if last - now <= SELF_RENEWAL { Ok(()) } else { Err(CertificateRefusal::NotDue) }
}

/// State of one certificate of a renewal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RenewalState {
    /// The Unit was asked.
    Asked,
    /// Issued, not confirmed.
    Issued,
    /// The Unit has installed it.
    Installed,
    /// The request was refused.
    Refused,
    /// The Unit could not install it, or did not answer.
    Failed,
}

impl RenewalState {
    const ALL: [Self; 5] = [Self::Asked, Self::Issued, Self::Installed, Self::Refused, Self::Failed];

    /// The word for it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Asked => "asked",
            Self::Issued => "issued",
            Self::Installed => "installed",
            Self::Refused => "refused",
            Self::Failed => "failed",
        }
    }

    /// The state of a word; an unknown one has failed.
    pub fn parse(word: &str) -> Self {
        Self::ALL.into_iter().find(|state| state.as_str() == word).unwrap_or(Self::Failed)
    }
}

/// What a renewal has come to: `None` while something is under way, else whether all are installed.
pub fn renewal_over(states: impl IntoIterator<Item = RenewalState>) -> Option<bool> {
    let mut all = true;
    for state in states {
        match state {
            RenewalState::Asked | RenewalState::Issued => return None,
            RenewalState::Installed => {}
            RenewalState::Refused | RenewalState::Failed => all = false,
        }
    }
    Some(all)
}
