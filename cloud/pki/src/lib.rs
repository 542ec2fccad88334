//! The cloud's own certificate authority
