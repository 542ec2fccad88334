//! Challenges that need no memory: each carries its end and the mark of who made it.

use aws_lc_rs::{hmac, rand};

/// How long a challenge is good, seconds.
pub const CHALLENGE_LIFE: i64 = 300;
const NONCE: usize = 16;
const MARK: usize = 32;

/// Makes and knows challenges. Those of another run are unknown.
#[derive(Debug)]
pub struct Challenges(Option<hmac::Key>);

impl Default for Challenges {
    fn default() -> Self {
        Self::new()
    }
}

impl Challenges {
    /// With a key of its own. Without random numbers no challenge is made or known.
    pub fn new() -> Self {
        let mut key = [0; MARK];
        Self(rand::fill(&mut key).ok().map(|()| hmac::Key::new(hmac::HMAC_SHA256, &key)))
    }

    /// A challenge for `who`, good for [`CHALLENGE_LIFE`] from `now`, seconds of any clock that never goes back;
    /// none when there are no random numbers.
    pub fn make(&self, who: &str, now: i64) -> Option<String> {
        let key = self.0.as_ref()?;
        let mut nonce = [0; NONCE];
        rand::fill(&mut nonce).ok()?;
        let mut text = Vec::with_capacity(8 + NONCE + MARK);
        text.extend_from_slice(&now.saturating_add(CHALLENGE_LIFE).to_be_bytes());
        text.extend_from_slice(&nonce);
        let mark = hmac::sign(key, &marked(&text, who));
        text.extend_from_slice(mark.as_ref());
        Some(hex::encode(text))
    }

    /// Whether a challenge was made here for `who` and is still good.
    pub fn knows(&self, challenge: &str, who: &str, now: i64) -> bool {
        let Ok(bytes) = hex::decode(challenge) else { return false };
        let Some((text, mark)) = bytes.split_at_checked(8 + NONCE) else { return false };
        let Some(end) = text.first_chunk().map(|end| i64::from_be_bytes(*end)) else { return false };
        let ours = |key| hmac::verify(key, &marked(text, who), mark).is_ok();
        end >= now && self.0.as_ref().is_some_and(ours)
    }
}

fn marked(text: &[u8], who: &str) -> Vec<u8> {
    [text, who.as_bytes()].concat()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_challenge_is_for_one_asker_and_some_minutes() {
        let challenges = Challenges::new();
        let made = challenges.make("unit", 1000).unwrap();
        assert!(challenges.knows(&made, "unit", 1000 + CHALLENGE_LIFE));
        assert!(!challenges.knows(&made, "unit", 1001 + CHALLENGE_LIFE));
        assert!(!challenges.knows(&made, "other", 1000));
        assert!(!Challenges::new().knows(&made, "unit", 1000), "of another run");
        assert_ne!(made, challenges.make("unit", 1000).unwrap());
        for bad in ["", "00", "xyz", &made[2..], &made[..made.len() - 2]] {
            assert!(!challenges.knows(bad, "unit", 0), "{bad}");
        }
    }
}
