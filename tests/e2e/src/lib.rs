//! Promises that only the whole system can hold, one file each in `tests/`.
//!
//! Every test starts a cloud and a Unit of its own from the real programs; see the crate `aos-testbed`.
