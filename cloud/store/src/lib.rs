//! What the cloud remembers
