//! The journal's native protocol: one datagram of fields per event.

use std::os::unix::net::UnixDatagram;
use std::path::Path;

use crate::LogError;

const SOCKET: &str = "/run/systemd/journal/socket";

pub(crate) struct Journal {
    socket: UnixDatagram,
    program: String,
}

impl Journal {
    pub(crate) fn open(program: &str) -> Result<Self, LogError> {
        Self::open_at(Path::new(SOCKET), program).map_err(|source| LogError::Journal { path: SOCKET, source })
    }

    pub(crate) fn open_at(path: &Path, program: &str) -> std::io::Result<Self> {
        let socket = UnixDatagram::unbound()?;
        socket.connect(path)?;
        // A stuck journal must not stop the program; a lost line is the lesser evil.
        socket.set_nonblocking(true)?;
        Ok(Self { socket, program: program.to_owned() })
    }

    /// Values need no escaping: the text of an event has no line breaks.
    pub(crate) fn write(&self, level: tracing::Level, module: &str, text: &str) {
        let priority = match level {
            tracing::Level::ERROR => 3,
            tracing::Level::WARN => 4,
            tracing::Level::INFO => 6,
            tracing::Level::DEBUG | tracing::Level::TRACE => 7,
        };
        let program = &self.program;
        let datagram = format!(
            "PRIORITY={priority}\nSYSLOG_IDENTIFIER={program}\nAOS_MODULE={module}\nMESSAGE=({module}) {text}\n"
        );
        let _ = self.socket.send(datagram.as_bytes());
    }
}
