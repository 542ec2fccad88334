//! Parts of logs on their way to the cloud, as messages or as uploads.
//!
//! The parts of a node go one after the other, each when the one before has arrived: however fast nodes
//! answer and however slow or absent the cloud is, few of them are in the link's queue. What waits is bounded
//! over all nodes; a part that finds no room, or that the cloud does not take, is the end of its node's share,
//! and that is said.

use std::sync::Arc;

use aos_cloud_protocol::{AosIdentity, Body, LogStatus, PushLog};
use aos_ids::NodeId;
use aos_status::{AosCode, ErrorInfo};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};

use crate::communication::Communication;
use crate::logupload::{Part, Target, upload};
use crate::transport::Dialer;

/// Parts of one node that may wait.
const MAX_WAITING: usize = 80;
/// Bytes of all parts that may wait.
const MAX_BYTES: usize = 16 * 1024 * 1024;

/// How the parts of a node go.
pub enum Way {
    /// As messages of this exchange.
    Messages(Communication, Option<String>),
    /// To an address, under this name of the request.
    Upload(Dialer, Target, String),
}

/// Way to the parts that wait for their turn.
pub struct Sender(mpsc::Sender<Waiting>);

/// Parts that wait.
pub struct Receiver(mpsc::Receiver<Waiting>);

struct Waiting {
    part: Part,
    _room: OwnedSemaphorePermit,
}

/// Room for all parts that wait.
pub struct Room(Arc<Semaphore>);

impl Room {
    /// All of it.
    pub fn new() -> Self {
        Self(Arc::new(Semaphore::new(MAX_BYTES)))
    }

    /// A queue for the parts of one node.
    pub fn queue() -> (Sender, Receiver) {
        let (sender, receiver) = mpsc::channel(MAX_WAITING);
        (Sender(sender), Receiver(receiver))
    }

    /// Has a part wait; false when there is no room.
    pub fn add(&self, queue: &Sender, part: Part) -> bool {
        // A part without content takes a place too.
        let bytes = u32::try_from(part.content.len().max(1)).unwrap_or(u32::MAX);
        match Arc::clone(&self.0).try_acquire_many_owned(bytes) {
            Ok(room) => queue.0.try_send(Waiting { part, _room: room }).is_ok(),
            Err(_) => false,
        }
    }
}

/// Passes on all parts that come; ends with the sender, or with the first part that does not arrive.
pub async fn pass_on(way: &Way, node: &NodeId, parts: Receiver) -> Result<(), ErrorInfo> {
    let Receiver(mut parts) = parts;
    while let Some(Waiting { part, _room }) = parts.recv().await {
        match way {
            Way::Upload(dialer, target, request) => upload(dialer, target, request, node, &part).await?,
            Way::Messages(cloud, correlation) => {
                let push = PushLog {
                    node: AosIdentity::by_codename(node.as_str()),
                    part: part.number,
                    parts_count: part.count,
                    content: part.content.to_vec().into(),
                    status: LogStatus::Ok,
                    error_info: None,
                };
                let delivered = cloud.deliver(Body::PushLog(push), correlation.clone()).await;
                delivered.map_err(|reason| {
                    let words = format!("part {} of {} of the logs: {reason}", part.number, part.count);
                    ErrorInfo::new(AosCode::Failed, words)
                })?;
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn part(bytes: usize) -> Part {
        Part { number: 1, count: 1, content: vec![0; bytes].into() }
    }

    // Room is shared by all nodes and comes back with the parts.
    #[tokio::test]
    async fn what_waits_is_bounded_over_all_nodes() {
        let room = Room::new();
        let ((one, mut ones), (other, others)) = (Room::queue(), Room::queue());
        for _ in 0..32 {
            assert!(room.add(&one, part(MAX_BYTES / 64)) && room.add(&other, part(MAX_BYTES / 64)));
        }
        assert!(!room.add(&other, part(0)));
        drop(ones.0.recv().await);
        assert!(room.add(&other, part(MAX_BYTES / 64)));
        drop(others);
        assert!(!room.add(&other, part(0)), "nobody is left to take it");
        for _ in 0..MAX_WAITING - 31 {
            assert!(room.add(&one, part(0)));
        }
        assert!(!room.add(&one, part(0)), "there is room, and no place");
    }
}
