//! Arguments of the commands about messages of the cloud protocol.

use std::path::PathBuf;

use clap::{Args, Subcommand, ValueEnum};

#[derive(Debug, Subcommand)]
pub enum ProtocolCommand {
    /// Say what is wrong with messages, where, and what peers would do with them.
    Check(Check),
    /// Print the JSON Schema of all messages.
    Schema,
    /// Record what a Unit and the cloud say to each other.
    Record(Record),
    /// Show a recording as a timeline, or send it to a cloud again.
    Replay(Replay),
}

#[derive(Debug, Args)]
#[command(
    after_help = "A file holds one message, or one per line: bare, as `TX: ...` and `RX: ...` of a Unit's \
message log, or as a recording has them.

Exit status: 0 every peer takes all of them, 1 some deviate or are beyond what upstream Units take, 2 some cannot
be used."
)]
pub struct Check {
    /// File with messages; `-` reads standard input.
    pub file: String,
    /// Who sent them, where the file does not say.
    #[arg(long, value_enum)]
    pub from: Option<Side>,
}

/// An end of the link.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Side {
    Unit,
    Cloud,
}

#[derive(Debug, Args)]
#[command(
    after_help = "A recording has one JSON document per line: {\"at\": time, \"from\": \"unit\" or \"cloud\", \
\"frame\": message}. The cloud blanks secrets; a Unit's message log has them all."
)]
pub struct Record {
    /// System ID or cloud id of the Unit.
    #[arg(required_unless_present = "from_log")]
    pub unit: Option<String>,
    /// Make the recording from a Unit's message log (`cloudMessageLog`) instead of asking the cloud.
    #[arg(long, value_name = "FILE", conflicts_with_all = ["unit", "duration"])]
    pub from_log: Option<PathBuf>,
    /// File for the recording; standard output when absent.
    #[arg(long = "file", short = 'O', value_name = "FILE")]
    pub file: Option<PathBuf>,
    /// How long, for instance 30s; until Ctrl-C when absent.
    #[arg(long = "for", value_name = "DURATION", value_parser = aos_duration_text::parse)]
    pub duration: Option<std::time::Duration>,
}

#[derive(Debug, Args)]
#[command(
    after_help = "With --to-cloud each message of the Unit is sent once, with a fresh transaction, after the one \
before was acknowledged. What the cloud sends meanwhile is not acknowledged, so the true Unit still gets it. Never do
this with the certificate of a Unit that is in use: it is disconnected, and the cloud believes what is replayed."
)]
pub struct Replay {
    /// Recording or message log; `-` reads standard input.
    pub file: String,
    /// Send the Unit's messages to this cloud: https:// of its discovery, or wss:// of its gateway.
    #[arg(long, value_name = "URL", requires = "identity", requires = "ca")]
    pub to_cloud: Option<String>,
    /// Certificate chain and private key of a Unit (PEM files), separated by a comma.
    #[arg(long, value_name = "CERT,KEY", requires = "to_cloud")]
    pub identity: Option<String>,
    /// Root certificate of the cloud (PEM file).
    #[arg(long, value_name = "FILE", requires = "to_cloud")]
    pub ca: Option<PathBuf>,
    /// System ID of that Unit; the one of the recording when absent.
    #[arg(long, value_name = "ID", requires = "to_cloud")]
    pub system_id: Option<String>,
}
