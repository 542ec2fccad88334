//! The serving side.

use std::future::Future;
use std::io;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use serde_json::Value;
use tokio::io::AsyncWriteExt;
use tokio::net::{UnixListener, UnixStream};

use crate::{MAX_DOCUMENT, StatusError, socket_path};

/// Time for making and sending one document. Clients are served one after the other, so this also bounds how
/// long one can keep the others waiting.
const LIMIT: Duration = Duration::from_secs(1);

/// Serves the documents of `component` in `dir` (made with mode 0700 when missing) until dropped; returns
/// only when the socket cannot be made. `provider` is called once per client.
///
/// A socket left by a killed predecessor is replaced; so is one of a living process, which then serves
/// nobody any more: starting a component twice is for its other listeners to refuse.
pub async fn serve<P, F>(dir: &Path, component: &str, provider: P) -> Result<(), StatusError>
where
    P: Fn() -> F,
    F: Future<Output = Value>,
{
    let path = socket_path(dir, component);
    let (listener, _guard) =
        bind(dir, &path).map_err(|source| StatusError::Serve { path: path.clone(), source })?;
    loop {
        match listener.accept().await {
            Ok((stream, _)) => match tokio::time::timeout(LIMIT, answer(stream, &provider)).await {
                Ok(Ok(())) => {}
                Ok(Err(e)) => tracing::debug!("a client of the local status went away: {e}"),
                Err(_) => tracing::debug!("a client of the local status was too slow"),
            },
            Err(e) => {
                // Out of file descriptors, most likely: give the program time to close some.
                tracing::warn!("cannot accept a client of the local status: {e}");
                tokio::time::sleep(LIMIT).await;
            }
        }
    }
}

async fn answer<P, F>(mut stream: UnixStream, provider: &P) -> io::Result<()>
where
    P: Fn() -> F,
    F: Future<Output = Value>,
{
    let mut document = provider().await.to_string();
    if document.len() > MAX_DOCUMENT {
        document = serde_json::json!({ "error": "the status document is too long" }).to_string();
    }
    stream.write_all(document.as_bytes()).await?;
    stream.shutdown().await
}

/// Removes the socket at the end, unless another process has replaced it since.
struct Guard {
    path: PathBuf,
    inode: u64,
}

impl Drop for Guard {
    fn drop(&mut self) {
        if std::fs::symlink_metadata(&self.path).is_ok_and(|found| found.ino() == self.inode) {
            let _ = std::fs::remove_file(&self.path);
        }
    }
}

fn bind(dir: &Path, path: &Path) -> io::Result<(UnixListener, Guard)> {
    static COUNTER: AtomicU32 = AtomicU32::new(0);
    if !dir.is_dir() {
        std::fs::create_dir_all(dir)?;
        std::fs::set_permissions(dir, std::fs::Permissions::from_mode(0o700))?;
    }
    // Unix socket addresses hold about 100 bytes; a short temporary name keeps long directories usable.
    let temporary = dir.join(format!(".{}.{}", std::process::id(), COUNTER.fetch_add(1, Ordering::Relaxed)));
    let _ = std::fs::remove_file(&temporary);
    let listener = UnixListener::bind(&temporary)?;
    let publish = || {
        std::fs::set_permissions(&temporary, std::fs::Permissions::from_mode(0o600))?;
        let inode = std::fs::symlink_metadata(&temporary)?.ino();
        std::fs::rename(&temporary, path)?;
        Ok(Guard { path: path.to_owned(), inode })
    };
    publish().map(|guard| (listener, guard)).inspect_err(|_| {
        let _ = std::fs::remove_file(&temporary);
    })
}
