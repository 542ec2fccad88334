//! Results for people as aligned tables, for programs as JSON on standard output.
//!
//! Progress goes to standard error, so that standard output is the result and nothing else.

use anyhow::Result;
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

    pub fn is_json(&self) -> bool {
        self.format == Format::Json
    }

    /// Prints `value` as JSON, or what `table` makes of it.
    pub fn show(&self, value: &Value, table: impl FnOnce(&Value) -> String) -> Result<()> {
        if self.is_json() {
            println!("{}", serde_json::to_string_pretty(value)?);
        } else {
            println!("{}", table(value).trim_end());
        }
        Ok(())
    }

    /// A step of something that takes time.
    pub fn progress(&self, text: &str) {
        // A program that reads JSON is served by the result alone.
        if !self.is_json() {
            eprintln!("{text}");
        }
    }
}
