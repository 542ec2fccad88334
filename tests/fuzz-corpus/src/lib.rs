//! What reads bytes from outside, as fuzz targets: functions that take bytes, panic when a promise is broken,
//! and do nothing else.
//!
//! One list, [`TARGETS`], serves two runners. The tests of this crate run each target over the committed
//! [`corpus`], over the published example messages where this machine has them, and over a fixed number of
//! [`mutate`]d inputs: the same ones each time, on any toolchain. `fuzz/` at the top of the tree gives the same
//! functions to a coverage-guided fuzzer for as long as one likes. What that finds becomes a file of the corpus.
#![allow(clippy::panic, clippy::unwrap_used, reason = "a broken promise is told by a panic")]

pub mod corpus;
pub mod mutate;
mod targets;

pub use targets::deployable::{target_certificate_chain, target_cms, target_item_format};
pub use targets::discovery::{target_discovery_request, target_discovery_response};
pub use targets::layer::target_layer;
pub use targets::messages::{
    target_acks, target_alerts, target_blobs, target_certificates, target_desired, target_env_vars,
    target_envelope, target_logs, target_monitoring, target_provisioning, target_state, target_status,
};
pub use targets::names::target_names;
pub use targets::node::{target_journal, target_netlink, target_probe_answer};
pub use targets::recovery::target_recovery;
pub use targets::session::target_session;
pub use targets::websocket::target_websocket;

/// A function to be fuzzed.
#[derive(Debug, Clone, Copy)]
pub struct Target {
    /// Its name, without `target_`; also the name of the fuzzer's program.
    pub name: &'static str,
    /// Folder of the corpus that its inputs come from.
    pub corpus: &'static str,
    /// The function.
    pub run: fn(&[u8]),
}

macro_rules! targets {
    ($($name:ident $function:ident $corpus:literal),+ $(,)?) => {
        /// All of them.
        pub const TARGETS: &[Target] =
            &[$(Target { name: stringify!($name), corpus: $corpus, run: $function }),+];
    };
}

targets! {
    envelope target_envelope "messages",
    status target_status "status",
    desired target_desired "desired",
    blobs target_blobs "blobs",
    logs target_logs "logs",
    certificates target_certificates "certificates",
    provisioning target_provisioning "provisioning",
    state target_state "state",
    env_vars target_env_vars "env_vars",
    monitoring target_monitoring "monitoring",
    alerts target_alerts "alerts",
    acks target_acks "acks",
    discovery_request target_discovery_request "discovery_request",
    discovery_response target_discovery_response "discovery_response",
    websocket target_websocket "websocket",
    session target_session "session",
    cms target_cms "cms",
    certificate_chain target_certificate_chain "certificate_chain",
    item_format target_item_format "item_format",
    names target_names "names",
    layer target_layer "layer",
    netlink target_netlink "netlink",
    journal target_journal "journal",
    probe_answer target_probe_answer "probe_answer",
    recovery target_recovery "recovery",
}
