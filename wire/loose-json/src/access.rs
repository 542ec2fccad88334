//! Access to the parts of lists, maps, structures and enums.

use serde::de::value::{BorrowedStrDeserializer, StrDeserializer};
use serde::de::{self, DeserializeSeed, Error as _, IntoDeserializer, Visitor};

use crate::de::{Context, Node, Path};
use crate::{KeyError, Tree};

pub(crate) struct List<'t, 'c> {
    pub(crate) values: std::iter::Enumerate<std::slice::Iter<'t, Tree>>,
    pub(crate) parent: &'c Path<'c>,
    pub(crate) context: &'c Context,
}

impl<'de> de::SeqAccess<'de> for List<'_, '_> {
    type Error = KeyError;

    fn next_element_seed<T: DeserializeSeed<'de>>(&mut self, seed: T) -> Result<Option<T::Value>, KeyError> {
        let Some((index, tree)) = self.values.next() else { return Ok(None) };
        let path = Path::Index { parent: self.parent, index };
        let value = seed.deserialize(Node { tree, path, context: self.context });
        value.map(Some).map_err(|e| e.at(&path))
    }

    fn size_hint(&self) -> Option<usize> {
        Some(self.values.len())
    }
}

pub(crate) struct Map<'t, 'c> {
    pub(crate) entries: std::slice::Iter<'t, (String, Tree)>,
    pub(crate) value: Option<(&'t str, &'t Tree)>,
    pub(crate) parent: &'c Path<'c>,
    pub(crate) context: &'c Context,
}

impl<'de> de::MapAccess<'de> for Map<'_, '_> {
    type Error = KeyError;

    fn next_key_seed<K: DeserializeSeed<'de>>(&mut self, seed: K) -> Result<Option<K::Value>, KeyError> {
        let Some((key, value)) = self.entries.next() else { return Ok(None) };
        self.value = Some((key, value));
        let path = Path::Key { parent: self.parent, key };
        let text: StrDeserializer<'_, KeyError> = key.as_str().into_deserializer();
        seed.deserialize(text).map(Some).map_err(|e| e.at(&path))
    }

    fn next_value_seed<V: DeserializeSeed<'de>>(&mut self, seed: V) -> Result<V::Value, KeyError> {
        let Some((key, tree)) = self.value.take() else { return Err(KeyError::custom("value without key")) };
        let path = Path::Key { parent: self.parent, key };
        seed.deserialize(Node { tree, path, context: self.context }).map_err(|e| e.at(&path))
    }
}

pub(crate) struct Fields<'e, 't, 'c> {
    pub(crate) entries: std::slice::Iter<'e, (&'static str, &'t str, &'t Tree)>,
    pub(crate) value: Option<(&'t str, &'t Tree)>,
    pub(crate) parent: &'c Path<'c>,
    pub(crate) context: &'c Context,
}

impl<'de> de::MapAccess<'de> for Fields<'_, '_, '_> {
    type Error = KeyError;

    fn next_key_seed<K: DeserializeSeed<'de>>(&mut self, seed: K) -> Result<Option<K::Value>, KeyError> {
        let Some((field, key, tree)) = self.entries.next() else { return Ok(None) };
        self.value = Some((key, tree));
        seed.deserialize(BorrowedStrDeserializer::new(field)).map(Some)
    }

    fn next_value_seed<V: DeserializeSeed<'de>>(&mut self, seed: V) -> Result<V::Value, KeyError> {
        let Some((key, tree)) = self.value.take() else { return Err(KeyError::custom("value without key")) };
        let path = Path::Key { parent: self.parent, key };
        seed.deserialize(Node { tree, path, context: self.context }).map_err(|e| e.at(&path))
    }
}

pub(crate) struct Variant<'t, 'c> {
    pub(crate) word: &'t str,
    pub(crate) content: Option<&'t Tree>,
    pub(crate) parent: &'c Path<'c>,
    pub(crate) context: &'c Context,
}

impl<'t, 'c> Variant<'t, 'c> {
    fn node(&self) -> Result<Node<'t, 'c>, KeyError>
    where
        't: 'c,
    {
        let tree = self
            .content
            .ok_or_else(|| KeyError::custom(format_args!("'{}' needs a value: {{\"{0}\": …}}", self.word)))?;
        Ok(Node { tree, path: Path::Key { parent: self.parent, key: self.word }, context: self.context })
    }
}

impl<'de> de::EnumAccess<'de> for Variant<'_, '_> {
    type Error = KeyError;
    type Variant = Self;

    fn variant_seed<V: DeserializeSeed<'de>>(self, seed: V) -> Result<(V::Value, Self), KeyError> {
        let text: StrDeserializer<'_, KeyError> = self.word.into_deserializer();
        Ok((seed.deserialize(text)?, self))
    }
}

impl<'de> de::VariantAccess<'de> for Variant<'_, '_> {
    type Error = KeyError;

    fn unit_variant(self) -> Result<(), KeyError> {
        match self.content {
            None | Some(Tree::Null) => Ok(()),
            Some(_) => Err(KeyError::custom(format_args!("'{}' takes no value", self.word))),
        }
    }

    fn newtype_variant_seed<T: DeserializeSeed<'de>>(self, seed: T) -> Result<T::Value, KeyError> {
        seed.deserialize(self.node()?)
    }

    fn tuple_variant<V: Visitor<'de>>(self, _len: usize, visitor: V) -> Result<V::Value, KeyError> {
        self.node()?.visit_list(visitor)
    }

    fn struct_variant<V: Visitor<'de>>(
        self,
        fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, KeyError> {
        self.node()?.visit_struct(fields, visitor)
    }
}
