//! Frames that are nearly messages. Everything follows from a number, so that a failure can be repeated.

use aos_cloud_protocol::write;
use proptest::strategy::{Strategy, ValueTree};
use proptest::test_runner::{Config, RngAlgorithm, TestRng, TestRunner};
use serde_json::{Value, json};

use super::messages;

/// A small deterministic generator.
pub struct Numbers(pub u64);

impl Numbers {
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub fn below(&mut self, bound: usize) -> usize {
        usize::try_from(self.next() % (bound.max(1) as u64)).unwrap()
    }
}

/// The example messages where this machine has them, and random ones of ours.
pub fn corpus() -> Vec<Vec<u8>> {
    let examples = super::examples().into_iter().flatten().map(|example| example.text);
    examples.chain(samples(120)).collect()
}

/// Random messages as we write them.
pub fn samples(count: usize) -> impl Iterator<Item = Vec<u8>> {
    let rng = TestRng::deterministic_rng(RngAlgorithm::ChaCha);
    let mut runner = TestRunner::new_with_rng(Config::default(), rng);
    (0..count).map(move |_| write(&messages::envelope().new_tree(&mut runner).unwrap().current()).unwrap())
}

/// The frames as JSON values.
pub fn values(frames: &[Vec<u8>]) -> Vec<Value> {
    frames.iter().map(|frame| serde_json::from_slice(frame).unwrap()).collect()
}

/// One of the frames with a few bytes changed.
pub fn mutated_bytes(corpus: &[Vec<u8>], numbers: &mut Numbers) -> Vec<u8> {
    let mut frame = corpus[numbers.below(corpus.len())].clone();
    for _ in 0..=numbers.below(4) {
        let at = numbers.below(frame.len());
        match numbers.below(6) {
            0 => frame[at] = u8::try_from(numbers.below(256)).unwrap(),
            1 => frame.truncate(at),
            2 => drop(frame.remove(at)),
            3 => frame.insert(at, b"{}[]\",:0-e.n\\"[numbers.below(13)]),
            4 => {
                let end = (at + numbers.below(200)).min(frame.len());
                let piece = frame[at..end].to_vec();
                let to = numbers.below(frame.len());
                frame.splice(to..to, piece);
            }
            _ => frame[at] ^= 1 << numbers.below(8),
        }
        if frame.is_empty() {
            break;
        }
    }
    frame
}

/// One of the messages with odd values somewhere in its content.
pub fn mutated_value(corpus: &[Value], numbers: &mut Numbers) -> Value {
    let odd = [
        json!(null),
        json!(true),
        json!(0),
        json!(-1),
        json!(u64::MAX),
        json!(i64::MIN),
        json!(1.5),
        json!(1e300),
        json!(-0.0),
        json!(""),
        json!("x".repeat(5000)),
        json!("\u{0}\u{7f}\u{202e}"),
        json!("2026-03-04T08:02:10+25:99"),
        json!("-9999-01-01T00:00:00Z"),
        json!([]),
        json!({}),
        json!([[[[[]]]]]),
        json!({"node": {"node": {}}}),
        json!({"active": null}),
        json!(["a", "b", "c"]),
        json!("ACTIVE"),
        json!("7"),
        json!({"ID": "x", "id": "y", "codename": null}),
    ];
    let mut value = corpus[numbers.below(corpus.len())].clone();
    for _ in 0..=numbers.below(3) {
        let odd = odd[numbers.below(odd.len())].clone();
        change_somewhere(&mut value["data"], numbers, odd);
    }
    value
}

fn change_somewhere(value: &mut Value, numbers: &mut Numbers, odd: Value) {
    let deeper = numbers.below(4) > 0;
    match value {
        Value::Object(members) if deeper && !members.is_empty() => {
            let at = numbers.below(members.len());
            let name = members.keys().nth(at).cloned().unwrap();
            match numbers.below(12) {
                // The same member in another letter case, alone or beside the first.
                0 => drop(members.insert(name.to_ascii_uppercase(), odd)),
                1 => {
                    let member = members.remove(&name).unwrap();
                    members.insert(name.to_ascii_uppercase(), member);
                }
                2 => drop(members.insert("unknown".to_owned(), odd)),
                3 => drop(members.remove(&name)),
                _ => change_somewhere(&mut members[&name], numbers, odd),
            }
        }
        Value::Array(entries) if deeper && !entries.is_empty() => {
            let at = numbers.below(entries.len());
            change_somewhere(&mut entries[at], numbers, odd);
        }
        other => *other = odd,
    }
}
