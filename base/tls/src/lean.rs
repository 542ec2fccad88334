//! The server's end of a TLS connection that keeps no buffers while nothing happens.
//!
//! The usual stream holds 4 KiB for reading as long as it lives. A server with ten thousand connections that
//! are idle nearly always has better use for 40 MB. Here bytes come in through the stack; what is kept is
//! the part of a record that has not arrived completely, plaintext that nobody has taken yet, and
//! ciphertext that the socket has not taken yet. Each is freed when it is used up.
//!
//! Limits: what is kept of incoming bytes is at most the longest handshake message (64 KiB) and a record;
//! plaintext is read from the socket only when the last has been taken, ciphertext made only when the last
//! has been sent.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use rustls::server::UnbufferedServerConnection;
use rustls::unbuffered::{ConnectionState, EncodeError, EncryptError, UnbufferedStatus, WriteTraffic};
use rustls::{CommonState, ServerConfig};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, ReadBuf};
use tokio::net::TcpStream;

/// Bytes read at once.
const CHUNK: usize = 8 * 1024;
/// Plaintext of one record at most.
const RECORD: usize = 16 * 1024;
/// What encryption adds at most: header, explicit nonce, type and tag, with room to spare.
const OVERHEAD: usize = 128;
/// Incoming bytes that may wait for the rest of a record or of a handshake message.
const MAX_INCOMING: usize = 64 * 1024 + RECORD + 1024;

/// A TLS connection whose handshake is done.
pub struct LeanTls {
    stream: TcpStream,
    session: Box<UnbufferedServerConnection>,
    incoming: Vec<u8>,
    plain: Pending,
    outgoing: Pending,
    /// The peer has said goodbye.
    ended: bool,
    goodbye: bool,
}

/// Bytes that are used up from the front.
#[derive(Default)]
struct Pending {
    bytes: Vec<u8>,
    used: usize,
}

impl Pending {
    fn rest(&self) -> &[u8] {
        self.bytes.get(self.used..).unwrap_or_default()
    }

    fn is_empty(&self) -> bool {
        self.rest().is_empty()
    }

    fn use_up(&mut self, count: usize) {
        self.used += count;
        if self.is_empty() {
            *self = Self::default();
        }
    }

    /// Makes room for `count` bytes at the end; returns the place.
    fn grow(&mut self, count: usize) -> (usize, &mut [u8]) {
        let start = self.bytes.len();
        self.bytes.resize(start + count, 0);
        (start, self.bytes.get_mut(start..).unwrap_or_default())
    }

    fn cut(&mut self, length: usize) {
        self.bytes.truncate(length);
        self.use_up(0);
    }
}

impl LeanTls {
    /// Shakes hands. The caller bounds the time.
    pub(crate) async fn accept(config: Arc<ServerConfig>, stream: TcpStream) -> io::Result<Self> {
        let session = Box::new(UnbufferedServerConnection::new(config).map_err(invalid)?);
        let mut tls = Self {
            stream,
            session,
            incoming: Vec::new(),
            plain: Pending::default(),
            outgoing: Pending::default(),
            ended: false,
            goodbye: false,
        };
        while tls.session.is_handshaking() {
            let mut chunk = [0; CHUNK];
            let count = tls.stream.read(&mut chunk).await?;
            if count == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            tls.incoming.extend_from_slice(chunk.get(..count).unwrap_or_default());
            let done = tls.process();
            // Also after a failure: the alert says why.
            let sent = tls.stream.write_all(tls.outgoing.rest()).await;
            tls.outgoing = Pending::default();
            done?;
            sent?;
        }
        Ok(tls)
    }

    /// What the handshake has found out.
    pub(crate) fn state(&self) -> &CommonState {
        &self.session
    }

    /// Works on all complete records that have arrived.
    fn process(&mut self) -> io::Result<()> {
        let Self { session, incoming, plain, outgoing, ended, .. } = self;
        let mut failure: Option<rustls::Error> = None;
        loop {
            let UnbufferedStatus { discard, state } = session.process_tls_records(incoming);
            let more = match state {
                Ok(ConnectionState::ReadTraffic(mut traffic)) => {
                    while let Some(record) = traffic.next_record() {
                        plain.bytes.extend_from_slice(record.map_err(invalid)?.payload);
                    }
                    true
                }
                Ok(ConnectionState::EncodeTlsData(mut data)) => {
                    // Asking with no room tells how much is needed.
                    let Err(EncodeError::InsufficientSize(size)) = data.encode(&mut []) else {
                        return Err(io::Error::other("TLS wants to send nothing"));
                    };
                    let (_, place) = outgoing.grow(size.required_size);
                    data.encode(place).map_err(io::Error::other)?;
                    true
                }
                Ok(ConnectionState::TransmitTlsData(data)) => {
                    // It is in `outgoing` and goes first.
                    data.done();
                    true
                }
                Ok(ConnectionState::PeerClosed) => {
                    *ended = true;
                    true
                }
                Ok(ConnectionState::Closed) => {
                    *ended = true;
                    false
                }
                Err(error) if failure.is_none() => {
                    // Once more, for the alert.
                    failure = Some(error);
                    true
                }
                // Nothing to do until more arrives, or nothing to be done any more.
                Ok(_) | Err(_) => false,
            };
            // What made it fail must not be looked at again.
            if failure.is_some() || discard >= incoming.len() {
                *incoming = Vec::new();
            } else {
                incoming.drain(..discard);
            }
            if !more {
                break;
            }
        }
        match failure {
            Some(error) => Err(invalid(error)),
            None if incoming.len() > MAX_INCOMING => {
                Err(io::Error::new(io::ErrorKind::InvalidData, "a TLS message is too long"))
            }
            None => Ok(()),
        }
    }

    /// Sends what is waiting.
    fn poll_send(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while !self.outgoing.is_empty() {
            let sent = ready!(Pin::new(&mut self.stream).poll_write(cx, self.outgoing.rest()))?;
            if sent == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.outgoing.use_up(sent);
        }
        Poll::Ready(Ok(()))
    }

    /// Lets `write` put ciphertext into `room` bytes of what goes out.
    fn encrypt(
        &mut self,
        room: usize,
        write: impl FnOnce(
            &mut WriteTraffic<'_, rustls::server::ServerConnectionData>,
            &mut [u8],
        ) -> Result<usize, EncryptError>,
    ) -> io::Result<()> {
        for _ in 0..3 {
            let UnbufferedStatus { state, .. } = self.session.process_tls_records(&mut []);
            match state.map_err(invalid)? {
                ConnectionState::WriteTraffic(mut traffic) => {
                    let (start, place) = self.outgoing.grow(room);
                    let written = write(&mut traffic, place).map_err(io::Error::other)?;
                    self.outgoing.cut(start + written);
                    return Ok(());
                }
                // Told once; writing is still possible.
                ConnectionState::PeerClosed => self.ended = true,
                _ => break,
            }
        }
        Err(io::ErrorKind::BrokenPipe.into())
    }
}

fn invalid(error: rustls::Error) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, error)
}

impl AsyncRead for LeanTls {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let tls = &mut *self;
        loop {
            if !tls.plain.is_empty() {
                let count = tls.plain.rest().len().min(buffer.remaining());
                buffer.put_slice(tls.plain.rest().get(..count).unwrap_or_default());
                tls.plain.use_up(count);
                return Poll::Ready(Ok(()));
            }
            if tls.ended {
                return Poll::Ready(Ok(()));
            }
            let mut chunk = [0; CHUNK];
            let mut read = ReadBuf::new(&mut chunk);
            ready!(Pin::new(&mut tls.stream).poll_read(cx, &mut read))?;
            if read.filled().is_empty() {
                let text = "the peer closed the connection without saying so";
                return Poll::Ready(Err(io::Error::new(io::ErrorKind::UnexpectedEof, text)));
            }
            tls.incoming.extend_from_slice(read.filled());
            let done = tls.process();
            // Answers of the TLS layer itself, rare and small; what cannot go now goes with the next write.
            if let Poll::Ready(Err(error)) = tls.poll_send(cx) {
                return Poll::Ready(Err(error));
            }
            done?;
        }
    }
}

impl AsyncWrite for LeanTls {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, data: &[u8]) -> Poll<io::Result<usize>> {
        let tls = &mut *self;
        ready!(tls.poll_send(cx))?;
        let now = data.get(..RECORD).unwrap_or(data);
        if now.is_empty() {
            return Poll::Ready(Ok(0));
        }
        tls.encrypt(now.len() + OVERHEAD, |traffic, place| traffic.encrypt(now, place))?;
        // It is taken, whether it can go at once or with the flush.
        match tls.poll_send(cx) {
            Poll::Ready(Err(error)) => Poll::Ready(Err(error)),
            _ => Poll::Ready(Ok(now.len())),
        }
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.poll_send(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let tls = &mut *self;
        if !tls.goodbye {
            tls.goodbye = true;
            #[expect(
                clippy::redundant_closure_for_method_calls,
                reason = "the method has one lifetime too few"
            )]
            tls.encrypt(OVERHEAD, |traffic, place| traffic.queue_close_notify(place))?;
        }
        ready!(tls.poll_send(cx))?;
        Pin::new(&mut tls.stream).poll_shutdown(cx)
    }
}
