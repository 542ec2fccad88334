//! The device binary. Four processes share one mapped program text, which is most of a daemon's memory;
//! they stay separate processes because that is the security and crash boundary.
//!
//! Only composition lives here: which component runs, with which log output.

mod cli;
mod iam;
#[cfg(feature = "sm")]
mod logs;
mod status;

use std::process::ExitCode;

use cli::{Command, Daemon, DaemonFlags};

fn main() -> ExitCode {
    match cli::parse(std::env::args_os()).and_then(run) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("aos: {}", aos_logging::with_causes(error.as_ref()));
            ExitCode::FAILURE
        }
    }
}

fn run(command: Command) -> anyhow::Result<()> {
    match command {
        Command::Print(text) => {
            println!("{}", text.trim_end());
            Ok(())
        }
        Command::Iam(query) => iam::show(&query),
        Command::Status { run_dir, json } => status::show(run_dir, json),
        #[cfg(feature = "sm")]
        Command::Logs(query) => logs::show(&query),
        #[cfg(feature = "iam")]
        Command::Recover { token_file, run_dir } => recover(token_file.as_deref(), run_dir),
        #[cfg(not(feature = "iam"))]
        Command::Recover { .. } => anyhow::bail!("this build does not contain `iam`"),
        #[cfg(feature = "sm")]
        Command::Keep { dir } => {
            aos_footprint::frugal_allocator();
            Ok(aos_keep::run(aos_keep::Args { dir })?)
        }
        #[cfg(not(feature = "sm"))]
        Command::Keep { .. } => anyhow::bail!("this build does not contain `keep`"),
        #[cfg(feature = "sm")]
        Command::Native(words) => {
            let args = aos_native::Args::parse(&words);
            let args = args.ok_or_else(|| anyhow::anyhow!("`aos native` is for the Service Manager only"))?;
            Ok(aos_native::run(args)?)
        }
        #[cfg(not(feature = "sm"))]
        Command::Native(_) => anyhow::bail!("this build does not contain `native`"),
        Command::Daemon(daemon, flags) => run_daemon(daemon, flags),
    }
}

#[cfg(feature = "iam")]
fn recover(token_file: Option<&std::path::Path>, run_dir: Option<std::path::PathBuf>) -> anyhow::Result<()> {
    use anyhow::Context as _;

    let token = token_file.map(|path| {
        let text =
            std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
        let token = text.trim().to_owned();
        anyhow::ensure!(!token.is_empty(), "{} is empty", path.display());
        Ok(token)
    });
    let token = token.transpose()?;
    let run_dir = run_dir.unwrap_or_else(aos_local_status::run_dir);
    let done = aos_iam::ask_recovery(&run_dir, token.as_deref())?;
    println!("{done}");
    Ok(())
}

fn run_daemon(daemon: Daemon, flags: DaemonFlags) -> anyhow::Result<()> {
    aos_footprint::frugal_allocator();
    aos_footprint::settle()?;
    aos_logging::init(daemon.word(), flags.level, flags.output)?;
    match daemon {
        #[cfg(feature = "cm")]
        Daemon::Cm => Ok(aos_cm::run(aos_cm::Args { config: flags.config })?),
        #[cfg(feature = "sm")]
        Daemon::Sm => Ok(aos_sm::run(aos_sm::Args { config: flags.config })?),
        #[cfg(feature = "iam")]
        Daemon::Iam => {
            Ok(aos_iam::run(aos_iam::Args { config: flags.config, provisioning: flags.provisioning })?)
        }
        #[cfg(not(all(feature = "cm", feature = "sm", feature = "iam")))]
        other => anyhow::bail!("this build does not contain `{}`", other.word()),
    }
}
