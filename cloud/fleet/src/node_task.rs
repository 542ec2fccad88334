//! Provisioning and deprovisioning of one node over the cloud link, as a state machine.
//!
//! ```text
//! provision:   Starting --start answered--> Finishing --finish answered--> Done
//! deprovision: Deprovisioning --answered--> Done
//! ```
//! Every error, refusal and time-out leads to `Failed`. Answers that do not fit the state change nothing:
//! they are repetitions, or come after the time-out.

/// What is done with a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NodeTaskKind {
    /// It gets keys and certificates.
    Provision,
    /// It loses them.
    Deprovision,
}

impl NodeTaskKind {
    /// The word for it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Provision => "provision",
            Self::Deprovision => "deprovision",
        }
    }
}

/// Where a task stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NodeTaskState {
    /// The node makes keys and requests.
    Starting,
    /// The node installs its certificates.
    Finishing,
    /// The node is taken out.
    Deprovisioning,
    /// It succeeded.
    Done,
    /// It failed, with a reason.
    Failed(String),
}

impl NodeTaskState {
    /// Where a task of this kind starts.
    pub const fn start(kind: NodeTaskKind) -> Self {
        match kind {
            NodeTaskKind::Provision => Self::Starting,
            NodeTaskKind::Deprovision => Self::Deprovisioning,
        }
    }

    /// The word for it.
    pub const fn as_str(&self) -> &'static str {
        match self {
            Self::Starting => "starting",
            Self::Finishing => "finishing",
            Self::Deprovisioning => "deprovisioning",
            Self::Done => "done",
            Self::Failed(_) => "failed",
        }
    }

    /// The state of a word and reason.
    pub fn parse(word: &str, reason: Option<&str>) -> Self {
        match word {
            "starting" => Self::Starting,
            "finishing" => Self::Finishing,
            "deprovisioning" => Self::Deprovisioning,
            "done" => Self::Done,
            _ => Self::Failed(reason.unwrap_or_default().to_owned()),
        }
    }

    /// True when the task has ended.
    pub const fn is_final(&self) -> bool {
        matches!(self, Self::Done | Self::Failed(_))
    }
}

/// Why a step was not done, in the words of whoever did not do it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Reason(pub String);

/// What happens to a task.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NodeTaskEvent {
    /// The node has keys; its requests could be signed, or there is a reason against it.
    Started(Result<(), Reason>),
    /// The node has installed its certificates, or tells why not.
    Finished(Result<(), Reason>),
    /// The node is taken out, or tells why not.
    Deprovisioned(Result<(), Reason>),
}

/// What follows from an event.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NodeTaskStep {
    /// Nothing: the event does not fit the state.
    Ignore,
    /// Send the certificates.
    SendCertificates,
    /// The node is provisioned.
    Provisioned,
    /// The node is not provisioned any more.
    Deprovisioned,
    /// The task has failed; certificates that were issued for it are void.
    Failed,
}

/// Lets an event happen to a task.
pub fn node_task(state: &mut NodeTaskState, event: NodeTaskEvent) -> NodeTaskStep {
    let (next, step) = match (&*state, event) {
        (NodeTaskState::Starting, NodeTaskEvent::Started(Ok(()))) => {
            (NodeTaskState::Finishing, NodeTaskStep::SendCertificates)
        }
        (NodeTaskState::Finishing, NodeTaskEvent::Finished(Ok(()))) => {
            (NodeTaskState::Done, NodeTaskStep::Provisioned)
        }
        (NodeTaskState::Deprovisioning, NodeTaskEvent::Deprovisioned(Ok(()))) => {
            (NodeTaskState::Done, NodeTaskStep::Deprovisioned)
        }
        (NodeTaskState::Starting, NodeTaskEvent::Started(Err(reason)))
        | (NodeTaskState::Finishing, NodeTaskEvent::Finished(Err(reason)))
        | (NodeTaskState::Deprovisioning, NodeTaskEvent::Deprovisioned(Err(reason))) => {
            (NodeTaskState::Failed(reason.0), NodeTaskStep::Failed)
        }
        _ => return NodeTaskStep::Ignore,
    };
    *state = next;
    step
}
