//! Identity and Access Manager
