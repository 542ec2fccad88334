//! The command line as types; help texts live here and nowhere else.

mod operate;
mod protocol;

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};

pub use self::operate::{
    Alerts, CloudCommand, EnvCommand, Logs, NodeCommand, NodeSwitch, NodeTask, Renew, Scope, StateCommand,
    StateOf, Switch, UnitConfigCommand, Wait,
};
pub use self::protocol::{Check, ProtocolCommand, Record, Replay, Side};

/// Operate an AosEdge cloud: enrol users, provision Units, publish items, assign them and watch.
#[derive(Debug, Parser)]
#[command(
    name = "aosctl",
    version,
    after_help = "Examples:
  aosctl login --cloud https://localhost:10000 --ca root.pem --token-file bootstrap-token
  aosctl user create --role oem --company Acme --username kim --save-profile oem
  aosctl --profile oem unit provision --unit 10.0.0.100:8089
  aosctl --profile oem item publish --rootfs ./rootfs --cmd /app/server --codename hello --version 1.0.0
  aosctl --profile oem assign gateway-1 hello
  aosctl --profile oem unit status gateway-1 --watch"
)]
pub struct Cli {
    /// Credentials to use, as saved by `login` and `user create`.
    #[arg(long, global = true, env = "AOSCTL_PROFILE", default_value = "default", value_name = "NAME")]
    pub profile: String,
    /// How results are printed.
    #[arg(long, short, global = true, value_enum, default_value_t = Format::Table)]
    pub output: Format,
    #[command(subcommand)]
    pub command: Command,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Format {
    Table,
    Json,
}

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Exchange a one-time token for a user certificate and save it as a profile.
    Login(Login),
    /// Show who the cloud takes you for.
    Whoami,
    /// Manage users (administrators only).
    #[command(subcommand)]
    User(UserCommand),
    /// Look at Units, provision and deprovision them.
    #[command(subcommand)]
    Unit(UnitCommand),
    /// Publish and list deployable items.
    #[command(subcommand)]
    Item(ItemCommand),
    /// Make an item run on a Unit, or change how.
    Assign(Assign),
    /// Stop and remove an item from a Unit.
    Unassign {
        /// System ID or cloud id of the Unit.
        unit: String,
        /// Codename or id of the item.
        item: String,
    },
    /// Fetch logs of a Unit.
    Logs(Box<Logs>),
    /// Override environment variables of instances.
    #[command(subcommand)]
    Env(EnvCommand),
    /// Look at and replace the states of instances.
    #[command(subcommand)]
    State(StateCommand),
    /// Show what a Unit has raised alarm about.
    Alerts(Alerts),
    /// Show what nodes and instances of a Unit use.
    Monitoring {
        /// System ID or cloud id of the Unit.
        unit: String,
    },
    /// Provision and deprovision secondary nodes, pause and resume nodes.
    #[command(subcommand)]
    Node(NodeCommand),
    /// Look after the cloud itself (administrators only).
    #[command(subcommand)]
    Cloud(CloudCommand),
    /// Set and show the configuration of a Unit's nodes.
    #[command(subcommand)]
    UnitConfig(UnitConfigCommand),
    /// Check, record and replay messages between Units and cloud.
    #[command(subcommand)]
    Protocol(ProtocolCommand),
}

#[derive(Debug, Args)]
pub struct Login {
    /// Address of the cloud's API, for example https://localhost:10000.
    #[arg(long)]
    pub cloud: String,
    /// File with the cloud's root certificate (PEM); on the cloud's machine <data>/pki/root.pem.
    #[arg(long)]
    pub ca: PathBuf,
    /// File with the one-time token; `-` reads standard input.
    #[arg(long)]
    pub token_file: PathBuf,
}

#[derive(Debug, Subcommand)]
pub enum UserCommand {
    /// Create a user and its one-time token.
    Create(CreateUser),
}

#[derive(Debug, Args)]
pub struct CreateUser {
    #[arg(long, value_enum)]
    pub role: Role,
    /// Company the user acts for.
    #[arg(long)]
    pub company: String,
    #[arg(long)]
    pub username: String,
    #[arg(long, default_value = "")]
    pub email: String,
    /// Enrol right away and save the credentials under this profile name, instead of printing the token.
    #[arg(long, value_name = "NAME")]
    pub save_profile: Option<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Role {
    Oem,
    Sp,
    Fleet,
    Admin,
}

impl Role {
    pub const fn word(self) -> &'static str {
        match self {
            Self::Oem => "oem",
            Self::Sp => "sp",
            Self::Fleet => "fleet",
            Self::Admin => "admin",
        }
    }
}

#[derive(Debug, Subcommand)]
pub enum UnitCommand {
    /// List Units.
    List,
    /// Show one Unit: identity, nodes, certificates.
    Show {
        /// System ID or cloud id of the Unit.
        unit: String,
    },
    /// Show nodes, items and instances of a Unit as it reports them.
    Status {
        /// System ID or cloud id of the Unit.
        unit: String,
        /// Keep showing changes until Ctrl-C.
        #[arg(long, short)]
        watch: bool,
    },
    /// Make a Unit's keys, have the cloud sign them, and install the certificates.
    Provision(Provision),
    /// Forget a Unit's certificates in the cloud, so that it can be provisioned anew.
    Deprovision {
        /// System ID or cloud id of the Unit.
        unit: String,
        /// Even while it is online: its session is closed.
        #[arg(long)]
        force: bool,
    },
    /// Show the nodes of a Unit, their states and what is being done with them.
    Nodes {
        /// System ID or cloud id of the Unit.
        unit: String,
    },
    /// Have a Unit renew certificates: it makes new keys, the cloud signs them.
    Renew(Renew),
    /// Send messages with secrets sealed for the Unit's offline key, or no longer.
    #[command(
        after_help = "The Unit opens them only with \"openEnvelopedMessages\": true in its aos_cm.cfg: set that first."
    )]
    Seal {
        /// System ID or cloud id of the Unit.
        unit: String,
        #[arg(value_enum)]
        switch: Switch,
    },
    /// Make a one-time token with which a Unit whose certificates have all ended gets new ones: give it to
    /// `aos iam recover` on the Unit.
    RecoveryToken {
        /// System ID or cloud id of the Unit.
        unit: String,
    },
    /// Remove a deprovisioned Unit from the cloud.
    Delete {
        /// System ID or cloud id of the Unit.
        unit: String,
    },
}

#[derive(Debug, Args)]
pub struct Provision {
    /// Address of the Unit's Identity and Access Manager in provisioning mode.
    #[arg(long, value_name = "HOST[:PORT]")]
    pub unit: String,
    /// Nodes to wait for before provisioning begins.
    #[arg(long, default_value_t = 1)]
    pub nodes: usize,
    /// Seconds to wait for the Unit to answer and its nodes to appear.
    #[arg(long, default_value_t = 60, value_parser = clap::value_parser!(u64).range(..=86_400))]
    pub wait: u64,
    /// Forget an earlier run that was cut off, and make new keys.
    #[arg(long)]
    pub restart: bool,
}

#[derive(Debug, Subcommand)]
pub enum ItemCommand {
    /// Upload an image as a version of an item; only blobs the cloud lacks are sent.
    Publish(Box<Publish>),
    /// List items.
    List,
    /// List the versions of an item.
    Versions {
        /// Codename or id of the item.
        item: String,
    },
}

#[derive(Debug, Args)]
#[command(group = clap::ArgGroup::new("source").required(true).args(["oci", "rootfs"]))]
pub struct Publish {
    /// OCI image layout: a folder or a tar archive.
    #[arg(long, value_name = "PATH")]
    pub oci: Option<PathBuf>,
    /// Folder that becomes the root file system of a one-layer image.
    #[arg(long, value_name = "DIR", requires = "cmd")]
    pub rootfs: Option<PathBuf>,
    /// Program and arguments to run, separated by blanks (with --rootfs).
    #[arg(long, conflicts_with = "oci", allow_hyphen_values = true)]
    pub cmd: Option<String>,
    /// Environment variable (with --rootfs; may be repeated).
    #[arg(long, value_name = "NAME=VALUE", conflicts_with = "oci")]
    pub env: Vec<String>,
    /// Exposed port (with --rootfs; may be repeated).
    #[arg(long, value_name = "PORT[/PROTO]", conflicts_with = "oci")]
    pub expose: Vec<String>,
    /// Folder in which the program starts (with --rootfs).
    #[arg(long, value_name = "DIR", conflicts_with = "oci")]
    pub working_dir: Option<String>,
    /// Architecture of the image (with --rootfs): amd64, arm64, arm.
    #[arg(long, default_value = std::env::consts::ARCH, conflicts_with = "oci")]
    pub arch: String,
    /// Name of the item, unique for your company.
    #[arg(long)]
    pub codename: String,
    /// Version to publish (semantic version).
    #[arg(long)]
    pub version: String,
    /// Title shown to people.
    #[arg(long)]
    pub title: Option<String>,
    /// Item configuration (JSON): quotas, resources, run parameters, permissions.
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub struct Assign {
    /// System ID or cloud id of the Unit.
    pub unit: String,
    /// Codename or id of the item.
    pub item: String,
    /// Version to run; `latest` follows new versions.
    #[arg(long, default_value = "latest")]
    pub version: String,
    /// Instances to run.
    #[arg(long, default_value_t = 1)]
    pub instances: u32,
    /// Priority, 0 to 999999; higher is placed first.
    #[arg(long, default_value_t = 0)]
    pub priority: u32,
    /// Label a node must have (may be repeated).
    #[arg(long, value_name = "LABEL")]
    pub label: Vec<String>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        use clap::CommandFactory;
        Cli::command().debug_assert();
    }
}
