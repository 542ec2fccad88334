//! Results for people as aligned tables, for programs as JSON on standard output.
//!
//! Progress goes to standard error, so that standard output is the result and nothing else.

use std::io::Write as _;

use anyhow::{Context, Result};
pub use aos_text_table::{elements, rows, table, text};
use serde_json::Value;

use crate::args::Format;

pub struct Output {
    format: Format,
}

impl Output {
    pub const fn new(format: Format) -> Self {
        Self { format }
    }

    /// Whether a program reads the result.
    pub fn is_json(&self) -> bool {
        self.format == Format::Json
    }

    /// Prints `value` as JSON, or what `table` makes of it.
    pub fn show(&self, value: &Value, table: impl FnOnce(&Value) -> String) -> Result<()> {
        let text = if self.is_json() {
            serde_json::to_string_pretty(value)?
        } else {
            table(value).trim_end().to_owned()
        };
        print(&text)
    }

    /// An empty line between two results for people.
    pub fn gap(&self) -> Result<()> {
        if self.is_json() { Ok(()) } else { print("") }
    }

    /// A step of something that takes time.
    pub fn progress(&self, text: &str) {
        // A program that reads JSON is served by the result alone.
        if !self.is_json() {
            let _ = writeln!(std::io::stderr(), "{text}");
        }
    }
}

/// A reader that is gone (`aosctl … | head`) is an error like any other, not a panic.
fn print(text: &str) -> Result<()> {
    let mut out = std::io::stdout().lock();
    writeln!(out, "{text}").and_then(|()| out.flush()).context("cannot write the result")
}
