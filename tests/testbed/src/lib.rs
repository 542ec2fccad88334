//! Test hosts: clouds and Units made of the real programs, on this machine, without touching it.
//!
//! A [`Site`] owns a folder and everything that runs for it. A [`NodeBox`] gives a Unit namespaces of its own,
//! [`Link`]s carry bytes between it and the host and can be cut. [`Cloud`] and [`Unit`] run the programs in
//! them; [`Operator`] drives them through the real command line. When a site ends, by drop, by panic or by
//! `kill -9` of its owner, nothing of it is left: no process, mount, namespace, cgroup or file.
//!
//! Needs root. Works on hosts with cgroup v1, hybrid or v2, with or without systemd.

pub mod bench;
pub mod binaries;
pub mod boxes;
pub mod cgroups;
pub mod cloud;
pub mod error;
pub mod helper;
pub mod http;
pub mod interrupt;
pub mod link;
pub mod operator;
pub mod poller;
pub mod process;
pub mod registry;
pub mod sdk;
pub mod secondary;
pub mod service;
pub mod site;
pub mod stage;
pub mod systemd;
pub mod tls_probe;
pub mod uml;
pub mod unit;
pub mod unit_config;
pub mod wait;

pub use boxes::NodeBox;
pub use cloud::Cloud;
pub use error::{Error, Result};
pub use link::Link;
pub use operator::Operator;
pub use poller::Poller;
pub use process::Process;
pub use secondary::Secondary;
pub use service::HttpService;
pub use site::Site;
pub use stage::Stage;
pub use unit::{Daemon, Unit};
pub use wait::{wait_for, wait_for_or_last};

/// An error with all its causes in one line.
pub fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        source = cause.source();
    }
    text
}
