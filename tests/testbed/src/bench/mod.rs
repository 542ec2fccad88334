//! The benchmarks of `make bench`, in groups. Each group makes what it needs and leaves nothing behind.

pub mod gateway;
pub mod iam;
pub mod install;
pub mod linkdown;
pub mod neighbour;
pub mod protocol;
mod rows;
pub mod services;
pub mod unit;

pub use rows::Rows;

use crate::Result;

/// A group: its name and what runs it.
pub type Group = (&'static str, fn(&mut Rows) -> Result<()>);

/// All groups, in the order in which they run.
pub const GROUPS: [Group; 8] = [
    ("protocol", protocol::run),
    ("unit", unit::run),
    ("services", services::run),
    ("neighbour", neighbour::run),
    ("install", install::run),
    ("iam", iam::run),
    ("linkdown", linkdown::run),
    ("gateway", gateway::run),
];
