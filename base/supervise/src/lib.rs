//! Task tree, orderly stop, readiness
