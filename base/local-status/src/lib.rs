//! Local status documents of running components over a Unix socket
