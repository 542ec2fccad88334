//! Subscriptions: streams of newest values.
//!
//! A slow reader misses what was replaced meanwhile, never the last value, and costs no queue. A new
//! subscriber gets the last change since the servers started, if there was one. All streams end without
//! error when the servers stop.

use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::Arc;

use aos_supervise::Shutdown;
use aos_unit_api::iamanager::{v6, v7};
use futures_util::{Stream, stream};
use tokio::sync::{OwnedSemaphorePermit, watch};
use tonic::Status;

use super::convert::node_to_wire;
use super::public::cert_to_wire;
use crate::certhandler::{CertRecord, Snapshot};
use crate::currentnode::NodeInfo;
use crate::identhandler::Changes;
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

/// Changes of the certificates of a type, after `known`: all that there are then, longest valid first.
pub fn certificates(
    certificates: watch::Receiver<Snapshot>,
    cert_type: String,
    known: Snapshot,
    permit: OwnedSemaphorePermit,
    stop: Shutdown,
) -> Answers<v7::CertInfoList> {
    let state = (certificates, cert_type, known, permit, stop);
    Box::pin(stream::unfold(state, |(mut certificates, cert_type, mut known, permit, stop)| async move {
        loop {
            if !changed(&mut certificates, &stop).await {
                return None;
            }
            let newest = certificates.borrow_and_update().clone();
            if newest.of(&cert_type) != known.of(&cert_type) {
                let certs = newest.newest_first(&cert_type).into_iter().map(cert_to_wire).collect();
                known = newest;
                let list = v7::CertInfoList { certs };
                return Some((Ok(list), (certificates, cert_type, known, permit, stop)));
            }
        }
    }))
}

/// Changes of the Unit's subjects: the whole list each time.
pub fn subjects(changes: watch::Receiver<Changes>, stop: Shutdown) -> Answers<v6::Subjects> {
    Box::pin(stream::unfold((changes, stop), |(mut changes, stop)| async move {
        if !changed(&mut changes, &stop).await {
            // Without a source of changes there is nothing to tell, but no reason to end either.
            stop.wait().await;
            return None;
        }
        let subjects = changes.borrow_and_update().to_vec();
        Some((Ok(v6::Subjects { subjects }), (changes, stop)))
    }))
}
