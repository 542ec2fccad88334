//! Networks of the Unit: numbers and rules only; interfaces are the Service Managers' work.

pub mod core;
pub mod pool;
