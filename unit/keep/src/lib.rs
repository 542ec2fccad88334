//! Child subreaper of a node: keeps exit statuses and caps log files while managers restart.
//!
//! `aos keep --dir DIR` is one thread and one loop: no asynchronous runtime, no TLS, no token, hardly any
//! memory. The Service Manager lets it run the OCI runtime's command; the container's first process is then
//! orphaned and, because the keeper is the child subreaper, becomes its child. So its exit status is known at
//! once and kept on disk until the Service Manager has acknowledged it, whoever was alive in between. Beside
//! each log file it keeps an index of when its lines were written and how the process ended. It also runs the
//! name server of the instances (`aos-names`), so that names resolve while managers restart.
//!
//! Limits: 512 processes, 8 clients, lines of 256 KiB, 30 seconds a command. The keeper trusts its clients (same user, socket mode
//! 0600): it runs the commands they name. SIGTERM ends it and leaves the containers alone.

pub mod client;
mod clients;
mod commands;
mod connection;
pub mod index;
mod logs;
pub mod process;
pub mod protocol;
mod records;
mod refusal;
mod server;
mod setup;
mod watch;

use std::io;
use std::path::PathBuf;
use std::time::Duration;

pub use client::{Client, ClientError};
pub use logs::{files_of, old_generation};

/// Command line of `aos keep`.
#[derive(Debug, Clone)]
pub struct Args {
    /// Folder that holds the socket, the watch records and the kept exit statuses.
    pub dir: PathBuf,
}

/// Why the keeper could not go on.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A folder of ours cannot be made.
    #[error("cannot make folder {}", path.display())]
    Folder {
        /// The folder.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// Another keeper serves this folder.
    #[error("another keeper already serves {}", path.display())]
    AlreadyServed {
        /// The socket.
        path: PathBuf,
    },
    /// The socket cannot be made.
    #[error("cannot listen on {}", path.display())]
    Listen {
        /// The socket.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A system call of the set-up or of the loop failed.
    #[error("cannot {action}")]
    System {
        /// What was tried.
        action: &'static str,
        /// Why.
        #[source]
        source: nix::Error,
    },
    /// A record cannot be stored or removed.
    #[error("cannot keep record {}", path.display())]
    Record {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A record cannot be written as JSON.
    #[error("cannot encode a record")]
    Encode {
        /// Why.
        #[source]
        source: serde_json::Error,
    },
}

/// A runtime command that takes longer is killed.
pub const COMMAND_LIMIT: Duration = Duration::from_secs(30);

/// Serves `args.dir` until SIGTERM; blocking. Call it from a process with a single thread: it blocks signals
/// for the calling thread only.
pub fn run(args: Args) -> Result<(), Error> {
    run_with_limit(args, COMMAND_LIMIT)
}

/// [`run`] with another time after which a runtime command is killed.
#[allow(clippy::needless_pass_by_value, reason = "same shape as every component's entry")]
pub fn run_with_limit(args: Args, command_limit: Duration) -> Result<(), Error> {
    server::Server::open(&args.dir, command_limit)?.run()
}

/// One line for whoever looks after the machine; the keeper carries no logger.
fn note(text: &str) {
    eprintln!("keep: {text}");
}
