//! Log files of the core components of this node, for nodes without a journal.
//!
//! Whoever starts the components there sends their output to `cm.log`, `sm.log`, `iam.log` and `mp.log` in one
//! folder (`logging.componentLogDir`, else `/var/log/aos`); an older generation is named `cm.log.1`. Lines are
//! as our programs write them: `dd.mm.yy HH:MM:SS.mmm [ERR] (module) text`.

use std::path::{Path, PathBuf};

use crate::alerts::Core;

/// Where the files are when the configuration does not say.
pub const DEFAULT_DIR: &str = "/var/log/aos";

/// Components and the names of their log files.
pub const FILES: [(&str, Core); 4] =
    [("cm.log", Core::Cm), ("sm.log", Core::Sm), ("iam.log", Core::Iam), ("mp.log", Core::Mp)];

/// Bytes of `dd.mm.yy HH:MM:SS.mmm [ERR] `.
const HEAD: usize = 28;

/// A line of ours.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Line<'a> {
    /// Seconds since 1970.
    pub at: u64,
    /// True for errors.
    pub is_error: bool,
    /// Level, module and text.
    pub text: &'a str,
}

/// Reads a line; `None` when it is none of ours.
pub fn parse(line: &[u8]) -> Option<Line<'_>> {
    let text = std::str::from_utf8(line).ok()?;
    let (head, rest) = text.split_at_checked(HEAD)?;
    let (stamp, level) = head.split_at_checked(HEAD - 6)?;
    let (stamp, millis) = stamp.strip_suffix(' ')?.rsplit_once('.')?;
    let time = jiff::civil::DateTime::strptime("%d.%m.%y %H:%M:%S", stamp).ok()?;
    let at = time.to_zoned(jiff::tz::TimeZone::UTC).ok()?.timestamp().as_second();
    let level = level.strip_prefix('[')?.strip_suffix("] ")?;
    let known = matches!(level, "ERR" | "WRN" | "INF" | "DBG") && millis.parse::<u16>().is_ok();
    let text = text.get(HEAD - 6..)?;
    (known && !rest.is_empty()).then_some(Line {
        at: u64::try_from(at).ok()?,
        is_error: level == "ERR",
        text,
    })
}

/// The files that are there, an older generation before the present one.
pub fn present(dir: &Path) -> Vec<(Core, Vec<PathBuf>)> {
    let there = |name: &str| {
        let path = dir.join(name);
        [aos_keep::old_generation(&path), path].into_iter().filter(|path| path.is_file()).collect::<Vec<_>>()
    };
    let all = FILES.iter().map(|(name, core)| (*core, there(name)));
    all.filter(|(_, paths)| !paths.is_empty()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_of_our_programs_are_understood() {
        let line = parse(b"04.03.26 07:25:05.123 [ERR] (smclient) no way out: gone").unwrap();
        assert_eq!(
            line,
            Line { at: 1_772_609_105, is_error: true, text: "[ERR] (smclient) no way out: gone" }
        );
        assert!(!parse(b"04.03.26 07:25:05.123 [INF] (x) y").unwrap().is_error);
        for other in [
            "",
            "thread 'main' panicked at src/main.rs:1:1, which is a long line of text",
            "04.03.26 07:25:05.123 [ERR] ",
            "44.03.26 07:25:05.123 [ERR] (x) y",
            "04.03.26 07:25:05.123 [XXX] (x) y",
            "04.03.26 07:25:05.1ä3 [ERR] (x) y",
        ] {
            assert_eq!(parse(other.as_bytes()), None, "{other}");
        }
    }

    #[test]
    fn the_files_that_are_there_are_found() {
        let folder = tempfile::tempdir().unwrap();
        for name in ["sm.log.1", "sm.log", "iam.log", "other.log"] {
            std::fs::write(folder.path().join(name), "").unwrap();
        }
        let path = |name: &str| folder.path().join(name);
        let expected =
            vec![(Core::Sm, vec![path("sm.log.1"), path("sm.log")]), (Core::Iam, vec![path("iam.log")])];
        assert_eq!(present(folder.path()), expected);
    }
}
