//! Netlink as far as the network needs it: messages of nested attributes, a reader for what the kernel
//! answers, and a blocking socket.
//!
//! Writing and reading are pure; the reader takes any bytes without panic, cuts nothing it was not given and
//! simply ends where the bytes make no sense. The socket is for short work of this machine's kernel, which
//! answers while the call runs; it never waits longer than [`PATIENCE`].

use std::io::{self, IoSlice};
use std::os::fd::{AsRawFd, OwnedFd};
use std::time::Duration;

use nix::sys::socket::{
    AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, bind, recv, sendmsg, setsockopt,
    socket, sockopt,
};
use nix::sys::time::TimeVal;

/// Longest wait for the kernel's answer.
const PATIENCE: Duration = Duration::from_secs(10);
/// Room for one datagram of the kernel, bytes; a dump is cut into pieces of at most 32 KiB.
const DATAGRAM: usize = 32 * 1024;
const HEADER: usize = 16;
/// `NLMSG_ERROR`, which is also how success is told.
const ERROR: u16 = 2;
/// `NLMSG_DONE`.
const DONE: u16 = 3;
const NESTED: u16 = 0x8000;

/// `NLM_F_REQUEST`
const REQUEST: u16 = 1;
/// `NLM_F_ACK`
pub const ACK: u16 = 4;
/// `NLM_F_ROOT | NLM_F_MATCH`
pub const DUMP: u16 = 0x300;
/// `NLM_F_REPLACE`
pub const REPLACE: u16 = 0x100;
/// `NLM_F_EXCL`
pub const EXCLUSIVE: u16 = 0x200;
/// `NLM_F_CREATE`
pub const CREATE: u16 = 0x400;
/// `NLM_F_APPEND`
pub const APPEND: u16 = 0x800;

fn aligned(length: usize) -> usize {
    length.div_ceil(4) * 4
}

/// One message being written. Lengths beyond the format's 16 bits cannot come up: every part is bounded by
/// its maker far below.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Message(Vec<u8>);

impl Message {
    /// A request of the given type; `head` is the fixed part behind the netlink header.
    pub fn new(kind: u16, flags: u16, head: &[u8]) -> Self {
        let mut bytes = vec![0; 4];
        bytes.extend_from_slice(&kind.to_ne_bytes());
        bytes.extend_from_slice(&(flags | REQUEST).to_ne_bytes());
        bytes.extend_from_slice(&[0; 8]);
        bytes.extend_from_slice(head);
        bytes.resize(aligned(bytes.len()), 0);
        Self(bytes)
    }

    /// Adds an attribute.
    pub fn put(&mut self, kind: u16, value: &[u8]) -> &mut Self {
        let length = u16::try_from(value.len() + 4).unwrap_or(u16::MAX);
        self.0.extend_from_slice(&length.to_ne_bytes());
        self.0.extend_from_slice(&kind.to_ne_bytes());
        self.0.extend_from_slice(value);
        self.0.resize(aligned(self.0.len()), 0);
        self
    }

    /// Adds a number in network order.
    pub fn put_be32(&mut self, kind: u16, value: u32) -> &mut Self {
        self.put(kind, &value.to_be_bytes())
    }

    /// Adds a number in network order.
    pub fn put_be64(&mut self, kind: u16, value: u64) -> &mut Self {
        self.put(kind, &value.to_be_bytes())
    }

    /// Adds a text with the zero byte the kernel wants.
    pub fn put_text(&mut self, kind: u16, text: &str) -> &mut Self {
        let mut bytes = text.as_bytes().to_vec();
        bytes.push(0);
        self.put(kind, &bytes)
    }

    /// Adds bare bytes, where a nested attribute starts with a fixed part.
    pub fn put_raw(&mut self, bytes: &[u8]) -> &mut Self {
        self.0.extend_from_slice(bytes);
        self
    }

    /// Adds an attribute made of attributes.
    pub fn nest(&mut self, kind: u16, content: impl FnOnce(&mut Self)) -> &mut Self {
        let start = self.0.len();
        self.0.extend_from_slice(&[0; 2]);
        self.0.extend_from_slice(&(kind | NESTED).to_ne_bytes());
        content(self);
        let length = u16::try_from(self.0.len() - start).unwrap_or(u16::MAX);
        if let Some(place) = self.0.get_mut(start..start + 2) {
            place.copy_from_slice(&length.to_ne_bytes());
        }
        self
    }

    /// What has been written.
    #[cfg(test)]
    pub fn bytes(&self) -> &[u8] {
        &self.0
    }

    /// Asks for an answer to this message.
    pub fn acknowledged(mut self) -> Self {
        if let Some(low) = self.0.get_mut(6) {
            *low |= ACK.to_ne_bytes()[0];
        }
        self
    }

    fn finish(mut self, sequence: u32) -> Vec<u8> {
        let length = u32::try_from(self.0.len()).unwrap_or(u32::MAX);
        if let Some(place) = self.0.get_mut(..4) {
            place.copy_from_slice(&length.to_ne_bytes());
        }
        if let Some(place) = self.0.get_mut(8..12) {
            place.copy_from_slice(&sequence.to_ne_bytes());
        }
        self.0
    }
}

/// One message of the kernel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Received<'a> {
    /// Type.
    pub kind: u16,
    /// Number of the request it answers.
    pub sequence: u32,
    /// Everything behind the header.
    pub body: &'a [u8],
}

/// Cuts a datagram into messages; ends at the first that does not fit.
pub fn messages(mut bytes: &[u8]) -> impl Iterator<Item = Received<'_>> {
    std::iter::from_fn(move || {
        let length = usize::try_from(number(bytes, 0)?).ok()?;
        let body = bytes.get(HEADER..length)?;
        let received = Received { kind: half(bytes, 4)?, sequence: number(bytes, 8)?, body };
        bytes = bytes.get(aligned(length)..).unwrap_or_default();
        Some(received)
    })
}

/// Cuts bytes into attributes, type and value; ends at the first that does not fit.
pub fn attributes(mut bytes: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    std::iter::from_fn(move || {
        let length = usize::from(half(bytes, 0)?);
        let value = bytes.get(4..length)?;
        let kind = half(bytes, 2)? & 0x3fff;
        bytes = bytes.get(aligned(length)..).unwrap_or_default();
        Some((kind, value))
    })
}

/// The first attribute of a type.
pub fn attribute(bytes: &[u8], kind: u16) -> Option<&[u8]> {
    attributes(bytes).find(|(found, _)| *found == kind).map(|(_, value)| value)
}

/// A text attribute without its zero byte.
pub fn text(bytes: &[u8], kind: u16) -> Option<&str> {
    let value = attribute(bytes, kind)?;
    std::str::from_utf8(value.split(|byte| *byte == 0).next()?).ok()
}

/// A number in network order.
pub fn be64(bytes: &[u8], kind: u16) -> Option<u64> {
    Some(u64::from_be_bytes(attribute(bytes, kind)?.try_into().ok()?))
}

/// A number of this machine's order at an offset.
pub fn number(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_ne_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
}

fn half(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_ne_bytes(bytes.get(at..at + 2)?.try_into().ok()?))
}

/// What an error message says: `None` when the message is none, zero for success.
fn verdict(message: &Received<'_>) -> Option<i32> {
    (message.kind == ERROR).then(|| number(message.body, 0).map_or(0, |code| -code.cast_signed()))
}

/// A netlink socket of the network namespace its thread was in when it was opened.
#[derive(Debug)]
pub struct Socket {
    socket: OwnedFd,
    sequence: u32,
}

impl Socket {
    /// For links, addresses, routes and queues.
    pub fn route() -> io::Result<Self> {
        Self::open(SockProtocol::NetlinkRoute)
    }

    /// For packet filters.
    pub fn netfilter() -> io::Result<Self> {
        Self::open(SockProtocol::NetlinkNetFilter)
    }

    fn open(protocol: SockProtocol) -> io::Result<Self> {
        let socket = socket(AddressFamily::Netlink, SockType::Raw, SockFlag::SOCK_CLOEXEC, protocol)?;
        bind(socket.as_raw_fd(), &NetlinkAddr::new(0, 0))?;
        let patience = TimeVal::new(PATIENCE.as_secs().cast_signed(), 0);
        setsockopt(&socket, sockopt::ReceiveTimeout, &patience)?;
        Ok(Self { socket, sequence: 0 })
    }

    fn send(&self, bytes: &[u8]) -> io::Result<()> {
        let kernel = NetlinkAddr::new(0, 0);
        let sent =
            sendmsg(self.socket.as_raw_fd(), &[IoSlice::new(bytes)], &[], MsgFlags::empty(), Some(&kernel))?;
        if sent == bytes.len() { Ok(()) } else { Err(io::ErrorKind::WriteZero.into()) }
    }

    fn receive<'a>(&self, room: &'a mut [u8], flags: MsgFlags) -> io::Result<&'a [u8]> {
        loop {
            match recv(self.socket.as_raw_fd(), room, flags) {
                Err(nix::errno::Errno::EINTR) => {}
                Err(error) => return Err(error.into()),
                Ok(length) => return Ok(room.get(..length).unwrap_or_default()),
            }
        }
    }

    /// Sends one request and waits for the verdict on it.
    pub fn request(&mut self, message: Message) -> io::Result<()> {
        self.ask(message, |_| {})
    }

    /// Sends one request; `each` gets what is answered before the verdict.
    pub fn ask(&mut self, message: Message, mut each: impl FnMut(&Received<'_>)) -> io::Result<()> {
        self.sequence = self.sequence.wrapping_add(1);
        self.send(&message.acknowledged().finish(self.sequence))?;
        let mut room = vec![0; DATAGRAM];
        loop {
            let bytes = self.receive(&mut room, MsgFlags::empty())?;
            for message in messages(bytes).filter(|message| message.sequence == self.sequence) {
                match verdict(&message) {
                    Some(0) => return Ok(()),
                    Some(code) => return Err(io::Error::from_raw_os_error(code)),
                    None => each(&message),
                }
            }
        }
    }

    /// Asks for a list; `each` gets every entry. A list that changed while it was read is read to its end all
    /// the same: whoever changes these things is this program alone.
    pub fn dump(&mut self, message: Message, mut each: impl FnMut(&Received<'_>)) -> io::Result<()> {
        self.sequence = self.sequence.wrapping_add(1);
        self.send(&message.finish(self.sequence))?;
        let mut room = vec![0; DATAGRAM];
        loop {
            let bytes = self.receive(&mut room, MsgFlags::empty())?;
            for message in messages(bytes).filter(|message| message.sequence == self.sequence) {
                match verdict(&message) {
                    _ if message.kind == DONE => return Ok(()),
                    Some(0) => return Ok(()),
                    Some(code) => return Err(io::Error::from_raw_os_error(code)),
                    None => each(&message),
                }
            }
        }
    }

    /// Sends many messages in one piece. The last one asks for an answer; before it come the errors. The
    /// first error is the answer.
    pub fn transaction(&mut self, batch: Vec<Message>) -> io::Result<()> {
        let count = batch.len();
        // The closing message of a transaction is never acknowledged, the one before it is.
        let asked = count.saturating_sub(2);
        let mut bytes = Vec::new();
        let mut last = 0;
        for (place, message) in batch.into_iter().enumerate() {
            self.sequence = self.sequence.wrapping_add(1);
            let message = if place == asked {
                last = self.sequence;
                message.acknowledged()
            } else {
                message
            };
            bytes.extend(message.finish(self.sequence));
        }
        // All of it has to fit at once; when the room cannot be had, the sending says so.
        let _ = setsockopt(&self.socket, sockopt::SndBufForce, &(bytes.len().saturating_mul(2)));
        self.send(&bytes)?;
        let mut room = vec![0; DATAGRAM];
        let mut failed = None;
        let mut answered = false;
        while !(answered && failed.is_none()) {
            // The kernel has worked through all of it when the sending returns.
            let bytes = match self.receive(&mut room, MsgFlags::MSG_DONTWAIT) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                other => other?,
            };
            for message in messages(bytes) {
                match verdict(&message) {
                    Some(0) => answered |= message.sequence == last,
                    Some(code) => failed = failed.or(Some(code)),
                    None => {}
                }
            }
        }
        match failed {
            Some(code) => Err(io::Error::from_raw_os_error(code)),
            None if answered => Ok(()),
            None => Err(io::Error::other("the kernel did not answer")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn what_is_written_is_read_back() {
        let mut message = Message::new(7, DUMP, &[1, 2]);
        message.put_text(1, "abc").nest(2, |inner| {
            inner.put_be64(3, 9);
        });
        let bytes = message.finish(5);
        let all: Vec<_> = messages(&bytes).collect();
        assert_eq!((all.len(), all[0].kind, all[0].sequence), (1, 7, 5));
        let body = &all[0].body[4..];
        assert_eq!(text(body, 1), Some("abc"));
        assert_eq!(be64(attribute(body, 2).unwrap(), 3), Some(9));
        assert_eq!(attribute(body, 4), None);
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_without_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let mut total = 0;
            for message in messages(&bytes) {
                total += message.body.len();
                let _ = verdict(&message);
                for (_, value) in attributes(message.body) {
                    prop_assert!(value.len() <= message.body.len());
                    prop_assert!(attributes(value).count() <= value.len() / 4);
                }
            }
            prop_assert!(total <= bytes.len());
        }
    }
}
