//! The `tracing` subscriber: level filter and sinks, nothing else.

use std::io::Write;

use tracing::level_filters::LevelFilter;
use tracing::span;
use tracing::{Event, Metadata, Subscriber};

use crate::Level;
use crate::journal::Journal;
use crate::line::{Text, module};

pub(crate) enum Sink {
    Stdout,
    Journal(Journal),
}

pub(crate) struct LineSubscriber {
    own: LevelFilter,
    libraries: LevelFilter,
    sink: Sink,
}

impl LineSubscriber {
    pub(crate) fn new(level: Level, sink: Sink) -> Self {
        let (own, libraries) = match level {
            Level::Debug => (LevelFilter::DEBUG, LevelFilter::INFO),
            Level::Info => (LevelFilter::INFO, LevelFilter::WARN),
            Level::Warning => (LevelFilter::WARN, LevelFilter::WARN),
            Level::Error => (LevelFilter::ERROR, LevelFilter::ERROR),
        };
        Self { own, libraries, sink }
    }
}

impl Subscriber for LineSubscriber {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        let limit = if metadata.target().starts_with("aos") { self.own } else { self.libraries };
        metadata.is_event() && *metadata.level() <= limit
    }

    fn max_level_hint(&self) -> Option<LevelFilter> {
        Some(self.own.max(self.libraries))
    }

    fn event(&self, event: &Event<'_>) {
        let mut text = Text::default();
        event.record(&mut text);
        let metadata = event.metadata();
        let (level, module, text) = (*metadata.level(), module(metadata.target()), text.finish());
        match &self.sink {
            Sink::Stdout => {
                let line = stdout_line(jiff::Timestamp::now(), level, module, &text);
                // One write per line keeps lines of several threads whole. A closed output is no reason to
                // stop working.
                let _ = std::io::stdout().lock().write_all(line.as_bytes());
            }
            Sink::Journal(journal) => journal.write(level, module, &text),
        }
    }

    // Spans are never enabled; these are only here because the trait asks for them.
    fn new_span(&self, _: &span::Attributes<'_>) -> span::Id {
        span::Id::from_u64(1)
    }
    fn record(&self, _: &span::Id, _: &span::Record<'_>) {}
    fn record_follows_from(&self, _: &span::Id, _: &span::Id) {}
    fn enter(&self, _: &span::Id) {}
    fn exit(&self, _: &span::Id) {}
}

pub(crate) fn stdout_line(now: jiff::Timestamp, level: tracing::Level, module: &str, text: &str) -> String {
    let time = now.to_zoned(jiff::tz::TimeZone::UTC);
    let level = match level {
        tracing::Level::ERROR => "ERR",
        tracing::Level::WARN => "WRN",
        tracing::Level::INFO => "INF",
        tracing::Level::DEBUG | tracing::Level::TRACE => "DBG",
    };
    format!(
        "{:02}.{:02}.{:02} {:02}:{:02}:{:02}.{:03} [{level}] ({module}) {text}\n",
        time.day(),
        time.month(),
        time.year().rem_euclid(100),
        time.hour(),
        time.minute(),
        time.second(),
        time.millisecond(),
    )
}
