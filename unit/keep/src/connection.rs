//! One client's socket: bounded line input and bounded output that never blocks the keeper.

use std::io::{ErrorKind, Read, Write};
use std::os::unix::net::UnixStream;

use crate::protocol::{Line, MAX_LINE};

/// Output a slow client may pile up before it is dropped, bytes.
const MAX_OUTPUT: usize = 4 * MAX_LINE;

/// A connected client.
pub struct Connection {
    stream: UnixStream,
    input: Vec<u8>,
    output: Vec<u8>,
}

impl Connection {
    /// Wraps an accepted, non-blocking socket.
    pub fn new(stream: UnixStream) -> Self {
        Self { stream, input: Vec::new(), output: Vec::new() }
    }

    /// The socket, for registration.
    pub fn stream(&self) -> &UnixStream {
        &self.stream
    }

    /// True while output waits for the socket.
    pub fn wants_write(&self) -> bool {
        !self.output.is_empty()
    }

    /// Reads what is there and returns the whole lines; `None` when the client is gone or breaks the bounds.
    pub fn read_lines(&mut self) -> Option<Vec<Vec<u8>>> {
        let mut chunk = [0u8; 4096];
        let mut open = true;
        while open {
            match self.stream.read(&mut chunk) {
                Ok(0) => open = false,
                Ok(count) => self.input.extend_from_slice(chunk.get(..count).unwrap_or_default()),
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(_) => open = false,
            }
            if self.input.len() > 2 * MAX_LINE {
                return None;
            }
        }
        let mut lines = Vec::new();
        while let Some(end) = self.input.iter().position(|&b| b == b'\n') {
            let rest = self.input.split_off(end + 1);
            lines.push(std::mem::replace(&mut self.input, rest));
        }
        if self.input.is_empty() {
            self.input = Vec::new();
        }
        (self.input.len() <= MAX_LINE && (open || !lines.is_empty())).then_some(lines)
    }

    /// Queues one line and writes what the socket takes; false when the client has to be dropped.
    pub fn send(&mut self, line: &Line) -> bool {
        let Ok(text) = serde_json::to_vec(line) else { return true };
        if self.output.len() + text.len() > MAX_OUTPUT {
            return false;
        }
        self.output.extend_from_slice(&text);
        self.output.push(b'\n');
        self.flush()
    }

    /// Writes what the socket takes; false when the client is gone.
    pub fn flush(&mut self) -> bool {
        while !self.output.is_empty() {
            match self.stream.write(&self.output) {
                Ok(0) => return false,
                Ok(count) => {
                    self.output.drain(..count);
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => return true,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(_) => return false,
            }
        }
        self.output = Vec::new();
        true
    }
}
