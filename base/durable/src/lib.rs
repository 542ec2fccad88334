//! Durable files and SQLite databases
