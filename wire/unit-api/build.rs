//! Compiles the contracts in `proto/` without an external protobuf compiler.

use std::error::Error;

const CONTRACTS: [&str; 9] = [
    "common/v1/common.proto",
    "common/v2/common.proto",
    "communicationmanager/v3/updatescheduler.proto",
    "iamanager/v5/iamanager.proto",
    "iamanager/v6/iamanager.proto",
    "iamanager/v7/iamanager.proto",
    "iamanager/version.proto",
    "servicemanager/v5/network.proto",
    "servicemanager/v5/servicemanager.proto",
];

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo:rerun-if-changed=proto");
    let descriptors = protox::compile(CONTRACTS, ["proto"])?;
    tonic_prost_build::configure().emit_rerun_if_changed(false).compile_fds(descriptors)?;
    Ok(())
}
