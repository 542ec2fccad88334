//! Log output of all programs.
//!
//! One line per event: `dd.mm.yy HH:MM:SS.mmm [INF] (module) text key=value`, times in UTC, to the standard
//! output or to the systemd journal. Events of our own crates (`aos…`) are shown from the chosen level on,
//! those of libraries from warning on (from info on when the level is debug). Spans are ignored.

mod causes;
mod journal;
mod line;
mod subscriber;

use std::str::FromStr;

pub use causes::with_causes;

/// From which severity on events are shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub enum Level {
    /// Everything.
    Debug,
    /// Milestones, warnings and errors.
    #[default]
    Info,
    /// Warnings and errors.
    Warning,
    /// Errors only.
    Error,
}

/// A word that is no log level.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("'{0}' is no log level, expected debug, info, warning or error")]
pub struct UnknownLevel(String);

impl FromStr for Level {
    type Err = UnknownLevel;

    fn from_str(word: &str) -> Result<Self, UnknownLevel> {
        match word.to_ascii_lowercase().as_str() {
            "debug" => Ok(Self::Debug),
            "info" => Ok(Self::Info),
            "warning" | "warn" => Ok(Self::Warning),
            "error" => Ok(Self::Error),
            _ => Err(UnknownLevel(word.chars().take(40).collect())),
        }
    }
}

/// Where lines go.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Output {
    /// Standard output.
    #[default]
    Stdout,
    /// The systemd journal, with severities.
    Journal,
}

/// Why logging could not be set up.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LogError {
    /// The journal's socket could not be used.
    #[error("cannot reach the systemd journal at {path}: {source}")]
    Journal {
        /// Path of the socket.
        path: &'static str,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// Logging has been set up before.
    #[error("logging is set up already")]
    Already,
}

/// Sets up the logging of this process, once. `program` is the identifier in the journal.
pub fn init(program: &str, level: Level, target: Output) -> Result<(), LogError> {
    let sink = match target {
        Output::Stdout => subscriber::Sink::Stdout,
        Output::Journal => subscriber::Sink::Journal(journal::Journal::open(program)?),
    };
    tracing::subscriber::set_global_default(subscriber::LineSubscriber::new(level, sink))
        .map_err(|_| LogError::Already)
}

#[cfg(test)]
mod tests;
