//! End-to-end promises
