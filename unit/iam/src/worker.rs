//! A value owned by one task and worked on by blocking calls, one after the other.
//!
//! The database and the token block for milliseconds, a key generation for seconds. Each lives in a
//! worker: its jobs run on the runtime's blocking threads, which end when idle, so that a quiet program
//! has no thread but its own. The queue is bounded; who finds it full waits.

use aos_supervise::Shutdown;
use tokio::sync::{mpsc, oneshot};

use crate::Error;

const QUEUE: usize = 64;

type Job<T> = Box<dyn FnOnce(&mut T) + Send>;

/// The way to a value owned by a task.
pub struct Worker<T> {
    jobs: mpsc::Sender<Job<T>>,
}

impl<T> std::fmt::Debug for Worker<T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Worker").finish_non_exhaustive()
    }
}

impl<T> Clone for Worker<T> {
    fn clone(&self) -> Self {
        Self { jobs: self.jobs.clone() }
    }
}

/// The jobs of a worker, for its task.
pub struct Jobs<T>(mpsc::Receiver<Job<T>>);

impl<T: Send + 'static> Worker<T> {
    /// A worker and its jobs; [`run`] does them.
    pub fn new() -> (Self, Jobs<T>) {
        let (jobs, queue) = mpsc::channel(QUEUE);
        (Self { jobs }, Jobs(queue))
    }

    /// Does `job` on the value and waits for its result.
    pub async fn call<R, F>(&self, job: F) -> Result<R, Error>
    where
        R: Send + 'static,
        F: FnOnce(&mut T) -> Result<R, Error> + Send + 'static,
    {
        let (answer, result) = oneshot::channel();
        let job = Box::new(move |value: &mut T| {
            // Nobody waits any more: the job has still been done.
            let _ = answer.send(job(value));
        });
        self.jobs.send(job).await.map_err(|_| Error::Stopping)?;
        result.await.map_err(|_| Error::Stopping)?
    }

    /// As [`Self::call`], from a blocking thread.
    pub fn call_blocking<R, F>(&self, job: F) -> Result<R, Error>
    where
        R: Send + 'static,
        F: FnOnce(&mut T) -> Result<R, Error> + Send + 'static,
    {
        let (answer, result) = oneshot::channel();
        let job = Box::new(move |value: &mut T| {
            let _ = answer.send(job(value));
        });
        self.jobs.blocking_send(job).map_err(|_| Error::Stopping)?;
        result.blocking_recv().map_err(|_| Error::Stopping)?
    }
}

/// Does the jobs until `shutdown`; jobs queued before are still done.
pub async fn run<T: Send + 'static>(
    mut value: T,
    Jobs(mut queue): Jobs<T>,
    shutdown: Shutdown,
) -> Result<(), Error> {
    loop {
        let job = tokio::select! {
            biased;
            job = queue.recv() => job,
            () = shutdown.wait() => {
                queue.close();
                queue.recv().await
            }
        };
        let Some(job) = job else { return Ok(()) };
        value = tokio::task::spawn_blocking(move || {
            job(&mut value);
            value
        })
        .await
        .map_err(|error| Error::Failed(format!("a job on the database or token was lost: {error}")))?;
    }
}
