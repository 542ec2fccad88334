use std::os::unix::net::UnixDatagram;
use std::time::Duration;

use super::*;
use crate::journal::Journal;
use crate::line::module;
use crate::subscriber::{LineSubscriber, Sink, stdout_line};

fn with_journal(level: Level, events: impl FnOnce()) -> Vec<String> {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("journal");
    let socket = UnixDatagram::bind(&path).unwrap();
    let sink = Sink::Journal(Journal::open_at(&path, "aos_communicationmanager").unwrap());
    tracing::subscriber::with_default(LineSubscriber::new(level, sink), events);
    socket.set_read_timeout(Some(Duration::from_millis(1))).unwrap();
    let mut buffer = vec![0; 65_536];
    std::iter::from_fn(|| {
        let length = socket.recv(&mut buffer).ok()?;
        Some(String::from_utf8(buffer[..length].to_vec()).unwrap())
    })
    .collect()
}

#[test]
fn the_line_format_is_the_documented_one() {
    let time: jiff::Timestamp = "2026-03-04T08:17:11.25Z".parse().unwrap();
    let line = stdout_line(time, tracing::Level::WARN, "imagemanager", "blob is gone");
    assert_eq!(line, "04.03.26 08:17:11.250 [WRN] (imagemanager) blob is gone\n");
}

#[test]
fn the_journal_gets_priority_program_and_module() {
    let lines = with_journal(Level::Info, || {
        tracing::error!(target: "aos_cm::imagemanager::download", digest = "sha256:ab", tries = 3, "gone");
        tracing::debug!(target: "aos_cm::imagemanager", "not shown");
    });
    assert_eq!(
        lines,
        [concat!(
            "PRIORITY=3\nSYSLOG_IDENTIFIER=aos_communicationmanager\nAOS_MODULE=imagemanager\n",
            "MESSAGE=(imagemanager) gone digest=\"sha256:ab\" tries=3\n"
        )]
    );
}

#[test]
fn levels_of_own_crates_and_of_libraries() {
    let shown = |level| {
        with_journal(level, || {
            tracing::debug!(target: "aos_cm::app", "own debug");
            tracing::info!(target: "aos_cm::app", "own info");
            tracing::error!(target: "aos_cm::app", "own error");
            tracing::debug!(target: "h2::client", "library debug");
            tracing::info!(target: "h2::client", "library info");
            tracing::warn!(target: "h2::client", "library warning");
        })
        .len()
    };
    assert_eq!([Level::Debug, Level::Info, Level::Warning, Level::Error].map(shown), [5, 3, 2, 1]);
}

#[test]
fn text_from_outside_cannot_forge_lines() {
    let lines = with_journal(Level::Info, || {
        let name = "evil\nPRIORITY=0\u{1b}[2J";
        tracing::info!(target: "aos_cm::app", name, "node {name} said\thello");
    });
    assert_eq!(lines.len(), 1);
    assert_eq!(lines[0].lines().count(), 4, "{}", lines[0]);
    assert!(lines[0].contains("evil\\nPRIORITY=0\\u{1b}[2J said hello"), "{}", lines[0]);
}

#[test]
fn long_texts_are_cut() {
    let lines = with_journal(Level::Info, || {
        tracing::info!(target: "aos_cm::app", "{}", "ä".repeat(100_000));
    });
    assert!(lines[0].len() < 9000 && lines[0].ends_with("…\n"));
}

#[test]
fn spans_do_no_harm() {
    let lines = with_journal(Level::Debug, || {
        let span = tracing::info_span!("request", id = 1);
        span.in_scope(|| tracing::info!(target: "aos_cm::app", "inside"));
    });
    assert_eq!(lines.len(), 1);
}

#[test]
fn modules_are_named_as_people_know_them() {
    assert_eq!(module("aos_cm::imagemanager::download"), "imagemanager");
    assert_eq!(module("aos_sm"), "sm");
    assert_eq!(module("aos_durable::files"), "durable");
    assert_eq!(module("h2::client"), "h2");
    assert_eq!(module("launcher"), "launcher");
}

#[test]
fn level_words() {
    assert_eq!("warn".parse(), Ok(Level::Warning));
    assert_eq!("Warning".parse(), Ok(Level::Warning));
    assert_eq!("debug".parse(), Ok(Level::Debug));
    assert!("verbose".parse::<Level>().unwrap_err().to_string().contains("'verbose' is no log level"));
}

#[test]
fn setting_up_twice_is_an_error() {
    init("test", Level::Error, Output::Stdout).unwrap();
    assert!(matches!(init("test", Level::Error, Output::Stdout), Err(LogError::Already)));
}
