//! Parsing JSON text into a value without letting the text decide how much memory that takes.
//!
//! A text of a few megabytes can describe values that take a hundred times as much. So the number of values
//! and the depth are limited here, besides the length of the text.

use std::fmt;

use serde::de::{self, DeserializeSeed, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Number, Value};

/// Most values of one document: numbers, texts, lists, objects and their members. A monitoring message of
/// 256 instances has fewer than 100 000.
pub(crate) const MAX_VALUES: u32 = 500_000;
/// Deepest nesting; the protocol needs less than 12.
pub(crate) const MAX_DEPTH: u32 = 64;

/// Parses one JSON document.
pub(crate) fn parse(text: &[u8]) -> Result<Value, serde_json::Error> {
    let mut left = MAX_VALUES;
    let mut deserializer = serde_json::Deserializer::from_slice(text);
    let value = Seed { left: &mut left, depth: MAX_DEPTH }.deserialize(&mut deserializer)?;
    deserializer.end()?;
    Ok(value)
}

struct Seed<'a> {
    left: &'a mut u32,
    depth: u32,
}

impl Seed<'_> {
    fn deeper<E: de::Error>(&mut self) -> Result<Seed<'_>, E> {
        match self.depth.checked_sub(1) {
            Some(depth) => Ok(Seed { left: self.left, depth }),
            None => Err(E::custom(format_args!("nested deeper than {MAX_DEPTH}"))),
        }
    }
}

impl<'de> DeserializeSeed<'de> for Seed<'_> {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        match self.left.checked_sub(1) {
            Some(left) => *self.left = left,
            None => return Err(de::Error::custom(format_args!("more than {MAX_VALUES} values"))),
        }
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Seed<'_> {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON value")
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(Value::Bool(value))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(Value::Number(value.into()))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(Value::Number(value.into()))
    }

    fn visit_f64<E>(self, value: f64) -> Result<Value, E> {
        Ok(Number::from_f64(value).map_or(Value::Null, Value::Number))
    }

    fn visit_str<E>(self, value: &str) -> Result<Value, E> {
        Ok(Value::String(value.to_owned()))
    }

    fn visit_string<E>(self, value: String) -> Result<Value, E> {
        Ok(Value::String(value))
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_seq<A: SeqAccess<'de>>(mut self, mut entries: A) -> Result<Value, A::Error> {
        let mut list = Vec::new();
        while let Some(entry) = entries.next_element_seed(self.deeper()?)? {
            list.push(entry);
        }
        Ok(Value::Array(list))
    }

    fn visit_map<A: MapAccess<'de>>(mut self, mut members: A) -> Result<Value, A::Error> {
        let mut object = Map::new();
        while let Some(key) = members.next_key::<String>()? {
            object.insert(key, members.next_value_seed(self.deeper()?)?);
        }
        Ok(Value::Object(object))
    }
}
