//! JSON as the Aos documents use it: keys without case, null is absent.
//!
//! Reading goes through a small tree and a `serde` deserializer of its own: where a `struct` is read, object
//! keys are matched against its field names (and aliases) without regard to ASCII case, `null` counts as
//! absent, unknown keys are collected with their path, and a failure names the path of the key. Keys of maps
//! are data and keep their case. Numbers may be written as texts.
//!
//! Limits: inside `#[serde(flatten)]`, `untagged` and internally tagged types serde itself buffers the
//! content, so that nested keys there are matched exactly. Nesting is limited by [`Rules::max_depth`], length
//! is the caller's to bound.

mod access;
mod de;
mod tree;

pub use tree::Tree;

use serde::de::DeserializeOwned;

/// How tolerant a reading is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rules {
    /// Numbers and booleans are accepted where a text is expected.
    pub number_as_text: bool,
    /// An empty text counts as absent, as a configuration file's `""` does.
    pub empty_is_absent: bool,
    /// Deepest accepted nesting of objects and arrays, at most 100.
    pub max_depth: usize,
}

impl Rules {
    /// For documents that machines make: item, unit and node configuration.
    pub const DOCUMENT: Self = Self { number_as_text: true, empty_is_absent: false, max_depth: 32 };
    /// For configuration files that people write.
    pub const CONFIG: Self = Self { number_as_text: false, empty_is_absent: true, max_depth: 32 };
}

/// A value and the paths of the keys that nobody asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Read<T> {
    /// What was read.
    pub value: T,
    /// Paths of unknown keys in the order of the document, at most 100.
    pub unknown: Vec<String>,
}

/// Why a document could not be read.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LooseError {
    /// No JSON, or nested too deeply.
    #[error("{0}")]
    Syntax(#[from] serde_json::Error),
    /// A value does not fit.
    #[error(transparent)]
    Key(#[from] KeyError),
}

/// A value that does not fit, with its place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyError {
    pub(crate) path: String,
    pub(crate) reason: String,
}

impl KeyError {
    /// An error found by the caller's own checks. Path and reason are cut at 500 bytes.
    pub fn new(path: impl Into<String>, reason: impl Into<String>) -> Self {
        Self { path: cut(path.into()), reason: cut(reason.into()) }
    }

    /// Path of the key, such as `certModules[1].id`; empty for the document itself.
    pub fn path(&self) -> &str {
        &self.path
    }

    /// What is wrong with it.
    pub fn reason(&self) -> &str {
        &self.reason
    }
}

impl std::fmt::Display for KeyError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.path.as_str() {
            "" => f.write_str(&self.reason),
            path => write!(f, "{path}: {}", self.reason),
        }
    }
}

impl std::error::Error for KeyError {}

/// Keys and values of a document come back in complaints about it, which go into logs and messages.
fn cut(mut text: String) -> String {
    const LONGEST: usize = 500;
    if text.len() > LONGEST {
        let end = (0..=LONGEST).rev().find(|end| text.is_char_boundary(*end)).unwrap_or_default();
        text.truncate(end);
        text.push('…');
    }
    text
}

/// Reads a JSON text.
pub fn from_slice<T: DeserializeOwned>(text: &[u8], rules: Rules) -> Result<Read<T>, LooseError> {
    let tree = Tree::parse(text, rules.max_depth)?;
    Ok(from_tree(&tree, rules)?)
}

/// Reads a value that is parsed already, such as the free-form parameters of a module.
pub fn from_value<T: DeserializeOwned>(value: serde_json::Value, rules: Rules) -> Result<Read<T>, KeyError> {
    from_tree(&Tree::from(value), rules)
}

/// Reads a tree.
pub fn from_tree<T: DeserializeOwned>(tree: &Tree, rules: Rules) -> Result<Read<T>, KeyError> {
    let context = de::Context::new(rules);
    let value = T::deserialize(de::Node::root(tree, &context))?;
    Ok(Read { value, unknown: context.into_unknown() })
}

#[cfg(test)]
mod tests;
