//! Answers requests for logs: those of instances from their files, those of the system from the journal or,
//! without one, from the log files of the core components. Several logs are put together by time.
//!
//! Every line carries the time of its writing, to the second; a request's span of time holds for each line.
//! Of a crash the lines of the crashed process are given and how it ended. Two answers are made at a time, in a file of
//! gzip parts, and up to 16 requests wait; more are refused. Every request gets an answer.

mod files;
mod follow;
mod journal;
mod lines;
mod local;
mod merge;
mod own;
mod parts;

use std::path::PathBuf;
use std::sync::Arc;

use aos_status::{AosCode, ErrorInfo};
use aos_unit_api::common::v2::InstanceFilter;
use aos_unit_api::servicemanager::v5 as wire;
use tokio::sync::{Semaphore, mpsc, oneshot};
use wire::sm_outgoing_messages::SmOutgoingMessage as Wire;

use crate::Error;
use crate::launcher::Command;
use crate::smclient::Outgoing;
use lines::Window;
pub use local::{Shown, has_components, print_log, since};
use merge::{MAX_SOURCES, merge};
pub use parts::Limits;
use parts::{Packed, Parts};

/// Answers made at the same time.
const WORKERS: usize = 2;
/// Requests that are answered or wait.
const MAX_REQUESTS: usize = 16;

/// Answers log requests.
#[derive(Clone)]
pub struct LogProvider {
    launcher: mpsc::Sender<Command>,
    dir: PathBuf,
    component_dir: PathBuf,
    limits: Limits,
    requests: Arc<Semaphore>,
    workers: Arc<Semaphore>,
}

/// Which log is wanted.
#[derive(Debug)]
pub enum Wanted {
    /// The system's.
    System,
    /// Of instances.
    Instances(InstanceFilter),
    /// Of the last crash of instances.
    Crash(InstanceFilter),
}

/// A request.
#[derive(Debug)]
pub struct Request {
    id: String,
    wanted: Wanted,
    window: Window,
}

impl From<wire::SystemLogRequest> for Request {
    fn from(request: wire::SystemLogRequest) -> Self {
        let window = Window::new(request.from, request.till);
        Self { id: request.correlation_id, wanted: Wanted::System, window }
    }
}

impl From<wire::InstanceLogRequest> for Request {
    fn from(request: wire::InstanceLogRequest) -> Self {
        let window = Window::new(request.from, request.till);
        let wanted = Wanted::Instances(request.filter.unwrap_or_default());
        Self { id: request.correlation_id, wanted, window }
    }
}

impl From<wire::InstanceCrashLogRequest> for Request {
    fn from(request: wire::InstanceCrashLogRequest) -> Self {
        let window = Window::new(request.from, request.till);
        let wanted = Wanted::Crash(request.filter.unwrap_or_default());
        Self { id: request.correlation_id, wanted, window }
    }
}

/// What was found.
enum Found {
    Log(Packed),
    Absent(&'static str),
}

impl LogProvider {
    /// Logs of the launcher's instances; answers being made lie in `dir`, log files of core components in
    /// `component_dir`.
    pub fn new(
        launcher: mpsc::Sender<Command>,
        dir: PathBuf,
        component_dir: PathBuf,
        limits: Limits,
    ) -> Self {
        let places = |count| Arc::new(Semaphore::new(count));
        Self {
            launcher,
            dir,
            component_dir,
            limits,
            requests: places(MAX_REQUESTS),
            workers: places(WORKERS),
        }
    }

    /// Answers a request into `queue`.
    pub async fn answer(self, request: Request, queue: mpsc::Sender<Outgoing>) {
        let id = request.id.clone();
        let Ok(_place) = self.requests.try_acquire() else {
            let busy = single(&id, "error", ErrorInfo::new(AosCode::NoMemory, "too many requests for logs"));
            let _ = queue.send(Outgoing::Message(busy)).await;
            return;
        };
        let _worker = self.workers.acquire().await;
        let sent = match self.find(request).await {
            Ok(Found::Log(packed)) => send(&id, &packed, &queue).await,
            Ok(Found::Absent(reason)) => {
                let absent = single(&id, "absent", ErrorInfo::new(AosCode::None, reason));
                let _ = queue.send(Outgoing::Message(absent)).await;
                Ok(())
            }
            Err(error) => Err(error),
        };
        if let Err(error) = sent {
            tracing::warn!("a request for logs fails: {}", error.info().message);
            let _ = queue.send(Outgoing::Message(single(&id, "error", error.info()))).await;
        }
    }

    async fn find(&self, request: Request) -> Result<Found, Error> {
        let Request { wanted, window, .. } = request;
        let (filter, crash) = match wanted {
            Wanted::System => return self.system(window).await.map(Found::Log),
            Wanted::Instances(filter) => (filter, false),
            Wanted::Crash(filter) => (filter, true),
        };
        let (answer, paths) = oneshot::channel();
        let command = Command::Logs(filter.item_id, filter.subject_id, filter.instance, answer);
        self.launcher.send(command).await.map_err(|_| Error::Ended("the launcher"))?;
        let paths = paths.await.map_err(|_| Error::Ended("the launcher"))?;
        if paths.is_empty() {
            return Ok(Found::Absent("no service instance found"));
        }
        if paths.len() > MAX_SOURCES {
            let what = "the number of instances whose logs are put together (name one)".to_owned();
            return Err(Error::Limit { what, limit: MAX_SOURCES as u64 });
        }
        self.make(move |parts| {
            let longest = parts.limits().longest();
            let mut sources = Vec::new();
            for path in &paths {
                if crash {
                    sources.extend(files::crash(path, window, longest)?);
                } else {
                    sources.push(files::instance(path, longest)?);
                }
            }
            let any = !sources.is_empty();
            merge(sources, window, parts).map(|()| any)
        })
        .await
    }

    /// Lets `fill` fill an answer beside this thread; it says whether there is a log at all.
    async fn make(
        &self,
        fill: impl FnOnce(&mut Parts) -> Result<bool, Error> + Send + 'static,
    ) -> Result<Found, Error> {
        let (dir, limits) = (self.dir.clone(), self.limits);
        let work = tokio::task::spawn_blocking(move || {
            let mut parts = Parts::new(&dir, limits)?;
            if fill(&mut parts)? {
                parts.finish().map(Found::Log)
            } else {
                Ok(Found::Absent("no instance crash found"))
            }
        });
        work.await.map_err(|_| Error::Ended("the answer to a request for logs"))?
    }

    /// The log files of the core components, where nobody keeps a journal.
    async fn components(&self, window: Window) -> Result<Packed, Error> {
        let dir = self.component_dir.clone();
        let missing = || {
            let what = format!(
                "a system log on this node, which keeps no journal and no file in {},",
                dir.display()
            );
            Error::NotSupported(what)
        };
        if crate::ownlog::present(&dir).is_empty() {
            return Err(missing());
        }
        let from = dir.clone();
        let made = self.make(move |parts| {
            let longest = parts.limits().longest();
            merge(own::sources(&from, longest), window, parts).map(|()| true)
        });
        match made.await? {
            Found::Log(packed) => Ok(packed),
            Found::Absent(_) => Err(missing()),
        }
    }

    async fn system(&self, window: Window) -> Result<Packed, Error> {
        if !crate::journal::is_there() {
            return self.components(window).await;
        }
        let (mut child, pipe) = journal::start(window)?;
        let made = self.make(move |parts| journal::read(pipe, window, parts).map(|()| true));
        tokio::pin!(made);
        let late =
            || Error::system("read the journal in time")(std::io::Error::from(std::io::ErrorKind::TimedOut));
        let Ok(result) = tokio::time::timeout(journal::LIMIT, &mut made).await else {
            // Without its writer the pipe ends, and so does the one who reads it.
            let _ = child.kill().await;
            let _ = made.await;
            return Err(late());
        };
        // One whose answer has been given up would write for ever.
        if result.is_err() {
            let _ = child.start_kill();
        }
        let status = child.wait().await.map_err(Error::system("run journalctl"))?;
        match result? {
            Found::Log(packed) if status.success() || packed.count() > 0 => Ok(packed),
            _ => Err(Error::Runtime {
                action: "journalctl".to_owned(),
                status: status.code().unwrap_or(-1),
                message: "no entry was read".to_owned(),
            }),
        }
    }
}

async fn send(id: &str, packed: &Packed, queue: &mpsc::Sender<Outgoing>) -> Result<(), Error> {
    if packed.count() == 0 {
        let _ = queue.send(Outgoing::Message(single(id, "empty", ErrorInfo::new(AosCode::None, "")))).await;
    }
    for index in 0..packed.count() {
        let data = wire::LogData {
            correlation_id: id.to_owned(),
            part_count: packed.count() as u64,
            part: index as u64 + 1,
            data: packed.part(index)?,
            status: "ok".to_owned(),
            error: None,
        };
        if queue.send(Outgoing::Message(Wire::Log(data))).await.is_err() {
            break;
        }
    }
    Ok(())
}

fn single(id: &str, status: &str, info: ErrorInfo) -> Wire {
    Wire::Log(wire::LogData {
        correlation_id: id.to_owned(),
        part_count: 1,
        part: 1,
        data: Vec::new(),
        status: status.to_owned(),
        // Peers tell why there is nothing in a message without code.
        error: (info.code() != AosCode::None || !info.message.is_empty()).then(|| info.into()),
    })
}

#[cfg(test)]
mod tests;
