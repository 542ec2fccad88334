//! Command line of the device binary: one table of commands and flags, from which parsing and help come.
//!
//! The flags of `cm`, `sm` and `iam` are upstream's, including its habits: any unambiguous prefix of a long
//! flag is accepted, and `-provisioning` with a single dash, because the systemd units in the field use it.

mod flags;
mod help;

use std::ffi::OsString;
use std::path::PathBuf;

use anyhow::{Result, anyhow, bail};
use aos_logging::{Level, Output};
use lexopt::Arg;

use crate::iam::Query;
use flags::{DAEMON_FLAGS, Flag, KEEP_FLAGS, RECOVER_FLAGS, STATUS_FLAGS, TOPIC_FLAGS, TOPICS};
use help::{daemon_help, help, overview, version};

/// What the binary is asked to do.
#[derive(Debug, PartialEq)]
pub enum Command {
    /// Run one daemon.
    Daemon(Daemon, DaemonFlags),
    /// Run the subreaper that outlives the Service Manager.
    Keep {
        /// Folder of its socket and records.
        dir: PathBuf,
    },
    /// A part of the start of a native service: the words that say which.
    Native(Vec<String>),
    /// Show what runs on this node.
    Status {
        /// Folder of the daemons' status sockets.
        run_dir: Option<PathBuf>,
        /// JSON rather than tables.
        json: bool,
    },
    /// Show what the Identity and Access Manager knows.
    Iam(Query),
    /// Show what instances or the core components of this node wrote.
    #[cfg(feature = "sm")]
    Logs(crate::logs::Query),
    /// Have the Identity and Access Manager get new certificates now.
    Recover {
        /// File with the operator's one-time token; without one the `offline` key proves who the Unit is.
        token_file: Option<PathBuf>,
        /// Folder of the daemons' sockets.
        run_dir: Option<PathBuf>,
    },
    /// Print this text and end.
    Print(String),
}

/// The daemons this binary can be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Daemon {
    /// Communication Manager.
    Cm,
    /// Service Manager.
    Sm,
    /// Identity and Access Manager.
    Iam,
}

/// Flags that all daemons share; a flag that only one knows is refused for the others.
#[derive(Debug, PartialEq)]
pub struct DaemonFlags {
    /// Configuration file.
    pub config: PathBuf,
    /// Least level that is logged.
    pub level: Level,
    /// Where log lines go.
    pub output: Output,
    /// IAM only: plaintext servers for provisioning.
    pub provisioning: bool,
}

struct DaemonInfo {
    daemon: Daemon,
    word: &'static str,
    process: &'static str,
    default_config: &'static str,
    about: &'static str,
}

const DAEMONS: [DaemonInfo; 3] = [
    DaemonInfo {
        daemon: Daemon::Cm,
        word: "cm",
        process: "aos_communicationmanager",
        default_config: "aos_cm.cfg",
        about: "Communication Manager: cloud link, updates, placement",
    },
    DaemonInfo {
        daemon: Daemon::Sm,
        word: "sm",
        process: "aos_servicemanager",
        default_config: "aos_servicemanager.cfg",
        about: "Service Manager: images, containers, networks",
    },
    DaemonInfo {
        daemon: Daemon::Iam,
        word: "iam",
        process: "aos_iamanager",
        default_config: "aos_iamanager.cfg",
        about: "Identity and Access Manager: keys, certificates, provisioning",
    },
];

impl Daemon {
    fn info(self) -> &'static DaemonInfo {
        match self {
            Self::Cm => &DAEMONS[0],
            Self::Sm => &DAEMONS[1],
            Self::Iam => &DAEMONS[2],
        }
    }

    /// The word on the command line, also the name in log lines.
    pub fn word(self) -> &'static str {
        self.info().word
    }

    /// Whether this build contains it.
    pub const fn is_built_in(self) -> bool {
        match self {
            Self::Cm => cfg!(feature = "cm"),
            Self::Sm => cfg!(feature = "sm"),
            Self::Iam => cfg!(feature = "iam"),
        }
    }
}

/// Reads a command line; `args` begins with the program's own name.
pub fn parse(args: impl IntoIterator<Item = OsString>) -> Result<Command> {
    let mut args = args.into_iter();
    let program = args.next().unwrap_or_default();
    // Upstream's units write `-provisioning`; to any other parser that is a bundle of short flags.
    let rest = args.map(|arg| if arg == "-provisioning" { OsString::from("--provisioning") } else { arg });
    let rest: Vec<OsString> = rest.collect();
    if let [first, second, flags @ ..] = rest.as_slice()
        && first == "iam"
        && second == "recover"
        && cfg!(feature = "iam")
    {
        return recover_command(&mut lexopt::Parser::from_args(flags));
    }
    if let [first, words @ ..] = rest.as_slice()
        && first == "native"
        && cfg!(feature = "sm")
    {
        // The words of a service's command are its own; nothing in them is a flag of ours.
        return Ok(Command::Native(words.iter().map(|word| word.to_string_lossy().into_owned()).collect()));
    }
    let mut parser = lexopt::Parser::from_args(rest);

    let called_as = program.to_str().and_then(|path| path.rsplit('/').next()).unwrap_or_default();
    if let Some(info) = DAEMONS.iter().find(|info| info.process == called_as) {
        return daemon_command(info, &mut parser);
    }
    match parser.next()? {
        None | Some(Arg::Short('h') | Arg::Long("help")) => Ok(Command::Print(overview())),
        Some(Arg::Long("version")) => Ok(Command::Print(version())),
        Some(Arg::Value(word)) => {
            let word = word.to_string_lossy().into_owned();
            if let Some(info) = DAEMONS.iter().find(|info| info.word == word) {
                if info.daemon == Daemon::Iam
                    && let Some(topic) = next_word(&mut parser)
                {
                    return topic_command(&topic, &mut parser);
                }
                return daemon_command(info, &mut parser);
            }
            match word.as_str() {
                "status" => status_command(&mut parser),
                #[cfg(feature = "sm")]
                "logs" => logs_command(&mut parser),
                "keep" if cfg!(feature = "sm") => keep_command(&mut parser),
                "help" => Ok(Command::Print(overview())),
                _ => bail!("'{word}' is no command of this build; `aos --help` lists them"),
            }
        }
        Some(other) => {
            Err(anyhow!(other.unexpected()).context("a command comes first; `aos --help` lists them"))
        }
    }
}

fn daemon_command(info: &'static DaemonInfo, parser: &mut lexopt::Parser) -> Result<Command> {
    if !info.daemon.is_built_in() {
        bail!("this build does not contain `{}`; build with the cargo feature `{}`", info.word, info.word);
    }
    let mut flags = DaemonFlags {
        config: PathBuf::from(info.default_config),
        level: Level::Info,
        output: Output::Stdout,
        provisioning: false,
    };
    while let Some(flag) = next_flag(parser, &DAEMON_FLAGS)? {
        if flag.only.is_some_and(|only| only != info.daemon) {
            bail!("`--{}` is not a flag of `aos {}`", flag.long, info.word);
        }
        match flag.long {
            "config" => flags.config = parser.value()?.into(),
            "verbose" => {
                let word = parser.value()?.to_string_lossy().into_owned();
                flags.level = word.parse()?;
            }
            "journal" => flags.output = Output::Journal,
            "provisioning" => flags.provisioning = true,
            "version" => return Ok(Command::Print(version())),
            _ => return Ok(Command::Print(daemon_help(info))),
        }
    }
    Ok(Command::Daemon(info.daemon, flags))
}

/// The next argument when it is no flag.
fn next_word(parser: &mut lexopt::Parser) -> Option<String> {
    let mut rest = parser.try_raw_args()?;
    let word = rest.peek().and_then(|arg| arg.to_str()).filter(|arg| !arg.starts_with('-'))?.to_owned();
    rest.next();
    Some(word)
}

fn topic_command(word: &str, parser: &mut lexopt::Parser) -> Result<Command> {
    let Some((name, topic, about)) = TOPICS.iter().find(|(name, ..)| *name == word) else {
        bail!("`aos iam` shows certificates, nodes and token; '{word}' is none of them");
    };
    let mut query = Query { topic: *topic, json: false, run_dir: None, config: None };
    while let Some(flag) = next_flag(parser, &TOPIC_FLAGS)? {
        match flag.long {
            "json" => query.json = true,
            "run-dir" => query.run_dir = Some(parser.value()?.into()),
            "config" => query.config = Some(parser.value()?.into()),
            _ => return Ok(Command::Print(help(&format!("aos iam {name}"), about, &TOPIC_FLAGS, None))),
        }
    }
    Ok(Command::Iam(query))
}

fn status_command(parser: &mut lexopt::Parser) -> Result<Command> {
    let (mut run_dir, mut json) = (None, false);
    while let Some(flag) = next_flag(parser, &STATUS_FLAGS)? {
        match flag.long {
            "json" => json = true,
            "run-dir" => run_dir = Some(parser.value()?.into()),
            _ => {
                let about = "Shows cloud link, nodes, items, instances and certificates of this node.";
                return Ok(Command::Print(help("aos status", about, &STATUS_FLAGS, None)));
            }
        }
    }
    Ok(Command::Status { run_dir, json })
}

#[cfg(feature = "sm")]
fn logs_command(parser: &mut lexopt::Parser) -> Result<Command> {
    let mut query = crate::logs::Query { which: next_word(parser), ..Default::default() };
    while let Some(flag) = next_flag(parser, &flags::LOGS_FLAGS)? {
        match flag.long {
            "follow" => query.follow = true,
            "since" => query.since = Some(parser.value()?.to_string_lossy().into_owned()),
            "log-dir" => query.log_dir = Some(parser.value()?.into()),
            "run-dir" => query.run_dir = Some(parser.value()?.into()),
            _ => {
                let about = "Shows what an instance of this node wrote, or all instances of an item; without a word what the\n\
                             core components wrote. `aos status` lists the instances; the start of an id is enough.";
                return Ok(Command::Print(help("aos logs [INSTANCE|ITEM]", about, &flags::LOGS_FLAGS, None)));
            }
        }
        if query.which.is_none() {
            query.which = next_word(parser);
        }
    }
    Ok(Command::Logs(query))
}

fn recover_command(parser: &mut lexopt::Parser) -> Result<Command> {
    let (mut token_file, mut run_dir) = (None, None);
    while let Some(flag) = next_flag(parser, &RECOVER_FLAGS)? {
        match flag.long {
            "token-file" => token_file = Some(parser.value()?.into()),
            "run-dir" => run_dir = Some(parser.value()?.into()),
            _ => {
                let about = "Has the Identity and Access Manager that runs here get new certificates now.";
                return Ok(Command::Print(help("aos iam recover", about, &RECOVER_FLAGS, None)));
            }
        }
    }
    Ok(Command::Recover { token_file, run_dir })
}

fn keep_command(parser: &mut lexopt::Parser) -> Result<Command> {
    let mut dir = None;
    while let Some(flag) = next_flag(parser, &KEEP_FLAGS)? {
        if flag.long == "dir" {
            dir = Some(PathBuf::from(parser.value()?));
        } else {
            let about = "Keeps exit statuses and caps log files of services. Started by the Service Manager.";
            return Ok(Command::Print(help("aos keep", about, &KEEP_FLAGS, None)));
        }
    }
    dir.map(|dir| Command::Keep { dir }).ok_or_else(|| anyhow!("`aos keep` needs --dir DIR"))
}

/// The next flag of `table`, whose value, if it has one, is still to be taken from the parser.
fn next_flag(parser: &mut lexopt::Parser, table: &'static [Flag]) -> Result<Option<&'static Flag>> {
    let Some(arg) = parser.next()? else { return Ok(None) };
    let found: Vec<&Flag> = match &arg {
        Arg::Short(letter) => table.iter().filter(|flag| flag.short == Some(*letter)).collect(),
        Arg::Long(name) => match table.iter().find(|flag| flag.long == *name) {
            Some(exact) => vec![exact],
            None => table.iter().filter(|flag| flag.long.starts_with(*name)).collect(),
        },
        Arg::Value(_) => Vec::new(),
    };
    match found.as_slice() {
        [flag] => Ok(Some(flag)),
        [] => Err(anyhow!(arg.unexpected()).context("see --help")),
        _ => bail!("the flag is ambiguous, write it in full; see --help"),
    }
}

#[cfg(test)]
mod tests;
