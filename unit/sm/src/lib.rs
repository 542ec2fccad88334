//! Service Manager
