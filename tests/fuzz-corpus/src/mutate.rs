//! Inputs that are nearly right. All follows from a number, so that a failure can be repeated.

use serde_json::{Map, Value, json};

/// A small generator (SplitMix64).
#[derive(Debug, Clone)]
pub struct Numbers(u64);

impl Numbers {
    /// Starts at `seed`.
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// Any number.
    pub fn any(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number below `bound`, or 0.
    pub fn below(&mut self, bound: usize) -> usize {
        usize::try_from(self.any() % (bound.max(1) as u64)).unwrap_or_default()
    }

    /// Any byte.
    pub fn byte(&mut self) -> u8 {
        self.any().to_le_bytes()[0]
    }

    fn pick<'a, T>(&mut self, list: &'a [T]) -> &'a T {
        &list[self.below(list.len())]
    }
}

/// One of `corpus`, changed: its bytes, or its values when it is JSON.
pub fn mutated(corpus: &[Vec<u8>], numbers: &mut Numbers) -> Vec<u8> {
    let input = numbers.pick(corpus).clone();
    if numbers.below(3) > 0
        && let Ok(mut value) = serde_json::from_slice::<Value>(&input)
    {
        let other: &Vec<u8> = numbers.pick(corpus);
        let other = serde_json::from_slice(other).unwrap_or(Value::Null);
        for _ in 0..=numbers.below(3) {
            change_value(&mut value, &other, numbers);
        }
        return serde_json::to_vec(&value).unwrap_or_default();
    }
    let mut bytes = input;
    for _ in 0..=numbers.below(4) {
        change_bytes(&mut bytes, corpus, numbers);
    }
    bytes
}

fn change_bytes(bytes: &mut Vec<u8>, corpus: &[Vec<u8>], numbers: &mut Numbers) {
    let at = numbers.below(bytes.len());
    if bytes.is_empty() {
        bytes.push(numbers.byte());
    }
    match numbers.below(9) {
        0 => bytes[at] = numbers.byte(),
        1 => bytes[at] ^= 1 << numbers.below(8),
        2 => bytes[at] = *numbers.pick(&[0, 1, 0x7f, 0x80, 0xfe, 0xff]),
        3 => bytes.truncate(at),
        4 => drop(bytes.remove(at)),
        5 => bytes.insert(at, *numbers.pick(b"{}[]\",:0-e.n\\\n\0\x80\xff")),
        6 => {
            let end = (at + numbers.below(200)).min(bytes.len());
            let piece = bytes[at..end].to_vec();
            let to = numbers.below(bytes.len());
            bytes.splice(to..to, piece);
        }
        7 => {
            // The head of this one, the tail of another.
            let other = numbers.pick(corpus);
            let from = numbers.below(other.len());
            bytes.truncate(at);
            bytes.extend_from_slice(&other[from..]);
        }
        _ => {
            let end = (at + 1 + numbers.below(8)).min(bytes.len());
            let filler = numbers.byte();
            bytes[at..end].fill(filler);
        }
    }
}

fn change_value(value: &mut Value, other: &Value, numbers: &mut Numbers) {
    let number = numbers.below(count(value));
    let foreign = nth(other, &mut numbers.below(count(other))).cloned().unwrap_or(Value::Null);
    let Some(place) = nth_mut(value, &mut { number }) else { return };
    match numbers.below(6) {
        0 | 1 => *place = odd(numbers),
        2 => *place = foreign,
        3 => change_members(place, numbers),
        4 => *place = other_type(place),
        _ => near(place, numbers),
    }
}

/// A value that readers do not expect.
fn odd(numbers: &mut Numbers) -> Value {
    let deep = |depth: usize| (0..depth).fold(json!(0), |inner, _| json!([inner]));
    let deep_object = |depth: usize| (0..depth).fold(json!(0), |inner, _| json!({"a": inner}));
    match numbers.below(24) {
        0 => Value::Null,
        1 => json!(true),
        2 => json!(0),
        3 => json!(-1),
        4 => json!(u64::MAX),
        5 => json!(i64::MIN),
        6 => json!(1.5),
        7 => json!(1e300),
        8 => json!(""),
        9 => json!("\u{0}"),
        10 => json!("../../etc/passwd"),
        11 => json!("\u{202e}\u{1f600}\u{feff}"),
        12 => json!("x".repeat(numbers.below(300))),
        13 if numbers.below(20) == 0 => json!("y".repeat(200_000)),
        14 => json!("9999-12-31T23:59:60Z"),
        15 => json!("-0001-01-01T00:00:00+99:99"),
        16 => deep(numbers.below(90)),
        17 => deep_object(numbers.below(90)),
        18 => json!([]),
        19 => json!({}),
        20 => Value::Array(vec![json!({}); numbers.below(40)]),
        21 if numbers.below(20) == 0 => Value::Array(vec![json!(0); 5000]),
        22 => json!("AAA="),
        _ => json!("deadbeef"),
    }
}

/// Keys lost, doubled in other letter case, or exchanged; elements repeated or gone.
fn change_members(value: &mut Value, numbers: &mut Numbers) {
    match value {
        Value::Object(members) if !members.is_empty() => {
            let key = members.keys().nth(numbers.below(members.len())).cloned().unwrap_or_default();
            let member = members.remove(&key).unwrap_or_default();
            match numbers.below(4) {
                0 => {}
                1 => drop(members.insert(key.to_uppercase(), member)),
                2 => {
                    members.insert(key.to_lowercase(), odd(numbers));
                    members.insert(key, member);
                }
                _ => drop(members.insert(format!("{key}x"), member)),
            }
        }
        Value::Array(elements) if !elements.is_empty() => {
            let at = numbers.below(elements.len());
            if numbers.below(2) == 0 {
                elements.remove(at);
            } else {
                let copies = vec![elements[at].clone(); 1 + numbers.below(30)];
                elements.extend(copies);
            }
        }
        other => *other = odd(numbers),
    }
}

/// The same in another type.
fn other_type(value: &Value) -> Value {
    match value {
        Value::Null => json!("null"),
        Value::Bool(is) => json!(is.to_string()),
        Value::Number(number) => json!(number.to_string()),
        Value::String(text) => text.parse::<f64>().map_or_else(|_| json!([text]), |number| json!(number)),
        Value::Array(elements) => elements.first().cloned().unwrap_or_default(),
        Value::Object(members) => json!([Value::Object(members.clone())]),
    }
}

/// Something close by.
fn near(value: &mut Value, numbers: &mut Numbers) {
    match value {
        Value::Bool(is) => *is = !*is,
        Value::Number(number) => {
            let number = number.as_i64().unwrap_or_default();
            let steps = [number.wrapping_add(1), number.wrapping_sub(1), number.wrapping_neg(), number << 16];
            *value = json!(steps[numbers.below(4)]);
        }
        Value::String(text) => {
            let mut characters: Vec<char> = text.chars().collect();
            let at = numbers.below(characters.len());
            match numbers.below(4) {
                0 if !characters.is_empty() => drop(characters.remove(at)),
                1 if !characters.is_empty() => characters[at] = char::from(numbers.byte()),
                2 => characters.reverse(),
                _ => characters.insert(at, char::from(numbers.byte())),
            }
            *text = characters.into_iter().collect();
        }
        other => change_members(other, numbers),
    }
}

fn count(value: &Value) -> usize {
    1 + match value {
        Value::Array(elements) => elements.iter().map(count).sum(),
        Value::Object(members) => members.values().map(count).sum(),
        _ => 0,
    }
}

fn nth<'a>(value: &'a Value, number: &mut usize) -> Option<&'a Value> {
    if *number == 0 {
        return Some(value);
    }
    *number -= 1;
    match value {
        Value::Array(elements) => elements.iter().find_map(|element| nth(element, number)),
        Value::Object(members) => members.values().find_map(|member| nth(member, number)),
        _ => None,
    }
}

fn nth_mut<'a>(value: &'a mut Value, number: &mut usize) -> Option<&'a mut Value> {
    if *number == 0 {
        return Some(value);
    }
    *number -= 1;
    match value {
        Value::Array(elements) => elements.iter_mut().find_map(|element| nth_mut(element, number)),
        Value::Object(members) => values_mut(members).find_map(|member| nth_mut(member, number)),
        _ => None,
    }
}

fn values_mut(members: &mut Map<String, Value>) -> impl Iterator<Item = &mut Value> {
    members.iter_mut().map(|(_, member)| member)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_number_gives_the_same_inputs() {
        let corpus = vec![br#"{"a":[1,2,{"b":"c"}]}"#.to_vec(), b"no json".to_vec()];
        let run = || {
            let mut numbers = Numbers::new(5);
            (0..500).map(|_| mutated(&corpus, &mut numbers)).collect::<Vec<_>>()
        };
        let inputs = run();
        assert_eq!(inputs, run());
        let distinct: std::collections::HashSet<_> = inputs.iter().collect();
        assert!(distinct.len() > 300, "{} distinct inputs", distinct.len());
    }
}
