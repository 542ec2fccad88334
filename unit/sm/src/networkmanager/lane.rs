//! Calls to the Communication Manager about networks, in an order that is safe.
//!
//! Allocations run side by side. What takes things away at CM (a release, the comparison of states, which makes
//! CM forget what is not listed) runs alone and in its turn, so that it never meets an allocation half way.

use std::collections::VecDeque;

use aos_ids::InstanceIdent;
use aos_unit_api::servicemanager::v5 as wire;
use tokio::task::{JoinError, JoinSet};

use super::{InstanceNetwork, NodeNetwork, Wishes, names};
use crate::Error;
use crate::smclient::CmCalls;

/// Rule lists CM sends.
pub use crate::smclient::NetworkUpdates as Updates;

/// One call, or a few that belong together.
#[derive(Debug)]
pub enum Job {
    /// Address and rules of an instance.
    Allocate(Box<Allocation>),
    /// An instance has no address any more, so that it may go to others.
    Release(InstanceIdent),
    /// This node has left a network.
    Leave(String),
    /// Subscribe to new rules, then compare states. What is sent is made when its turn comes.
    Synchronise,
}

/// What is asked for an instance.
#[derive(Debug)]
pub struct Allocation {
    /// Instance ID.
    pub id: String,
    /// Which instance.
    pub ident: InstanceIdent,
    /// Its network.
    pub network: String,
    /// What it is for.
    pub wishes: Wishes,
    /// The network's parameters, when known.
    pub known: Option<NodeNetwork>,
    /// The instance is up, only its rules are of interest.
    pub refresh: bool,
}

/// The end of a job.
pub enum Done {
    /// Parameters of the network and the instance.
    Allocated(Box<Allocation>, Result<(NodeNetwork, InstanceNetwork), Error>),
    /// CM knows, or learns it from the next comparison.
    Released(InstanceIdent, Result<(), Error>),
    /// CM knows, or is told again after the next comparison.
    Left(String, Result<(), Error>),
    /// New rules come here, if CM sends any at all.
    Synchronised(Result<Option<Updates>, Error>),
}

impl Done {
    /// The instance it gave something.
    pub fn instance(&self) -> Option<&str> {
        match self {
            Self::Allocated(asked, _) => Some(&asked.id),
            Self::Released(..) | Self::Left(..) | Self::Synchronised(_) => None,
        }
    }
}

/// The jobs that wait and run.
pub struct Lane {
    cm: CmCalls,
    node: String,
    waiting: VecDeque<Job>,
    running: JoinSet<Done>,
    alone: bool,
}

impl Lane {
    /// Calls by `cm` for the node.
    pub fn new(cm: CmCalls, node: String) -> Self {
        Self { cm, node, waiting: VecDeque::new(), running: JoinSet::new(), alone: false }
    }

    /// Appends a job.
    pub fn push(&mut self, job: Job) {
        self.waiting.push_back(job);
    }

    /// Starts what may run now; `state` makes the list for a comparison.
    pub fn advance(&mut self, state: impl Fn() -> Vec<wire::InstanceNetworkStateInfo>) {
        loop {
            let shared = matches!(self.waiting.front(), Some(Job::Allocate(_)));
            if self.alone || (!shared && !self.running.is_empty()) {
                return;
            }
            let Some(job) = self.waiting.pop_front() else { return };
            self.alone = !shared;
            let (cm, node) = (self.cm.clone(), self.node.clone());
            match job {
                Job::Allocate(asked) => self.running.spawn(async move {
                    let given = allocate(&cm, &node, &asked).await;
                    Done::Allocated(asked, given)
                }),
                Job::Release(ident) => self.running.spawn(async move {
                    let result = cm.release_instance(&ident, &node).await;
                    Done::Released(ident, result)
                }),
                Job::Leave(network) => self.running.spawn(async move {
                    let result = cm.release_node_network(&network, &node).await;
                    Done::Left(network, result)
                }),
                Job::Synchronise => {
                    let state = state();
                    self.running
                        .spawn(async move { Done::Synchronised(synchronise(&cm, &node, state).await) })
                }
            };
        }
    }

    /// The next job that ends; waits for ever when none runs.
    pub async fn next(&mut self) -> Done {
        loop {
            match self.running.join_next().await {
                Some(ended) => {
                    if let Some(done) = self.end(ended) {
                        return done;
                    }
                }
                None => std::future::pending().await,
            }
        }
    }

    /// Another job that has ended already.
    pub fn try_next(&mut self) -> Option<Done> {
        loop {
            let ended = self.running.try_join_next()?;
            if let Some(done) = self.end(ended) {
                return Some(done);
            }
        }
    }

    fn end(&mut self, ended: Result<Done, JoinError>) -> Option<Done> {
        self.alone = false;
        ended.inspect_err(|error| tracing::error!("a call about networks broke: {error}")).ok()
    }
}

async fn allocate(
    cm: &CmCalls,
    node: &str,
    asked: &Allocation,
) -> Result<(NodeNetwork, InstanceNetwork), Error> {
    let Allocation { ident, network, wishes, known, .. } = asked;
    let hosts = || names::hosts_of(ident, network, wishes.hostname.as_deref());
    if let Some(known) = known {
        match cm.instance_network(ident, network, node, hosts(), wishes).await {
            Ok(given) if given.subnet == known.subnet => return checked(known.clone(), given),
            // CM has made the network anew, or does not know it.
            Ok(_) | Err(Error::Answer { .. }) => {}
            Err(error) => return Err(error),
        }
    }
    // Both questions at once. CM usually takes them in this order; where the second one came first, it did not
    // know the network yet.
    let question = || cm.instance_network(ident, network, node, hosts(), wishes);
    let (here, given) = futures_util::future::join(cm.node_network(network, node), question()).await;
    let here = here?;
    let given = match given {
        Err(Error::Answer { .. }) => question().await?,
        Ok(given) if given.subnet != here.subnet => question().await?,
        other => other?,
    };
    checked(here, given)
}

fn checked(here: NodeNetwork, given: InstanceNetwork) -> Result<(NodeNetwork, InstanceNetwork), Error> {
    for (address, subnet) in [(&here.ip, &here.subnet), (&given.ip, &given.subnet)] {
        names::address_of(address)?;
        names::prefix_of(subnet)?;
    }
    Ok((here, given))
}

/// The subscription comes first: what the comparison makes CM send must find it.
async fn synchronise(
    cm: &CmCalls,
    node: &str,
    state: Vec<wire::InstanceNetworkStateInfo>,
) -> Result<Option<Updates>, Error> {
    let updates = match cm.network_updates(node).await {
        Err(error) if error.is_unknown_call() => None,
        other => Some(other?),
    };
    cm.sync_networks(node, state).await?;
    Ok(updates)
}
