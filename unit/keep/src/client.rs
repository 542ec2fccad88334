//! Blocking client of the keeper, for tests and simple callers. A daemon that runs an event loop of its own
//! uses the types of [`crate::protocol`] on its own socket.

use std::collections::VecDeque;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use crate::protocol::{Exit, Line, MAX_LINE, Op, Outcome, Request, SOCKET_NAME};

/// Why a request got no result.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// No keeper there, or it went away.
    #[error("cannot talk to the keeper")]
    Socket(#[source] io::Error),
    /// An answer was no line of ours.
    #[error("the keeper's answer is not readable")]
    Answer(#[source] serde_json::Error),
    /// The keeper said no.
    #[error("the keeper refused: {0}")]
    Refused(String),
}

/// One connection.
pub struct Client {
    stream: BufReader<UnixStream>,
    seq: u64,
    exits: VecDeque<Exit>,
}

impl Client {
    /// Connects to the keeper of `dir`.
    pub fn connect(dir: &Path) -> Result<Self, ClientError> {
        let stream = UnixStream::connect(dir.join(SOCKET_NAME)).map_err(ClientError::Socket)?;
        Ok(Self { stream: BufReader::new(stream), seq: 0, exits: VecDeque::new() })
    }

    /// Sends one request and waits for its result; exits seen meanwhile are queued.
    pub fn request(&mut self, op: Op) -> Result<Outcome, ClientError> {
        self.seq += 1;
        let seq = self.seq;
        let mut line = serde_json::to_vec(&Request { seq, op }).map_err(ClientError::Answer)?;
        line.push(b'\n');
        self.stream.get_mut().set_read_timeout(None).map_err(ClientError::Socket)?;
        self.stream.get_mut().write_all(&line).map_err(ClientError::Socket)?;
        loop {
            match self.read_line()? {
                Line::Done { seq: of, result } if of == seq => return Ok(result),
                Line::Refused { seq: of, message } if of == seq || of == 0 => {
                    return Err(ClientError::Refused(message));
                }
                Line::Exit { exit } => self.exits.push_back(exit),
                Line::Done { .. } | Line::Refused { .. } | Line::Flood { .. } => {}
            }
        }
    }

    /// The next pushed exit, waiting up to `timeout` for it.
    pub fn next_exit(&mut self, timeout: Duration) -> Result<Exit, ClientError> {
        if let Some(exit) = self.exits.pop_front() {
            return Ok(exit);
        }
        self.stream.get_mut().set_read_timeout(Some(timeout)).map_err(ClientError::Socket)?;
        loop {
            if let Line::Exit { exit } = self.read_line()? {
                return Ok(exit);
            }
        }
    }

    fn read_line(&mut self) -> Result<Line, ClientError> {
        let mut text = Vec::new();
        let limit = MAX_LINE as u64;
        (&mut self.stream).take(limit).read_until(b'\n', &mut text).map_err(ClientError::Socket)?;
        if text.last() != Some(&b'\n') {
            return Err(ClientError::Socket(io::ErrorKind::UnexpectedEof.into()));
        }
        serde_json::from_slice(&text).map_err(ClientError::Answer)
    }
}
