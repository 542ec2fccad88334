//! The daemon as its peers see it: real SoftHSM, real gRPC, real processes.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a failure of these is the failure of the test")]

mod access;
mod authority;
mod bad_input;
mod certificates;
mod cloud;
mod emulator;
mod files;
mod generations;
mod health;
mod kills;
mod kills_elsewhere;
mod nodes;
mod offered;
mod oldmain;
mod provisioning;
mod recovery;
mod rig;
mod roots;
mod secondary;
mod start;
mod tokens;
mod tpm;
mod tpm_restart;
mod trouble;
mod vis;

/// Not a test: what the other tests start as their daemon.
#[test]
fn daemon() {
    rig::be_daemon();
}
