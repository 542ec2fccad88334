//! Operator command line: enrol, provision Units, publish items, assign them, watch.
//!
//! Everything goes through the cloud's REST API with the user's certificate; only `unit provision` also
//! talks to a Unit that has no certificates yet.

mod args;
mod cloud;
mod enrol;
mod image;
mod items;
mod layer;
mod output;
mod profile;
mod provision;
mod units;

use std::process::ExitCode;

use args::{Cli, Command, ItemCommand, UnitCommand, UserCommand};
use clap::Parser;

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    let cli = Cli::parse();
    match run(cli).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("aosctl: {error:#}");
            ExitCode::FAILURE
        }
    }
}

async fn run(cli: Cli) -> anyhow::Result<()> {
    // A second provider in the tree would make rustls ask which; naming ours settles it for all of them.
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let out = output::Output::new(cli.output);
    let home = profile::Home::locate()?;
    if let Command::Login(login) = cli.command {
        return enrol::login(&home, &cli.profile, &login, &out).await;
    }
    let profile = home.load(&cli.profile)?;
    let cloud = cloud::Cloud::connect(&profile)?;
    match cli.command {
        Command::Login(_) => Ok(()),
        Command::Whoami => enrol::whoami(&cloud, &out).await,
        Command::User(UserCommand::Create(create)) => {
            enrol::create_user(&home, &profile, &cloud, &create, &out).await
        }
        Command::Unit(unit) => match unit {
            UnitCommand::List => units::list(&cloud, &out).await,
            UnitCommand::Show { unit } => units::show(&cloud, &unit, &out).await,
            UnitCommand::Status { unit, watch } => units::status(&cloud, &unit, watch, &out).await,
            UnitCommand::Provision(provision) => provision::provision(&cloud, &home, &provision, &out).await,
            UnitCommand::Deprovision { unit, force } => units::deprovision(&cloud, &unit, force, &out).await,
            UnitCommand::Delete { unit } => units::delete(&cloud, &unit, &out).await,
        },
        Command::Item(item) => match item {
            ItemCommand::Publish(publish) => items::publish(&cloud, &publish, &out).await,
            ItemCommand::List => items::list(&cloud, &out).await,
            ItemCommand::Versions { item } => items::versions(&cloud, &item, &out).await,
        },
        Command::Assign(assign) => items::assign(&cloud, &assign, &out).await,
        Command::Unassign { unit, item } => items::unassign(&cloud, &unit, &item, &out).await,
    }
}
