//! Reading a frame in one pass, when it is exactly as we would write it.
//!
//! Nearly every frame is: names spelt as in the protocol, no unknown members, numbers as numbers. Such a frame
//! is decoded from its text straight into the types. At the first thing that is not so, this gives up and the
//! tolerant reader, which knows everything, starts over; what is read here is what that one would have read.
//! The bounds are the same: [`MAX_VALUES`] values, [`MAX_LIST`] entries a list; the depth is that of the types,
//! for unknown members are not entered.

use std::cell::Cell;
use std::fmt;
use std::marker::PhantomData;

use aos_ids::{SystemId, Txn};
use serde::de::value::{MapAccessDeserializer, StrDeserializer};
use serde::de::{self, DeserializeSeed, Deserializer, MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, forward_to_deserialize_any};

use super::MAX_CORRELATION_READ;
use crate::bounded::MAX_VALUES;
use crate::lenient::MAX_LIST;
use crate::{Body, Direction, Envelope, Header, MessageType, VERSION, time};

/// Reads a frame; `None` when it is not quite as we would write it, which says nothing about whether it can
/// be read.
pub(super) fn read(frame: &[u8], direction: Direction) -> Option<Envelope> {
    let kind = kind_ahead(frame).filter(|kind| kind.is_taken_by(direction))?;
    let left = Cell::new(MAX_VALUES - 1);
    let mut deserializer = serde_json::Deserializer::from_slice(frame);
    let envelope = deserializer.deserialize_map(Frame { kind, left: &left }).ok()?;
    deserializer.end().ok()?;
    Some(envelope)
}

/// The kind that the first `"messageType"` of the text names. It only tells which type to try: the member is
/// checked when it is reached.
fn kind_ahead(frame: &[u8]) -> Option<MessageType> {
    const MEMBER: &[u8] = b"\"messageType\"";
    let at = frame.windows(MEMBER.len()).position(|window| window == MEMBER)?;
    let rest = frame.get(at + MEMBER.len()..)?.trim_ascii_start().strip_prefix(b":")?;
    let rest = rest.trim_ascii_start().strip_prefix(b"\"")?;
    let end = rest.iter().take(64).position(|&byte| byte == b'"')?;
    MessageType::parse(std::str::from_utf8(rest.get(..end)?).ok()?)
}

fn unusual<E: de::Error>() -> E {
    E::custom("not in the usual form")
}

/// The whole frame.
struct Frame<'a> {
    kind: MessageType,
    left: &'a Cell<u32>,
}

impl<'de> Visitor<'de> for Frame<'_> {
    type Value = Envelope;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a frame")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut members: A) -> Result<Envelope, A::Error> {
        let (mut header, mut data) = (None, None);
        while let Some(name) = members.next_key::<&str>()? {
            take_one(self.left)?;
            match name {
                "header" if header.is_none() => {
                    let raw = members
                        .next_value_seed(Counted { seed: PhantomData::<RawHeader<'de>>, left: self.left })?;
                    header = Some(raw.read().ok_or_else(unusual)?);
                }
                "data" if data.is_none() => {
                    data = Some(members.next_value_seed(Data { kind: self.kind, left: self.left })?);
                }
                _ => return Err(unusual()),
            }
        }
        let (Some(header), Some((correlation_id, body))) = (header, data) else { return Err(unusual()) };
        Ok(Envelope { header, correlation_id, body })
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct RawHeader<'a> {
    version: u32,
    system_id: SystemId,
    #[serde(borrow)]
    created_at: Option<&'a str>,
    txn: Txn,
}

impl RawHeader<'_> {
    fn read(self) -> Option<Header> {
        let created_at = self.created_at.and_then(time::from_text);
        (self.version == VERSION).then_some(Header { system_id: self.system_id, created_at, txn: self.txn })
    }
}

/// The member `data`.
struct Data<'a> {
    kind: MessageType,
    left: &'a Cell<u32>,
}

impl<'de> DeserializeSeed<'de> for Data<'_> {
    type Value = (Option<String>, Body);

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for Data<'_> {
    type Value = (Option<String>, Body);

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the content of a message")
    }

    fn visit_map<A: MapAccess<'de>>(self, members: A) -> Result<Self::Value, A::Error> {
        let Self { kind, left } = self;
        let mut common = Common::default();
        let members = Content { members, kind, left, common: &mut common };
        let body = Body::read_from(kind, MapAccessDeserializer::new(members))?;
        if common.kind_seen { Ok((common.correlation_id, body)) } else { Err(unusual()) }
    }
}

/// What all kinds have in common.
#[derive(Default)]
struct Common {
    kind_seen: bool,
    correlation_seen: bool,
    correlation_id: Option<String>,
}

/// The members of `data` without those that all kinds have in common.
struct Content<'a, A> {
    members: A,
    kind: MessageType,
    left: &'a Cell<u32>,
    common: &'a mut Common,
}

impl<'de, A: MapAccess<'de>> MapAccess<'de> for Content<'_, A> {
    type Error = A::Error;

    fn next_key_seed<K: DeserializeSeed<'de>>(&mut self, seed: K) -> Result<Option<K::Value>, A::Error> {
        loop {
            let Some(name) = self.members.next_key::<&str>()? else { return Ok(None) };
            take_one(self.left)?;
            match name {
                "messageType" if !self.common.kind_seen => {
                    let word = self.members.next_value::<&str>()?;
                    if word != self.kind.as_str() {
                        return Err(unusual());
                    }
                    self.common.kind_seen = true;
                }
                "correlationId" if !self.common.correlation_seen => {
                    let text = self.members.next_value::<Option<String>>()?;
                    if text.as_ref().is_some_and(|text| text.len() > MAX_CORRELATION_READ) {
                        return Err(unusual());
                    }
                    (self.common.correlation_seen, self.common.correlation_id) = (true, text);
                }
                "messageType" | "correlationId" => return Err(unusual()),
                _ => return seed.deserialize(StrDeserializer::new(name)).map(Some),
            }
        }
    }

    fn next_value_seed<V: DeserializeSeed<'de>>(&mut self, seed: V) -> Result<V::Value, A::Error> {
        self.members.next_value_seed(Counted { seed, left: self.left })
    }
}

fn take_one<E: de::Error>(left: &Cell<u32>) -> Result<(), E> {
    left.set(left.get().checked_sub(1).ok_or_else(unusual)?);
    Ok(())
}

/// Reads a value through [`Exact`].
struct Counted<'a, S> {
    seed: S,
    left: &'a Cell<u32>,
}

impl<'de, S: DeserializeSeed<'de>> DeserializeSeed<'de> for Counted<'_, S> {
    type Value = S::Value;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<S::Value, D::Error> {
        self.seed.deserialize(Exact { inner: deserializer, left: self.left })
    }
}

/// A deserializer that takes only what the tolerant reader takes for the same: objects for structures, texts
/// for words, nothing unknown.
struct Exact<'a, D> {
    inner: D,
    left: &'a Cell<u32>,
}

macro_rules! scalars {
    ($($method:ident)+) => {
        $(fn $method<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, D::Error> {
            self.inner.$method(visitor)
        })+
    };
}

impl<'de, D: Deserializer<'de>> Deserializer<'de> for Exact<'_, D> {
    type Error = D::Error;

    scalars! {
        deserialize_bool deserialize_i32 deserialize_i64 deserialize_u32 deserialize_u64 deserialize_f64
        deserialize_str deserialize_string
    }

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, D::Error> {
        self.inner.deserialize_any(Scalar(visitor))
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, D::Error> {
        self.inner.deserialize_option(Within { visitor, left: self.left })
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(
        self,
        _name: &'static str,
        visitor: V,
    ) -> Result<V::Value, D::Error> {
        visitor.visit_newtype_struct(self)
    }

    fn deserialize_seq<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, D::Error> {
        self.inner.deserialize_seq(Within { visitor, left: self.left })
    }

    fn deserialize_map<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, D::Error> {
        self.inner.deserialize_map(Within { visitor, left: self.left })
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _name: &'static str,
        _fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, D::Error> {
        self.inner.deserialize_map(Within { visitor, left: self.left })
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        _name: &'static str,
        _variants: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, D::Error> {
        self.inner.deserialize_str(Word(visitor))
    }

    /// Asked for the value of a member that the type does not know.
    fn deserialize_ignored_any<V: Visitor<'de>>(self, _visitor: V) -> Result<V::Value, D::Error> {
        Err(unusual())
    }

    forward_to_deserialize_any! {
        i8 i16 i128 u8 u16 u128 f32 char bytes byte_buf unit unit_struct tuple tuple_struct identifier
    }
}

/// A visitor whose lists, objects and optional values go on being read through [`Exact`].
struct Within<'a, V> {
    visitor: V,
    left: &'a Cell<u32>,
}

impl<'de, V: Visitor<'de>> Visitor<'de> for Within<'_, V> {
    type Value = V::Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.visitor.expecting(f)
    }

    fn visit_none<E: de::Error>(self) -> Result<V::Value, E> {
        self.visitor.visit_none()
    }

    fn visit_unit<E: de::Error>(self) -> Result<V::Value, E> {
        self.visitor.visit_unit()
    }

    fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<V::Value, D::Error> {
        self.visitor.visit_some(Exact { inner: deserializer, left: self.left })
    }

    fn visit_seq<A: SeqAccess<'de>>(self, entries: A) -> Result<V::Value, A::Error> {
        self.visitor.visit_seq(Entries { inner: entries, count: 0, left: self.left })
    }

    fn visit_map<A: MapAccess<'de>>(self, members: A) -> Result<V::Value, A::Error> {
        self.visitor.visit_map(Members { inner: members, count: 0, left: self.left })
    }
}

struct Entries<'a, A> {
    inner: A,
    count: usize,
    left: &'a Cell<u32>,
}

impl<'de, A: SeqAccess<'de>> SeqAccess<'de> for Entries<'_, A> {
    type Error = A::Error;

    fn next_element_seed<T: DeserializeSeed<'de>>(&mut self, seed: T) -> Result<Option<T::Value>, A::Error> {
        let next = self.inner.next_element_seed(Counted { seed, left: self.left })?;
        if next.is_some() {
            self.count += 1;
            take_one(self.left)?;
        }
        if self.count > MAX_LIST { Err(unusual()) } else { Ok(next) }
    }
}

struct Members<'a, A> {
    inner: A,
    count: usize,
    left: &'a Cell<u32>,
}

impl<'de, A: MapAccess<'de>> MapAccess<'de> for Members<'_, A> {
    type Error = A::Error;

    fn next_key_seed<K: DeserializeSeed<'de>>(&mut self, seed: K) -> Result<Option<K::Value>, A::Error> {
        self.inner.next_key_seed(seed)
    }

    fn next_value_seed<T: DeserializeSeed<'de>>(&mut self, seed: T) -> Result<T::Value, A::Error> {
        self.count += 1;
        take_one(self.left)?;
        if self.count > MAX_LIST {
            return Err(unusual());
        }
        self.inner.next_value_seed(Counted { seed, left: self.left })
    }
}

/// Takes a text as a word of an enumeration, and nothing else.
struct Word<V>(V);

impl<'de, V: Visitor<'de>> Visitor<'de> for Word<V> {
    type Value = V::Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.expecting(f)
    }

    fn visit_str<E: de::Error>(self, word: &str) -> Result<V::Value, E> {
        self.0.visit_enum(StrDeserializer::new(word))
    }
}

/// Passes anything on but lists and objects.
struct Scalar<V>(V);

impl<'de, V: Visitor<'de>> Visitor<'de> for Scalar<V> {
    type Value = V::Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.expecting(f)
    }

    fn visit_bool<E: de::Error>(self, value: bool) -> Result<V::Value, E> {
        self.0.visit_bool(value)
    }

    fn visit_i64<E: de::Error>(self, value: i64) -> Result<V::Value, E> {
        self.0.visit_i64(value)
    }

    fn visit_u64<E: de::Error>(self, value: u64) -> Result<V::Value, E> {
        self.0.visit_u64(value)
    }

    fn visit_f64<E: de::Error>(self, value: f64) -> Result<V::Value, E> {
        self.0.visit_f64(value)
    }

    fn visit_str<E: de::Error>(self, value: &str) -> Result<V::Value, E> {
        self.0.visit_str(value)
    }

    fn visit_unit<E: de::Error>(self) -> Result<V::Value, E> {
        self.0.visit_unit()
    }
}
