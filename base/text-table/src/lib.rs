//! Aligned columns for terminals, and texts picked from JSON documents to fill them.
//!
//! For the command lines. Widths count characters, not display cells: identifiers and states are ASCII.

use std::fmt::Write as _;

use serde_json::Value;

/// Columns padded to their widest cell; empty cells show as `-`, so that a gap is seen as one.
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
            // Writing to a String cannot fail.
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

/// One row per element: the texts at `paths` (JSON pointers) of each.
pub fn rows(elements: &[Value], paths: &[&str]) -> Vec<Vec<String>> {
    elements.iter().map(|element| paths.iter().map(|path| text(element, path)).collect()).collect()
}

/// The text at `path` (a JSON pointer) of a document, empty when there is none.
pub fn text(value: &Value, path: &str) -> String {
    match value.pointer(path) {
        Some(Value::String(text)) => text.clone(),
        None | Some(Value::Null) => String::new(),
        Some(other) => other.to_string(),
    }
}

/// The elements of a list answer, which is `{"items": […], …}` or a plain array.
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

    #[test]
    fn rows_pick_nested_texts_and_numbers() {
        let list = serde_json::json!({ "items": [{ "a": { "b": "x" }, "n": 7 }, {}] });
        assert_eq!(rows(elements(&list), &["/a/b", "/n"]), [vec!["x", "7"], vec!["", ""]]);
    }
}
