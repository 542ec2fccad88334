//! The command line.

use std::path::PathBuf;

use aos_logging::Level;
use clap::{Args, Parser, Subcommand};

const EXAMPLES: &str = "\
Examples:
  aos-cloud run --data /var/lib/aos-cloud
      On this machine only. The first start makes the certificate authority and leaves a one-time
      administrator token in <data>/bootstrap-token.

  aos-cloud run --data /var/lib/aos-cloud --public-host cloud.example \\
      --listen-units 0.0.0.0:9000 --listen-api 0.0.0.0:10000 --listen-blobs 0.0.0.0:9443
      For Units and operators in a network that know it as cloud.example.

  aosctl login --cloud https://localhost:10000 --ca <data>/pki/root.pem \\
      --token-file <data>/bootstrap-token
      Makes the administrator's certificate.";

/// The cloud: registers Units, stores software, tells Units what to run and shows what they do.
#[derive(Debug, Parser)]
#[command(name = "aos-cloud", version, after_help = EXAMPLES)]
pub struct Options {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Run the cloud until SIGTERM or Ctrl-C
    #[command(after_help = EXAMPLES)]
    Run(RunOptions),
}

/// Options of `run`.
#[derive(Debug, Clone, Args)]
pub struct RunOptions {
    /// Folder of everything the cloud keeps: keys, database, blobs
    #[arg(long, value_name = "DIR")]
    pub data: PathBuf,
    /// Address for Units: discovery and WebSocket; port 0 = any, the same one after a restart
    #[arg(long, value_name = "HOST:PORT", default_value = "127.0.0.1:9000")]
    pub listen_units: String,
    /// Address of the REST API
    #[arg(long, value_name = "HOST:PORT", default_value = "127.0.0.1:10000")]
    pub listen_api: String,
    /// Address of blob downloads
    #[arg(long, value_name = "HOST:PORT", default_value = "127.0.0.1:9443")]
    pub listen_blobs: String,
    /// Name or address under which Units and operators reach this cloud; may be given several times, the
    /// first is its domain
    #[arg(long, value_name = "HOST", default_value = "localhost", value_delimiter = ',')]
    pub public_host: Vec<String>,
    /// Lowest severity that is logged: debug, info, warning or error
    #[arg(long, value_name = "LEVEL", default_value = "info")]
    pub log_level: Level,
    /// Threads that serve, 1 to 64
    #[arg(long, value_name = "N", default_value_t = 2, value_parser = clap::value_parser!(u16).range(1..=64))]
    pub workers: u16,
}
