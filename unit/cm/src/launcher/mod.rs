//! Launcher: decides where instances run and keeps their records.

pub mod placement;
