//! Image manager: fetches and verifies items.

pub mod book;
