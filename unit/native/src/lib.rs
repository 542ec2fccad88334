//! Starts a native service: a process without container, but with its own user, limits and network.
//!
//! `aos native start` is what the keeper runs. It starts `aos native enter` and ends as soon as that has
//! become the service, so that the service is the keeper's child. `enter` goes into the cgroups and
//! namespaces, gives up every privilege and then executes the service; what goes wrong on the way is said by
//! `start`. `aos native exec` runs a command in the same surroundings, for probes.
//!
//! All of it is told in one file, the [`Order`], which only root can read. Nothing here decides anything.

mod enter;
mod start;

use std::io;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

/// Longest order, bytes.
const MAX_ORDER: u64 = 1024 * 1024;

/// What a process is started with.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Order {
    /// Cgroup folders to enter.
    pub cgroups: Vec<PathBuf>,
    /// Network namespace; `None` for the host's.
    pub network: Option<PathBuf>,
    /// Mounts in a mount namespace of its own.
    pub mounts: Vec<Mount>,
    /// Most open files.
    pub files: u64,
    /// Most processes of the user; `None` for the host's limit.
    pub processes: Option<u64>,
    /// User.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Further groups.
    pub groups: Vec<u32>,
    /// Working folder.
    pub folder: PathBuf,
    /// Program and arguments.
    pub argv: Vec<String>,
    /// Environment, `NAME=value`; nothing else is in it.
    pub env: Vec<String>,
}

/// A mount only this process sees.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Mount {
    /// Where; must exist.
    pub target: PathBuf,
    /// What is bound there; `None` for a temporary file system.
    pub source: Option<PathBuf>,
    /// Options of a temporary file system.
    #[serde(default)]
    pub options: String,
    /// Nothing may be written.
    pub read_only: bool,
}

/// What to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Args {
    /// Start the service and leave it behind.
    Start {
        /// File with the order.
        order: PathBuf,
        /// File that gets the service's process ID.
        pid_file: PathBuf,
    },
    /// Become the service.
    Enter {
        /// File with the order.
        order: PathBuf,
    },
    /// Become another command in the surroundings of the service.
    Exec {
        /// File with the order.
        order: PathBuf,
        /// Process of the service.
        pid: i32,
        /// The command.
        argv: Vec<String>,
    },
}

impl Args {
    /// Reads the command line behind `native`; `None` when it is none.
    pub fn parse(words: &[String]) -> Option<Self> {
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        match words.as_slice() {
            ["start", order, pid_file] => {
                Some(Self::Start { order: order.into(), pid_file: pid_file.into() })
            }
            ["enter", order] => Some(Self::Enter { order: order.into() }),
            ["exec", order, pid, argv @ ..] if !argv.is_empty() => Some(Self::Exec {
                order: order.into(),
                pid: pid.parse().ok()?,
                argv: argv.iter().map(|&word| word.to_owned()).collect(),
            }),
            _ => None,
        }
    }
}

/// Why a service cannot be started.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A file cannot be read or written.
    #[error("cannot {action} {}", path.display())]
    File {
        /// What was tried.
        action: &'static str,
        /// Where.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The order is not readable.
    #[error("the order {} cannot be used", path.display())]
    Order {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: serde_json::Error,
    },
    /// A system call failed.
    #[error("cannot {action}")]
    System {
        /// What was tried.
        action: &'static str,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The other half has said why it cannot go on.
    #[error("{0}")]
    Said(String),
}

impl Error {
    fn file(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_owned();
        move |source| Self::File { action, path, source }
    }

    fn system<E: Into<io::Error>>(action: &'static str) -> impl FnOnce(E) -> Self {
        move |source| Self::System { action, source: source.into() }
    }

    /// The whole reason in one line.
    pub fn text(&self) -> String {
        match std::error::Error::source(self) {
            Some(source) => format!("{self}: {source}"),
            None => self.to_string(),
        }
    }
}

/// Carries out one part. `Enter` and `Exec` only come back when something is wrong. Call it from a process
/// with a single thread, as root.
pub fn run(args: Args) -> Result<(), Error> {
    match args {
        Args::Start { order, pid_file } => {
            let result = start::start(&order, &pid_file);
            if let Err(error) = &result {
                // Beside the file that there is not; the Service Manager reads it.
                let _ = std::fs::write(pid_file.with_extension("error"), error.text());
            }
            result
        }
        Args::Enter { order } => enter::enter(&order),
        Args::Exec { order, pid, argv } => enter::exec(&order, pid, argv),
    }
}

fn read(path: &Path) -> Result<Order, Error> {
    use std::io::Read as _;

    let file = std::fs::File::open(path).map_err(Error::file("open", path))?;
    let mut text = Vec::new();
    file.take(MAX_ORDER).read_to_end(&mut text).map_err(Error::file("read", path))?;
    serde_json::from_slice(&text).map_err(|source| Error::Order { path: path.to_owned(), source })
}
