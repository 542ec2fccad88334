//! The flags of each command: what parsing and help come from.

use super::Daemon;
use crate::iam::Topic;

/// A flag of a command.
pub(super) struct Flag {
    pub long: &'static str,
    pub short: Option<char>,
    pub value: Option<&'static str>,
    pub only: Option<Daemon>,
    pub help: &'static str,
}

pub(super) const DAEMON_FLAGS: [Flag; 6] = [
    Flag { long: "config", short: Some('c'), value: Some("FILE"), only: None, help: "configuration file" },
    Flag {
        long: "verbose",
        short: Some('v'),
        value: Some("LEVEL"),
        only: None,
        help: "log level: debug, info, warning, error (default info)",
    },
    Flag {
        long: "journal",
        short: Some('j'),
        value: None,
        only: None,
        help: "log to the systemd journal instead of standard output",
    },
    Flag {
        long: "provisioning",
        short: Some('p'),
        value: None,
        only: Some(Daemon::Iam),
        help: "provisioning mode: servers without TLS, for a Unit that has no certificates yet",
    },
    Flag { long: "help", short: Some('h'), value: None, only: None, help: "show this text" },
    Flag { long: "version", short: None, value: None, only: None, help: "show the version" },
];

/// What `aos iam` shows when a word follows.
pub(super) const TOPICS: [(&str, Topic, &str); 3] = [
    (
        "certificates",
        Topic::Certificates,
        "Shows certificates: type, serial number, issuer, validity, share of life used, where the key is.",
    ),
    ("nodes", Topic::Nodes, "Shows the nodes of the Unit: type, state, whether they are connected."),
    (
        "token",
        Topic::Token,
        "Shows the tokens: library, slot, whether the stored PIN opens them, what is in them and belongs to nothing.",
    ),
];

pub(super) const TOPIC_FLAGS: [Flag; 4] = [
    Flag { long: "json", short: None, value: None, only: None, help: "print JSON" },
    Flag {
        long: "run-dir",
        short: None,
        value: Some("DIR"),
        only: None,
        help: "where the daemons' status sockets are (default: $AOS_RUN_DIR, else /run/aos)",
    },
    Flag {
        long: "config",
        short: Some('c'),
        value: Some("FILE"),
        only: None,
        help: "IAM's configuration, to look at tokens while it does not run",
    },
    Flag { long: "help", short: Some('h'), value: None, only: None, help: "show this text" },
];

pub(super) const STATUS_FLAGS: [Flag; 3] = [
    Flag { long: "json", short: None, value: None, only: None, help: "print JSON" },
    Flag {
        long: "run-dir",
        short: None,
        value: Some("DIR"),
        only: None,
        help: "where the daemons' status sockets are (default: $AOS_RUN_DIR, else /run/aos)",
    },
    Flag { long: "help", short: Some('h'), value: None, only: None, help: "show this text" },
];

#[cfg(feature = "sm")]
pub(super) const LOGS_FLAGS: [Flag; 5] = [
    Flag {
        long: "follow",
        short: Some('f'),
        value: None,
        only: None,
        help: "go on with what is written, until Ctrl-C",
    },
    Flag {
        long: "since",
        short: None,
        value: Some("TIME"),
        only: None,
        help: "earliest time: RFC 3339, or how long ago, such as 30m",
    },
    Flag {
        long: "log-dir",
        short: None,
        value: Some("DIR"),
        only: None,
        help: "where the log files are, for a Service Manager that does not run",
    },
    Flag {
        long: "run-dir",
        short: None,
        value: Some("DIR"),
        only: None,
        help: "where the daemons' status sockets are (default: $AOS_RUN_DIR, else /run/aos)",
    },
    Flag { long: "help", short: Some('h'), value: None, only: None, help: "show this text" },
];

pub(super) const RECOVER_FLAGS: [Flag; 3] = [
    Flag {
        long: "token-file",
        short: None,
        value: Some("FILE"),
        only: None,
        help: "one-time token of an operator (`aosctl unit recovery-token`)",
    },
    Flag {
        long: "run-dir",
        short: None,
        value: Some("DIR"),
        only: None,
        help: "where the daemons' sockets are (default: $AOS_RUN_DIR, else /run/aos)",
    },
    Flag { long: "help", short: Some('h'), value: None, only: None, help: "show this text" },
];

pub(super) const KEEP_FLAGS: [Flag; 2] = [
    Flag { long: "dir", short: None, value: Some("DIR"), only: None, help: "folder of socket and records" },
    Flag { long: "help", short: Some('h'), value: None, only: None, help: "show this text" },
];
