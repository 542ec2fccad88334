//! The link to the keeper: starts it when nobody answers, carries requests, hands exits on.
//!
//! The keeper is a child of ours only in the process table; it has a session of its own and goes on when we
//! end. When it dies, the link starts another one, which takes up what runs from its own records.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::OpenOptions;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use aos_keep::protocol::{Exit, Line, MAX_LINE, Op, Outcome, Request, SOCKET_NAME, Start, Zone};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::UnixStream;
use tokio::sync::{mpsc, oneshot, watch};

use crate::Error;
use crate::alerts::AlertSender;
use crate::launcher::Watched;

const START_TRIES: u32 = 100;
const START_PAUSE: Duration = Duration::from_millis(20);
const RETRY_PAUSE: Duration = Duration::from_secs(1);
/// Time to tell the keeper about an end.
const STOPPING_TIME: Duration = Duration::from_secs(1);
/// Set for whatever systemd starts.
const UNDER_SYSTEMD: &str = "INVOCATION_ID";
/// Time in which systemd starts a keeper again that has ended.
const OTHERS_TIME: Duration = Duration::from_secs(5);
const MAX_OWN_LOG: u64 = 64 * 1024;

struct Call {
    op: Op,
    answer: oneshot::Sender<Result<Outcome, Error>>,
}

/// An instance wrote its log faster than it is kept.
#[derive(Debug)]
pub struct Flood {
    /// Instance ID.
    pub id: String,
    /// Bytes thrown away.
    pub bytes: u64,
}

/// Makes alerts of floods.
pub async fn tell_floods(
    mut floods: mpsc::Receiver<Flood>,
    watched: watch::Receiver<Arc<Vec<Watched>>>,
    alerts: AlertSender,
) {
    while let Some(Flood { id, bytes }) = floods.recv().await {
        let watched = watched.borrow().clone();
        if let Some(instance) = watched.iter().find(|one| one.id == id) {
            let message = format!("it writes its log too fast, {bytes} bytes were thrown away");
            alerts.instance(&instance.ident, &instance.version, &message);
        }
    }
}

/// Handle of the keeper link.
#[derive(Clone)]
pub struct Keeper {
    calls: mpsc::Sender<Call>,
}

/// What the keeper knows.
#[derive(Debug, Default)]
pub struct Known {
    /// Processes it watches, by instance ID.
    pub watched: BTreeMap<String, aos_keep::protocol::Watched>,
    /// Exits nobody has dealt with, by instance ID.
    pub exits: BTreeMap<String, Exit>,
}

impl Keeper {
    /// Connects, starting the keeper if needed; `program` is the executable that knows `keep`. Exits go to
    /// `exits` from then on; those of the time before are in what is answered.
    pub async fn open(
        dir: PathBuf,
        program: PathBuf,
        exits: mpsc::Sender<Exit>,
        floods: mpsc::Sender<Flood>,
    ) -> Result<(Self, Known, impl Future<Output = ()> + Send), Error> {
        aos_durable::create_dir(&dir, 0o700)?;
        let mut task = Task { dir, program, exits, floods, child: None, seq: 0, met: false };
        let (stream, known) = task.first_contact().await?;
        task.met = true;
        let (calls, queue) = mpsc::channel(64);
        Ok((Self { calls }, known, task.run(stream, queue)))
    }

    async fn call(&self, op: Op) -> Result<Outcome, Error> {
        let (answer, result) = oneshot::channel();
        self.calls.send(Call { op, answer }).await.map_err(|_| Error::Ended("the keeper link"))?;
        result.await.map_err(|_| Error::Ended("the keeper link"))?
    }

    /// Lets the keeper run the command and watch its process; answers process and start time, or the status
    /// with which the command failed.
    pub async fn start(&self, start: Start) -> Result<Result<(i32, u64), i32>, Error> {
        match self.call(Op::Start(start)).await? {
            Outcome::Started { pid, start_time } => Ok(Ok((pid, start_time))),
            Outcome::CommandFailed { status } => Ok(Err(status)),
            other => Err(Error::Keeper(format!("answered a start with {other:?}"))),
        }
    }

    /// Lets the keeper watch a process it did not start; false when it is gone.
    pub async fn adopt(&self, id: String, pid: i32, start_time: u64) -> Result<bool, Error> {
        Ok(self.call(Op::Adopt { id, pid, start_time }).await? == Outcome::Adopted)
    }

    /// Tells the keeper that a process will be ended on purpose. A keeper that does not understand is no
    /// reason not to end it: the logs then call it a crash.
    pub async fn stopping(&self, id: &str) {
        let told = self.call(Op::Stopping { id: id.to_owned() });
        if !matches!(tokio::time::timeout(STOPPING_TIME, told).await, Ok(Ok(_))) {
            tracing::debug!("the keeper does not know that {id} is stopped on purpose");
        }
    }

    /// Lets the keeper answer the name questions of a network.
    pub async fn set_names(&self, zone: Zone) -> Result<(), Error> {
        self.call(Op::SetNames { zone }).await.map(|_| ())
    }

    /// Lets the keeper forget the names of a network.
    pub async fn drop_names(&self, network: String) -> Result<(), Error> {
        self.call(Op::DropNames { network }).await.map(|_| ())
    }

    /// Lets the keeper forget the names of all other networks.
    pub async fn keep_names(&self, networks: BTreeSet<String>) -> Result<(), Error> {
        self.call(Op::KeepNames { networks }).await.map(|_| ())
    }

    /// Lets the keeper forget an exit.
    pub async fn acknowledge(&self, id: String, pid: i32) -> Result<(), Error> {
        self.call(Op::Ack { id, pid }).await.map(|_| ())
    }
}

type Stream = BufReader<UnixStream>;

/// Tries of the first contact: a keeper that is just being killed may take the connection and say nothing.
const FIRST_TRIES: u32 = 5;

struct Task {
    dir: PathBuf,
    program: PathBuf,
    exits: mpsc::Sender<Exit>,
    floods: mpsc::Sender<Flood>,
    child: Option<Child>,
    seq: u64,
    /// A keeper has answered before.
    met: bool,
}

impl Task {
    async fn connect(&mut self) -> Result<Stream, Error> {
        let socket = self.dir.join(SOCKET_NAME);
        if let Ok(stream) = UnixStream::connect(&socket).await {
            return Ok(BufReader::new(stream));
        }
        let ours = self.child.take();
        let elsewhere = self.met && ours.is_none() && std::env::var_os(UNDER_SYSTEMD).is_some();
        if let Some(mut child) = ours {
            // It no longer answers, so it has ended or is about to; collecting it leaves no zombie.
            let _ = tokio::task::spawn_blocking(move || child.kill().and_then(|()| child.wait())).await;
        }
        // A keeper that we did not start is a unit of its own under systemd, which starts it again; one of ours
        // would be in its way.
        if elsewhere && let Some(stream) = self.wait_for_another(&socket).await {
            return Ok(BufReader::new(stream));
        }
        self.child = Some(launch(&self.program, &self.dir)?);
        for _ in 0..START_TRIES {
            if let Ok(stream) = UnixStream::connect(&socket).await {
                return Ok(BufReader::new(stream));
            }
            tokio::time::sleep(START_PAUSE).await;
        }
        Err(Error::Keeper("does not answer".to_owned()))
    }

    async fn wait_for_another(&self, socket: &Path) -> Option<UnixStream> {
        let appears = async {
            loop {
                if let Ok(stream) = UnixStream::connect(socket).await {
                    return stream;
                }
                tokio::time::sleep(START_PAUSE).await;
            }
        };
        let found = tokio::time::timeout(OTHERS_TIME, appears).await.ok();
        if found.is_none() {
            tracing::warn!("nobody has started the keeper again for {OTHERS_TIME:?}, one of ours takes over");
        }
        found
    }

    async fn first_contact(&mut self) -> Result<(Stream, Known), Error> {
        let mut tries = 1;
        loop {
            let contact = match self.connect().await {
                Ok(mut stream) => self.known(&mut stream).await.map(|known| (stream, known)),
                Err(error) => Err(error),
            };
            match contact {
                Err(error) if tries < FIRST_TRIES => {
                    tries += 1;
                    tracing::warn!("{}, trying again", error.info().message);
                    tokio::time::sleep(START_PAUSE).await;
                }
                result => return result,
            }
        }
    }

    async fn known(&mut self, stream: &mut Stream) -> Result<Known, Error> {
        self.write(stream, Op::List).await?;
        loop {
            match read_line(stream).await? {
                Line::Done { result: Outcome::List { watched, exits }, .. } => {
                    return Ok(Known {
                        watched: watched.into_iter().map(|watched| (watched.id.clone(), watched)).collect(),
                        exits: exits.into_iter().map(|exit| (exit.id.clone(), exit)).collect(),
                    });
                }
                Line::Exit { .. } | Line::Flood { .. } => {}
                other => return Err(Error::Keeper(format!("answered a list with {other:?}"))),
            }
        }
    }

    async fn write(&mut self, stream: &mut Stream, op: Op) -> Result<u64, Error> {
        self.seq += 1;
        let request = Request { seq: self.seq, op };
        let mut line =
            serde_json::to_vec(&request).map_err(|source| Error::Encode { what: "a request", source })?;
        if line.len() >= MAX_LINE {
            return Err(Error::Limit { what: "a request to the keeper".to_owned(), limit: MAX_LINE as u64 });
        }
        line.push(b'\n');
        stream.get_mut().write_all(&line).await.map_err(|_| Error::KeeperGone)?;
        Ok(self.seq)
    }

    async fn run(mut self, mut stream: Stream, mut queue: mpsc::Receiver<Call>) {
        let mut open: BTreeMap<u64, oneshot::Sender<Result<Outcome, Error>>> = BTreeMap::new();
        let mut text = Vec::new();
        loop {
            let read = async { (&mut stream).take(MAX_LINE as u64).read_until(b'\n', &mut text).await };
            tokio::select! {
                call = queue.recv() => {
                    let Some(Call { op, answer }) = call else { return };
                    match self.write(&mut stream, op).await {
                        Ok(seq) => { open.insert(seq, answer); }
                        Err(error) => { let _ = answer.send(Err(error)); }
                    }
                }
                count = read => {
                    if matches!(count, Ok(count) if count > 0) && text.last() == Some(&b'\n') {
                        self.on_line(&text, &mut open).await;
                        text.clear();
                        continue;
                    }
                    text.clear();
                    tracing::warn!("the keeper has gone away; starting another");
                    for (_, answer) in std::mem::take(&mut open) {
                        let _ = answer.send(Err(Error::KeeperGone));
                    }
                    let Some(next) = self.reconnect(&queue).await else { return };
                    stream = next;
                }
            }
        }
    }

    /// Until the keeper is there again; then the exits that happened meanwhile are handed on.
    async fn reconnect(&mut self, queue: &mpsc::Receiver<Call>) -> Option<Stream> {
        loop {
            if queue.is_closed() {
                return None;
            }
            match self.first_contact().await {
                Ok((stream, known)) => {
                    for (_, exit) in known.exits {
                        let _ = self.exits.send(exit).await;
                    }
                    return Some(stream);
                }
                Err(error) => tracing::error!("{}", error.info().message),
            }
            tokio::time::sleep(RETRY_PAUSE).await;
        }
    }

    async fn on_line(&self, text: &[u8], open: &mut BTreeMap<u64, oneshot::Sender<Result<Outcome, Error>>>) {
        match serde_json::from_slice(text) {
            Ok(Line::Exit { exit }) => {
                let _ = self.exits.send(exit).await;
            }
            Ok(Line::Flood { id, bytes }) => {
                tracing::warn!("{id} writes its log too fast, {bytes} bytes were thrown away");
                // A full queue means there is worse to tell.
                let _ = self.floods.try_send(Flood { id, bytes });
            }
            Ok(Line::Done { seq, result }) => {
                if let Some(answer) = open.remove(&seq) {
                    let _ = answer.send(Ok(result));
                }
            }
            Ok(Line::Refused { seq, message }) => {
                if let Some(answer) = open.remove(&seq) {
                    let _ = answer.send(Err(Error::Keeper(format!("refused: {message}"))));
                }
            }
            Err(error) => tracing::error!("a line of the keeper is not readable: {error}"),
        }
    }
}

async fn read_line(stream: &mut Stream) -> Result<Line, Error> {
    let mut text = Vec::new();
    stream
        .take(MAX_LINE as u64)
        .read_until(b'\n', &mut text)
        .await
        .map_err(Error::system("read from the keeper"))?;
    serde_json::from_slice(&text).map_err(|_| Error::KeeperGone)
}

fn launch(program: &Path, dir: &Path) -> Result<Child, Error> {
    let path = dir.join("keep.log");
    let big = std::fs::metadata(&path).is_ok_and(|meta| meta.len() > MAX_OWN_LOG);
    let mut options = OpenOptions::new();
    let log = options.create(true).write(true).truncate(big).append(!big).mode(0o600).open(&path);
    let log = log.map_err(Error::file("open", &path))?;
    let errors = log.try_clone().map_err(Error::file("open", &path))?;
    let mut command = Command::new(program);
    command.arg("keep").arg("--dir").arg(dir).current_dir("/");
    command.stdin(Stdio::null()).stdout(log).stderr(errors);
    for name in aos_supervise::NOTIFY_VARIABLES {
        command.env_remove(name);
    }
    command.spawn().map_err(Error::file("start the keeper", program))
}
