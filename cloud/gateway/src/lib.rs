//! Discovery and WebSocket sessions of Units
