//! Arguments of the commands that look into a running Unit and act on it.

use std::path::PathBuf;

use clap::{Args, Subcommand, ValueEnum};

/// Waiting for a Unit.
#[derive(Debug, Args)]
pub struct Wait {
    /// Seconds to wait; what was asked goes on in the cloud after that.
    #[arg(long, default_value_t = 300, value_name = "SECONDS", value_parser = clap::value_parser!(u64).range(1..=86_400))]
    pub timeout: u64,
}

#[derive(Debug, Args)]
#[command(after_help = "Examples:
  aosctl logs gateway-1 web                      what instance 0 and all others of the item wrote
  aosctl logs gateway-1 web -f --since 5m        the last five minutes and what comes, until Ctrl-C
  aosctl logs gateway-1 web --from 1h            the last hour only
  aosctl logs gateway-1 web --crash              what came before its last crash
  aosctl logs gateway-1 --system --node main     the system log of one node
  aosctl logs gateway-1 --request ID -O log.txt  take up an earlier request

A request waits in the cloud until the Unit is online. Interrupt the waiting with Ctrl-C at any time and take it up
with --request.")]
pub struct Logs {
    /// System ID or cloud id of the Unit.
    pub unit: String,
    /// Codename or id of the item whose output is wanted.
    #[arg(required_unless_present_any = ["system", "request", "list"], conflicts_with_all = ["system", "request", "list"])]
    pub item: Option<String>,
    /// The log of the nodes' systems instead of an item's output.
    #[arg(long, conflicts_with = "crash")]
    pub system: bool,
    /// Only what came before the last crash.
    #[arg(long, requires = "item")]
    pub crash: bool,
    /// Node to ask (may be repeated); all when absent.
    #[arg(long, value_name = "NODE")]
    pub node: Vec<String>,
    /// Subject of the instance, when the item runs for several.
    #[arg(long, value_name = "ID", requires = "item")]
    pub subject: Option<String>,
    /// Number of the instance, from 0; all when absent.
    #[arg(long, value_name = "N", requires = "item")]
    pub instance: Option<u64>,
    /// Keep showing what is written, until Ctrl-C.
    #[arg(long, short, conflicts_with_all = ["crash", "till", "request", "list"])]
    pub follow: bool,
    /// Earliest time: RFC 3339, or how long ago, such as 30m.
    #[arg(long, visible_alias = "since", value_name = "TIME")]
    pub from: Option<String>,
    /// Latest time: RFC 3339, or how long ago, such as 5m.
    #[arg(long, value_name = "TIME")]
    pub till: Option<String>,
    /// How the Unit sends them.
    #[arg(long, value_enum, default_value_t = Upload::Wss)]
    pub upload: Upload,
    /// Take up an earlier request.
    #[arg(long, value_name = "ID", conflicts_with_all = ["system", "list", "node", "from", "till"])]
    pub request: Option<String>,
    /// List the requests that the cloud keeps.
    #[arg(long, conflicts_with = "system")]
    pub list: bool,
    /// File for the text; standard output when absent.
    #[arg(long = "file", short = 'O', value_name = "FILE")]
    pub file: Option<PathBuf>,
    #[command(flatten)]
    pub wait: Wait,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Upload {
    /// In messages of the Unit's session.
    Wss,
    /// By an upload of its own, for long logs.
    Https,
}

impl Upload {
    pub const fn word(self) -> &'static str {
        match self {
            Self::Wss => "wss",
            Self::Https => "https",
        }
    }
}

/// Which instances an override is for; all when nothing is given.
#[derive(Debug, Args)]
pub struct Scope {
    /// Codename or id of the item.
    #[arg(long, value_name = "ITEM")]
    pub item: Option<String>,
    /// Id of the subject.
    #[arg(long, value_name = "ID")]
    pub subject: Option<String>,
    /// Number of the instance, from 0.
    #[arg(long, value_name = "N")]
    pub instance: Option<u64>,
}

#[derive(Debug, Subcommand)]
pub enum EnvCommand {
    /// Show the overridden variables of a Unit and what became of them.
    Get {
        /// System ID or cloud id of the Unit.
        unit: String,
    },
    /// Override variables; the instances concerned are restarted, their storage is kept.
    #[command(after_help = "Example:\n  aosctl env set gateway-1 LOG_LEVEL=debug --item web --ttl 1h")]
    Set {
        /// System ID or cloud id of the Unit.
        unit: String,
        /// Variables.
        #[arg(required = true, value_name = "NAME=VALUE")]
        variables: Vec<String>,
        #[command(flatten)]
        scope: Scope,
        /// The Unit drops the override after this time, such as 1h; or at this time (RFC 3339).
        #[arg(long, value_name = "TIME")]
        ttl: Option<String>,
    },
    /// Take overrides back; without names all of the scope, without a scope everything.
    Unset {
        /// System ID or cloud id of the Unit.
        unit: String,
        /// Names of variables.
        names: Vec<String>,
        #[command(flatten)]
        scope: Scope,
    },
}

/// One instance's state.
#[derive(Debug, Args)]
pub struct StateOf {
    /// System ID or cloud id of the Unit.
    pub unit: String,
    /// Codename or id of the item.
    pub item: String,
    /// Id of the subject; the Unit's own when absent.
    #[arg(long, default_value = "default", value_name = "ID")]
    pub subject: String,
    /// Number of the instance, from 0.
    #[arg(long, default_value_t = 0, value_name = "N")]
    pub instance: u64,
}

#[derive(Debug, Subcommand)]
pub enum StateCommand {
    /// List the states that the cloud keeps of a Unit's instances.
    List {
        /// System ID or cloud id of the Unit.
        unit: String,
    },
    /// Print an instance's state.
    Get {
        #[command(flatten)]
        of: StateOf,
        /// File for the state; standard output when absent.
        #[arg(long = "file", short = 'O', value_name = "FILE")]
        file: Option<PathBuf>,
    },
    /// Give an instance another state: UTF-8, at most 64 KiB and the item's quota.
    Set {
        #[command(flatten)]
        of: StateOf,
        /// File with the state; `-` reads standard input.
        #[arg(value_name = "FILE")]
        file: PathBuf,
    },
    /// Give an instance an empty state, as it had at its first start.
    Reset {
        #[command(flatten)]
        of: StateOf,
    },
}

#[derive(Debug, Args)]
pub struct Alerts {
    /// System ID or cloud id of the Unit.
    pub unit: String,
    /// Newest entries to show, 1 to 100.
    #[arg(long, default_value_t = 20, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=100))]
    pub limit: u32,
    /// Keep showing new ones until Ctrl-C.
    #[arg(long, short)]
    pub watch: bool,
}

#[derive(Debug, Args)]
#[command(after_help = "Examples:
  aosctl unit renew gateway-1 --type online --type iam
  aosctl unit renew gateway-1 --node main --wait

The cloud knows the owner passwords of nodes it has provisioned; --secret and --secret-file are for others.")]
pub struct Renew {
    /// System ID or cloud id of the Unit.
    pub unit: String,
    /// Type of certificates (may be repeated): online, offline, iam, cm, sm; all when absent.
    #[arg(long = "type", value_name = "TYPE")]
    pub types: Vec<String>,
    /// Node (may be repeated); all when absent.
    #[arg(long, value_name = "NODE")]
    pub node: Vec<String>,
    /// Owner password of a node's token (may be repeated). Others on this machine may see it while the command runs.
    #[arg(long, value_name = "NODE=PASSWORD")]
    pub secret: Vec<String>,
    /// File with owner passwords: a line NODE=PASSWORD for each node.
    #[arg(long, value_name = "FILE")]
    pub secret_file: Option<PathBuf>,
    /// Take up an earlier renewal.
    #[arg(long, value_name = "ID", conflicts_with_all = ["types", "node", "secret", "secret_file"])]
    pub request: Option<String>,
    /// Wait until the Unit has installed them.
    #[arg(long)]
    pub wait: bool,
    #[command(flatten)]
    pub time: Wait,
}

#[derive(Debug, Subcommand)]
pub enum NodeCommand {
    /// Make a secondary node's keys and certificates.
    Provision(NodeTask),
    /// Take a secondary node's keys and certificates away.
    Deprovision(NodeTask),
    /// Stop all instances of a node and place none on it.
    Pause(NodeSwitch),
    /// Let a paused node run instances again.
    Resume(NodeSwitch),
}

#[derive(Debug, Args)]
pub struct NodeTask {
    /// System ID or cloud id of the Unit.
    pub unit: String,
    /// Id of the node.
    pub node: String,
    /// File with the owner password of the node's token; the cloud makes one, or takes the one it keeps, when absent.
    #[arg(long, value_name = "FILE")]
    pub password_file: Option<PathBuf>,
    /// Wait until it is done.
    #[arg(long)]
    pub wait: bool,
    #[command(flatten)]
    pub time: Wait,
}

#[derive(Debug, Args)]
pub struct NodeSwitch {
    /// System ID or cloud id of the Unit.
    pub unit: String,
    /// Id of the node.
    pub node: String,
    /// Wait until the Unit reports it.
    #[arg(long)]
    pub wait: bool,
    #[command(flatten)]
    pub time: Wait,
}

#[derive(Debug, Subcommand)]
pub enum UnitConfigCommand {
    /// Have a Unit install a configuration; its version must be higher than the installed one.
    Set {
        /// System ID or cloud id of the Unit.
        unit: String,
        /// File with the document (JSON: version, formatVersion, nodes).
        #[arg(value_name = "FILE")]
        file: PathBuf,
        /// Wait until it is installed or refused.
        #[arg(long)]
        wait: bool,
        #[command(flatten)]
        time: Wait,
    },
    /// Show the wanted configuration and what the Unit reports.
    Show {
        /// System ID or cloud id of the Unit.
        unit: String,
    },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Switch {
    On,
    Off,
}

#[derive(Debug, Subcommand)]
pub enum CloudCommand {
    /// Show how many Units are connected and whether they are being moved away.
    Status,
    /// Move all Units away before a stop: each session ends after what it was doing, spread over some time.
    Drain {
        /// Seconds over which the sessions end.
        #[arg(long, default_value_t = 30, value_name = "SECONDS", value_parser = clap::value_parser!(u64).range(0..=3600))]
        over: u64,
        /// Wait until no Unit is connected.
        #[arg(long)]
        wait: bool,
    },
    /// Let Units connect again.
    Resume,
}
