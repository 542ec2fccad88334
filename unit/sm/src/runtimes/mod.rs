//! What runs instances: one [`Runtime`] for each entry of the configuration, all driven the same way.
//!
//! A runtime knows instances only by what it is given in a [`StartJob`] and keeps on disk what it needs to take
//! a running one up again. It decides nothing: when to start, to stop or to try again is the launcher's part.
//! Components (boot, rootfs) are not built yet.

pub mod cgroup;
pub mod container;
pub mod data;
pub mod head_start;
mod home;
pub mod keeper;
pub mod native;

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::BoxFuture;

use crate::Error;
use crate::imagemanager::Image;
use crate::instance::InstanceInfo;
use crate::networkmanager::Prepared;
use crate::permissions::Secret;
use crate::resourcemanager::Attached;
pub use cgroup::CgroupPaths;
pub use data::Data;
use keeper::Known;

/// Everything a start depends on; the runtime asks nobody else.
pub struct StartJob {
    /// The instance.
    pub info: InstanceInfo,
    /// Its image; limits, kernel parameters and process are in there.
    pub image: Arc<Image>,
    /// Its resources.
    pub attached: Attached,
    /// Its network; `None` when it uses the host's.
    pub network: Option<Prepared>,
    /// What it shows to IAM; `None` when it has no permissions.
    pub secret: Option<Secret>,
    /// Its state file and storage folder, made and limited already.
    pub data: Data,
}

/// Time between SIGTERM and SIGKILL.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Grace {
    /// As the runtime is configured.
    Configured,
    /// This long.
    Of(Duration),
}

/// An instance found running at start.
#[derive(Debug, Clone)]
pub struct Alive {
    /// What it was started as.
    pub info: InstanceInfo,
    /// Its process.
    pub pid: i32,
}

/// One runtime of this node. All methods may be called for several instances at a time, for one instance one
/// after the other.
pub trait Runtime: Send + Sync {
    /// Starts an instance and answers its process. What an earlier start left is removed first; after an
    /// error nothing is left.
    fn start<'a>(&'a self, job: &'a StartJob) -> BoxFuture<'a, Result<i32, Error>>;

    /// Ends every process of an instance (SIGTERM to its first one, a pause, SIGKILL to all) and removes what
    /// it was started with. An instance that is not there is no error.
    fn stop<'a>(&'a self, id: &'a str, grace: Grace) -> BoxFuture<'a, Result<(), Error>>;

    /// Takes up what runs of the `wanted` instance IDs and removes everything else.
    fn attach<'a>(&'a self, wanted: &'a BTreeSet<String>, known: &'a Known) -> BoxFuture<'a, Vec<Alive>>;

    /// Runs a command inside an instance and answers its exit status (128 plus the signal that ended it). It
    /// is killed after `limit`, which is an error; its output is dropped.
    fn exec<'a>(
        &'a self,
        id: &'a str,
        argv: &'a [String],
        limit: Duration,
    ) -> BoxFuture<'a, Result<i32, Error>>;

    /// True when its instances have a network of their own.
    fn has_networks(&self) -> bool;

    /// Where state file and storage folder of an instance are on the host, made or not.
    fn places(&self, info: &InstanceInfo) -> Result<Data, Error>;

    /// The cgroups of an instance.
    fn cgroups(&self, id: &str) -> CgroupPaths;

    /// The log file of an instance.
    fn log_path(&self, id: &str) -> PathBuf;

    /// Removes the log files of an instance.
    fn remove_log(&self, id: &str) -> Result<(), Error>;
}
