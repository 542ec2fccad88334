//! The loop: one epoll over the listening socket, the clients, the signals, the log notifications and the
//! pidfds of processes that are not our children.
//!
//! SIGCHLD and SIGTERM arrive through a signalfd and are blocked, except while a command is spawned: a child
//! inherits the mask, and a container must not start with SIGTERM blocked. What is missed in that moment is
//! made up for by reaping right after.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::time::{Duration, Instant};

use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use nix::sys::signal::Signal;
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::sys::socket::{getsockopt, sockopt::PeerCredentials};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::{Pid, Uid};
use rustix::process::{PidfdFlags, pidfd_open};

use crate::Error;
use crate::connection::Connection;
use crate::index::Event;
use crate::logs::Logs;
use crate::process;
use crate::protocol::{
    Exit, Line, MAX_CLIENTS, MAX_LINE, MAX_WATCHED, Op, Outcome, Request, SOCKET_NAME, Start, Watched,
    is_valid_id,
};
use crate::records::Records;
use crate::refusal::Refusal;
use crate::setup::{listen, notify_ready, read_pid, signal_mask, spawn};
use crate::watch::{Table, describe};

const DNS_PORT: u16 = 53;
/// A runtime command that takes longer is killed.
const COMMAND_LIMIT: Duration = Duration::from_secs(30);

const TOKEN_LISTEN: u64 = 0;
const TOKEN_SIGNAL: u64 = 1;
const TOKEN_LOGS: u64 = 2;
const TOKEN_NAMES: u64 = 3;
const TOKEN_CLIENT: u64 = 1 << 32;
const TOKEN_PROCESS: u64 = 2 << 32;

struct Pending {
    seq: u64,
    client: u64,
    start: Start,
    deadline: Instant,
}

/// The keeper's whole state.
pub struct Server {
    epoll: Epoll,
    listener: UnixListener,
    signals: SignalFd,
    logs: Logs,
    /// Absent when it could not be set up; processes are watched all the same.
    names: Option<aos_names::Server>,
    table: Table,
    clients: BTreeMap<u64, Connection>,
    next_client: u64,
    pending: BTreeMap<i32, Pending>,
    /// Lists asked for while a command runs: client and number of the request.
    lists: Vec<(u64, u64)>,
    /// Children that ended while a command was running: one of them may be the process it leaves behind,
    /// which can be orphaned and end before the command itself does.
    early: BTreeMap<i32, (Option<i32>, Option<i32>)>,
}

impl Server {
    /// Takes up what an earlier keeper left and starts to listen.
    pub fn open(dir: &Path) -> Result<Self, Error> {
        // A session of our own outlives the terminal and the process group of whoever started us; it fails
        // harmlessly when we lead a group already.
        let _ = nix::unistd::setsid();
        fs::create_dir_all(dir).map_err(|source| Error::Folder { path: dir.to_owned(), source })?;
        let listener = listen(&dir.join(SOCKET_NAME))?;
        let system = |action| move |source| Error::System { action, source };
        nix::sys::prctl::set_child_subreaper(true).map_err(system("become the child subreaper"))?;
        let mask = signal_mask();
        mask.thread_block().map_err(system("block signals"))?;
        let signals = SignalFd::with_flags(&mask, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK)
            .map_err(system("open the signal descriptor"))?;
        let logs = Logs::new().map_err(system("watch log files"))?;
        let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC).map_err(system("open the event queue"))?;
        let readable = |token| EpollEvent::new(EpollFlags::EPOLLIN, token);
        epoll.add(&listener, readable(TOKEN_LISTEN)).map_err(system("watch the socket"))?;
        epoll.add(&signals, readable(TOKEN_SIGNAL)).map_err(system("watch signals"))?;
        epoll.add(logs.descriptor(), readable(TOKEN_LOGS)).map_err(system("watch log files"))?;
        let names = open_names(dir);
        if let Some(names) = &names {
            epoll.add(names.descriptor(), readable(TOKEN_NAMES)).map_err(system("watch the name server"))?;
        }
        let (table, earlier) = Table::load(Records::open(dir)?);
        let mut server = Self {
            epoll,
            listener,
            signals,
            logs,
            names,
            table,
            clients: BTreeMap::new(),
            next_client: 0,
            pending: BTreeMap::new(),
            lists: Vec::new(),
            early: BTreeMap::new(),
        };
        for watched in earlier {
            server.take_up(watched);
        }
        Ok(server)
    }

    /// Serves until SIGTERM.
    pub fn run(mut self) -> Result<(), Error> {
        notify_ready();
        let mut events = [EpollEvent::empty(); 16];
        loop {
            let count = match self.epoll.wait(&mut events, self.timeout()) {
                Ok(count) => count,
                Err(nix::Error::EINTR) => 0,
                Err(source) => return Err(Error::System { action: "wait for events", source }),
            };
            for event in events.iter().take(count) {
                match event.data() {
                    TOKEN_LISTEN => self.accept(),
                    TOKEN_SIGNAL => {
                        if self.on_signal() {
                            return Ok(());
                        }
                    }
                    TOKEN_LOGS => self.logs.on_written(Instant::now()),
                    TOKEN_NAMES => {
                        if let Some(names) = &mut self.names {
                            names.on_ready(Instant::now());
                        }
                    }
                    token if token >= TOKEN_PROCESS => self.on_process_gone(token - TOKEN_PROCESS),
                    token => self.on_client(token - TOKEN_CLIENT, event.events()),
                }
            }
            let now = Instant::now();
            for (id, bytes) in self.logs.look(now) {
                crate::note(&format!("the log of {id} is written too fast, {bytes} bytes are thrown away"));
                self.tell(&Line::Flood { id, bytes });
            }
            if let Some(names) = &mut self.names {
                names.on_time(now);
            }
            self.stop_overdue(now);
        }
    }

    fn timeout(&self) -> EpollTimeout {
        let deadlines = self.pending.values().map(|pending| pending.deadline);
        let names = self.names.as_ref().and_then(aos_names::Server::next_deadline);
        let Some(next) = deadlines.chain(self.logs.next_look()).chain(names).min() else {
            return EpollTimeout::NONE;
        };
        let wait = next.saturating_duration_since(Instant::now()) + Duration::from_millis(1);
        EpollTimeout::try_from(wait).unwrap_or(EpollTimeout::NONE)
    }

    fn accept(&mut self) {
        while let Ok((stream, _)) = self.listener.accept() {
            let ours = getsockopt(&stream, PeerCredentials)
                .is_ok_and(|peer| peer.uid() == Uid::effective().as_raw());
            if !ours || self.clients.len() >= MAX_CLIENTS || stream.set_nonblocking(true).is_err() {
                crate::note("a client was turned away");
                continue;
            }
            let number = self.next_client;
            self.next_client += 1;
            if self.epoll.add(&stream, client_event(number, false)).is_ok() {
                self.clients.insert(number, Connection::new(stream));
            }
        }
    }

    fn on_client(&mut self, number: u64, flags: EpollFlags) {
        let Some(client) = self.clients.get_mut(&number) else { return };
        if flags.contains(EpollFlags::EPOLLOUT) && !client.flush() {
            return self.drop_client(number);
        }
        if flags.intersects(EpollFlags::EPOLLIN | EpollFlags::EPOLLHUP | EpollFlags::EPOLLERR) {
            let Some(lines) = client.read_lines() else { return self.drop_client(number) };
            for line in lines {
                match serde_json::from_slice::<Request>(&line) {
                    Ok(request) if line.len() <= MAX_LINE => self.on_request(number, request),
                    _ => {
                        self.send(
                            number,
                            &Line::Refused { seq: 0, message: "no request of ours".to_owned() },
                        );
                    }
                }
            }
        }
        self.update_interest(number);
    }

    fn on_request(&mut self, client: u64, Request { seq, op }: Request) {
        let answer = match op {
            Op::Start(start) => match self.start(client, seq, start) {
                Ok(()) => return,
                Err(refusal) => Err(refusal),
            },
            Op::Adopt { id, pid, start_time } => self.adopt(&id, pid, start_time),
            // A list without what is being started would make its reader clean that up.
            Op::List if !self.pending.is_empty() => {
                self.lists.truncate(MAX_CLIENTS);
                self.lists.push((client, seq));
                return;
            }
            Op::List => Ok(self.list()),
            Op::Stopping { id } => {
                self.logs.stopping(&id, Instant::now());
                Ok(Outcome::Acked)
            }
            Op::SetNames { zone } => self.on_names(|names| names.set(zone)),
            Op::DropNames { network } => self.on_names(|names| names.remove(&network)),
            Op::KeepNames { networks } => self.on_names(|names| names.retain(&networks)),
            Op::Ack { id, pid } => self.table.ack(&id, pid).map(|()| Outcome::Acked).map_err(Refusal::Record),
        };
        let line = match answer {
            Ok(result) => Line::Done { seq, result },
            Err(refusal) => Line::Refused { seq, message: refusal.to_string() },
        };
        self.send(client, &line);
    }

    fn on_names(
        &mut self,
        act: impl FnOnce(&mut aos_names::Server) -> Result<(), aos_names::Error>,
    ) -> Result<Outcome, Refusal> {
        act(self.names.as_mut().ok_or(Refusal::NoNames)?).map(|()| Outcome::Acked).map_err(Refusal::Names)
    }

    fn list(&self) -> Outcome {
        Outcome::List { watched: self.table.watched(), exits: self.table.exits() }
    }

    fn start(&mut self, client: u64, seq: u64, start: Start) -> Result<(), Refusal> {
        if !is_valid_id(&start.id) {
            return Err(Refusal::Name);
        }
        // The predecessor may have ended without our having looked yet.
        self.reap();
        let over = |watched: &Watched| !process::is_running(watched.pid, watched.start_time);
        if self.table.get(&start.id).is_some_and(|entry| entry.pidfd.is_some() && over(&entry.watched)) {
            self.finish(&start.id, None, None);
        }
        if self.table.get(&start.id).is_some() || self.pending.values().any(|p| p.start.id == start.id) {
            return Err(Refusal::Started(start.id));
        }
        if self.table.is_full() {
            return Err(Refusal::Full);
        }
        let _ = fs::remove_file(&start.pid_file);
        Logs::begin(&start.log);
        let pid = spawn(&start).map_err(Refusal::Command)?;
        self.pending.insert(pid, Pending { seq, client, start, deadline: Instant::now() + COMMAND_LIMIT });
        self.reap();
        Ok(())
    }

    fn adopt(&mut self, id: &str, pid: i32, start_time: u64) -> Result<Outcome, Refusal> {
        if !is_valid_id(id) || pid <= 1 {
            return Err(Refusal::Name);
        }
        if self.table.get(id).is_some_and(|entry| entry.watched.pid == pid) {
            return Ok(Outcome::Adopted);
        }
        if self.table.is_full() {
            return Err(Refusal::Full);
        }
        let watched = Watched { id: id.to_owned(), pid, start_time, log: None };
        Ok(if self.take_up(watched) { Outcome::Adopted } else { Outcome::Gone })
    }

    /// Watches a process that is not our child; false when it is gone.
    fn take_up(&mut self, watched: Watched) -> bool {
        let pidfd = rustix::process::Pid::from_raw(watched.pid)
            .and_then(|pid| pidfd_open(pid, PidfdFlags::empty()).ok())
            .filter(|_| process::is_running(watched.pid, watched.start_time));
        let token = TOKEN_PROCESS + u64::from(watched.pid.unsigned_abs());
        let added =
            pidfd.filter(|fd| self.epoll.add(fd, EpollEvent::new(EpollFlags::EPOLLIN, token)).is_ok());
        let Some(pidfd) = added else {
            if let Some(log) = &watched.log {
                Logs::end_unseen(log);
            }
            if let Some(exit) = self.table.gone(&watched.id, watched.pid) {
                self.push(&exit);
            }
            return false;
        };
        if let Some(log) = watched.log.clone() {
            self.logs.add(&watched.id, log, Instant::now());
        }
        let id = watched.id.clone();
        if let Err(error) = self.table.insert(watched, Some(pidfd)) {
            crate::note(&format!("watch of {id} is not stored: {}", describe_error(&error)));
        }
        true
    }

    fn on_process_gone(&mut self, pid: u64) {
        let Some(id) = i32::try_from(pid).ok().and_then(|pid| self.table.id_of(pid)) else { return };
        if let Some(fd) = self.table.get(&id).and_then(|entry| entry.pidfd.as_ref()) {
            let _ = self.epoll.delete(fd);
            self.finish(&id, None, None);
        }
    }

    /// Takes the pending signals; true when it is time to go.
    fn on_signal(&mut self) -> bool {
        let mut terminate = false;
        while let Ok(Some(info)) = self.signals.read_signal() {
            terminate |= i32::try_from(info.ssi_signo).is_ok_and(|number| number != Signal::SIGCHLD as i32);
        }
        self.reap();
        terminate
    }

    /// Collects every ended child.
    fn reap(&mut self) {
        let mut ended = Vec::new();
        loop {
            match waitpid(Pid::from_raw(-1), Some(WaitPidFlag::WNOHANG)) {
                Ok(WaitStatus::Exited(pid, code)) => ended.push((pid.as_raw(), Some(code), None)),
                Ok(WaitStatus::Signaled(pid, signal, _)) => {
                    ended.push((pid.as_raw(), None, Some(signal as i32)));
                }
                Ok(WaitStatus::StillAlive) => break,
                Ok(_) | Err(nix::Error::EINTR) => {}
                Err(_) => break,
            }
        }
        ended.retain(|&(pid, code, signal)| match self.table.id_of(pid) {
            Some(id) if !self.pending.contains_key(&pid) => {
                self.finish(&id, code, signal);
                false
            }
            _ => true,
        });
        let (commands, others): (Vec<_>, Vec<_>) =
            ended.into_iter().partition(|(pid, _, _)| self.pending.contains_key(pid));
        for (pid, code, signal) in others {
            if self.early.len() < MAX_WATCHED {
                self.early.insert(pid, (code, signal));
            }
        }
        for (pid, code, signal) in commands {
            if let Some(pending) = self.pending.remove(&pid) {
                self.on_command_ended(pending, code.unwrap_or_else(|| 128 + signal.unwrap_or(0)));
            }
        }
        if self.pending.is_empty() {
            self.early = BTreeMap::new();
        }
    }

    fn on_command_ended(&mut self, Pending { seq, client, start, .. }: Pending, status: i32) {
        let line = match (status, read_pid(&start.pid_file)) {
            (0, Some(pid)) => {
                let watched = describe(&start.id, pid, Some(start.log.clone()));
                let start_time = watched.start_time;
                match self.table.insert(watched, None) {
                    Ok(()) => {
                        self.logs.add(&start.id, start.log.clone(), Instant::now());
                        Line::Done { seq, result: Outcome::Started { pid, start_time } }
                    }
                    Err(error) => Line::Refused { seq, message: describe_error(&error) },
                }
            }
            (0, None) => Line::Refused { seq, message: "the command wrote no process ID".to_owned() },
            (status, _) => Line::Done { seq, result: Outcome::CommandFailed { status } },
        };
        self.send(client, &line);
        if let Line::Done { result: Outcome::Started { pid, start_time }, .. } = line {
            match self.early.remove(&pid) {
                Some((code, signal)) => self.finish(&start.id, code, signal),
                // Somebody else has collected it: it is gone, and nobody will tell us how.
                None if start_time == 0 => self.finish(&start.id, None, None),
                None => {}
            }
        }
        if self.pending.is_empty() {
            for (client, seq) in std::mem::take(&mut self.lists) {
                let result = self.list();
                self.send(client, &Line::Done { seq, result });
            }
        }
    }

    fn finish(&mut self, id: &str, code: Option<i32>, signal: Option<i32>) {
        self.logs.end(id, Event::of_exit(code, signal), Instant::now());
        if let Some(exit) = self.table.ended(id, code, signal) {
            self.push(&exit);
        }
    }

    fn push(&mut self, exit: &Exit) {
        self.tell(&Line::Exit { exit: exit.clone() });
    }

    fn tell(&mut self, line: &Line) {
        let numbers: Vec<u64> = self.clients.keys().copied().collect();
        for number in numbers {
            self.send(number, line);
        }
    }

    fn stop_overdue(&mut self, now: Instant) {
        for (pid, pending) in &mut self.pending {
            if pending.deadline <= now {
                crate::note(&format!("the runtime command of {} takes too long, killed", pending.start.id));
                // It leads a group of its own, with whatever it has started and not yet let go.
                let _ = nix::sys::signal::killpg(Pid::from_raw(*pid), Signal::SIGKILL);
                pending.deadline = now + COMMAND_LIMIT;
            }
        }
    }

    fn send(&mut self, number: u64, line: &Line) {
        let Some(client) = self.clients.get_mut(&number) else { return };
        if client.send(line) {
            self.update_interest(number);
        } else {
            self.drop_client(number);
        }
    }

    fn update_interest(&mut self, number: u64) {
        if let Some(client) = self.clients.get(&number) {
            let mut event = client_event(number, client.wants_write());
            let _ = self.epoll.modify(client.stream(), &mut event);
        }
    }

    fn drop_client(&mut self, number: u64) {
        if let Some(client) = self.clients.remove(&number) {
            let _ = self.epoll.delete(client.stream());
        }
    }
}

fn client_event(number: u64, wants_write: bool) -> EpollEvent {
    let flags = if wants_write { EpollFlags::EPOLLIN | EpollFlags::EPOLLOUT } else { EpollFlags::EPOLLIN };
    EpollEvent::new(flags, TOKEN_CLIENT + number)
}

fn open_names(dir: &Path) -> Option<aos_names::Server> {
    let settings = aos_names::Settings {
        folder: dir.join("names"),
        port: DNS_PORT,
        upstream_port: DNS_PORT,
        resolv: "/etc/resolv.conf".into(),
        note: crate::note,
    };
    let opened = aos_names::Server::open(settings);
    opened.map_err(|error| crate::note(&format!("no names: {}", describe_error(&error)))).ok()
}

pub(crate) fn describe_error(error: &dyn std::error::Error) -> String {
    match error.source() {
        Some(source) => format!("{error}: {source}"),
        None => error.to_string(),
    }
}
