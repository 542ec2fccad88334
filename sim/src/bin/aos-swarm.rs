//! Virtual Units for a cloud, driven by lines on standard input; each answers with a line of JSON.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context as _, bail};
use aos_sim::{Fleet, Swarm, Target, serve_bare};
use clap::{Parser, Subcommand};
use serde_json::json;
use tokio::io::{AsyncBufReadExt as _, BufReader};

/// Virtual Units for a cloud
#[derive(Parser)]
struct Options {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Register Units in the data of a cloud that does not run
    Prepare {
        /// Data folder of the cloud
        #[arg(long)]
        data: PathBuf,
        /// How many
        #[arg(long)]
        units: usize,
    },
    /// Connect prepared Units to the running cloud. Lines: `connect COUNT PARALLEL`,
    /// `send SECONDS PER_SECOND` (0 = as fast as acknowledged), `handshakes COUNT PARALLEL PORT`, `quit`
    Run {
        /// Data folder of the cloud
        #[arg(long)]
        data: PathBuf,
        /// Port of its listener for Units on this machine
        #[arg(long)]
        port: u16,
    },
    /// Serve TLS handshakes and nothing else, until standard input ends
    Bare {
        /// Data folder of the cloud whose certificates are used
        #[arg(long)]
        data: PathBuf,
    },
}

#[tokio::main]
async fn main() -> ExitCode {
    match run(Options::parse().command).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("aos-swarm: {error:#}");
            ExitCode::FAILURE
        }
    }
}

async fn run(command: Command) -> anyhow::Result<()> {
    let mut lines = BufReader::new(tokio::io::stdin()).lines();
    match command {
        Command::Prepare { data, units } => {
            Fleet::prepare(&data, units).await?;
            println!("{}", json!({"units": units}));
        }
        Command::Bare { data } => {
            println!("{}", json!({"port": serve_bare(&data)?.port()}));
            while lines.next_line().await?.is_some() {}
        }
        Command::Run { data, port } => {
            let target = Target { host: "127.0.0.1".to_owned(), port };
            let mut swarm = Swarm::new(Fleet::open(&data)?, target.clone());
            println!("{}", json!({"ready": true}));
            while let Some(line) = lines.next_line().await? {
                let words: Vec<&str> = line.split_whitespace().collect();
                let number = |at: usize| -> anyhow::Result<u32> {
                    words.get(at).context("a number is missing")?.parse().context("no number")
                };
                let answer = match words.first() {
                    Some(&"connect") => {
                        json!(swarm.connect(number(1)? as usize, number(2)? as usize).await?)
                    }
                    Some(&"send") => {
                        json!(swarm.send(Duration::from_secs(number(1)?.into()), number(2)?).await)
                    }
                    Some(&"handshakes") => {
                        let port = u16::try_from(number(3)?).context("no port")?;
                        let target = Target { port, ..target.clone() };
                        let done =
                            swarm.shake_hands(&target, number(1)? as usize, number(2)? as usize).await?;
                        json!({"handshakes": done})
                    }
                    Some(&"quit") => return Ok(()),
                    _ => bail!("unknown line '{line}'"),
                };
                println!("{answer}");
            }
        }
    }
    Ok(())
}
