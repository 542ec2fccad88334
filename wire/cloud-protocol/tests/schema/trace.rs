//! What a type reads and writes, found by letting it.
//!
//! A type is deserialized from nothing: whatever it asks for is made up and noted. A text that it refuses is
//! replaced by the next candidate, a member that it cannot do without is noted as needed. The value that comes
//! out is serialized again, which tells how members are written, under which names, and which of them always.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use serde::de::value::StrDeserializer;
use serde::de::{self, DeserializeOwned, DeserializeSeed, Deserializer, MapAccess, SeqAccess, Visitor};
use serde::{Serialize, forward_to_deserialize_any};
use serde_json::Value;

/// Texts offered in turn, most specific last.
const TEXTS: [&str; 5] = [
    "x",
    "2026-03-04T08:02:10.000000Z",
    "sha256:0000000000000000000000000000000000000000000000000000000000000000",
    "eHh4",
    "0000000000000000000000000000000000000000000000000000000000000000",
];

/// What was asked for at a place.
#[derive(Debug, Clone, PartialEq)]
pub enum Asked {
    /// A structure with these members.
    Structure {
        name: &'static str,
        members: &'static [&'static str],
    },
    /// One of these words.
    Words {
        name: &'static str,
        words: &'static [&'static str],
    },
    /// A list; its entry is at `path[]`.
    List,
    /// Members of any name; their content is at `path{}`.
    Map,
    /// A text, a number, a truth.
    Text,
    Whole,
    Number,
    Truth,
    /// Anything.
    Any,
}

/// A type, taken to pieces.
pub struct Traced {
    /// What was asked for, by place: `nodes[].identity.codename`.
    pub asked: BTreeMap<String, Asked>,
    /// The value with everything in it, as it is written.
    pub full: Value,
    /// By place of a structure: it as written when it has only what it must have.
    pub least: BTreeMap<String, Value>,
}

/// Takes a type to pieces.
pub fn trace<T: DeserializeOwned + Serialize>() -> Traced {
    let trace = Trace::default();
    let full = run::<T>(&trace);
    let structures: Vec<String> = trace
        .asked
        .borrow()
        .iter()
        .filter(|(_, asked)| matches!(asked, Asked::Structure { .. }))
        .map(|(path, _)| path.clone())
        .collect();
    let mut least = BTreeMap::new();
    for path in structures {
        *trace.bare.borrow_mut() = Some(path.clone());
        trace.needed.borrow_mut().clear();
        let value = run::<T>(&trace);
        least.insert(path.clone(), at(&value, &path).cloned().unwrap_or(Value::Null));
    }
    Traced { asked: trace.asked.into_inner(), full, least }
}

/// The value at a place of the written document.
pub fn at<'v>(value: &'v Value, path: &str) -> Option<&'v Value> {
    let mut value = value;
    for step in path.split('.').filter(|step| !step.is_empty()) {
        let name = step.trim_end_matches("[]").trim_end_matches("{}");
        value = if name.is_empty() { value } else { value.get(name)? };
        if step.ends_with("[]") {
            value = value.get(0)?;
        }
        if step.ends_with("{}") {
            value = value.as_object()?.values().next()?;
        }
    }
    Some(value)
}

/// Offers and retries until the type is content; answers what it then writes.
fn run<T: DeserializeOwned + Serialize>(trace: &Trace) -> Value {
    for _ in 0..1000 {
        match T::deserialize(Offer { trace, path: String::new() }) {
            Ok(value) => return serde_json::to_value(&value).unwrap(),
            Err(Refusal::Missing(member)) => {
                let path = trace.inside.borrow().clone();
                assert!(trace.needed.borrow_mut().insert(member), "{path}: {member} is needed twice");
            }
            Err(Refusal::Other(reason)) => {
                let path = trace.last_text.borrow().clone();
                let mut texts = trace.texts.borrow_mut();
                let next = texts.entry(path.clone()).or_insert(0);
                *next += 1;
                assert!(*next < TEXTS.len(), "{path}: no text is taken: {reason}");
            }
        }
    }
    panic!("a type is never content");
}

#[derive(Default)]
struct Trace {
    asked: RefCell<BTreeMap<String, Asked>>,
    /// Which of [`TEXTS`] is offered at a place.
    texts: RefCell<BTreeMap<String, usize>>,
    last_text: RefCell<String>,
    /// The structure that gets only what it needs, and what that is.
    bare: RefCell<Option<String>>,
    needed: RefCell<BTreeSet<&'static str>>,
    inside: RefCell<String>,
    depth: Cell<usize>,
}

#[derive(Debug)]
enum Refusal {
    Missing(&'static str),
    Other(String),
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self:?}")
    }
}

impl std::error::Error for Refusal {}

impl de::Error for Refusal {
    fn custom<T: fmt::Display>(message: T) -> Self {
        Self::Other(message.to_string())
    }

    fn missing_field(field: &'static str) -> Self {
        Self::Missing(field)
    }
}

/// Offers a value for a place.
struct Offer<'a> {
    trace: &'a Trace,
    path: String,
}

impl Offer<'_> {
    fn note(&self, asked: Asked) {
        let mut all = self.trace.asked.borrow_mut();
        all.entry(self.path.clone()).or_insert(asked);
    }

    fn text<'de, V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Refusal> {
        self.note(Asked::Text);
        let which = self.trace.texts.borrow().get(&self.path).copied().unwrap_or(0);
        self.trace.last_text.replace(self.path);
        visitor.visit_str(TEXTS[which])
    }
}

impl<'de> Deserializer<'de> for Offer<'_> {
    type Error = Refusal;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Refusal> {
        self.note(Asked::Any);
        let which = self.trace.texts.borrow().get(&self.path).copied().unwrap_or(0);
        self.trace.last_text.replace(self.path);
        if which == 0 {
            visitor.visit_u64(7)
        } else {
            visitor.visit_seq(One { trace: self.trace, path: None })
        }
    }

    fn deserialize_bool<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Refusal> {
        self.note(Asked::Truth);
        visitor.visit_bool(true)
    }

    fn deserialize_i32<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Refusal> {
        self.note(Asked::Whole);
        visitor.visit_i32(7)
    }

    fn deserialize_u32<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Refusal> {
        self.note(Asked::Whole);
        visitor.visit_u32(7)
    }

    fn deserialize_u64<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Refusal> {
        self.note(Asked::Whole);
        visitor.visit_u64(7)
    }

    fn deserialize_f64<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Refusal> {
        self.note(Asked::Number);
        visitor.visit_f64(7.5)
    }

    fn deserialize_str<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Refusal> {
        self.text(visitor)
    }

    fn deserialize_string<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Refusal> {
        self.text(visitor)
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Refusal> {
        visitor.visit_some(self)
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(
        self,
        _name: &'static str,
        visitor: V,
    ) -> Result<V::Value, Refusal> {
        visitor.visit_newtype_struct(self)
    }

    fn deserialize_seq<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Refusal> {
        self.note(Asked::List);
        visitor.visit_seq(One { trace: self.trace, path: Some(format!("{}[]", self.path)) })
    }

    fn deserialize_map<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Refusal> {
        self.note(Asked::Map);
        visitor.visit_map(One { trace: self.trace, path: Some(format!("{}{{}}", self.path)) })
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        name: &'static str,
        fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Refusal> {
        self.note(Asked::Structure { name, members: fields });
        assert!(self.trace.depth.get() < 30, "{}: the type contains itself", self.path);
        let bare = self.trace.bare.borrow().as_ref() == Some(&self.path);
        if bare {
            self.trace.inside.replace(self.path.clone());
        }
        let wanted = |field: &&&'static str| {
            // `code` is a second name of `aosCode`.
            **field != "code" && (!bare || self.trace.needed.borrow().contains(**field))
        };
        let members: Vec<_> = fields.iter().filter(wanted).copied().collect();
        self.trace.depth.set(self.trace.depth.get() + 1);
        let members = Members { trace: self.trace, path: self.path, left: members.into_iter(), now: None };
        let value = visitor.visit_map(members);
        self.trace.depth.set(self.trace.depth.get() - 1);
        value
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        name: &'static str,
        words: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Refusal> {
        self.note(Asked::Words { name, words });
        visitor.visit_enum(StrDeserializer::new(words[0]))
    }

    fn deserialize_ignored_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Refusal> {
        self.note(Asked::Any);
        visitor.visit_unit()
    }

    forward_to_deserialize_any! {
        i8 i16 i64 i128 u8 u16 u128 f32 char bytes byte_buf unit unit_struct tuple tuple_struct identifier
    }
}

/// A list of one entry, or a map of one member.
struct One<'a> {
    trace: &'a Trace,
    path: Option<String>,
}

impl<'de> SeqAccess<'de> for One<'_> {
    type Error = Refusal;

    fn next_element_seed<T: DeserializeSeed<'de>>(&mut self, seed: T) -> Result<Option<T::Value>, Refusal> {
        let Some(path) = self.path.take() else { return Ok(None) };
        seed.deserialize(Offer { trace: self.trace, path }).map(Some)
    }
}

impl<'de> MapAccess<'de> for One<'_> {
    type Error = Refusal;

    fn next_key_seed<K: DeserializeSeed<'de>>(&mut self, seed: K) -> Result<Option<K::Value>, Refusal> {
        if self.path.is_none() {
            return Ok(None);
        }
        seed.deserialize(StrDeserializer::new("name")).map(Some)
    }

    fn next_value_seed<T: DeserializeSeed<'de>>(&mut self, seed: T) -> Result<T::Value, Refusal> {
        let path = self.path.take().unwrap();
        seed.deserialize(Offer { trace: self.trace, path })
    }
}

struct Members<'a> {
    trace: &'a Trace,
    path: String,
    left: std::vec::IntoIter<&'static str>,
    now: Option<&'static str>,
}

impl<'de> MapAccess<'de> for Members<'_> {
    type Error = Refusal;

    fn next_key_seed<K: DeserializeSeed<'de>>(&mut self, seed: K) -> Result<Option<K::Value>, Refusal> {
        self.now = self.left.next();
        self.now.map(|name| seed.deserialize(StrDeserializer::new(name))).transpose()
    }

    fn next_value_seed<T: DeserializeSeed<'de>>(&mut self, seed: T) -> Result<T::Value, Refusal> {
        let name = self.now.take().unwrap();
        let path = if self.path.is_empty() { name.to_owned() } else { format!("{}.{name}", self.path) };
        seed.deserialize(Offer { trace: self.trace, path })
    }
}
