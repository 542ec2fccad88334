//! The optional file of all messages (`cloudMessageLog`), for developers only: it shows keys and passwords,
//! so it belongs to its owner alone. It starts over when it has grown to 16 MiB.

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::PathBuf;

const MAX_SIZE: u64 = 16 * 1024 * 1024;

/// The open file.
pub struct MessageLog {
    path: PathBuf,
    file: Option<File>,
}

impl MessageLog {
    /// Opens the file with its first message.
    pub fn new(path: PathBuf) -> Self {
        tracing::warn!(
            "all messages of the cloud are written to {}, with keys and passwords",
            path.display()
        );
        Self { path, file: None }
    }

    /// Notes a message of ours.
    pub fn sent(&mut self, bytes: &[u8]) {
        self.write("TX: ", bytes);
    }

    /// Notes a message of the cloud.
    pub fn received(&mut self, bytes: &[u8]) {
        self.write("RX: ", bytes);
    }

    fn write(&mut self, direction: &str, bytes: &[u8]) {
        let line = [direction.as_bytes(), bytes, b"\n"].concat();
        let written = self.open().and_then(|mut file| file.write_all(&line));
        if let Err(error) = written {
            tracing::warn!("message log {} cannot be written: {error}", self.path.display());
            self.file = None;
        }
    }

    fn open(&mut self) -> std::io::Result<&File> {
        if let Some(file) = &self.file
            && file.metadata()?.len() >= MAX_SIZE
        {
            file.set_len(0)?;
        }
        if self.file.is_none() {
            let file = OpenOptions::new().create(true).append(true).mode(0o600).open(&self.path)?;
            self.file = Some(file);
        }
        self.file.as_ref().ok_or_else(|| std::io::Error::from(std::io::ErrorKind::NotFound))
    }
}
