//! An accepted connection, with who is at its other end and the place that it takes.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tonic::transport::server::Connected;

use crate::ConnectionPeer;

/// An accepted connection, ready for HTTP. `P` is its place among those that may be open.
pub struct Connection<S, P> {
    stream: S,
    peer: ConnectionPeer,
    _place: P,
}

impl<S, P> Connection<S, P> {
    pub(crate) fn new(stream: S, peer: ConnectionPeer, place: P) -> Self {
        Self { stream, peer, _place: place }
    }

    /// Where it comes from.
    pub fn peer(&self) -> &ConnectionPeer {
        &self.peer
    }

    /// Drops what is known of the client's certificate, for a connection that lives long after it was
    /// looked at.
    pub fn forget_identity(&mut self) {
        self.peer.identity = None;
    }
}

impl<S, P> Connected for Connection<S, P> {
    type ConnectInfo = ConnectionPeer;

    fn connect_info(&self) -> ConnectionPeer {
        self.peer.clone()
    }
}

impl<S: AsyncRead + Unpin, P: Unpin> AsyncRead for Connection<S, P> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buffer)
    }
}

impl<S: AsyncWrite + Unpin, P: Unpin> AsyncWrite for Connection<S, P> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, data: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, data)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
