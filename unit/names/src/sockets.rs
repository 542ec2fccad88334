//! How sockets are made: bound to addresses that need not be there (a bridge comes and goes), never blocking.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4, TcpListener, TcpStream, UdpSocket};
use std::os::fd::OwnedFd;

use nix::errno::Errno;
use nix::sys::socket::{
    AddressFamily, Backlog, SockFlag, SockProtocol, SockType, SockaddrIn, SockaddrStorage, bind, connect,
    listen, setsockopt, socket, sockopt,
};
use std::os::fd::AsRawFd;

const FLAGS: SockFlag = SockFlag::SOCK_NONBLOCK.union(SockFlag::SOCK_CLOEXEC);
const BACKLOG: i32 = 8;
/// Questions that may wait in the kernel, bytes.
const WAITING: usize = 128 * 1024;

/// Where a network asks.
pub struct Pair {
    /// For most questions.
    pub datagrams: UdpSocket,
    /// For long answers.
    pub streams: TcpListener,
}

impl Pair {
    /// Listens at an address, whether the host has it now or not.
    pub fn bind(address: Ipv4Addr, port: u16) -> nix::Result<Self> {
        let place = SockaddrIn::from(SocketAddrV4::new(address, port));
        let bound = |kind| -> nix::Result<OwnedFd> {
            let socket = socket(AddressFamily::Inet, kind, FLAGS, None::<SockProtocol>)?;
            // A server of the host on all addresses need not be in our way.
            setsockopt(&socket, sockopt::ReuseAddr, &true)?;
            setsockopt(&socket, sockopt::IpFreebind, &true)?;
            bind(socket.as_raw_fd(), &place)?;
            Ok(socket)
        };
        let datagrams = bound(SockType::Datagram)?;
        setsockopt(&datagrams, sockopt::RcvBuf, &WAITING)?;
        let streams = bound(SockType::Stream)?;
        listen(&streams, Backlog::new(BACKLOG)?)?;
        Ok(Self { datagrams: datagrams.into(), streams: streams.into() })
    }
}

/// A socket of its own for one question: the kernel picks a port nobody can foresee and lets in only what
/// comes from this server.
pub fn ask(server: IpAddr, port: u16) -> std::io::Result<UdpSocket> {
    let any: IpAddr = match server {
        IpAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        IpAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    };
    let socket = UdpSocket::bind((any, 0))?;
    socket.set_nonblocking(true)?;
    socket.connect((server, port))?;
    Ok(socket)
}

/// Begins a connection; it is made, or has failed, when the socket can be written.
pub fn dial(server: IpAddr, port: u16) -> nix::Result<TcpStream> {
    let family = if server.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 };
    let socket = socket(family, SockType::Stream, FLAGS, None::<SockProtocol>)?;
    match connect(socket.as_raw_fd(), &SockaddrStorage::from(SocketAddr::new(server, port))) {
        Ok(()) | Err(Errno::EINPROGRESS) => Ok(socket.into()),
        Err(error) => Err(error),
    }
}
