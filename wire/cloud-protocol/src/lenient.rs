//! Reading JSON values the way tolerant peers do.
//!
//! A serde deserializer over [`Value`] in which the target type decides what is acceptable: member names
//! match in any letter case, `null` members are absent, unknown members are ignored, numbers may come as
//! text (and text as numbers), whole numbers may be written `1.0`, booleans may be 0 and 1, enum words match
//! in any letter case, and members known under two names are read under either. Free maps keep their keys.
//! Lists are limited to [`MAX_LIST`] entries. Errors name the place.

use std::fmt;

use serde::de::value::StrDeserializer;
use serde::de::{self, DeserializeOwned, DeserializeSeed, Deserializer, IntoDeserializer, Visitor};
use serde::forward_to_deserialize_any;
use serde_json::Value;

/// Most entries of any list; far above what any peer sends.
pub(crate) const MAX_LIST: usize = 4096;

/// Second names of members and words: type, name read, name meant.
const ALIASES: &[(&str, &str, &str)] = &[
    ("DeviceAllocateAlert", "device", "deviceId"),
    ("DeviceAllocateAlert", "resource", "deviceId"),
    ("EnvVarStatus", "subjectId", "subject"),
    ("ErrorInfo", "code", "aosCode"),
    ("LogStatus", "error", "failed"),
    ("NodeDesiredState", "node", "item"),
    ("NodeStateSample", "isConnected", "connected"),
    ("UpdateItemInstanceAlert", "subjectId", "subject"),
];

/// What is wrong with a value, and where.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct FieldError {
    path: String,
    message: String,
}

impl FieldError {
    fn within(mut self, step: &str) -> Self {
        let dot = if self.path.is_empty() || self.path.starts_with('[') { "" } else { "." };
        self.path = format!("{step}{dot}{}", self.path);
        self
    }
}

impl fmt::Display for FieldError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.path.as_str() {
            "" => f.write_str(&self.message),
            path => write!(f, "{path}: {}", self.message),
        }
    }
}

impl std::error::Error for FieldError {}

impl de::Error for FieldError {
    fn custom<T: fmt::Display>(message: T) -> Self {
        Self { path: String::new(), message: message.to_string().chars().take(300).collect() }
    }
}

/// Reads `value` as `T`.
pub(crate) fn from_value<T: DeserializeOwned>(value: Value) -> Result<T, FieldError> {
    T::deserialize(Lenient(value))
}

/// The member called `name`: spelt exactly so, else in another letter case; `null` is none.
pub(crate) fn take_member(value: &mut Value, name: &str) -> Option<Value> {
    let members = value.as_object_mut()?;
    let key = if members.contains_key(name) {
        name.to_owned()
    } else {
        members.keys().find(|key| key.eq_ignore_ascii_case(name))?.clone()
    };
    members.remove(&key).filter(|member| !member.is_null())
}

struct Lenient(Value);

impl Lenient {
    fn wrong<T>(&self, expected: &dyn de::Expected) -> Result<T, FieldError> {
        let found = match &self.0 {
            Value::Null => de::Unexpected::Unit,
            Value::Bool(value) => de::Unexpected::Bool(*value),
            Value::Number(_) => de::Unexpected::Other("number"),
            Value::String(_) => de::Unexpected::Other("text"),
            Value::Array(_) => de::Unexpected::Seq,
            Value::Object(_) => de::Unexpected::Map,
        };
        Err(de::Error::invalid_type(found, expected))
    }

    fn whole_number<'de, V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, FieldError> {
        match &self.0 {
            Value::Number(number) => visit_whole(number, visitor),
            Value::Bool(value) => visitor.visit_u64(u64::from(*value)),
            Value::String(text) => match text.trim().parse::<serde_json::Number>() {
                Ok(number) => visit_whole(&number, visitor),
                Err(_) => self.wrong(&visitor),
            },
            _ => self.wrong(&visitor),
        }
    }

    fn number<'de, V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, FieldError> {
        let number = match &self.0 {
            Value::Number(number) => number.as_f64(),
            Value::String(text) => text.trim().parse().ok(),
            _ => None,
        };
        match number.filter(|number| number.is_finite()) {
            Some(number) => visitor.visit_f64(number),
            None => self.wrong(&visitor),
        }
    }

    fn text<'de, V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, FieldError> {
        match self.0 {
            Value::String(text) => visitor.visit_string(text),
            Value::Number(number) => visitor.visit_string(number.to_string()),
            Value::Bool(value) => visitor.visit_str(if value { "true" } else { "false" }),
            _ => self.wrong(&visitor),
        }
    }
}

fn visit_whole<'de, V: Visitor<'de>>(
    number: &serde_json::Number,
    visitor: V,
) -> Result<V::Value, FieldError> {
    if let Some(number) = number.as_u64() {
        return visitor.visit_u64(number);
    }
    if let Some(number) = number.as_i64() {
        return visitor.visit_i64(number);
    }
    match number.as_f64() {
        #[allow(clippy::cast_possible_truncation, reason = "range checked")]
        Some(value) if value.fract() == 0.0 && value.abs() < 9.0e15 => visitor.visit_i64(value as i64),
        _ => Err(de::Error::custom(format_args!("{number} is no whole number in range"))),
    }
}

impl<'de> Deserializer<'de> for Lenient {
    type Error = FieldError;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, FieldError> {
        match self.0 {
            Value::Null => visitor.visit_unit(),
            Value::Bool(value) => visitor.visit_bool(value),
            Value::Number(number) => match (number.as_u64(), number.as_i64(), number.as_f64()) {
                (Some(number), _, _) => visitor.visit_u64(number),
                (_, Some(number), _) => visitor.visit_i64(number),
                (_, _, number) => visitor.visit_f64(number.unwrap_or_default()),
            },
            Value::String(text) => visitor.visit_string(text),
            Value::Array(_) => self.deserialize_seq(visitor),
            Value::Object(_) => self.deserialize_map(visitor),
        }
    }

    fn deserialize_bool<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, FieldError> {
        match &self.0 {
            Value::Bool(value) => visitor.visit_bool(*value),
            Value::Number(number) if number.as_f64() == Some(0.0) => visitor.visit_bool(false),
            Value::Number(number) if number.as_f64() == Some(1.0) => visitor.visit_bool(true),
            Value::String(text) => match text.trim().to_ascii_lowercase().as_str() {
                "true" | "1" => visitor.visit_bool(true),
                "false" | "0" => visitor.visit_bool(false),
                _ => self.wrong(&visitor),
            },
            _ => self.wrong(&visitor),
        }
    }

    fn deserialize_i32<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, FieldError> {
        self.whole_number(visitor)
    }

    fn deserialize_i64<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, FieldError> {
        self.whole_number(visitor)
    }

    fn deserialize_u32<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, FieldError> {
        self.whole_number(visitor)
    }

    fn deserialize_u64<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, FieldError> {
        self.whole_number(visitor)
    }

    fn deserialize_f64<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, FieldError> {
        self.number(visitor)
    }

    fn deserialize_str<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, FieldError> {
        self.text(visitor)
    }

    fn deserialize_string<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, FieldError> {
        self.text(visitor)
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, FieldError> {
        if self.0.is_null() { visitor.visit_none() } else { visitor.visit_some(self) }
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(
        self,
        _name: &'static str,
        visitor: V,
    ) -> Result<V::Value, FieldError> {
        visitor.visit_newtype_struct(self)
    }

    fn deserialize_seq<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, FieldError> {
        match self.0 {
            Value::Array(entries) if entries.len() > MAX_LIST => Err(de::Error::custom(format_args!(
                "{} entries, at most {MAX_LIST} are allowed",
                entries.len()
            ))),
            Value::Array(entries) => visitor.visit_seq(Entries { entries: entries.into_iter(), at: 0 }),
            _ => self.wrong(&visitor),
        }
    }

    fn deserialize_map<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, FieldError> {
        match self.0 {
            Value::Object(members) if members.len() > MAX_LIST => Err(de::Error::custom(format_args!(
                "{} members, at most {MAX_LIST} are allowed",
                members.len()
            ))),
            Value::Object(members) => {
                let present = members.into_iter().filter(|(_, value)| !value.is_null()).collect::<Vec<_>>();
                visitor.visit_map(Members { members: present.into_iter(), value: None })
            }
            _ => self.wrong(&visitor),
        }
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        name: &'static str,
        fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, FieldError> {
        let Value::Object(members) = self.0 else { return self.wrong(&visitor) };
        let mut known: Vec<(&'static str, u8, Value)> = Vec::with_capacity(fields.len());
        for (key, value) in members {
            if value.is_null() {
                continue;
            }
            let Some((field, rank)) = meant(name, fields, &key) else { continue };
            match known.iter_mut().find(|(other, _, _)| *other == field) {
                Some(slot) if slot.1 > rank => (slot.1, slot.2) = (rank, value),
                Some(_) => {}
                None => known.push((field, rank, value)),
            }
        }
        let members = known.into_iter().map(|(field, _, value)| (field, value)).collect::<Vec<_>>();
        visitor.visit_map(Members { members: members.into_iter(), value: None })
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        name: &'static str,
        variants: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, FieldError> {
        let Value::String(word) = &self.0 else { return self.wrong(&visitor) };
        if let Some((variant, _)) = meant(name, variants, word) {
            visitor.visit_enum(IntoDeserializer::<FieldError>::into_deserializer(variant))
        } else {
            let word: String = word.chars().take(40).collect();
            Err(de::Error::unknown_variant(&word, variants))
        }
    }

    fn deserialize_ignored_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, FieldError> {
        visitor.visit_unit()
    }

    forward_to_deserialize_any! {
        i8 i16 i128 u8 u16 u128 f32 char bytes byte_buf unit unit_struct tuple tuple_struct identifier
    }
}

/// The known name that `found` means, and how indirectly: 0 exactly, 1 another letter case, 2 a second name.
/// Second names come first, because a type may list them among its own.
fn meant(kind: &str, known: &'static [&'static str], found: &str) -> Option<(&'static str, u8)> {
    let second = ALIASES.iter().find(|(of, alias, _)| *of == kind && alias.eq_ignore_ascii_case(found));
    if let Some((_, _, first)) = second {
        return known.iter().find(|name| *name == first).map(|name| (*name, 2));
    }
    if let Some(name) = known.iter().find(|name| **name == found) {
        return Some((name, 0));
    }
    known.iter().find(|name| name.eq_ignore_ascii_case(found)).map(|name| (*name, 1))
}

struct Entries {
    entries: std::vec::IntoIter<Value>,
    at: usize,
}

impl<'de> de::SeqAccess<'de> for Entries {
    type Error = FieldError;

    fn next_element_seed<T: DeserializeSeed<'de>>(
        &mut self,
        seed: T,
    ) -> Result<Option<T::Value>, FieldError> {
        let Some(value) = self.entries.next() else { return Ok(None) };
        let at = self.at;
        self.at += 1;
        seed.deserialize(Lenient(value)).map(Some).map_err(|error| error.within(&format!("[{at}]")))
    }

    fn size_hint(&self) -> Option<usize> {
        Some(self.entries.len())
    }
}

struct Members<K> {
    members: std::vec::IntoIter<(K, Value)>,
    value: Option<(K, Value)>,
}

impl<'de, K: AsRef<str>> de::MapAccess<'de> for Members<K> {
    type Error = FieldError;

    fn next_key_seed<T: DeserializeSeed<'de>>(&mut self, seed: T) -> Result<Option<T::Value>, FieldError> {
        self.value = self.members.next();
        let Some((key, _)) = &self.value else { return Ok(None) };
        seed.deserialize(StrDeserializer::new(key.as_ref())).map(Some)
    }

    fn next_value_seed<T: DeserializeSeed<'de>>(&mut self, seed: T) -> Result<T::Value, FieldError> {
        let Some((key, value)) = self.value.take() else {
            return Err(de::Error::custom("member without a value"));
        };
        seed.deserialize(Lenient(value)).map_err(|error| error.within(key.as_ref()))
    }
}
