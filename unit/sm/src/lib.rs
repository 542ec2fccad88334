//! Service Manager: installs images and runs service instances on one node.
//!
//! It does what the Communication Manager asks, and keeps doing it without: wishes are stored, instances are
//! started from the store, containers go on running while this program is away and are taken up again. The
//! rules are pure (`launcher::core` and its neighbours, the container specification, the plan of a native
//! service); one task for each module carries them out.
//!
//! Limits: 256 instances, 4 runtimes, 2 versions of an item on disk. Not built yet: components.

mod alerts;
mod app;
mod config;
mod database;
mod error;
mod iamclient;
mod imagemanager;
mod instance;
mod journal;
mod launcher;
mod logprovider;
mod monitoring;
mod networkmanager;
mod nodeconfig;
mod ownlog;
mod permissions;
mod resourcemanager;
mod runtimes;
mod smclient;

use std::path::PathBuf;

pub use app::{Surroundings, run_with, runtime_id};
pub use config::{Config, ContainerConfig};
pub use error::Error;
pub use logprovider::{Shown, has_components, print_log, since};

/// Parts that tests run alone, without a Service Manager around them. No interface for anybody else.
#[doc(hidden)]
pub mod parts {
    pub use crate::config::SeccompChoice;
    pub use crate::database::Database;
    pub use crate::imagemanager::{Image, ImageManager, RawBlob, Retention};
    pub use crate::instance::InstanceInfo;
    pub use crate::journal::{Entry as JournalEntry, text as journal_text};
    pub use crate::launcher::judge_http;
    pub use crate::networkmanager::{Prepared, connections};
    pub use crate::ownlog::parse as parse_own_line;
    pub use crate::permissions::Secret;
    pub use crate::resourcemanager::{Attached, Device};
    pub use crate::runtimes::container::{ContainerRuntime, NodeFigures};
    pub use crate::runtimes::keeper::{Flood, Keeper, Known};
    pub use crate::runtimes::{Alive, CgroupPaths, Data, Grace, Runtime, StartJob};
    pub use crate::smclient::CmCalls;
}

/// Command line of `aos sm`.
#[derive(Debug, Clone)]
pub struct Args {
    /// Configuration file in upstream's `sm.cfg` format.
    pub config: PathBuf,
}

/// Runs the Service Manager until SIGTERM; blocking.
#[allow(clippy::needless_pass_by_value, reason = "same shape as every component's entry")]
pub fn run(args: Args) -> Result<(), Error> {
    app::run(&args.config)
}
