//! Cloud protocol v7: messages, envelope, tolerant reading, strict writing
