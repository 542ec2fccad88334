//! Communication Manager
