//! What client and keeper say to each other: one JSON document a line on the socket `keep.sock`.
//!
//! A client numbers its requests; each gets exactly one [`Line::Done`] or [`Line::Refused`] with that
//! number, not necessarily in order (a start answers when the runtime command has ended). Exits are pushed
//! as [`Line::Exit`] to every connected client the moment they happen and stay stored until acknowledged,
//! so one that was missed is found by [`Op::List`].

use std::collections::BTreeSet;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

pub use aos_names::Zone;

/// Longest line either side accepts, bytes including the line feed.
pub const MAX_LINE: usize = 256 * 1024;
/// Most processes and unacknowledged exits kept at a time; more are refused.
pub const MAX_WATCHED: usize = 512;
/// Most clients connected at a time.
pub const MAX_CLIENTS: usize = 8;
/// Name of the socket inside the keeper's folder.
pub const SOCKET_NAME: &str = "keep.sock";

/// One request.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Request {
    /// Number that the answer carries back.
    pub seq: u64,
    /// What to do.
    #[serde(flatten)]
    pub op: Op,
}

/// What a client may ask for.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(tag = "op", rename_all = "camelCase")]
pub enum Op {
    /// Run an OCI runtime command that leaves a detached process behind, and watch that process.
    Start(Start),
    /// Watch a process somebody else started; its exit status stays unknown unless it is our child.
    #[serde(rename_all = "camelCase")]
    Adopt {
        /// Name the exit is reported under.
        id: String,
        /// Process ID.
        pid: i32,
        /// Start time of the process, clock ticks since boot; guards against a reused process ID.
        start_time: u64,
    },
    /// The process will be ended on purpose: its end is no crash. One who is not watched is nobody's concern.
    Stopping {
        /// Name of the process.
        id: String,
    },
    /// Everything watched and every exit not yet acknowledged; waits for commands that are running.
    List,
    /// Forget a stored exit.
    Ack {
        /// Name of the exited process.
        id: String,
        /// Process ID of the exit meant, so that a later one of the same name is not lost.
        pid: i32,
    },
    /// Answer the name questions of a network from now on, also after a restart of the keeper.
    SetNames {
        /// The network's table, in place of an earlier one.
        zone: Zone,
    },
    /// Forget the names of a network.
    DropNames {
        /// The network; an unknown one is no error.
        network: String,
    },
    /// Forget the names of every network that is not listed.
    KeepNames {
        /// The networks that stay.
        networks: BTreeSet<String>,
    },
}

/// Order to run one OCI runtime command.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Start {
    /// Name the exit is reported under: 1..=64 of `A-Z a-z 0-9 . _ -`, not starting with a dot.
    pub id: String,
    /// Command and arguments, run with an empty environment plus `env`.
    pub argv: Vec<String>,
    /// File into which the command writes the ID of the process it leaves behind.
    pub pid_file: PathBuf,
    /// Where standard output and standard error of the process go.
    pub log: Log,
    /// Environment of the command, `NAME=value`.
    #[serde(default)]
    pub env: Vec<String>,
}

/// A capped log file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Log {
    /// The file; its folder must exist. The old generation gets `.1` appended.
    pub path: PathBuf,
    /// Size at which the file is moved into the old generation, bytes.
    pub max_bytes: u64,
}

/// One line from the keeper.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "camelCase")]
pub enum Line {
    /// A request was carried out.
    Done {
        /// Number of the request.
        seq: u64,
        /// Its result.
        result: Outcome,
    },
    /// A request was not carried out and changed nothing.
    Refused {
        /// Number of the request; 0 when the line was not readable.
        seq: u64,
        /// Why.
        message: String,
    },
    /// A process writes its log faster than it is kept; told once a minute at most.
    Flood {
        /// Its name.
        id: String,
        /// Bytes thrown away that nobody was told of before.
        bytes: u64,
    },
    /// A watched process has ended.
    Exit {
        /// How.
        exit: Exit,
    },
}

/// Result of a request.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "is", rename_all = "camelCase")]
pub enum Outcome {
    /// The command succeeded and its process is watched; it may have ended already, then an exit follows.
    #[serde(rename_all = "camelCase")]
    Started {
        /// Process ID.
        pid: i32,
        /// Start time, clock ticks since boot; 0 when the process ended before it could be read.
        start_time: u64,
    },
    /// The command itself failed; nothing is watched.
    CommandFailed {
        /// Exit status of the command, or 128 plus the signal that ended it.
        status: i32,
    },
    /// The process is watched.
    Adopted,
    /// No such process (any more); an exit with unknown status is stored unless a better one was.
    Gone,
    /// What is known.
    List {
        /// Processes watched.
        watched: Vec<Watched>,
        /// Exits not acknowledged.
        exits: Vec<Exit>,
    },
    /// The exit is forgotten, the end expected, the names known.
    Acked,
}

/// A process under watch.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Watched {
    /// Its name.
    pub id: String,
    /// Process ID.
    pub pid: i32,
    /// Start time, clock ticks since boot.
    pub start_time: u64,
    /// Its log file, when the keeper started it.
    #[serde(default)]
    pub log: Option<Log>,
}

/// How a process ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Exit {
    /// Its name.
    pub id: String,
    /// Process ID it had.
    pub pid: i32,
    /// Exit status 0..=255; absent when a signal ended it or when nobody could tell.
    #[serde(default)]
    pub code: Option<i32>,
    /// Signal that ended it.
    #[serde(default)]
    pub signal: Option<i32>,
    /// When it was noticed, milliseconds since 1970.
    pub at_ms: u64,
}

/// True for a name that may be used in file names.
pub fn is_valid_id(id: &str) -> bool {
    !id.is_empty()
        && id.len() <= 64
        && !id.starts_with('.')
        && id.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-'))
}
