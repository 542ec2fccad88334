//! Asks a service all the time, and tells how often it did not answer.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use crate::error::{Error, Result, Tried};
use crate::http;
use crate::wait::pause;

const EVERY: Duration = Duration::from_millis(50);
const ANSWER_LIMIT: Duration = Duration::from_secs(2);

/// A running poller.
#[derive(Debug)]
pub struct Poller {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<Report>,
}

/// What a poller has seen.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Report {
    /// Questions asked.
    pub asked: u64,
    /// What went wrong, the first 20 times.
    pub failures: Vec<String>,
}

impl Poller {
    /// Starts asking for `/` at `address`.
    pub fn start(address: SocketAddr) -> Result<Self> {
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let ask = move || {
            let mut report = Report::default();
            while !stopped.load(Ordering::SeqCst) {
                report.asked += 1;
                let failure = match http::get(address, "/", ANSWER_LIMIT) {
                    Ok(answer) if answer.status == 200 => None,
                    Ok(answer) => Some(format!("question {}: status {}", report.asked, answer.status)),
                    Err(error) => Some(format!("question {}: {error}", report.asked)),
                };
                if report.failures.len() < 20 {
                    report.failures.extend(failure);
                }
                pause(EVERY);
            }
            report
        };
        let thread = std::thread::Builder::new()
            .name("poller".to_owned())
            .spawn(ask)
            .tried(|| "cannot start a poller".to_owned())?;
        Ok(Self { stop, thread })
    }

    /// Stops it.
    pub fn stop(self) -> Result<Report> {
        self.stop.store(true, Ordering::SeqCst);
        self.thread.join().map_err(|_| Error::Unexpected("the poller panicked".to_owned()))
    }
}
