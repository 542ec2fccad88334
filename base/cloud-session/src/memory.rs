//! The newest accepted transactions, kept small: 16 bytes for each that is a UUID in its usual form, as ours
//! and upstream's are; the text for any other.
//!
//! Looking one up walks the list; at 1024 of them that takes about a microsecond.

use std::collections::VecDeque;

use aos_ids::Txn;
use uuid::Uuid;

#[derive(Debug)]
pub(crate) struct Memory {
    uuids: VecDeque<[u8; 16]>,
    texts: VecDeque<Text>,
    /// UUIDs forgotten so far; gives each UUID a number.
    forgotten: u64,
    limit: usize,
}

#[derive(Debug)]
struct Text {
    /// Number of the first UUID that came after it.
    before: u64,
    text: Box<str>,
}

/// The UUID of a transaction, when its text is the one we would write for it.
fn as_uuid(txn: &Txn) -> Option<[u8; 16]> {
    let uuid = Uuid::try_parse(txn.as_str()).ok()?;
    let mut text = Uuid::encode_buffer();
    (uuid.hyphenated().encode_lower(&mut text) == txn.as_str()).then(|| uuid.into_bytes())
}

fn as_txn(uuid: [u8; 16]) -> Option<Txn> {
    Txn::new(Uuid::from_bytes(uuid).hyphenated().to_string()).ok()
}

impl Memory {
    pub(crate) fn new(limit: usize) -> Self {
        Self { uuids: VecDeque::new(), texts: VecDeque::new(), forgotten: 0, limit }
    }

    pub(crate) fn contains(&self, txn: &Txn) -> bool {
        as_uuid(txn).map_or_else(
            || self.texts.iter().any(|known| *known.text == *txn.as_str()),
            |uuid| self.uuids.contains(&uuid),
        )
    }

    /// Adds a transaction, unless it is known; the oldest goes when there are too many.
    pub(crate) fn insert(&mut self, txn: &Txn) {
        if self.limit == 0 || self.contains(txn) {
            return;
        }
        if self.uuids.len() + self.texts.len() >= self.limit {
            self.forget_oldest();
        }
        if let Some(uuid) = as_uuid(txn) {
            self.grow();
            self.uuids.push_back(uuid);
        } else {
            let before = self.forgotten + self.uuids.len() as u64;
            self.texts.push_back(Text { before, text: txn.as_str().into() });
        }
    }

    /// Grows by a half, never beyond the limit: doubling would waste up to as much as is kept.
    fn grow(&mut self) {
        let length = self.uuids.len();
        if length == self.uuids.capacity() {
            let more = (length / 2).max(4).min(self.limit.saturating_sub(length)).max(1);
            self.uuids.reserve_exact(more);
        }
    }

    fn forget_oldest(&mut self) {
        let text_is_oldest = self.texts.front().is_some_and(|text| text.before <= self.forgotten);
        if text_is_oldest || self.uuids.is_empty() {
            self.texts.pop_front();
        } else {
            self.uuids.pop_front();
            self.forgotten += 1;
        }
    }

    /// All of them, oldest first.
    pub(crate) fn iter(&self) -> impl Iterator<Item = Txn> {
        let mut texts = self.texts.iter().peekable();
        let mut uuids = (self.forgotten..).zip(&self.uuids).peekable();
        std::iter::from_fn(move || {
            let number = uuids.peek().map(|(number, _)| *number);
            let text = texts.next_if(|text| number.is_none_or(|number| text.before <= number));
            text.map_or_else(
                || uuids.next().and_then(|(_, uuid)| as_txn(*uuid)),
                |text| Txn::new(text.text.as_ref()).ok(),
            )
        })
    }

    /// Heap memory, bytes.
    pub(crate) fn memory_bytes(&self) -> usize {
        let texts = self.texts.iter().map(|text| text.text.len()).sum::<usize>();
        self.uuids.capacity() * 16 + self.texts.capacity() * size_of::<Text>() + texts
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn txn(text: &str) -> Txn {
        Txn::new(text).unwrap()
    }

    #[test]
    fn order_and_edge_hold_for_uuids_and_texts_alike() {
        let all: Vec<Txn> = (0..40)
            .map(|number| if number % 3 == 1 { txn(&format!("peer-{number}")) } else { Txn::random() })
            .collect();
        let mut memory = Memory::new(10);
        for (count, one) in all.iter().enumerate() {
            memory.insert(one);
            memory.insert(one);
            let from = (count + 1).saturating_sub(10);
            assert_eq!(memory.iter().collect::<Vec<_>>(), all[from..=count]);
            assert!(all[from..=count].iter().all(|known| memory.contains(known)));
            assert!(all[..from].iter().all(|forgotten| !memory.contains(forgotten)));
        }
    }

    #[test]
    fn unusual_spellings_of_a_uuid_are_transactions_of_their_own() {
        let mut memory = Memory::new(10);
        let usual = "0b8a1d2c-6f1e-4a54-9d0a-2f6a4e1b7c33";
        memory.insert(&txn(usual));
        for other in [usual.to_uppercase(), usual.replace('-', ""), format!("{{{usual}}}")] {
            assert!(!memory.contains(&txn(&other)), "{other}");
            memory.insert(&txn(&other));
            assert!(memory.contains(&txn(&other)));
        }
        assert_eq!(memory.iter().count(), 4);
    }
}
