//! The command line.

use std::path::PathBuf;
use std::time::Duration;

use aos_cloud_gateway::{RateLimits, Settings};
use aos_cloud_listener::Limits;
use aos_cloud_pki::UnitLives;
use aos_logging::Level;
use clap::{Args, Parser, Subcommand};

const SHORTEST_LIFE: Duration = Duration::from_secs(10);
const LONGEST_LIFE: Duration = Duration::from_hours(100 * 365 * 24);
const HANDSHAKE_TIME: Duration = Duration::from_secs(10);
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
    /// Address of the metrics for Prometheus, plain HTTP without authentication: keep it local. Off when absent
    #[arg(long, value_name = "HOST:PORT")]
    pub listen_metrics: Option<String>,
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
    /// Time over which Units are moved away when the cloud is told to stop, and ten seconds at most for the
    /// last one; 0 = end their sessions at once
    #[arg(long, value_name = "SECONDS", default_value_t = 0, value_parser = clap::value_parser!(u64).range(0..=3600))]
    pub drain_time: u64,
    /// Certificates of Units.
    #[command(flatten)]
    pub certificates: UnitCertificates,
    /// Limits for Units.
    #[command(flatten)]
    pub limits: UnitLimits,
}

/// How long certificates of Units live, and when they are renewed.
#[derive(Debug, Clone, Copy, Args)]
#[command(next_help_heading = "Certificates of Units")]
pub struct UnitCertificates {
    /// How long certificates of Units are good, such as 730d or 12h; at least 10s
    #[arg(long, value_name = "TIME", default_value = "730d", value_parser = life)]
    pub unit_certificate_life: Duration,
    /// The same for type `offline`, whose key lets a Unit come back after the others have ended
    #[arg(long, value_name = "TIME", default_value = "3650d", value_parser = life)]
    pub offline_certificate_life: Duration,
    /// Share of a certificate's life after which it is renewed, per cent; 0 = only when asked to
    #[arg(long, value_name = "PERCENT", default_value_t = 67, value_parser = clap::value_parser!(u8).range(0..=99))]
    pub renew_at_percent: u8,
}

impl Default for UnitCertificates {
    fn default() -> Self {
        let of = |seconds: i64| Duration::from_secs(seconds.unsigned_abs());
        let usual = UnitLives::default();
        Self {
            unit_certificate_life: of(usual.usual),
            offline_certificate_life: of(usual.offline),
            renew_at_percent: 67,
        }
    }
}

impl UnitCertificates {
    /// As the certificate authority takes them.
    pub fn lives(&self) -> UnitLives {
        let seconds = |life: Duration| i64::try_from(life.as_secs()).unwrap_or(i64::MAX / 4);
        UnitLives {
            usual: seconds(self.unit_certificate_life),
            offline: seconds(self.offline_certificate_life),
        }
    }
}

fn life(text: &str) -> anyhow::Result<Duration> {
    let life = aos_duration_text::parse(text)?;
    anyhow::ensure!(
        (SHORTEST_LIFE..=LONGEST_LIFE).contains(&life),
        "a certificate lives 10 seconds to 100 years"
    );
    Ok(life)
}

/// How much Units may do. What is not given is as the gateway has it.
#[derive(Debug, Clone, Default, Args)]
#[command(next_help_heading = "Limits for Units")]
pub struct UnitLimits {
    /// Messages that one Unit may send in a second, on average (100)
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=100_000))]
    pub unit_messages_per_second: Option<u32>,
    /// Messages that one Unit may send at once before that counts (2000)
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    pub unit_message_burst: Option<u32>,
    /// KiB that one Unit may send in a second, on average (2048)
    #[arg(long, value_name = "KIB", value_parser = clap::value_parser!(u32).range(1..=1_048_576))]
    pub unit_kib_per_second: Option<u32>,
    /// Seconds that a Unit which sends too much is only read more slowly, before it gets nacks (10)
    #[arg(long, value_name = "SECONDS", value_parser = clap::value_parser!(u64).range(0..=3600))]
    pub unit_patience: Option<u64>,
    /// Sessions that may be opened in a second, on average (200)
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=100_000))]
    pub admissions_per_second: Option<u32>,
    /// Sessions that may be opened at once before that counts (1000)
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    pub admission_burst: Option<u32>,
    /// TLS handshakes of Units at the same time (128)
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=10_000))]
    pub handshakes: Option<u32>,
    /// The same from one address (64)
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=10_000))]
    pub handshakes_per_address: Option<u32>,
    /// Sessions at the same time (16384)
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    pub max_sessions: Option<u32>,
}

impl UnitLimits {
    /// As the gateway takes them.
    pub fn settings(&self) -> Settings {
        let usual = Settings::default();
        let of = |given: Option<u32>, usual: f64| given.map_or(usual, f64::from);
        let rate = RateLimits {
            messages_per_second: of(self.unit_messages_per_second, usual.rate.messages_per_second),
            message_burst: of(self.unit_message_burst, usual.rate.message_burst),
            bytes_per_second: self
                .unit_kib_per_second
                .map_or(usual.rate.bytes_per_second, |kib| f64::from(kib) * 1024.0),
            patience: self.unit_patience.map_or(usual.rate.patience, Duration::from_secs),
            ..usual.rate
        };
        Settings {
            rate,
            admissions_per_second: of(self.admissions_per_second, usual.admissions_per_second),
            admission_burst: of(self.admission_burst, usual.admission_burst),
            max_sessions: self.max_sessions.map_or(usual.max_sessions, |max| max as usize),
            ..usual
        }
    }

    /// As the Units' listener takes them.
    pub fn connections(&self) -> Limits {
        let of = |given: Option<u32>, usual: usize| given.map_or(usual, |given| given as usize);
        Limits {
            handshakes: of(self.handshakes, 128),
            handshakes_per_address: of(self.handshakes_per_address, 64),
            connections: self.settings().max_sessions,
            // Many vehicles share the address of a mobile network; sessions are limited by Unit.
            connections_per_address: usize::MAX,
            handshake_time: HANDSHAKE_TIME,
        }
    }
}
