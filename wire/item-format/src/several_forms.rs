//! Fields that documents of different age write in different forms.

use std::fmt;
use std::marker::PhantomData;

use serde::de::{self, Deserialize, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};

/// A text, or an object one of whose keys holds it: `"runc"` or `{"codename": "runc"}`; the single key of
/// `{"<text>": {}}` when no key of that name is there.
struct Named {
    name: String,
    mode: Option<String>,
}

struct NamedVisitor;

impl<'de> Visitor<'de> for NamedVisitor {
    type Value = Named;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a text or an object with a name")
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<Named, E> {
        Ok(Named { name: text.to_owned(), mode: None })
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Named, A::Error> {
        let (mut name, mut mode, mut first_key) = (None, None, None);
        while let Some(key) = map.next_key::<String>()? {
            if key.eq_ignore_ascii_case("codename") || key.eq_ignore_ascii_case("name") {
                name = map.next_value::<Option<String>>()?;
            } else if key.eq_ignore_ascii_case("mode") {
                mode = map.next_value::<Option<String>>()?;
            } else {
                map.next_value::<IgnoredAny>()?;
                first_key.get_or_insert(key);
            }
        }
        let name = name.or(first_key).ok_or_else(|| de::Error::custom("the name is missing"))?;
        Ok(Named { name, mode })
    }
}

impl<'de> Deserialize<'de> for Named {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(NamedVisitor)
    }
}

/// An array of [`Named`], or an object whose keys are the names.
struct ListVisitor<T>(PhantomData<T>);

impl<'de, T: From<(String, Option<String>)>> Visitor<'de> for ListVisitor<T> {
    type Value = Vec<T>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an array or an object of names")
    }

    fn visit_unit<E: de::Error>(self) -> Result<Vec<T>, E> {
        Ok(Vec::new())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Vec<T>, A::Error> {
        let mut values = Vec::new();
        while let Some(named) = list.next_element::<Named>()? {
            values.push(T::from((named.name, named.mode)));
        }
        Ok(values)
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Vec<T>, A::Error> {
        let mut values = Vec::new();
        while let Some((name, IgnoredAny)) = map.next_entry::<String, _>()? {
            values.push(T::from((name, None)));
        }
        Ok(values)
    }
}

/// Reads names in any form; `T` gets name and mode.
pub(crate) fn names<'de, D, T>(deserializer: D) -> Result<Vec<T>, D::Error>
where
    D: Deserializer<'de>,
    T: From<(String, Option<String>)>,
{
    deserializer.deserialize_any(ListVisitor(PhantomData))
}

/// A name whose mode does not matter.
pub(crate) struct NameOnly(pub(crate) String);

impl From<(String, Option<String>)> for NameOnly {
    fn from((name, _): (String, Option<String>)) -> Self {
        Self(name)
    }
}
