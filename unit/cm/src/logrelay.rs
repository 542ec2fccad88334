//! Requests for logs on their way through the Unit: which node owes what, and when it is given up.
//!
//! Pure. Every node asked owes its parts, or a word that there are none. Each word gives it another minute.
//! What nobody asked for is not passed on.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use aos_ids::NodeId;

/// Requests that may be open at the same time.
pub const MAX_OPEN: usize = 16;
/// Longest silence of a node.
pub const PATIENCE: Duration = Duration::from_mins(1);
/// Most parts of one node.
pub const MAX_PARTS: u64 = 1024;

/// A node's share of a request; the text is the name of the request towards nodes.
pub type Share = (String, NodeId);

/// What a word of a node is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Word {
    /// Nobody asked for it, or it came before.
    Unasked,
    /// More follows.
    Part,
    /// The last one.
    Last,
}

#[derive(Debug)]
struct Owing {
    /// When it is given up; `None` when all is here and only passed on.
    until: Option<Instant>,
    parts: BTreeSet<u64>,
}

/// All open shares.
#[derive(Debug, Default)]
pub struct Relay(BTreeMap<Share, Owing>);

impl Relay {
    /// A node was asked.
    pub fn asked(&mut self, share: Share, now: Instant) {
        self.0.insert(share, Owing { until: Some(now + PATIENCE), parts: BTreeSet::new() });
    }

    /// A node says something: part number `part` of `count`, or, with `whole`, all there is to say.
    pub fn said(&mut self, share: &Share, part: u64, count: u64, whole: bool, now: Instant) -> Word {
        let Some(owing) = self.0.get_mut(share).filter(|owing| owing.until.is_some()) else {
            return Word::Unasked;
        };
        if whole {
            owing.until = None;
            return Word::Last;
        }
        if owing.parts.len() as u64 >= MAX_PARTS || !owing.parts.insert(part) {
            return Word::Unasked;
        }
        if owing.parts.len() as u64 >= count {
            owing.until = None;
            return Word::Last;
        }
        owing.until = Some(now + PATIENCE);
        Word::Part
    }

    /// The share is settled. True when it was the last one of its request.
    pub fn settled(&mut self, share: &Share) -> bool {
        self.0.remove(share).is_some() && !self.0.keys().any(|(request, _)| *request == share.0)
    }

    /// Whether the share is open.
    pub fn is_open(&self, share: &Share) -> bool {
        self.0.contains_key(share)
    }

    /// Shares that a node owes.
    pub fn owed_by(&self, node: &NodeId) -> Vec<Share> {
        let owed = self.0.iter().filter(|((_, known), owing)| known == node && owing.until.is_some());
        owed.map(|(share, _)| share.clone()).collect()
    }

    /// When the next share is given up.
    pub fn deadline(&self) -> Option<Instant> {
        self.0.values().filter_map(|owing| owing.until).min()
    }

    /// Shares whose time is over; they stay open until they are settled.
    pub fn overdue(&self, now: Instant) -> Vec<Share> {
        let overdue = self.0.iter().filter(|(_, owing)| owing.until.is_some_and(|until| until <= now));
        overdue.map(|(share, _)| share.clone()).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn share(request: &str, node: &str) -> Share {
        (request.to_owned(), NodeId::new(node).unwrap())
    }

    // PRO-90, PRO-121: parts in any order, each once, none that nobody asked for.
    #[test]
    fn a_node_owes_all_its_parts() {
        let (mut relay, start) = (Relay::default(), Instant::now());
        let (one, other) = (share("r", "a"), share("r", "b"));
        assert_eq!(relay.said(&one, 1, 1, false, start), Word::Unasked);
        relay.asked(one.clone(), start);
        relay.asked(other.clone(), start);
        let later = start + PATIENCE / 2;
        assert_eq!(relay.said(&one, 2, 3, false, later), Word::Part);
        assert_eq!(relay.said(&one, 2, 3, false, later), Word::Unasked, "it came before");
        assert_eq!(relay.overdue(start + PATIENCE).as_slice(), std::slice::from_ref(&other));
        assert_eq!(relay.deadline(), Some(start + PATIENCE));
        assert!(!relay.settled(&other), "the first still owes");
        assert_eq!(relay.deadline(), Some(later + PATIENCE));
        assert_eq!(relay.said(&one, 1, 3, false, later), Word::Part);
        assert_eq!(relay.owed_by(&one.1).as_slice(), std::slice::from_ref(&one));
        assert_eq!(relay.said(&one, 3, 3, false, later), Word::Last);
        assert_eq!(relay.said(&one, 4, 3, false, later), Word::Unasked);
        assert_eq!((relay.deadline(), relay.owed_by(&one.1)), (None, vec![]));
        assert!(relay.settled(&one));
        assert!(!relay.settled(&one), "only once");
    }

    #[test]
    fn a_word_that_is_no_part_settles_the_share() {
        let (mut relay, now) = (Relay::default(), Instant::now());
        relay.asked(share("r", "a"), now);
        assert_eq!(relay.said(&share("r", "a"), 0, 0, true, now), Word::Last);
        relay.asked(share("r", "b"), now);
        for part in 0..MAX_PARTS {
            assert_eq!(relay.said(&share("r", "b"), part, u64::MAX, false, now), Word::Part);
        }
        assert_eq!(relay.said(&share("r", "b"), MAX_PARTS, u64::MAX, false, now), Word::Unasked);
    }
}
