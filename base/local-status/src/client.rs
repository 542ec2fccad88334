//! Reading of a component's document.

use std::io::{self, Read};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::{MAX_DOCUMENT, StatusError, socket_path};

/// Time for the whole answer.
const LIMIT: Duration = Duration::from_secs(2);

/// Reads the present document of `component`. Blocks for at most 2 seconds; meant for command line tools.
pub fn read(dir: &Path, component: &str) -> Result<Value, StatusError> {
    let path = socket_path(dir, component);
    let document = fetch(&path).map_err(|source| match source.kind() {
        io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused => {
            StatusError::NotRunning { component: component.to_owned(), path }
        }
        _ => StatusError::Read { component: component.to_owned(), source },
    })?;
    if document.len() > MAX_DOCUMENT {
        return Err(StatusError::TooLarge { component: component.to_owned() });
    }
    serde_json::from_slice(&document)
        .map_err(|source| StatusError::NotJson { component: component.to_owned(), source })
}

fn fetch(path: &Path) -> io::Result<Vec<u8>> {
    let end = Instant::now() + LIMIT;
    let mut stream = UnixStream::connect(path)?;
    let (mut document, mut chunk) = (Vec::new(), [0; 4096]);
    while document.len() <= MAX_DOCUMENT {
        let left = end.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(io::ErrorKind::TimedOut.into());
        }
        stream.set_read_timeout(Some(left))?;
        match stream.read(&mut chunk) {
            Ok(0) => break,
            Ok(n) => document.extend_from_slice(&chunk[..n]),
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => return Err(io::ErrorKind::TimedOut.into()),
            Err(e) => return Err(e),
        }
    }
    Ok(document)
}
