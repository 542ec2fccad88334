//! Update manager: brings the Unit to what the cloud wishes and tells the cloud what the Unit is.
//!
//! One task, the [`coordinator`], owns the pure cores (update machine, launcher, nodes, Unit configuration,
//! status reports) and does what they want done through the other modules. It never waits for any of them:
//! commands go out, answers come back as events, and everything that must survive is stored before it shows.

mod accept;
mod configuring;
pub mod coordinator;
pub mod desired;
mod document;
mod flows;
mod keeping;
pub mod machine;
mod messages;
mod placing;
mod reporting;
mod status;
