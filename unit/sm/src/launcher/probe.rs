//! Asks an instance about its health, from inside its network.
//!
//! A socket belongs to the network namespace it was made in. One thread enters the namespaces and makes the
//! sockets, everything else is done without threads; it ends when nothing was asked for a while. A try is
//! limited in time, an answer in size. The loopback address is asked first and, when nobody listens there, the
//! instance's own one.

use std::fs::File;
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpStream};
use std::os::fd::OwnedFd;
use std::sync::{Mutex, PoisonError, mpsc as threads};
use std::time::Duration;

use aos_item_format::{HttpProbe, Probe};
use nix::sched::{CloneFlags, setns};
use rustix::net::{AddressFamily, SocketFlags, SocketType, socket_with};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpSocket;
use tokio::sync::oneshot;

use super::health::ProbeError;
use crate::runtimes::Runtime;

/// Bytes read of an answer.
const MAX_ANSWER: usize = 256;
/// The thread ends after this time without work.
const IDLE: Duration = Duration::from_secs(30);

struct Wanted {
    pid: i32,
    answer: oneshot::Sender<io::Result<OwnedFd>>,
}

/// Makes sockets in the network namespaces of instances.
#[derive(Default)]
pub struct Prober {
    thread: Mutex<Option<threads::SyncSender<Wanted>>>,
}

/// Who is asked.
pub struct Asked<'a> {
    /// Its runtime.
    pub runtime: &'a dyn Runtime,
    /// Its instance ID.
    pub id: &'a str,
    /// Its process.
    pub pid: i32,
    /// Its own address.
    pub address: Option<IpAddr>,
}

impl Prober {
    /// One try.
    pub async fn ask(&self, asked: &Asked<'_>, probe: &Probe) -> Result<(), ProbeError> {
        let limit = probe.timeout.get();
        if !probe.exec.is_empty() {
            return match asked.runtime.exec(asked.id, &probe.exec, limit).await {
                Ok(0) => Ok(()),
                Ok(status) => Err(ProbeError::Status(status)),
                Err(error) => Err(ProbeError::Exec(error)),
            };
        }
        let port = probe.http.as_ref().map(|http| http.port).or(probe.tcp.as_ref().map(|tcp| tcp.port));
        let port = port.unwrap_or_default();
        let trying = async {
            let mut stream = self.connect(asked, port).await?;
            match &probe.http {
                Some(http) => get(&mut stream, http).await.map(Some),
                None => Ok(None),
            }
        };
        match tokio::time::timeout(limit, trying).await {
            Ok(Ok(Some(answer))) => judge(&answer),
            Ok(Ok(None)) => Ok(()),
            Ok(Err(source)) => Err(ProbeError::Port { port, source }),
            Err(_) => Err(ProbeError::Late(limit)),
        }
    }

    async fn connect(&self, asked: &Asked<'_>, port: u16) -> io::Result<tokio::net::TcpStream> {
        let loopback = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        let first = TcpSocket::from_std_stream(TcpStream::from(self.socket(asked.pid).await?));
        match (first.connect(loopback).await, asked.address) {
            (Err(error), Some(address)) if error.kind() == io::ErrorKind::ConnectionRefused => {
                let second = TcpSocket::from_std_stream(TcpStream::from(self.socket(asked.pid).await?));
                second.connect((address, port).into()).await
            }
            (result, _) => result,
        }
    }

    async fn socket(&self, pid: i32) -> io::Result<OwnedFd> {
        // A thread that is just ending may take the wish along.
        for _ in 0..2 {
            let (answer, result) = oneshot::channel();
            self.order(Wanted { pid, answer })?;
            if let Ok(made) = result.await {
                return made;
            }
        }
        Err(io::Error::other("the thread has ended"))
    }

    fn order(&self, mut wanted: Wanted) -> io::Result<()> {
        let mut thread = self.thread.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = &*thread {
            match known.try_send(wanted) {
                Ok(()) => return Ok(()),
                Err(threads::TrySendError::Full(_)) => return Err(io::ErrorKind::WouldBlock.into()),
                Err(threads::TrySendError::Disconnected(back)) => wanted = back,
            }
        }
        let (sender, queue) = threads::sync_channel(64);
        std::thread::Builder::new()
            .name("probes".to_owned())
            .stack_size(64 * 1024)
            .spawn(move || make_sockets(&queue))?;
        let sent = sender.try_send(wanted);
        *thread = Some(sender);
        sent.map_err(|_| io::Error::other("the thread has ended"))
    }
}

/// The thread: each socket in the namespace of its process. It never has to find back.
fn make_sockets(queue: &threads::Receiver<Wanted>) {
    while let Ok(Wanted { pid, answer }) = queue.recv_timeout(IDLE) {
        let made = File::open(format!("/proc/{pid}/ns/net")).and_then(|namespace| {
            setns(namespace, CloneFlags::CLONE_NEWNET)?;
            let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
            Ok(socket_with(AddressFamily::INET, SocketType::STREAM, flags, None)?)
        });
        let _ = answer.send(made);
    }
}

/// The beginning of the answer: its status line is all that matters.
async fn get(stream: &mut tokio::net::TcpStream, http: &HttpProbe) -> io::Result<Vec<u8>> {
    let request = format!(
        "GET {} HTTP/1.0\r\nHost: localhost:{}\r\nUser-Agent: aos-probe\r\nConnection: close\r\n\r\n",
        http.path, http.port
    );
    stream.write_all(request.as_bytes()).await?;
    let mut answer = Vec::with_capacity(MAX_ANSWER);
    let mut limited = stream.take(MAX_ANSWER as u64);
    while !answer.contains(&b'\n') && limited.read_buf(&mut answer).await? > 0 {}
    Ok(answer)
}

/// What a service said, judged by its status line.
pub fn judge(answer: &[u8]) -> Result<(), ProbeError> {
    let line = answer.split(|&byte| byte == b'\n').next().unwrap_or_default();
    let mut words = line.split(u8::is_ascii_whitespace);
    if !words.next().is_some_and(|version| version.starts_with(b"HTTP/")) {
        return Err(ProbeError::NotHttp);
    }
    let status = words.next().and_then(|word| std::str::from_utf8(word).ok()?.parse::<u16>().ok());
    match status {
        Some(200..=399) => Ok(()),
        Some(status) => Err(ProbeError::Http(status)),
        None => Err(ProbeError::NotHttp),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_status_line_decides() {
        for good in ["HTTP/1.1 200 OK\r\n\r\n", "HTTP/1.0 399\n", "HTTP/2 204 "] {
            assert!(judge(good.as_bytes()).is_ok(), "{good}");
        }
        for bad in [
            "HTTP/1.1 500 Oops\r\n",
            "HTTP/1.1 199 x\r\n",
            "",
            "SSH-2.0-x 200\r\n",
            "HTTP/1.1 \u{fffd}\r\n",
            "\n200",
        ] {
            assert!(judge(bad.as_bytes()).is_err(), "{bad}");
        }
    }
}
