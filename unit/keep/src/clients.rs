//! The connected clients: who is let in, the requests they send, the lines they get.
//!
//! One that sends what is no request is told so; one that breaks the bounds of its connection is dropped.

use std::collections::BTreeMap;
use std::os::unix::net::UnixListener;

use nix::sys::epoll::{Epoll, EpollEvent, EpollFlags};
use nix::sys::socket::{getsockopt, sockopt::PeerCredentials};
use nix::unistd::Uid;

use crate::connection::Connection;
use crate::protocol::{Line, MAX_CLIENTS, MAX_LINE, Request};

/// All clients, by a number that is never used twice.
pub struct Clients {
    /// Added to a client's number, gives the token of its events.
    token: u64,
    connected: BTreeMap<u64, Connection>,
    next: u64,
}

impl Clients {
    /// Nobody yet; the events of client n will carry `token + n`.
    pub fn new(token: u64) -> Self {
        Self { token, connected: BTreeMap::new(), next: 0 }
    }

    /// Lets in who waits at the socket, while there is room and if it is our own user.
    pub fn accept(&mut self, epoll: &Epoll, listener: &UnixListener) {
        while let Ok((stream, _)) = listener.accept() {
            let ours = getsockopt(&stream, PeerCredentials)
                .is_ok_and(|peer| peer.uid() == Uid::effective().as_raw());
            if !ours || self.connected.len() >= MAX_CLIENTS || stream.set_nonblocking(true).is_err() {
                crate::note("a client was turned away");
                continue;
            }
            let number = self.next;
            self.next += 1;
            if epoll.add(&stream, self.event(number, false)).is_ok() {
                self.connected.insert(number, Connection::new(stream));
            }
        }
    }

    /// Serves the socket of a client that is ready; answers its requests.
    pub fn on_ready(&mut self, epoll: &Epoll, number: u64, flags: EpollFlags) -> Vec<Request> {
        let mut requests = Vec::new();
        let Some(client) = self.connected.get_mut(&number) else { return requests };
        if flags.contains(EpollFlags::EPOLLOUT) && !client.flush() {
            self.drop_client(epoll, number);
            return requests;
        }
        if flags.intersects(EpollFlags::EPOLLIN | EpollFlags::EPOLLHUP | EpollFlags::EPOLLERR) {
            let Some(lines) = client.read_lines() else {
                self.drop_client(epoll, number);
                return requests;
            };
            for line in lines {
                match serde_json::from_slice::<Request>(&line) {
                    Ok(request) if line.len() <= MAX_LINE => requests.push(request),
                    _ => {
                        let message = "no request of ours".to_owned();
                        self.send(epoll, number, &Line::Refused { seq: 0, message });
                    }
                }
            }
        }
        self.update_interest(epoll, number);
        requests
    }

    /// Sends a line to a client; one that is gone meanwhile does not get it.
    pub fn send(&mut self, epoll: &Epoll, number: u64, line: &Line) {
        let Some(client) = self.connected.get_mut(&number) else { return };
        if client.send(line) {
            self.update_interest(epoll, number);
        } else {
            self.drop_client(epoll, number);
        }
    }

    /// Sends a line to everybody.
    pub fn tell(&mut self, epoll: &Epoll, line: &Line) {
        let numbers: Vec<u64> = self.connected.keys().copied().collect();
        for number in numbers {
            self.send(epoll, number, line);
        }
    }

    fn event(&self, number: u64, wants_write: bool) -> EpollEvent {
        let flags =
            if wants_write { EpollFlags::EPOLLIN | EpollFlags::EPOLLOUT } else { EpollFlags::EPOLLIN };
        EpollEvent::new(flags, self.token + number)
    }

    fn update_interest(&mut self, epoll: &Epoll, number: u64) {
        if let Some(client) = self.connected.get(&number) {
            let mut event = self.event(number, client.wants_write());
            let _ = epoll.modify(client.stream(), &mut event);
        }
    }

    fn drop_client(&mut self, epoll: &Epoll, number: u64) {
        if let Some(client) = self.connected.remove(&number) {
            let _ = epoll.delete(client.stream());
        }
    }
}
