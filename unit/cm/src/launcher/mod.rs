//! Launcher: decides where instances run, keeps their records and derives what each node has to do.

pub mod core;
mod derived;
mod environment;
pub mod links;
pub mod messages;
pub mod numbers;
pub mod placement;
pub mod records;
pub mod store;
