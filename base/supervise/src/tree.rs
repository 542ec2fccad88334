//! Named tasks, watched and stopped in reverse order.

use std::future::Future;
use std::time::Duration;

use tokio::task::{Id, JoinError, JoinSet};
use tokio::time::Instant;

use crate::Shutdown;

/// How a task's future may end: `()` or `Result<(), impl Error>`.
pub trait TaskEnd: Send + 'static {
    /// The failure's text with its causes, `None` for success.
    fn failure(self) -> Option<String>;
}

impl TaskEnd for () {
    fn failure(self) -> Option<String> {
        None
    }
}

impl<E: std::error::Error + Send + 'static> TaskEnd for Result<(), E> {
    fn failure(self) -> Option<String> {
        self.err().map(|error| aos_logging::with_causes(&error))
    }
}

/// Why the program ended although nobody asked for it, or not in order.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum TaskError {
    /// A task ended with an error.
    #[error("task {name} failed: {reason}")]
    Failed {
        /// Name of the task.
        name: &'static str,
        /// Its error with causes.
        reason: String,
    },
    /// A task that should run to the end of the program ended before.
    #[error("task {name} ended unexpectedly")]
    Ended {
        /// Name of the task.
        name: &'static str,
    },
    /// A task panicked.
    #[error("task {name} panicked: {reason}")]
    Panicked {
        /// Name of the task.
        name: &'static str,
        /// Message of the panic, where it has one.
        reason: String,
    },
    /// Tasks did not stop in time and were dropped.
    #[error("not stopped in time: {}", names.join(", "))]
    Deadline {
        /// Names of the tasks dropped.
        names: Vec<&'static str>,
    },
}

struct Task {
    id: Id,
    name: &'static str,
    may_end: bool,
    stop: Shutdown,
}

/// The running tasks of one program.
pub struct TaskTree {
    shutdown: Shutdown,
    // Independent of `shutdown`: each task is told to stop on its own, in reverse order.
    tasks: Vec<Task>,
    set: JoinSet<Option<String>>,
}

impl TaskTree {
    /// An empty tree that stops when `shutdown` is triggered.
    pub fn new(shutdown: Shutdown) -> Self {
        Self { shutdown, tasks: Vec::new(), set: JoinSet::new() }
    }

    /// The token this tree stops on; triggering it stops the whole tree in order.
    pub fn shutdown(&self) -> &Shutdown {
        &self.shutdown
    }

    /// Starts a task that runs as long as the program. It gets its own stop token, triggered only when every
    /// task started after it has ended. Must be called within a tokio runtime.
    pub fn spawn<F, Fut>(&mut self, name: &'static str, task: F)
    where
        F: FnOnce(Shutdown) -> Fut,
        Fut: Future<Output: TaskEnd> + Send + 'static,
    {
        self.start(name, false, task);
    }

    /// Starts a task that may end by itself with success.
    pub fn spawn_finite<F, Fut>(&mut self, name: &'static str, task: F)
    where
        F: FnOnce(Shutdown) -> Fut,
        Fut: Future<Output: TaskEnd> + Send + 'static,
    {
        self.start(name, true, task);
    }

    fn start<F, Fut>(&mut self, name: &'static str, may_end: bool, task: F)
    where
        F: FnOnce(Shutdown) -> Fut,
        Fut: Future<Output: TaskEnd> + Send + 'static,
    {
        let stop = Shutdown::new();
        let future = task(stop.clone());
        let id = self.set.spawn(async move { future.await.failure() }).id();
        self.tasks.push(Task { id, name, may_end, stop });
    }

    /// Runs until the shutdown is triggered or a task ends that should not, then stops the tasks in reverse
    /// order of their start, all together within `deadline`. What still runs then is dropped. The service manager
    /// is told that the program stops.
    pub async fn run(mut self, deadline: Duration) -> Result<(), TaskError> {
        let shutdown = self.shutdown.clone();
        let mut first_error = None;
        while first_error.is_none() {
            tokio::select! {
                biased;
                () = shutdown.wait() => break,
                Some(ended) = self.set.join_next_with_id(), if !self.set.is_empty() => {
                    first_error = self.ended(ended, false);
                }
            }
        }
        if let Some(error) = &first_error {
            tracing::error!("{error}, stopping");
        }
        shutdown.trigger();
        crate::notify_stopping();
        let stopped = self.stop(Instant::now() + deadline).await;
        first_error.map_or(stopped, Err)
    }

    async fn stop(&mut self, until: Instant) -> Result<(), TaskError> {
        let mut first_error = None;
        while let Some(last) = self.tasks.last() {
            last.stop.trigger();
            match tokio::time::timeout_at(until, self.set.join_next_with_id()).await {
                Ok(Some(ended)) => {
                    if let Some(error) = self.ended(ended, true) {
                        tracing::error!("{error}");
                        first_error.get_or_insert(error);
                    }
                }
                Ok(None) => break,
                Err(_) => {
                    let names = self.tasks.iter().rev().map(|task| task.name).collect();
                    return Err(TaskError::Deadline { names });
                }
            }
        }
        first_error.map_or(Ok(()), Err)
    }

    fn ended(&mut self, ended: Result<(Id, Option<String>), JoinError>, stopping: bool) -> Option<TaskError> {
        let id = ended.as_ref().map_or_else(JoinError::id, |(id, _)| *id);
        let position = self.tasks.iter().position(|task| task.id == id)?;
        let task = self.tasks.remove(position);
        let name = task.name;
        match ended {
            Ok((_, Some(reason))) => Some(TaskError::Failed { name, reason }),
            Ok((_, None)) if stopping || task.may_end => {
                tracing::debug!("task {name} ended");
                None
            }
            Ok((_, None)) => Some(TaskError::Ended { name }),
            Err(e) => Some(TaskError::Panicked { name, reason: panic_text(e) }),
        }
    }
}

fn panic_text(error: JoinError) -> String {
    let Ok(payload) = error.try_into_panic() else { return "cancelled".to_owned() };
    payload
        .downcast_ref::<&str>()
        .map(|text| (*text).to_owned())
        .or_else(|| payload.downcast_ref::<String>().cloned())
        .unwrap_or_else(|| "no message".to_owned())
}
