//! The loop: one epoll over the listening socket, the clients, the signals, the log notifications and the
//! pidfds of processes that are not our children.
//!
//! SIGCHLD and SIGTERM arrive through a signalfd and are blocked, except while a command is spawned: a child
//! inherits the mask, and a container must not start with SIGTERM blocked. What is missed in that moment is
//! made up for by reaping right after.

use std::fs;
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::time::{Duration, Instant};

use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use nix::sys::signal::Signal;
use nix::sys::signalfd::{SfdFlags, SignalFd};
use rustix::process::{PidfdFlags, pidfd_open};

use crate::Error;
use crate::clients::Clients;
use crate::commands::{Commands, Ended, Pending, collect_ended};
use crate::index::Event;
use crate::logs::Logs;
use crate::process;
use crate::protocol::{
    Exit, Line, MAX_CLIENTS, Op, Outcome, Request, SOCKET_NAME, Start, Watched, is_valid_id,
};
use crate::records::Records;
use crate::refusal::Refusal;
use crate::setup::{listen, notify_ready, read_pid, signal_mask};
use crate::watch::{Table, describe};

const DNS_PORT: u16 = 53;

/// After a start, what only starting needs stays in memory so long: another one may follow.
const SETTLED: Duration = Duration::from_secs(20);

const TOKEN_LISTEN: u64 = 0;
const TOKEN_SIGNAL: u64 = 1;
const TOKEN_LOGS: u64 = 2;
const TOKEN_NAMES: u64 = 3;
const TOKEN_CLIENT: u64 = 1 << 32;
const TOKEN_PROCESS: u64 = 2 << 32;

/// The keeper's whole state.
pub struct Server {
    epoll: Epoll,
    listener: UnixListener,
    signals: SignalFd,
    logs: Logs,
    /// Absent when it could not be set up; processes are watched all the same.
    names: Option<aos_names::Server>,
    table: Table,
    clients: Clients,
    commands: Commands,
    /// Lists asked for while a command runs: client and number of the request.
    lists: Vec<(u64, u64)>,
    /// When the last start is so long ago that what it needed can go.
    settled_at: Option<Instant>,
}

impl Server {
    /// Takes up what an earlier keeper left and starts to listen; a runtime command is killed after `command_limit`.
    pub fn open(dir: &Path, command_limit: Duration) -> Result<Self, Error> {
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
            clients: Clients::new(TOKEN_CLIENT),
            commands: Commands::new(command_limit),
            lists: Vec::new(),
            settled_at: Some(Instant::now() + SETTLED),
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
            let settled = self.settled_at.take_if(|at| *at <= Instant::now()).is_some();
            let timeout = self.timeout();
            if settled {
                // Right before the loop goes to sleep, so that nothing comes back into memory at once.
                aos_footprint::give_back();
            }
            let count = match self.epoll.wait(&mut events, timeout) {
                Ok(count) => count,
                Err(nix::Error::EINTR) => 0,
                Err(source) => return Err(Error::System { action: "wait for events", source }),
            };
            for event in events.iter().take(count) {
                match event.data() {
                    TOKEN_LISTEN => self.clients.accept(&self.epoll, &self.listener),
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
            self.commands.stop_overdue(now);
        }
    }

    fn timeout(&self) -> EpollTimeout {
        let names = self.names.as_ref().and_then(aos_names::Server::next_deadline);
        let own = [self.commands.next_deadline(), self.logs.next_look(), names, self.settled_at];
        let Some(next) = own.into_iter().flatten().min() else {
            return EpollTimeout::NONE;
        };
        let wait = next.saturating_duration_since(Instant::now()) + Duration::from_millis(1);
        EpollTimeout::try_from(wait).unwrap_or(EpollTimeout::NONE)
    }

    fn on_client(&mut self, number: u64, flags: EpollFlags) {
        for request in self.clients.on_ready(&self.epoll, number, flags) {
            self.on_request(number, request);
        }
    }

    fn on_request(&mut self, client: u64, Request { seq, op }: Request) {
        let answer = match op {
            Op::Start(start) => match self.start(client, seq, start) {
                Ok(()) => return,
                Err(refusal) => Err(refusal),
            },
            Op::Adopt { id, pid, start_time } => self.adopt(&id, pid, start_time),
            // A list without what is being started would make its reader clean that up.
            Op::List if !self.commands.is_empty() => {
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
        if self.table.get(&start.id).is_some() || self.commands.is_starting(&start.id) {
            return Err(Refusal::Started(start.id));
        }
        if self.table.is_full() {
            return Err(Refusal::Full);
        }
        let _ = fs::remove_file(&start.pid_file);
        Logs::begin(&start.log);
        let now = Instant::now();
        self.commands.run(client, seq, start, now).map_err(Refusal::Command)?;
        self.settled_at = Some(now + SETTLED);
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

    /// Takes every child that has ended.
    fn reap(&mut self) {
        let mut commands = Vec::new();
        for ended in collect_ended() {
            match self.table.id_of(ended.pid) {
                _ if self.commands.contains(ended.pid) => commands.push(ended),
                Some(id) => self.finish(&id, ended.code, ended.signal),
                None => self.commands.remember(ended),
            }
        }
        for Ended { pid, code, signal } in commands {
            if let Some(pending) = self.commands.take(pid) {
                self.on_command_ended(pending, code.unwrap_or_else(|| 128 + signal.unwrap_or(0)));
            }
        }
        self.commands.tidy();
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
            match self.commands.take_early(pid) {
                Some(Ended { code, signal, .. }) => self.finish(&start.id, code, signal),
                // Somebody else has collected it: it is gone, and nobody will tell us how.
                None if start_time == 0 => self.finish(&start.id, None, None),
                None => {}
            }
        }
        if self.commands.is_empty() {
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
        self.clients.tell(&self.epoll, line);
    }

    fn send(&mut self, client: u64, line: &Line) {
        self.clients.send(&self.epoll, client, line);
    }
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
