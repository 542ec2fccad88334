//! Where `aos iam recover` comes in: a Unix socket of the owner only, `<run dir>/iam-recover.sock`.
//!
//! The client sends the token, empty for none, and ends its side; it gets one line: `ok: …` or `error: …`.

use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use aos_recovery_protocol::Token;
use aos_supervise::Shutdown;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{mpsc, oneshot};

use crate::Error;

const SOCKET: &str = "iam-recover.sock";
const MAX_TOKEN: u64 = 1024;
const READ_TIME: Duration = Duration::from_secs(5);

/// A recovery that somebody wants now, and where its outcome goes.
pub struct Wanted {
    /// The operator's token, if there is one.
    pub token: Option<Token>,
    /// What came of it, for people.
    pub answer: oneshot::Sender<Result<String, Error>>,
}

/// The socket in a run directory.
pub fn path(run_dir: &Path) -> PathBuf {
    run_dir.join(SOCKET)
}

/// Serves until `stop`; the program works without, so a failure is only noted.
pub async fn serve(run_dir: PathBuf, wanted: mpsc::Sender<Wanted>, stop: Shutdown) -> Result<(), Error> {
    let listener = match bind(&run_dir) {
        Ok(listener) => listener,
        Err(error) => {
            tracing::warn!("going on without `aos iam recover`: {error}");
            stop.wait().await;
            return Ok(());
        }
    };
    loop {
        tokio::select! {
            () = stop.wait() => return Ok(()),
            come = listener.accept() => match come {
                // One at a time: the next one waits in the listener's queue.
                Ok((stream, _)) => tokio::select! {
                    () = stop.wait() => return Ok(()),
                    () = attend(stream, &wanted) => {}
                },
                Err(error) => {
                    tracing::warn!("cannot accept `aos iam recover`: {error}");
                    tokio::time::sleep(READ_TIME).await;
                }
            },
        }
    }
}

fn bind(run_dir: &Path) -> std::io::Result<UnixListener> {
    std::fs::create_dir_all(run_dir)?;
    let socket = path(run_dir);
    // Made closed and renamed, so that a predecessor's is replaced without a gap.
    let fresh = socket.with_extension("new");
    let _ = std::fs::remove_file(&fresh);
    let listener = UnixListener::bind(&fresh)?;
    std::fs::set_permissions(&fresh, std::fs::Permissions::from_mode(0o600))?;
    std::fs::rename(&fresh, &socket)?;
    Ok(listener)
}

async fn attend(mut stream: UnixStream, wanted: &mpsc::Sender<Wanted>) {
    let mut text = String::new();
    let mut limited = (&mut stream).take(MAX_TOKEN);
    let read = tokio::time::timeout(READ_TIME, limited.read_to_string(&mut text)).await;
    if !matches!(read, Ok(Ok(_))) {
        return;
    }
    let token = Some(text.trim()).filter(|token| !token.is_empty()).map(Token::new);
    let (answer, outcome) = oneshot::channel();
    if wanted.send(Wanted { token, answer }).await.is_err() {
        return;
    }
    let line = match outcome.await {
        Ok(Ok(text)) => format!("ok: {text}\n"),
        Ok(Err(error)) => format!("error: {}\n", aos_logging::with_causes(&error)),
        Err(_) => return,
    };
    let _ = stream.write_all(line.as_bytes()).await;
}

/// Asks the program that runs here for a recovery; returns what it did. Blocks for at most two minutes.
pub fn ask(run_dir: &Path, token: Option<&str>) -> Result<String, Error> {
    use std::io::{Read as _, Write as _};

    let socket = path(run_dir);
    let failed = |source| Error::File { doing: "ask for a recovery through", path: socket.clone(), source };
    let mut stream = std::os::unix::net::UnixStream::connect(&socket).map_err(failed)?;
    stream.set_read_timeout(Some(Duration::from_mins(2))).map_err(failed)?;
    stream.write_all(token.unwrap_or_default().as_bytes()).map_err(failed)?;
    stream.shutdown(std::net::Shutdown::Write).map_err(failed)?;
    let mut answer = String::new();
    stream.take(64 * 1024).read_to_string(&mut answer).map_err(failed)?;
    match answer.trim().split_once(": ") {
        Some(("ok", text)) => Ok(text.to_owned()),
        Some((_, why)) => Err(Error::Failed(why.to_owned())),
        None => Err(Error::Failed("the identity and access manager ended without an answer".to_owned())),
    }
}
