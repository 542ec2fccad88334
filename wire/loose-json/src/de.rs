//! The deserializer over a [`Tree`].

use std::cell::RefCell;

use serde::de::{self, Deserializer, Error as _, Unexpected, Visitor};
use serde_json::Number;

use crate::access::{Fields, List, Map, Variant};
use crate::{KeyError, Rules, Tree};

/// Most unknown keys collected; a document of nothing else must not cost more.
const MAX_UNKNOWN: usize = 100;

/// What one reading shares between its nodes.
pub(crate) struct Context {
    rules: Rules,
    unknown: RefCell<Vec<String>>,
}

impl Context {
    pub(crate) fn new(rules: Rules) -> Self {
        Self { rules, unknown: RefCell::default() }
    }

    pub(crate) fn into_unknown(self) -> Vec<String> {
        self.unknown.into_inner()
    }

    fn note_unknown(&self, path: Path<'_>) {
        let mut unknown = self.unknown.borrow_mut();
        if unknown.len() < MAX_UNKNOWN {
            unknown.push(path.to_string());
        }
    }

    fn is_absent(&self, tree: &Tree) -> bool {
        match tree {
            Tree::Null => true,
            Tree::Text(text) => self.rules.empty_is_absent && text.is_empty(),
            _ => false,
        }
    }
}

/// Place of a value, linked towards the root.
#[derive(Clone, Copy)]
pub(crate) enum Path<'a> {
    Root,
    Key { parent: &'a Path<'a>, key: &'a str },
    Index { parent: &'a Path<'a>, index: usize },
}

impl std::fmt::Display for Path<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Root => Ok(()),
            Self::Key { parent: Path::Root, key } => f.write_str(key),
            Self::Key { parent, key } => write!(f, "{parent}.{key}"),
            Self::Index { parent, index } => write!(f, "{parent}[{index}]"),
        }
    }
}

impl de::Error for KeyError {
    fn custom<T: std::fmt::Display>(message: T) -> Self {
        Self::new("", message.to_string())
    }

    fn missing_field(field: &'static str) -> Self {
        Self::custom(format_args!("key '{field}' is missing"))
    }
}

impl KeyError {
    /// Adds the place unless a deeper one is known.
    pub(crate) fn at(mut self, path: &Path<'_>) -> Self {
        if self.path.is_empty() {
            self.path = crate::cut(path.to_string());
        }
        self
    }
}

/// A value with its place.
#[derive(Clone, Copy)]
pub(crate) struct Node<'t, 'c> {
    pub(crate) tree: &'t Tree,
    pub(crate) path: Path<'c>,
    pub(crate) context: &'c Context,
}

impl<'t, 'c> Node<'t, 'c> {
    pub(crate) fn root(tree: &'t Tree, context: &'c Context) -> Self {
        Self { tree, path: Path::Root, context }
    }

    fn wrong_type(&self, expected: &dyn de::Expected) -> KeyError {
        let found = match self.tree {
            Tree::Null => Unexpected::Other("null"),
            Tree::Bool(value) => Unexpected::Bool(*value),
            Tree::Number(value) => return self.wrong_number(value, expected),
            Tree::Text(value) => Unexpected::Str(value),
            Tree::List(_) => Unexpected::Other("an array"),
            Tree::Map(_) => Unexpected::Other("an object"),
        };
        KeyError::invalid_type(found, expected).at(&self.path)
    }

    fn wrong_number(&self, value: &Number, expected: &dyn de::Expected) -> KeyError {
        KeyError::custom(format_args!("invalid type: number {value}, expected {expected}")).at(&self.path)
    }

    /// The number this value is or spells.
    fn number(&self) -> Option<Number> {
        match self.tree {
            Tree::Number(value) => Some(value.clone()),
            Tree::Text(text) => {
                let text = text.trim();
                let whole = || text.parse::<u64>().ok().map(Number::from);
                let signed = || text.parse::<i64>().ok().map(Number::from);
                whole().or_else(signed).or_else(|| text.parse().ok().and_then(Number::from_f64))
            }
            _ => None,
        }
    }

    fn visit_number<'de, V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, KeyError> {
        let Some(number) = self.number() else { return Err(self.wrong_type(&visitor)) };
        let visited = if let Some(value) = number.as_u64() {
            visitor.visit_u64(value)
        } else if let Some(value) = number.as_i64() {
            visitor.visit_i64(value)
        } else if let Some(value) = number.as_f64() {
            visitor.visit_f64(value)
        } else {
            return Err(self.wrong_type(&visitor));
        };
        visited.map_err(|e: KeyError| e.at(&self.path))
    }

    /// Whole numbers are also accepted as `3.0`, which some writers make of every number.
    fn visit_whole<'de, V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, KeyError> {
        const EXACT: f64 = 9_007_199_254_740_992.0;
        let whole = self.number().filter(Number::is_f64).and_then(|number| number.as_f64());
        match whole.filter(|value| value.fract() == 0.0 && value.abs() <= EXACT) {
            #[allow(clippy::cast_possible_truncation)]
            Some(value) if value < 0.0 => visitor.visit_i64(value as i64),
            #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
            Some(value) => visitor.visit_u64(value as u64),
            None => return self.visit_number(visitor),
        }
        .map_err(|e: KeyError| e.at(&self.path))
    }

    fn visit_text<'de, V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, KeyError> {
        match self.tree {
            Tree::Text(text) => visitor.visit_str(text),
            Tree::Number(number) if self.context.rules.number_as_text => {
                visitor.visit_string(number.to_string())
            }
            Tree::Bool(value) if self.context.rules.number_as_text => visitor.visit_string(value.to_string()),
            _ => return Err(self.wrong_type(&visitor)),
        }
        .map_err(|e: KeyError| e.at(&self.path))
    }

    pub(crate) fn visit_list<'de, V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, KeyError> {
        let Tree::List(values) = self.tree else { return Err(self.wrong_type(&visitor)) };
        let list = List { values: values.iter().enumerate(), parent: &self.path, context: self.context };
        visitor.visit_seq(list).map_err(|e| e.at(&self.path))
    }

    fn visit_map<'de, V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, KeyError> {
        let Tree::Map(values) = self.tree else { return Err(self.wrong_type(&visitor)) };
        let map = Map { entries: values.iter(), value: None, parent: &self.path, context: self.context };
        visitor.visit_map(map).map_err(|e| e.at(&self.path))
    }

    pub(crate) fn visit_struct<'de, V: Visitor<'de>>(
        self,
        fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, KeyError> {
        let Tree::Map(values) = self.tree else { return Err(self.wrong_type(&visitor)) };
        let mut entries: Vec<(&'static str, &str, &Tree)> = Vec::with_capacity(values.len());
        for (key, value) in values {
            let exact = fields.iter().find(|field| **field == key);
            let loose = || fields.iter().find(|field| field.eq_ignore_ascii_case(key));
            let Some(field) = exact.or_else(loose) else {
                self.context.note_unknown(Path::Key { parent: &self.path, key });
                continue;
            };
            if self.context.is_absent(value) {
                continue;
            }
            if let Some((_, first, _)) = entries.iter().find(|(known, ..)| known == field) {
                let reason = format!("the same key as '{first}', given twice");
                return Err(KeyError::new(Path::Key { parent: &self.path, key }.to_string(), reason));
            }
            entries.push((field, key, value));
        }
        let fields =
            Fields { entries: entries.iter(), value: None, parent: &self.path, context: self.context };
        visitor.visit_map(fields).map_err(|e| e.at(&self.path))
    }
}

macro_rules! forward {
    ($to:ident: $($method:ident)*) => {
        $(fn $method<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, KeyError> {
            self.$to(visitor)
        })*
    };
}

impl<'de> Deserializer<'de> for Node<'_, '_> {
    type Error = KeyError;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, KeyError> {
        match self.tree {
            Tree::Null => visitor.visit_unit(),
            Tree::Bool(value) => visitor.visit_bool(*value),
            Tree::Text(text) => visitor.visit_str(text),
            Tree::Number(_) => return self.visit_number(visitor),
            Tree::List(_) => return self.visit_list(visitor),
            Tree::Map(_) => return self.visit_map(visitor),
        }
        .map_err(|e: KeyError| e.at(&self.path))
    }

    fn deserialize_bool<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, KeyError> {
        match self.tree {
            Tree::Bool(value) => visitor.visit_bool(*value),
            Tree::Text(text) if text.eq_ignore_ascii_case("true") => visitor.visit_bool(true),
            Tree::Text(text) if text.eq_ignore_ascii_case("false") => visitor.visit_bool(false),
            _ => return Err(self.wrong_type(&visitor)),
        }
        .map_err(|e: KeyError| e.at(&self.path))
    }

    forward! { visit_whole:
        deserialize_i8 deserialize_i16 deserialize_i32 deserialize_i64 deserialize_i128
        deserialize_u8 deserialize_u16 deserialize_u32 deserialize_u64 deserialize_u128
    }
    forward! { visit_number: deserialize_f32 deserialize_f64 }
    forward! { visit_text: deserialize_char deserialize_str deserialize_string deserialize_identifier }
    forward! { visit_list: deserialize_seq deserialize_bytes deserialize_byte_buf }
    forward! { visit_map: deserialize_map }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, KeyError> {
        if self.context.is_absent(self.tree) { visitor.visit_none() } else { visitor.visit_some(self) }
    }

    fn deserialize_unit<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, KeyError> {
        match self.tree {
            Tree::Null => visitor.visit_unit(),
            _ => Err(self.wrong_type(&visitor)),
        }
    }

    fn deserialize_unit_struct<V: Visitor<'de>>(
        self,
        _name: &'static str,
        visitor: V,
    ) -> Result<V::Value, KeyError> {
        self.deserialize_unit(visitor)
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(
        self,
        _name: &'static str,
        visitor: V,
    ) -> Result<V::Value, KeyError> {
        let path = self.path;
        visitor.visit_newtype_struct(self).map_err(|e| e.at(&path))
    }

    fn deserialize_tuple<V: Visitor<'de>>(self, _len: usize, visitor: V) -> Result<V::Value, KeyError> {
        self.visit_list(visitor)
    }

    fn deserialize_tuple_struct<V: Visitor<'de>>(
        self,
        _name: &'static str,
        _len: usize,
        visitor: V,
    ) -> Result<V::Value, KeyError> {
        self.visit_list(visitor)
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _name: &'static str,
        fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, KeyError> {
        self.visit_struct(fields, visitor)
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        _name: &'static str,
        variants: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, KeyError> {
        let (word, content) = match self.tree {
            Tree::Text(word) => (word, None),
            Tree::Map(entries) => match entries.as_slice() {
                [(word, content)] => (word, Some(content)),
                _ => return Err(self.wrong_type(&visitor)),
            },
            _ => return Err(self.wrong_type(&visitor)),
        };
        let known = variants.iter().find(|known| known.eq_ignore_ascii_case(word));
        let variant = known.map_or(word.as_str(), |known| *known);
        let access = Variant { word: variant, content, parent: &self.path, context: self.context };
        visitor.visit_enum(access).map_err(|e| e.at(&self.path))
    }

    fn deserialize_ignored_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, KeyError> {
        visitor.visit_unit()
    }
}
