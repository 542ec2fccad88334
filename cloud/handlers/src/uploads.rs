//! Logs that Units upload over HTTPS instead of sending them over their session.
//!
//! An upload carries the token of one request, which ends with the request. It is one part of what one node
//! sends, all that a node sends, or all that the Unit sends when it names no node. At most 80 MiB.
//!
//! Bytes lie on the disk before they count, so the uploads under way are few: 4 of one Unit, 64 of all. None
//! goes on after its request has ended.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use aos_cloud_fleet::{LogState, MAX_LOG_PART, MAX_LOG_PARTS, NodeLog};
use aos_cloud_store::{LogRequest, StagedLog, StoreError, now_micros};
use bytes::Bytes;

use crate::error::FlowError;
use crate::flows::Flows;
use crate::logs::{hash, keep_progress, progress, settle_request};

/// Largest upload, bytes.
pub const MAX_UPLOAD: u64 = MAX_LOG_PARTS * MAX_LOG_PART as u64;
/// Uploads under way of one Unit.
pub(crate) const MOST_OF_A_UNIT: usize = 4;
/// Uploads under way of all Units.
const MOST: usize = 64;
/// The node of an upload for all nodes.
const ALL_NODES: &str = "";

/// The uploads under way, by Unit.
#[derive(Default)]
pub(crate) struct Uploads(Mutex<HashMap<String, usize>>);

/// A place among the uploads under way; dropped it is free again.
struct Place {
    uploads: Arc<Uploads>,
    unit_id: String,
}

impl Uploads {
    fn open(&self) -> MutexGuard<'_, HashMap<String, usize>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn enter(self: &Arc<Self>, unit_id: &str) -> Result<Place, FlowError> {
        let mut open = self.open();
        let of_unit = open.get(unit_id).copied().unwrap_or_default();
        if of_unit >= MOST_OF_A_UNIT || open.values().sum::<usize>() >= MOST {
            return Err(FlowError::conflict("too many uploads are under way; try again later"));
        }
        open.insert(unit_id.to_owned(), of_unit + 1);
        Ok(Place { uploads: Arc::clone(self), unit_id: unit_id.to_owned() })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut open = self.uploads.open();
        match open.get_mut(&self.unit_id) {
            Some(of_unit) if *of_unit > 1 => *of_unit -= 1,
            _ => {
                open.remove(&self.unit_id);
            }
        }
    }
}

/// An upload under way. Dropped before [`LogUpload::finish`] it leaves nothing behind.
pub struct LogUpload {
    flows: Flows,
    request: LogRequest,
    node: String,
    /// Number of the part, and how many there are.
    part: (u64, u64),
    staged: StagedLog,
    place: Place,
}

impl Flows {
    /// Accepts an upload for the log request `id` by a bearer of its token: part (number, count) of a node,
    /// or without a part all of it.
    pub async fn begin_upload(
        &self,
        id: &str,
        token: &str,
        node: Option<&str>,
        part: Option<(u64, u64)>,
    ) -> Result<LogUpload, FlowError> {
        let refused = FlowError::Forbidden("the token does not belong to an open log request");
        let Some(request) = self.store.log_by_id(id).await? else { return Err(refused) };
        let right = request.token_hash.as_ref().is_some_and(|known| {
            aws_lc_rs::constant_time::verify_slices_are_equal(known, &hash(token)).is_ok()
        });
        if !right || request.deadline.is_none_or(|deadline| deadline <= now_micros()) {
            return Err(refused);
        }
        let node = node.unwrap_or(ALL_NODES).to_owned();
        if node != ALL_NODES && !request.nodes.iter().any(|row| row.node_id == node) {
            return Err(FlowError::Invalid(format!("node '{node}' was not asked for logs")));
        }
        let place = self.inner.uploads.enter(&request.unit_id)?;
        let store = self.store.clone();
        let staged = tokio::task::spawn_blocking(move || store.stage_log())
            .await
            .map_err(|_| FlowError::Interrupted)??;
        Ok(LogUpload { flows: self.clone(), request, node, part: part.unwrap_or((1, 1)), staged, place })
    }
}

impl LogUpload {
    /// Appends to the upload; gives it back for the next part.
    pub async fn write(self, bytes: Bytes) -> Result<Self, FlowError> {
        let length = u64::try_from(bytes.len()).unwrap_or(u64::MAX);
        if self.staged.bytes().saturating_add(length) > MAX_UPLOAD {
            return Err(FlowError::Invalid(format!("an upload has at most {MAX_UPLOAD} bytes")));
        }
        if self.request.deadline.is_none_or(|deadline| deadline <= now_micros()) {
            return Err(FlowError::Forbidden("the log request has ended"));
        }
        let Self { flows, request, node, part, mut staged, place } = self;
        let written = tokio::task::spawn_blocking(move || {
            staged.write(&bytes)?;
            Ok::<_, StoreError>(staged)
        });
        let staged = written.await.map_err(|_| FlowError::Interrupted)??;
        Ok(Self { flows, request, node, part, staged, place })
    }

    /// Ends the upload; on return it is part of the request.
    pub async fn finish(self) -> Result<(), FlowError> {
        let Self { flows, request, node, part: (number, count), mut staged, place: _place } = self;
        let synced = tokio::task::spawn_blocking(move || {
            staged.sync()?;
            Ok::<_, StoreError>(staged)
        });
        let staged = synced.await.map_err(|_| FlowError::Interrupted)??;
        let (unit_id, id) = (request.unit_id, request.id);
        flows
            .store
            .transact(move |work| {
                if node == ALL_NODES {
                    work.add_log_node(&id, ALL_NODES)?;
                }
                let request = work.log(&unit_id, &id)?.filter(|request| request.deadline.is_some());
                let ended = FlowError::Forbidden("the log request has ended");
                let request = request.ok_or(ended)?;
                let present = request.nodes.iter().find(|row| row.node_id == node).map(progress);
                // Of what is complete a repetition may come, because an answer was lost.
                let Some(mut log) = present.filter(|log| !log.state.is_final()) else { return Ok(()) };
                if log.take_part(number, count) && !work.add_log_part(&unit_id, &id, &node, number, staged)? {
                    log.fail("the logs of the Unit need more room than there is");
                }
                keep_progress(work, &id, &node, &log)?;
                // Only what is complete stands for the other nodes as well.
                let others = request
                    .nodes
                    .iter()
                    .filter(|row| node == ALL_NODES && log.state.is_final() && row.node_id != node);
                for row in others.filter(|row| !LogState::parse(&row.state).is_final()) {
                    let reason = Some("sent with the upload for all nodes".to_owned());
                    let covered = NodeLog { state: log.state, reason, ..progress(row) };
                    keep_progress(work, &id, &row.node_id, &covered)?;
                }
                Ok(settle_request(work, &unit_id, &id)?)
            })
            .await
    }
}
