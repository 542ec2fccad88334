//! JSON configuration files with case-insensitive keys and errors that name the key
