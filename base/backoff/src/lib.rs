//! Exponential back-off with jitter, as a pure value
