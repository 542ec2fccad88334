//! Communication Manager: the Unit's only contact with the cloud.
//!
//! It keeps what the cloud wished (the desired status) durably, fetches and verifies what is missing, decides
//! where instances run, tells the Service Managers of the nodes, and reports back. One process, one thread,
//! one task per module; the rules of each module are pure and live in its core files.
//!
//! Limits: 64 items, 256 instances, 16 nodes, 4 networks for a Unit, as every peer of the protocol has them.

mod alerts;
mod app;
mod communication;
mod config;
mod database;
mod envvars;
mod error;
mod fileserver;
mod iamclient;
mod imagemanager;
mod images;
mod launcher;
mod logrelay;
mod logupload;
mod monitoring;
mod networkmanager;
mod nodeinfoprovider;
mod smcontroller;
mod storagestate;
mod transport;
mod unitconfig;
mod updatemanager;

use std::path::PathBuf;

pub use config::{Config, ConfigError};
pub use error::Error;

/// What the command line says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Args {
    /// Configuration file, upstream's `aos_cm.cfg` format.
    pub config: PathBuf,
}

/// Runs the Communication Manager until it is told to stop by SIGTERM or SIGINT.
///
/// Builds its own single-threaded runtime. Returns an error at once when the configuration is wrong or the
/// database cannot be opened; IAM or the cloud not being there yet is no error: it waits for them.
#[allow(clippy::needless_pass_by_value, reason = "the same form for all components")]
pub fn run(args: Args) -> Result<(), Error> {
    app::run(&args.config)
}
