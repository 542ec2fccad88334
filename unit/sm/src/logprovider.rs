//! Answers requests for logs: those of instances from their log files, newest lines, in gzip parts.
//!
//! System and crash logs are not kept yet and answered as such; every request gets an answer. Time bounds are
//! not looked at: the files carry no times of their own. Two answers are made at a time and up to 16 requests
//! wait; more are refused.

use std::io::Write;
use std::path::PathBuf;
use std::sync::Arc;

use aos_keep::old_generation;
use aos_status::{AosCode, ErrorInfo};
use aos_unit_api::convert::error_to_wire;
use aos_unit_api::servicemanager::v5 as wire;
use flate2::Compression;
use flate2::write::GzEncoder;
use tokio::sync::{Semaphore, mpsc, oneshot};
use wire::sm_outgoing_messages::SmOutgoingMessage as Wire;

use crate::launcher::Command;
use crate::smclient::Outgoing;

/// Plain bytes of one part; packed it always fits into the field of peers.
const PART: usize = 128 * 1024;
/// Most parts of an answer; older lines are left out.
const MAX_PARTS: usize = 16;
/// Answers made at the same time; each holds the whole text.
const WORKERS: usize = 2;
/// Requests that are answered or wait.
const MAX_REQUESTS: usize = 16;

/// Answers log requests.
#[derive(Clone)]
pub struct LogProvider {
    launcher: mpsc::Sender<Command>,
    requests: Arc<Semaphore>,
    workers: Arc<Semaphore>,
}

impl LogProvider {
    /// Logs of the launcher's instances.
    pub fn new(launcher: mpsc::Sender<Command>) -> Self {
        let places = |count| Arc::new(Semaphore::new(count));
        Self { launcher, requests: places(MAX_REQUESTS), workers: places(WORKERS) }
    }

    /// Answer to a request for the system's log.
    pub fn system(request: &wire::SystemLogRequest) -> Wire {
        refused(&request.correlation_id, "system logs are not supported yet")
    }

    /// Answer to a request for a crash log.
    pub fn crash(request: &wire::InstanceCrashLogRequest) -> Wire {
        single(&request.correlation_id, "absent", ErrorInfo::new(AosCode::None, "no instance crash found"))
    }

    /// Answers a request for the log of instances into `queue`.
    pub async fn instance(self, request: wire::InstanceLogRequest, queue: mpsc::Sender<Outgoing>) {
        let id = request.correlation_id;
        let Ok(_place) = self.requests.try_acquire() else {
            let busy = single(&id, "error", ErrorInfo::new(AosCode::NoMemory, "too many requests for logs"));
            let _ = queue.send(Outgoing::Message(busy)).await;
            return;
        };
        let _worker = self.workers.acquire().await;
        let filter = request.filter.unwrap_or_default();
        let (answer, paths) = oneshot::channel();
        let command = Command::Logs(filter.item_id, filter.subject_id, filter.instance, answer);
        if self.launcher.send(command).await.is_err() {
            return;
        }
        let paths = paths.await.unwrap_or_default();
        if paths.is_empty() {
            let absent = single(&id, "absent", ErrorInfo::new(AosCode::None, "no service instance found"));
            let _ = queue.send(Outgoing::Message(absent)).await;
            return;
        }
        let parts = tokio::task::spawn_blocking(move || pack(&collect(&paths))).await.unwrap_or_default();
        if parts.is_empty() {
            let empty = single(&id, "empty", ErrorInfo::new(AosCode::None, ""));
            let _ = queue.send(Outgoing::Message(empty)).await;
        }
        let part_count = parts.len() as u64;
        for (part, data) in (1..).zip(parts) {
            let data = wire::LogData {
                correlation_id: id.clone(),
                part_count,
                part,
                data,
                status: "ok".to_owned(),
                error: None,
            };
            if queue.send(Outgoing::Message(Wire::Log(data))).await.is_err() {
                return;
            }
        }
    }
}

fn collect(paths: &[PathBuf]) -> Vec<u8> {
    let mut text = Vec::new();
    for path in paths {
        for path in [old_generation(path), path.clone()] {
            // A file larger than the whole answer is cut where its newest lines begin.
            if let Ok(content) = std::fs::read(path) {
                text.extend_from_slice(
                    content.get(content.len().saturating_sub(PART * MAX_PARTS)..).unwrap_or_default(),
                );
            }
        }
    }
    let surplus = text.len().saturating_sub(PART * MAX_PARTS);
    text.drain(..surplus);
    text
}

fn pack(text: &[u8]) -> Vec<Vec<u8>> {
    let packed = |part: &[u8]| {
        let mut encoder = GzEncoder::new(Vec::new(), Compression::default());
        encoder.write_all(part).and_then(|()| encoder.finish())
    };
    text.chunks(PART).filter_map(|part| packed(part).ok()).collect()
}

fn single(id: &str, status: &str, info: ErrorInfo) -> Wire {
    Wire::Log(wire::LogData {
        correlation_id: id.to_owned(),
        part_count: 1,
        part: 1,
        data: Vec::new(),
        status: status.to_owned(),
        error: error_to_wire(Some(info).filter(|info| info.code() != AosCode::None)),
    })
}

fn refused(id: &str, reason: &str) -> Wire {
    single(id, "error", ErrorInfo::new(AosCode::NotSupported, reason))
}
