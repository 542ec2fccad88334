//! The daemon as its peers see it: real SoftHSM, real gRPC, real processes.

mod provisioning;
mod rig;

/// Not a test: what the other tests start as their daemon.
#[test]
fn daemon() {
    rig::be_daemon();
}
