//! A limit on the time that a gRPC client may take for its first words.
//!
//! Pings find out who is gone, but only once HTTP/2 has begun. Who connects and then says nothing, or drips the
//! opening byte by byte, would hold one of the bounded connections for ever. What comes here is closed when the
//! opening is not complete in time; afterwards every call is passed on as it is.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::Sleep;
use tonic::transport::server::Connected;

/// Time for the opening.
const TIME: Duration = Duration::from_secs(10);
/// HTTP/2's connection preface and the head of the first frame.
const OPENING: usize = 24 + 9;

/// A connection whose client has to open HTTP/2 within 10 s.
#[derive(Debug)]
pub struct Opening<S> {
    stream: S,
    /// Until the opening is complete: the bytes missing and the end of the time.
    missing: Option<(usize, Pin<Box<Sleep>>)>,
}

impl<S> Opening<S> {
    pub(crate) fn new(stream: S) -> Self {
        Self { stream, missing: Some((OPENING, Box::pin(tokio::time::sleep(TIME)))) }
    }
}

impl<S: Connected> Connected for Opening<S> {
    type ConnectInfo = S::ConnectInfo;

    fn connect_info(&self) -> S::ConnectInfo {
        self.stream.connect_info()
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Opening<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let read = Pin::new(&mut self.stream).poll_read(cx, buffer);
        let Some((missing, time)) = &mut self.missing else { return read };
        if read.is_pending() {
            return time.as_mut().poll(cx).map(|()| Err(io::ErrorKind::TimedOut.into()));
        }
        let came = buffer.filled().len().saturating_sub(before);
        if came >= *missing {
            self.missing = None;
        } else {
            *missing -= came;
        }
        read
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Opening<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt, duplex};

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_client_that_drips_is_cut_off_in_time() {
        let (mut client, server) = duplex(64);
        let started = tokio::time::Instant::now();
        tokio::spawn(async move {
            while client.write_all(b"P").await.is_ok() {
                tokio::time::sleep(Duration::from_secs(1)).await;
            }
        });
        let error = Opening::new(server).read_to_end(&mut Vec::new()).await.unwrap_err();
        assert_eq!((error.kind(), started.elapsed()), (io::ErrorKind::TimedOut, TIME));
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_that_has_opened_may_be_silent() {
        let (mut client, server) = duplex(64);
        let mut server = Opening::new(server);
        client.write_all(&[7; OPENING]).await.unwrap();
        server.read_exact(&mut [0; OPENING]).await.unwrap();
        let silent = tokio::time::timeout(Duration::from_hours(1), server.read_u8()).await;
        assert!(silent.is_err(), "still open");
        client.write_all(&[1]).await.unwrap();
        assert_eq!(server.read_u8().await.unwrap(), 1);
    }
}
