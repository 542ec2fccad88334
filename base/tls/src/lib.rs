//! TLS configurations and peer identity
