//! Text of one event.

use std::fmt::{self, Write as _};

use tracing::field::{Field, Visit};

/// Longest text of one event, bytes; the rest is cut off.
pub(crate) const MAX_TEXT: usize = 8 * 1024;

/// Collects an event's message and fields into one line. Control characters are escaped, so that text from
/// outside can neither forge a line nor steer a terminal.
#[derive(Default)]
pub(crate) struct Text {
    message: String,
    fields: String,
}

impl Text {
    pub(crate) fn finish(self) -> String {
        let mut text = self.message;
        if !self.fields.is_empty() {
            if !text.is_empty() {
                text.push(' ');
            }
            text.push_str(&self.fields);
        }
        if text.len() > MAX_TEXT {
            let mut end = MAX_TEXT;
            while !text.is_char_boundary(end) {
                end -= 1;
            }
            text.truncate(end);
            text.push('…');
        }
        text
    }
}

/// Writes with control characters escaped, and stops taking more when far beyond the limit.
struct Escaping<'a>(&'a mut String);

impl fmt::Write for Escaping<'_> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        for c in text.chars() {
            if self.0.len() > MAX_TEXT {
                break;
            }
            match c {
                '\t' => self.0.push(' '),
                c if c.is_control() => write!(self.0, "{}", c.escape_default())?,
                c => self.0.push(c),
            }
        }
        Ok(())
    }
}

impl Visit for Text {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        // Writing to a String cannot fail; a broken Debug implementation only shortens the line.
        if field.name() == "message" {
            let _ = write!(Escaping(&mut self.message), "{value:?}");
        } else {
            if !self.fields.is_empty() {
                self.fields.push(' ');
            }
            let _ = write!(Escaping(&mut self.fields), "{}={value:?}", field.name());
        }
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        if field.name() == "message" {
            let _ = Escaping(&mut self.message).write_str(value);
        } else {
            self.record_debug(field, &value);
        }
    }
}

/// Name of the module that an event's target means: `imagemanager` of `aos_cm::imagemanager::download`,
/// `durable` of `aos_durable::files`, and other targets' first part as it is.
pub(crate) fn module(target: &str) -> &str {
    let mut parts = target.split("::");
    let first = parts.next().unwrap_or(target);
    let Some(own) = first.strip_prefix("aos_") else { return first };
    match (own, parts.next()) {
        ("cm" | "sm" | "iam" | "keep" | "mp", Some(module)) => module,
        _ => own,
    }
}
