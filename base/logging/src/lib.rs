//! Log output of all programs
