//! An error and what caused it, in one line.

use std::error::Error;

/// The messages of an error and of its causes, joined by `: `. A cause that the message before it already
/// contains is left out: some libraries, and our errors about files, say the cause in their own message.
pub fn with_causes(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let message = error.to_string();
        if !text.contains(&message) {
            text.push_str(": ");
            text.push_str(&message);
        }
        cause = error.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, thiserror::Error)]
    #[error("cannot start")]
    struct Start(#[source] File);

    #[derive(Debug, thiserror::Error)]
    #[error("a.cfg: {0}")]
    struct File(#[source] std::io::Error);

    #[test]
    fn every_cause_is_told_once() {
        let error = Start(File(std::io::Error::other("broken")));
        assert_eq!(with_causes(&error), "cannot start: a.cfg: broken");
    }
}
