//! The rules of exchanging a state with the cloud: what is new, what was accepted, what may be written.
//!
//! Pure. Checksums are SHA3-224; what the cloud sends may be checked by SHA-256 instead, told apart by
//! length, in hexadecimal digits or base64.

use aos_cloud_protocol::{InstanceStateData, MAX_STATE, StateAcceptance, StateChecksum, StateResult};
use aos_status::{AosCode, ErrorInfo};
use sha3::{Digest, Sha3_224};

/// The checksum of a state.
pub fn checksum(state: &[u8]) -> StateChecksum {
    StateChecksum::from_bytes(&Sha3_224::digest(state).into())
}

/// What is kept of the exchange of one state.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Known {
    /// What the cloud has.
    pub accepted: Option<StateChecksum>,
    /// What the cloud was sent since then.
    pub reported: Option<StateChecksum>,
    /// Sent by the cloud and not written to the file yet.
    pub pending: Option<Vec<u8>>,
}

/// What an acceptance means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// It is about a state that has been replaced meanwhile.
    Outdated,
    /// The cloud has the state now.
    Accepted,
    /// The last good state is to be asked for.
    Rejected,
}

impl Known {
    /// The state that both sides talk about.
    pub fn current(&self) -> Option<&StateChecksum> {
        self.reported.as_ref().or(self.accepted.as_ref())
    }

    /// Whether the cloud knows this state, or is about to.
    pub fn has(&self, present: &StateChecksum) -> bool {
        self.current().is_some_and(|current| current.same_as(present))
    }

    /// Takes the cloud's word about a state that was sent.
    pub fn judge(&mut self, acceptance: &StateAcceptance) -> Verdict {
        if !self.reported.as_ref().is_some_and(|reported| reported.same_as(&acceptance.checksum)) {
            return Verdict::Outdated;
        }
        match acceptance.result {
            StateResult::Accepted => {
                self.accepted = self.reported.take();
                Verdict::Accepted
            }
            // It stays the one talked about: it is in the file, and must not be sent again.
            StateResult::Rejected => Verdict::Rejected,
        }
    }

    /// Takes a state of the cloud, to be written to the file next.
    pub fn replace(&mut self, state: &[u8]) {
        *self = Self { accepted: Some(checksum(state)), reported: None, pending: Some(state.to_vec()) };
    }
}

/// Whether a state of the cloud may replace what is there. `quota` in bytes.
pub fn verify(update: &InstanceStateData, quota: u64) -> Result<(), ErrorInfo> {
    let state = update.state.as_bytes();
    let limit = quota.min(MAX_STATE as u64);
    if state.len() as u64 > limit {
        let message = format!("the state has {} bytes, {limit} are allowed", state.len());
        return Err(ErrorInfo::new(AosCode::InvalidArgument, message));
    }
    let sent = update.state_checksum.bytes().unwrap_or_default();
    let good = match sent.len() {
        28 => sent == checksum(state).bytes().unwrap_or_default(),
        32 => sent == aos_content_store::sha256(state).as_bytes(),
        _ => false,
    };
    if good {
        Ok(())
    } else {
        Err(ErrorInfo::new(AosCode::InvalidChecksum, "the checksum is not that of the state"))
    }
}

/// The text that can be sent of a file's content.
pub fn text(content: Vec<u8>) -> Result<String, ErrorInfo> {
    if content.len() > MAX_STATE {
        let message = format!("the state has {} bytes, {MAX_STATE} can be sent", content.len());
        return Err(ErrorInfo::new(AosCode::NoMemory, message));
    }
    String::from_utf8(content)
        .map_err(|_| ErrorInfo::new(AosCode::InvalidArgument, "the state is no UTF-8 text"))
}

#[cfg(test)]
mod tests {
    use aos_cloud_protocol::AosIdentity;

    use super::*;

    const EXAMPLE: &str = r#"{"odometer":18234,"profile":"eco"}"#;
    const EXAMPLE_SUM: &str = "95e6dab48f0bd8ad06ddb6e767f8d01ee52332ed90fb3ab872792774";

    fn update(checksum: &str) -> InstanceStateData {
        InstanceStateData {
            item: None,
            subject: None,
            instance: 0,
            state_checksum: StateChecksum::new(checksum).unwrap(),
            state: EXAMPLE.into(),
        }
    }

    fn acceptance(checksum: StateChecksum, result: StateResult) -> StateAcceptance {
        let none = AosIdentity::by_id("i");
        StateAcceptance {
            item: none.clone(),
            subject: none,
            instance: 0,
            checksum,
            result,
            reason: String::new(),
        }
    }

    // The checksum of the protocol's example; both algorithms, both text forms.
    #[test]
    fn checksums_are_told_apart_by_length() {
        assert_eq!(checksum(EXAMPLE.as_bytes()).as_str(), EXAMPLE_SUM);
        let sha256 = aos_content_store::sha256(EXAMPLE.as_bytes()).hex();
        for good in
            [EXAMPLE_SUM, &EXAMPLE_SUM.to_uppercase(), "lebatI8L2K0G3bbnZ/jQHuUjMu2Q+zq4cnkndA==", &sha256]
        {
            assert_eq!(verify(&update(good), 100), Ok(()), "{good}");
        }
        for bad in ["00", &EXAMPLE_SUM.replace('9', "8"), &"0".repeat(64), "no checksum"] {
            let error = verify(&update(bad), 100).unwrap_err();
            assert_eq!(error.code(), AosCode::InvalidChecksum, "{bad}");
        }
    }

    #[test]
    fn quota_and_size_are_kept_to_the_byte() {
        let size = EXAMPLE.len() as u64;
        assert_eq!(verify(&update(EXAMPLE_SUM), size), Ok(()));
        let error = verify(&update(EXAMPLE_SUM), size - 1).unwrap_err();
        assert_eq!(error.code(), AosCode::InvalidArgument);
        assert!(text(vec![b'x'; MAX_STATE]).is_ok());
        assert_eq!(text(vec![b'x'; MAX_STATE + 1]).unwrap_err().code(), AosCode::NoMemory);
        assert_eq!(text(vec![0xff]).unwrap_err().code(), AosCode::InvalidArgument);
    }

    #[test]
    fn an_acceptance_counts_for_the_state_that_was_sent_last() {
        let (old, new) = (checksum(b"old"), checksum(b"new"));
        let mut known = Known::default();
        assert!(!known.has(&checksum(b"")));
        assert_eq!(known.judge(&acceptance(old.clone(), StateResult::Accepted)), Verdict::Outdated);
        known.reported = Some(old.clone());
        known.reported = Some(new.clone());
        assert_eq!(known.judge(&acceptance(old, StateResult::Accepted)), Verdict::Outdated);
        assert_eq!(known.judge(&acceptance(new.clone(), StateResult::Rejected)), Verdict::Rejected);
        assert!(known.has(&new), "it is not sent again");
        assert_eq!(known.judge(&acceptance(new.clone(), StateResult::Accepted)), Verdict::Accepted);
        assert_eq!((&known.accepted, &known.reported), (&Some(new.clone()), &None));
        assert_eq!(known.judge(&acceptance(new, StateResult::Accepted)), Verdict::Outdated);
        known.replace(b"cloud");
        assert!(known.has(&checksum(b"cloud")) && known.pending.as_deref() == Some(b"cloud"));
    }
}
