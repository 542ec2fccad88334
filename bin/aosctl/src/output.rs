//! Results for people as aligned tables, for programs as JSON on standard output.
//!
//! Progress goes to standard error, so that standard output is the result and nothing else.

use std::fmt::Write as _;

use anyhow::Result;
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

/// Columns padded to their widest cell; empty cells show as `-`.
pub fn table(head: &[&str], rows: &[Vec<String>]) -> String {
    let mut widths: Vec<usize> = head.iter().map(|cell| cell.chars().count()).collect();
    for row in rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = (*width).max(cell.chars().count());
        }
    }
    let mut text = String::new();
    let mut line = |cells: &mut dyn Iterator<Item = &str>| {
        let mut out = String::new();
        for (width, cell) in widths.iter().zip(cells) {
            let cell = if cell.is_empty() { "-" } else { cell };
            let _ = write!(out, "{cell:<width$}  ");
        }
        text.push_str(out.trim_end());
        text.push('\n');
    };
    line(&mut head.iter().copied());
    for row in rows {
        line(&mut row.iter().map(String::as_str));
    }
    text
}

/// The text at `path` of a document, empty when there is none.
pub fn text(value: &Value, path: &str) -> String {
    match value.pointer(path) {
        Some(Value::String(text)) => text.clone(),
        None | Some(Value::Null) => String::new(),
        Some(other) => other.to_string(),
    }
}

/// The elements of a list answer, which is `{items, total, offset}` or a plain array.
pub fn elements(value: &Value) -> &[Value] {
    let list = if value.is_array() { value } else { &value["items"] };
    list.as_array().map_or(&[], Vec::as_slice)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_line_up_and_gaps_show() {
        let text =
            table(&["A", "LONG"], &[vec!["value".into(), String::new()], vec!["x".into(), "y".into()]]);
        assert_eq!(text, "A      LONG\nvalue  -\nx      y\n");
    }
}
