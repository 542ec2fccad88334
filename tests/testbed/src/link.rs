//! Links: TCP forwarders between the host's loopback and a box's loopback, which can be cut and healed.
//!
//! A thread that has entered a network namespace makes sockets there, and a socket stays where it was made.
//! So bytes cross without any interface, address or rule on the host.

use std::fs::File;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, SocketAddrV4, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use nix::sched::{CloneFlags, setns};

use crate::boxes::NodeBox;
use crate::error::{Error, Result, Tried};

/// Where sockets of one end of a link are made.
#[derive(Debug, Clone)]
enum Place {
    Host,
    Inside(Arc<File>),
}

impl Place {
    /// Runs `job` in a thread that is in this place.
    fn run<T: Send + 'static>(
        &self,
        job: impl FnOnce() -> std::io::Result<T> + Send + 'static,
    ) -> std::io::Result<T> {
        match self {
            Self::Host => job(),
            Self::Inside(network) => {
                let network = Arc::clone(network);
                let thread = thread::Builder::new().name("link-enter".to_owned()).spawn(move || {
                    setns(&*network, CloneFlags::CLONE_NEWNET).map_err(std::io::Error::from)?;
                    job()
                })?;
                thread.join().unwrap_or_else(|_| Err(std::io::Error::other("thread of a link panicked")))
            }
        }
    }
}

/// One forwarder.
#[derive(Debug)]
pub struct Link {
    address: SocketAddr,
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    cut: AtomicBool,
    ended: AtomicBool,
    open: Mutex<Vec<TcpStream>>,
    target: SocketAddr,
    target_place: Place,
    listener: TcpListener,
}

impl Link {
    /// Port `port` of the box's loopback leads to the same port of the host's.
    pub fn outward(node: &NodeBox, port: u16) -> Result<Self> {
        let inside = Place::Inside(Arc::new(node.network()?));
        Self::new(&inside, loopback(port), Place::Host, loopback(port))
    }

    /// Port `port` of the box's loopback leads to `target` as seen from the host.
    pub fn outward_to(node: &NodeBox, port: u16, target: SocketAddr) -> Result<Self> {
        let inside = Place::Inside(Arc::new(node.network()?));
        Self::new(&inside, loopback(port), Place::Host, target)
    }

    /// A port of the host's loopback (any free one, see [`Link::address`]) leads to `target` as seen inside
    /// the box.
    pub fn inward(node: &NodeBox, target: SocketAddr) -> Result<Self> {
        let inside = Place::Inside(Arc::new(node.network()?));
        Self::new(&Place::Host, loopback(0), inside, target)
    }

    fn new(
        listen_place: &Place,
        listen: SocketAddr,
        target_place: Place,
        target: SocketAddr,
    ) -> Result<Self> {
        let listener = listen_place
            .run(move || TcpListener::bind(listen))
            .tried(|| format!("cannot listen on {listen} for a link"))?;
        let address = listener.local_addr().tried(|| "a link has no address".to_owned())?;
        let shared = Arc::new(Shared {
            cut: AtomicBool::new(false),
            ended: AtomicBool::new(false),
            open: Mutex::new(Vec::new()),
            target,
            target_place,
            listener,
        });
        let for_thread = Arc::clone(&shared);
        thread::Builder::new()
            .name(format!("link-{}", address.port()))
            .spawn(move || for_thread.accept())
            .tried(|| "cannot start a link".to_owned())?;
        Ok(Self { address, shared })
    }

    /// Where the link listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Breaks all connections and refuses new ones until [`Link::heal`].
    pub fn cut(&self) {
        self.shared.cut.store(true, Ordering::SeqCst);
        self.shared.break_all();
    }

    /// Lets connections through again.
    pub fn heal(&self) {
        self.shared.cut.store(false, Ordering::SeqCst);
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        self.shared.ended.store(true, Ordering::SeqCst);
        self.shared.break_all();
        // Shutting a listening socket down wakes the thread that accepts.
        let _ = nix::sys::socket::shutdown(
            std::os::fd::AsRawFd::as_raw_fd(&self.shared.listener),
            nix::sys::socket::Shutdown::Both,
        );
    }
}

impl Shared {
    fn accept(self: Arc<Self>) {
        loop {
            let accepted = self.listener.accept();
            if self.ended.load(Ordering::SeqCst) {
                return;
            }
            let Ok((stream, _)) = accepted else {
                crate::wait::pause(Duration::from_millis(10));
                continue;
            };
            if self.cut.load(Ordering::SeqCst) {
                let _ = stream.shutdown(Shutdown::Both);
                continue;
            }
            let shared = Arc::clone(&self);
            let _ =
                thread::Builder::new().name("link-pair".to_owned()).spawn(move || shared.forward(&stream));
        }
    }

    fn forward(&self, near: &TcpStream) {
        let target = self.target;
        let connected =
            self.target_place.run(move || TcpStream::connect_timeout(&target, Duration::from_secs(5)));
        let Ok(far) = connected else {
            let _ = near.shutdown(Shutdown::Both);
            return;
        };
        let _ = near.set_nodelay(true);
        let _ = far.set_nodelay(true);
        if self.remember(near, &far).is_err() {
            return;
        }
        thread::scope(|scope| {
            scope.spawn(|| copy(near, &far));
            copy(&far, near);
        });
    }

    fn remember(&self, near: &TcpStream, far: &TcpStream) -> std::io::Result<()> {
        let pair = [near.try_clone()?, far.try_clone()?];
        if let Ok(mut open) = self.open.lock() {
            open.retain(|stream| stream.peer_addr().is_ok());
            open.extend(pair);
        }
        if self.cut.load(Ordering::SeqCst) || self.ended.load(Ordering::SeqCst) {
            self.break_all();
        }
        Ok(())
    }

    fn break_all(&self) {
        if let Ok(mut open) = self.open.lock() {
            for stream in open.drain(..) {
                let _ = stream.shutdown(Shutdown::Both);
            }
        }
    }
}

/// Copies until the source ends, then ends the destination's reading side.
fn copy(mut from: &TcpStream, mut to: &TcpStream) {
    let mut buffer = [0; 16 * 1024];
    loop {
        match from.read(&mut buffer) {
            Ok(0) => {
                let _ = to.shutdown(Shutdown::Write);
                return;
            }
            Ok(length) => {
                let Some(bytes) = buffer.get(..length) else { return };
                if to.write_all(bytes).is_err() {
                    let _ = from.shutdown(Shutdown::Both);
                    return;
                }
            }
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
            Err(_) => {
                let _ = to.shutdown(Shutdown::Both);
                return;
            }
        }
    }
}

fn loopback(port: u16) -> SocketAddr {
    SocketAddr::V4(SocketAddrV4::new(Ipv4Addr::LOCALHOST, port))
}

/// A port of the host's loopback that nobody listens on at this moment.
pub fn free_port() -> Result<u16> {
    let listener = TcpListener::bind(loopback(0)).tried(|| "cannot find a free port".to_owned())?;
    let address = listener.local_addr().tried(|| "cannot find a free port".to_owned())?;
    if address.port() == 0 { Err(Error::Unexpected("no free port".to_owned())) } else { Ok(address.port()) }
}
