//! What `--help` and `--version` print.

use std::fmt::Write as _;

use super::flags::{DAEMON_FLAGS, Flag, TOPICS};
use super::{DAEMONS, Daemon, DaemonInfo};

pub(super) fn version() -> String {
    let parts: Vec<&str> = DAEMONS.iter().filter(|info| info.daemon.is_built_in()).map(|i| i.word).collect();
    format!("aos {}\ncomponents: {}", env!("CARGO_PKG_VERSION"), parts.join(", "))
}

pub(super) fn overview() -> String {
    let mut text = String::from("AosEdge on the device.\n\nUsage: aos COMMAND [FLAGS]\n\nCommands:\n");
    for info in DAEMONS.iter().filter(|info| info.daemon.is_built_in()) {
        let _ = writeln!(text, "  {:<8} {} (also called {})", info.word, info.about, info.process);
    }
    if cfg!(feature = "iam") {
        text.push_str("  iam recover  Get new certificates for a Unit whose own have ended\n");
    }
    text.push_str("  status   What runs here: cloud link, nodes, items, instances, certificates\n");
    if cfg!(feature = "sm") {
        text.push_str("  logs     What an instance or the core components here wrote\n");
        text.push_str("  keep     Helper of the Service Manager that outlives it\n");
    }
    text.push_str("\n`aos COMMAND --help` shows a command's flags.\n");
    text.push_str("\nExamples:\n  aos iam certificates\n  aos iam --config /etc/aos/iam.cfg --verbose debug\n  aos status --json\n");
    text
}

pub(super) fn daemon_help(info: &DaemonInfo) -> String {
    let mut text = help(&format!("aos {}", info.word), info.about, &DAEMON_FLAGS, Some(info));
    if info.daemon == Daemon::Iam {
        text.push_str("\nOf the one that runs (`aos iam WORD --help` shows the flags):\n");
        for (name, _, about) in &TOPICS {
            let _ = writeln!(text, "  aos iam {name:<14} {about}");
        }
    }
    text
}

pub(super) fn help(command: &str, about: &str, table: &[Flag], daemon: Option<&DaemonInfo>) -> String {
    let mut text = format!("{about}\n\nUsage: {command} [FLAGS]\n\nFlags:\n");
    for flag in table {
        if flag.only.is_some_and(|only| daemon.is_none_or(|info| info.daemon != only)) {
            continue;
        }
        let short = flag.short.map_or_else(|| "    ".to_owned(), |letter| format!("-{letter}, "));
        let left =
            format!("{short}--{}{}", flag.long, flag.value.map(|v| format!(" {v}")).unwrap_or_default());
        let default = match (flag.long, daemon) {
            ("config", Some(info)) => format!(" (default {})", info.default_config),
            _ => String::new(),
        };
        let _ = writeln!(text, "  {left:<24} {}{default}", flag.help);
    }
    text
}
