//! Splitting a command line into words, with the quotes of a shell and nothing else of it.

use anyhow::{Result, bail};

/// Splits at blanks; `'…'`, `"…"` and a backslash protect.
pub fn split(text: &str) -> Result<Vec<String>> {
    let mut words = Vec::new();
    let mut word: Option<String> = None;
    let mut quote: Option<char> = None;
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        match (quote, c) {
            (Some(open), c) if c == open => quote = None,
            (Some('\''), c) => word.get_or_insert_default().push(c),
            (_, '\\') => match chars.next() {
                Some(next) => word.get_or_insert_default().push(next),
                None => bail!("a backslash at the end protects nothing"),
            },
            (None, '\'' | '"') => {
                quote = Some(c);
                word.get_or_insert_default();
            }
            (None, c) if c.is_whitespace() => words.extend(word.take()),
            (_, c) => word.get_or_insert_default().push(c),
        }
    }
    if let Some(open) = quote {
        bail!("the quote {open} is not closed");
    }
    words.extend(word);
    Ok(words)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn splits_like_a_shell() {
        assert_eq!(split(r#" a  'b c' "d \"e" f\ g '' x'y'z "#).unwrap(), ["a", "b c", "d \"e", "f g", "", "xyz"]);
        assert!(split("'a").is_err());
        assert!(split("a\\").is_err());
        assert!(split("  ").unwrap().is_empty());
    }
}
