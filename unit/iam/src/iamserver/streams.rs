//! Subscriptions: streams of newest values.
//!
//! A slow reader misses what was replaced meanwhile, never the last value, and costs no queue. A new
//! subscriber gets the last change since the servers started, if there was one. All streams end without
//! error when the servers stop.

use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::Arc;

use aos_supervise::Shutdown;
use aos_unit_api::iamanager::v6;
use futures_util::{Stream, stream};
use tokio::sync::{OwnedSemaphorePermit, watch};
use tonic::Status;

use super::convert::node_to_wire;
use super::public::cert_to_wire;
use crate::certhandler::{CertRecord, Snapshot};
use crate::currentnode::NodeInfo;
use crate::nodemanager::Nodes;

/// A stream of answers.
pub type Answers<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

/// Waits for a change; `false` when there will be none.
async fn changed<T>(values: &mut watch::Receiver<T>, stop: &Shutdown) -> bool {
    tokio::select! {
        changed = values.changed() => changed.is_ok(),
        () = stop.wait() => false,
    }
}

/// Changes of this node.
pub fn own_node(own: watch::Receiver<NodeInfo>, stop: Shutdown) -> Answers<v6::NodeInfo> {
    Box::pin(stream::unfold((own, stop), |(mut own, stop)| async move {
        if !changed(&mut own, &stop).await {
            return None;
        }
        let wire = node_to_wire(&own.borrow_and_update());
        Some((Ok(wire), (own, stop)))
    }))
}

/// Changes of any node, one message each.
pub fn nodes(mut nodes: watch::Receiver<Arc<Nodes>>, stop: Shutdown) -> Answers<v6::NodeInfo> {
    let seen = nodes.borrow_and_update().revision().saturating_sub(1);
    let state = (nodes, stop, seen, VecDeque::new(), true);
    Box::pin(stream::unfold(state, |(mut nodes, stop, mut seen, mut waiting, mut first)| async move {
        loop {
            if let Some(wire) = waiting.pop_front() {
                return Some((Ok(wire), (nodes, stop, seen, waiting, first)));
            }
            if !first && !changed(&mut nodes, &stop).await {
                return None;
            }
            first = false;
            let newest = nodes.borrow_and_update().clone();
            waiting.extend(newest.changed_since(seen).into_iter().map(|entry| node_to_wire(&entry.info)));
            seen = newest.revision();
        }
    }))
}

/// Changes of the newest certificate of a type, after `known`.
pub fn certificate(
    certificates: watch::Receiver<Snapshot>,
    known: CertRecord,
    permit: OwnedSemaphorePermit,
    stop: Shutdown,
) -> Answers<v6::CertInfo> {
    let state = (certificates, known, permit, stop);
    Box::pin(stream::unfold(state, |(mut certificates, mut known, permit, stop)| async move {
        loop {
            if !changed(&mut certificates, &stop).await {
                return None;
            }
            let newest = certificates.borrow_and_update().latest(&known.cert_type).cloned();
            if let Some(newest) = newest.filter(|newest| *newest != known) {
                known = newest;
                return Some((Ok(cert_to_wire(&known)), (certificates, known, permit, stop)));
            }
        }
    }))
}

/// A topic that never changes.
pub fn silent<T: Send + 'static>(stop: Shutdown) -> Answers<T> {
    Box::pin(stream::unfold(stop, |stop| async move {
        stop.wait().await;
        None
    }))
}
