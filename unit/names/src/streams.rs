//! Messages over TCP: each with its length in front. Bounded both ways, never blocking.

use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;

/// The other side is gone, or breaks the bounds.
#[derive(Debug, PartialEq, Eq)]
pub struct Gone;

/// A connection.
pub struct Framed {
    stream: TcpStream,
    input: Vec<u8>,
    output: Vec<u8>,
    longest: usize,
}

impl Framed {
    /// Wraps a socket that does not block; messages from it have at most `longest` bytes.
    pub fn new(stream: TcpStream, longest: usize) -> Self {
        Self { stream, input: Vec::new(), output: Vec::new(), longest }
    }

    /// The socket.
    pub fn stream(&self) -> &TcpStream {
        &self.stream
    }

    /// True while something waits to be written.
    pub fn wants_write(&self) -> bool {
        !self.output.is_empty()
    }

    /// The next whole message, `None` while it is not complete. No more than it is read.
    pub fn read(&mut self) -> Result<Option<Vec<u8>>, Gone> {
        loop {
            let length = match self.input.as_slice() {
                [high, low, ..] => usize::from(u16::from_be_bytes([*high, *low])),
                _ => 0,
            };
            if length > self.longest {
                return Err(Gone);
            }
            let whole = 2 + length;
            if self.input.len() >= 2 && self.input.len() >= whole {
                let message = self.input.get(2..whole).unwrap_or_default().to_vec();
                self.input = Vec::new();
                return Ok(Some(message));
            }
            let mut chunk = [0u8; 2048];
            let missing = if self.input.len() < 2 { 2 - self.input.len() } else { whole - self.input.len() };
            let room = chunk.get_mut(..missing.min(2048)).unwrap_or_default();
            match self.stream.read(room) {
                Ok(0) => return Err(Gone),
                Ok(count) => self.input.extend_from_slice(chunk.get(..count).unwrap_or_default()),
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(None),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(_) => return Err(Gone),
            }
        }
    }

    /// Queues a message; [`Self::flush`] writes it.
    pub fn send(&mut self, message: &[u8]) {
        let Ok(length) = u16::try_from(message.len()) else { return };
        self.output.extend_from_slice(&length.to_be_bytes());
        self.output.extend_from_slice(message);
    }

    /// Writes what the socket takes.
    pub fn flush(&mut self) -> Result<(), Gone> {
        while !self.output.is_empty() {
            match self.stream.write(&self.output) {
                Ok(0) => return Err(Gone),
                Ok(count) => {
                    self.output.drain(..count);
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(_) => return Err(Gone),
            }
        }
        self.output = Vec::new();
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::TcpListener;

    #[test]
    fn messages_come_whole_and_bounded() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let mut client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (server, _) = listener.accept().unwrap();
        server.set_nonblocking(true).unwrap();
        let mut framed = Framed::new(server, 5);
        let mut next = || {
            let deadline = std::time::Instant::now() + std::time::Duration::from_secs(30);
            loop {
                match framed.read() {
                    Ok(None) if std::time::Instant::now() < deadline => std::thread::yield_now(),
                    result => return result,
                }
            }
        };
        client.write_all(b"\0\x05hello\0\0\0\x02h").unwrap();
        assert_eq!(next(), Ok(Some(b"hello".to_vec())));
        assert_eq!(next(), Ok(Some(Vec::new())));
        client.write_all(b"i\0\x06").unwrap();
        assert_eq!(next(), Ok(Some(b"hi".to_vec())));
        assert_eq!(next(), Err(Gone), "longer than allowed");
        framed.send(b"bye");
        framed.flush().unwrap();
        let mut heard = [0; 5];
        client.read_exact(&mut heard).unwrap();
        assert_eq!(&heard, b"\0\x03bye");
    }
}
