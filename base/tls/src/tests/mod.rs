//! Real handshakes between real sockets, with authorities made for the test.

mod authority;
mod grpc;
mod handshake;
mod lean;
mod roots;
mod time;
