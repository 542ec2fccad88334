//! Update manager.

pub mod desired;
pub mod machine;
