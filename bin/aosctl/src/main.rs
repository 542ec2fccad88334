//! Operator command line: enrol, provision Units, publish items, assign them, watch.
//!
//! Everything goes through the cloud's REST API with the user's certificate; only `unit provision` also
//! talks to a Unit that has no certificates yet.

mod args;
mod cloud;
mod enrol;
mod env;
mod follow;
mod gateway;
mod image;
mod item_config;
mod items;
mod layer;
mod log_follow;
mod logs;
mod nodes;
mod observe;
mod output;
mod profile;
mod protocol;
mod provision;
mod renew;
mod states;
mod unit_config;
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
            if let Some(status) = protocol::exit_status(&error) {
                return status;
            }
            eprintln!("aosctl: {error:#}");
            ExitCode::FAILURE
        }
    }
}

async fn run(cli: Cli) -> anyhow::Result<()> {
    // A second provider in the tree would make rustls ask which; naming ours settles it for all of them.
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let out = output::Output::new(cli.output);
    if let Command::Protocol(command) = &cli.command
        && let Some(done) = protocol::without_login(command, &out).await
    {
        return done;
    }
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
            UnitCommand::Nodes { unit } => nodes::list(&cloud, &unit, &out).await,
            UnitCommand::Renew(renew) => renew::renew(&cloud, &renew, &out).await,
            UnitCommand::Seal { unit, switch } => gateway::seal(&cloud, &unit, switch, &out).await,
            UnitCommand::RecoveryToken { unit } => renew::recovery_token(&cloud, &unit, &out).await,
            UnitCommand::Delete { unit } => units::delete(&cloud, &unit, &out).await,
        },
        Command::Item(item) => match item {
            ItemCommand::Publish(publish) => items::publish(&cloud, &publish, &out).await,
            ItemCommand::List => items::list(&cloud, &out).await,
            ItemCommand::Versions { item } => items::versions(&cloud, &item, &out).await,
        },
        Command::Assign(assign) => items::assign(&cloud, &assign, &out).await,
        Command::Unassign { unit, item } => items::unassign(&cloud, &unit, &item, &out).await,
        Command::Logs(logs) => logs::fetch(&cloud, &logs, &out).await,
        Command::Env(env) => env::run(&cloud, &env, &out).await,
        Command::State(state) => states::run(&cloud, &state, &out).await,
        Command::Alerts(alerts) => observe::alerts(&cloud, &alerts, &out).await,
        Command::Monitoring { unit } => observe::monitoring(&cloud, &unit, &out).await,
        Command::Node(node) => nodes::run(&cloud, &node, &out).await,
        Command::Cloud(command) => gateway::run(&cloud, &command, &out).await,
        Command::UnitConfig(config) => unit_config::run(&cloud, &config, &out).await,
        Command::Protocol(command) => protocol::run(&cloud, &command, &out).await,
    }
}
