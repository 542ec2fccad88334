//! Update manager.

mod accept;
pub mod desired;
pub mod machine;
mod status;
