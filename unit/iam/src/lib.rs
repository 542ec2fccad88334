//! Identity and Access Manager.
//!
//! One runs on every node. It owns the node's keys and certificates in PKCS#11 tokens and tells other
//! processes where they are (never the keys), describes the node and holds its provisioning state; on
//! the main node it also knows the Unit's identity and all nodes. Two gRPC servers: the public one for
//! questions, the protected one for orders.
//!
//! `iamanager` is served in generations 5, 6 and 7 at the same time.

mod app;
mod certhandler;
mod config;
mod currentnode;
mod database;
mod error;
mod iamclient;
mod iamserver;
mod identhandler;
mod killpoint;
mod lifecycle;
mod localstatus;
mod nodemanager;
mod ownidentity;
mod permhandler;
mod provisionmanager;
mod worker;

pub use app::{App, Args, run};
pub use certhandler::look as look_at_tokens;
pub use config::ConfigError;
pub use error::Error;
pub use lifecycle::ask as ask_recovery;
