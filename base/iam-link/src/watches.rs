//! Nodes and subjects, followed over restarts of IAM.

use std::time::Instant;

use aos_unit_api::iamanager::v6::NodeInfo;
use tokio::sync::mpsc;
use tonic::Status;

use crate::subscription::{Event, Pauses, Subscription};
use crate::{IamLink, LinkError};

/// Changes that may wait for their reader; beyond that the stream from IAM waits.
const QUEUE: usize = 16;

impl IamLink {
    /// Every node once the link stands, again after every break of it, and each change. The same information
    /// may come twice. Ends when the receiver is dropped.
    pub fn watch_nodes(&self) -> mpsc::Receiver<NodeInfo> {
        let (sender, receiver) = mpsc::channel(QUEUE);
        let link = self.clone();
        tokio::spawn(async move {
            tokio::select! {
                () = sender.closed() => {}
                () = link.follow_nodes(&sender) => {}
            }
        });
        receiver
    }

    /// All subjects once the link stands, again after every break of it, and on each change. Ends when the
    /// receiver is dropped.
    pub fn watch_subjects(&self) -> mpsc::Receiver<Vec<String>> {
        let (sender, receiver) = mpsc::channel(QUEUE);
        let link = self.clone();
        tokio::spawn(async move {
            tokio::select! {
                () = sender.closed() => {}
                () = link.follow_subjects(&sender) => {}
            }
        });
        receiver
    }

    async fn follow_nodes(&self, sender: &mpsc::Sender<NodeInfo>) {
        let mut pauses = Pauses::new();
        loop {
            let since = Instant::now();
            let mut client = self.nodes();
            let mut nodes = Subscription::new(async move { client.subscribe_node_changed(()).await });
            loop {
                let sent = match nodes.next().await {
                    Event::Message(node) => sender.send(node).await,
                    Event::Resync => match self.send_all_nodes(sender).await {
                        Ok(sent) => sent,
                        Err(error) => {
                            tracing::warn!("cannot read the nodes of the Unit: {error}");
                            break;
                        }
                    },
                    Event::Ended(status) => {
                        note_end("nodes", status.as_ref());
                        break;
                    }
                };
                if sent.is_err() {
                    return;
                }
            }
            pauses.wait(since).await;
        }
    }

    async fn send_all_nodes(
        &self,
        sender: &mpsc::Sender<NodeInfo>,
    ) -> Result<Result<(), mpsc::error::SendError<NodeInfo>>, LinkError> {
        for id in self.node_ids().await? {
            match self.node_info(&id).await {
                Ok(node) => {
                    if let Err(closed) = sender.send(node).await {
                        return Ok(Err(closed));
                    }
                }
                Err(error) if error.is_passing() => return Err(error),
                // A node may go between the two calls.
                Err(error) => tracing::warn!("no information about node {id}: {error}"),
            }
        }
        Ok(Ok(()))
    }

    async fn follow_subjects(&self, sender: &mpsc::Sender<Vec<String>>) {
        let mut pauses = Pauses::new();
        loop {
            let since = Instant::now();
            let mut client = self.unit();
            let mut subjects = Subscription::new(async move { client.subscribe_subjects_changed(()).await });
            loop {
                let subjects = match subjects.next().await {
                    Event::Message(message) => message.subjects,
                    Event::Resync => match self.subjects().await {
                        Ok(subjects) => subjects,
                        Err(error) => {
                            tracing::warn!("cannot read the subjects of the Unit: {error}");
                            break;
                        }
                    },
                    Event::Ended(status) => {
                        note_end("subjects", status.as_ref());
                        break;
                    }
                };
                if sender.send(subjects).await.is_err() {
                    return;
                }
            }
            pauses.wait(since).await;
        }
    }
}

pub(crate) fn note_end(what: &str, status: Option<&Status>) {
    let reason = status.map_or("closed by IAM", Status::message);
    tracing::debug!("subscription to {what} ended: {reason}");
}
