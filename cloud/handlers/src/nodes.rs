//! Provisioning and deprovisioning of single nodes: `startProvisioningRequest` and its answers.

use aos_cloud_fleet::{NodeTaskEvent, NodeTaskKind, NodeTaskState, NodeTaskStep, Reason, node_task};
use aos_cloud_protocol::{
    Body, CertificateType, DeprovisioningRequest, FinishProvisioningRequest, NodeCertificate, NodeOutcome,
    Secret, StartProvisioningRequest, StartProvisioningResponse,
};
use aos_cloud_store::{NewCertificate, NodeTask, Received, Unit, Work, brief, now_micros};
use uuid::Uuid;

use crate::certificates::{Signed, Wish, affordable, grant};
use crate::error::FlowError;
use crate::flows::{Flows, served};
use crate::handlers::Message;
use crate::renewals::node_identity;
use crate::status::unit_state;

impl Flows {
    /// Has a Unit provision one of its nodes. Without a password the one known for the node is used, or a
    /// fresh one that is kept.
    pub async fn provision_node(
        &self,
        unit_id: &str,
        node: &str,
        password: Option<String>,
    ) -> Result<NodeTask, FlowError> {
        self.start_task(unit_id, node, password, NodeTaskKind::Provision).await
    }

    /// Has a Unit take one of its secondary nodes out of service.
    pub async fn deprovision_node(
        &self,
        unit_id: &str,
        node: &str,
        password: Option<String>,
    ) -> Result<NodeTask, FlowError> {
        self.start_task(unit_id, node, password, NodeTaskKind::Deprovision).await
    }

    async fn start_task(
        &self,
        unit_id: &str,
        node: &str,
        password: Option<String>,
        kind: NodeTaskKind,
    ) -> Result<NodeTask, FlowError> {
        let (unit_id, node, flows) = (unit_id.to_owned(), node.to_owned(), self.clone());
        self.store
            .transact(move |work| {
                let unit = served(work, &unit_id)?;
                check_node(work, &unit, &node)?;
                let known = flows.passwords(work, &unit)?.remove(&node);
                let password = match (password.or(known), kind) {
                    (Some(password), _) => password,
                    (None, NodeTaskKind::Provision) => {
                        // Kept at once: the token that it opens may exist when the rest fails.
                        let fresh = fresh_password()?;
                        flows.keep_password(work, &unit, &node, &fresh)?;
                        fresh
                    }
                    (None, NodeTaskKind::Deprovision) => {
                        let text = format!("the owner password of node '{node}' is not known: give it");
                        return Err(FlowError::Invalid(text));
                    }
                };
                let task = NodeTask {
                    id: Uuid::new_v4().to_string(),
                    node_id: node.clone(),
                    kind: kind.as_str().to_owned(),
                    state: NodeTaskState::start(kind).as_str().to_owned(),
                    reason: None,
                    sealed_password: Some(flows.seal_password(&password)?),
                    created_at: now_micros(),
                    deadline: Some(Self::deadline(flows.inner.patience.node_task)),
                    finished_at: None,
                };
                work.put_node_task(&unit.id, &task)?;
                let (node, password) = (node_identity(&node), Secret::new(password));
                let body = match kind {
                    NodeTaskKind::Provision => {
                        Body::StartProvisioningRequest(StartProvisioningRequest { node, password })
                    }
                    NodeTaskKind::Deprovision => {
                        Body::DeprovisioningRequest(DeprovisioningRequest { node, password })
                    }
                };
                flows.push(work, &unit, body, Some(&task.id), None)?;
                Ok(task)
            })
            .await
    }

    /// A node has made its keys: its requests are signed and go back.
    pub(crate) async fn take_started(
        &self,
        message: Message<StartProvisioningResponse>,
    ) -> Result<Received<()>, FlowError> {
        let Message { unit_id, receipt, correlation_id, body, .. } = message;
        let node = body.node.node_id().map(|node| node.to_string()).unwrap_or_default();
        let outcome = match (body.error_info, body.csrs.is_empty()) {
            (Some(info), _) => Err(Reason(brief(&info.message))),
            (None, true) => Err(Reason("the node sent no certificate requests".to_owned())),
            (None, false) => {
                let wish = |csr: aos_cloud_protocol::NodeCsr| Wish {
                    node_id: node.clone(),
                    cert_type: csr.kind.as_str().to_owned(),
                    csr: csr.csr,
                };
                let wishes = body.csrs.into_iter().map(wish).collect();
                let (id, of) = (unit_id.clone(), node.clone());
                let awaited = self
                    .store
                    .transact(move |work| {
                        let unit = served(work, &id)?;
                        let open = work.open_node_task(&id, &of)?;
                        if open.is_none_or(|task| task.state != NodeTaskState::Starting.as_str()) {
                            return Ok(None);
                        }
                        let (wishes, refused) = affordable(work, &unit, wishes)?;
                        Ok::<_, FlowError>(Some((unit.system_uid, wishes, refused)))
                    })
                    .await?;
                match awaited {
                    Some((system_id, wishes, refused)) if refused.is_empty() => {
                        all_signed(self.sign(system_id, wishes).await?)
                    }
                    Some((_, _, refused)) => all_signed(
                        refused.into_iter().map(|(wish, reason)| (wish, Err(Reason(reason)))).collect(),
                    ),
                    None => Err(Reason("nobody waits for it".to_owned())),
                }
            }
        };
        let flows = self.clone();
        self.store
            .receive(receipt, move |work| {
                let unit = served(work, &unit_id)?;
                let exchange = correlation_id.as_deref();
                let Some(mut task) = awaited_task(work, &unit, &node, exchange, "startProvisioningResponse")?
                else {
                    return Ok(());
                };
                let (event, signed) = match outcome {
                    Ok(signed) => (Ok(()), signed),
                    Err(reason) => (Err(reason), Vec::new()),
                };
                let step = advance(&mut task, NodeTaskEvent::Started(event));
                if step == NodeTaskStep::SendCertificates {
                    flows.send_certificates(work, &unit, &mut task, signed)?;
                }
                Ok(work.put_node_task(&unit.id, &task)?)
            })
            .await
    }

    fn send_certificates(
        &self,
        work: &mut Work<'_>,
        unit: &Unit,
        task: &mut NodeTask,
        signed: Vec<NewCertificate>,
    ) -> Result<(), FlowError> {
        let held = work.certificates(&unit.id)?;
        let mut certificates = Vec::with_capacity(signed.len());
        for one in signed {
            let kind = CertificateType::from(one.cert_type.clone());
            let granted = grant(work, unit, &held, one)?;
            certificates.push(NodeCertificate { kind, chain: granted.chain });
        }
        let sealed = task.sealed_password.as_deref().ok_or(FlowError::Value("task of a node"))?;
        let password = self.open_password(sealed)?;
        // A later renewal needs it again.
        self.keep_password(work, unit, &task.node_id, &password)?;
        let body = Body::FinishProvisioningRequest(FinishProvisioningRequest {
            node: node_identity(&task.node_id),
            certificates,
            password: Secret::new(password),
        });
        task.deadline = Some(Self::deadline(self.inner.patience.node_task));
        self.push(work, unit, body, Some(&task.id), None)?;
        Ok(())
    }

    /// A node has installed its certificates, or tells why not.
    pub(crate) async fn take_finished(
        &self,
        message: Message<NodeOutcome>,
    ) -> Result<Received<()>, FlowError> {
        self.take_end(message, "finishProvisioningResponse", NodeTaskEvent::Finished).await
    }

    /// A node is out of service, or tells why not.
    pub(crate) async fn take_deprovisioned(
        &self,
        message: Message<NodeOutcome>,
    ) -> Result<Received<()>, FlowError> {
        self.take_end(message, "deprovisioningResponse", NodeTaskEvent::Deprovisioned).await
    }

    async fn take_end(
        &self,
        message: Message<NodeOutcome>,
        kind: &'static str,
        event: fn(Result<(), Reason>) -> NodeTaskEvent,
    ) -> Result<Received<()>, FlowError> {
        let Message { unit_id, receipt, correlation_id, body, .. } = message;
        let node = body.node.node_id().map(|node| node.to_string()).unwrap_or_default();
        let event = event(body.error_info.map_or(Ok(()), |info| Err(Reason(brief(&info.message)))));
        self.store
            .receive(receipt, move |work| {
                let unit = served(work, &unit_id)?;
                let exchange = correlation_id.as_deref();
                let Some(mut task) = awaited_task(work, &unit, &node, exchange, kind)? else { return Ok(()) };
                let finishing = task.state == NodeTaskState::Finishing.as_str();
                match advance(&mut task, event) {
                    NodeTaskStep::Provisioned => {
                        let node_type = node_type(work, &unit, &node)?;
                        work.register_node(&unit.id, &node, &node_type, "provisioned")?;
                    }
                    NodeTaskStep::Deprovisioned => {
                        work.revoke_of_node(&unit.id, &node)?;
                        work.forget_wish(&unit.id, &node)?;
                        let node_type = node_type(work, &unit, &node)?;
                        work.register_node(&unit.id, &node, &node_type, "unprovisioned")?;
                    }
                    // The certificates just issued are of no use.
                    NodeTaskStep::Failed if finishing => work.revoke_of_node(&unit.id, &node)?,
                    NodeTaskStep::Failed | NodeTaskStep::Ignore | NodeTaskStep::SendCertificates => {}
                }
                Ok(work.put_node_task(&unit.id, &task)?)
            })
            .await
    }
}

/// The node must be a secondary one of the Unit with nothing under way.
fn check_node(work: &Work<'_>, unit: &Unit, node: &str) -> Result<(), FlowError> {
    let registered = work.registered_nodes(&unit.id)?;
    if registered.iter().any(|(known, is_main)| known == node && *is_main) {
        let text = "the main node is provisioned and deprovisioned with the Unit itself";
        return Err(FlowError::conflict(text));
    }
    let state = unit_state(work, &unit.id)?;
    let reported = state.nodes.iter().any(|known| known.value.identity.key() == Some(node));
    if !reported && !registered.iter().any(|(known, _)| known == node) {
        return Err(FlowError::missing("node"));
    }
    match work.open_node_task(&unit.id, node)? {
        Some(open) => Err(FlowError::conflict(format!("{} of the node is under way", open.kind))),
        None => Ok(()),
    }
}

/// The task that an answer belongs to; an answer that nobody waits for is noted.
fn awaited_task(
    work: &mut Work<'_>,
    unit: &Unit,
    node: &str,
    exchange: Option<&str>,
    kind: &str,
) -> Result<Option<NodeTask>, FlowError> {
    let open = work.open_node_task(&unit.id, node)?;
    let open = open.filter(|task| exchange.is_none_or(|id| id == task.id));
    if open.is_none() {
        tracing::warn!(unit = unit.system_uid, "{kind} of node '{node}' answers nothing that is under way");
        work.note_invalid(&unit.id, kind, &format!("nothing is under way on node '{node}'"))?;
    }
    Ok(open)
}

fn advance(task: &mut NodeTask, event: NodeTaskEvent) -> NodeTaskStep {
    let mut state = NodeTaskState::parse(&task.state, task.reason.as_deref());
    let step = node_task(&mut state, event);
    if step == NodeTaskStep::Ignore {
        return step;
    }
    state.as_str().clone_into(&mut task.state);
    task.reason = match &state {
        NodeTaskState::Failed(reason) if reason.is_empty() => Some("the Unit gave no reason".to_owned()),
        NodeTaskState::Failed(reason) => Some(reason.clone()),
        _ => None,
    };
    if state.is_final() {
        task.deadline = None;
        task.finished_at = Some(now_micros());
        task.sealed_password = None;
    }
    step
}

fn all_signed(signed: Vec<(Wish, Signed)>) -> Result<Vec<NewCertificate>, Reason> {
    let each = signed.into_iter().map(|(wish, outcome)| {
        outcome.map_err(|reason| {
            Reason(brief(&format!("the request for {} is refused: {reason}", wish.cert_type)))
        })
    });
    each.collect()
}

fn node_type(work: &Work<'_>, unit: &Unit, node: &str) -> Result<String, FlowError> {
    let state = unit_state(work, &unit.id)?;
    let found = state.nodes.iter().find(|known| known.value.identity.key() == Some(node));
    Ok(found.and_then(|known| known.value.node_group_subject.key()).unwrap_or_default().to_owned())
}

/// 20 hexadecimal digits: 80 bits, short enough for every token.
fn fresh_password() -> Result<String, FlowError> {
    let mut bytes = [0; 10];
    let drawn = aws_lc_rs::rand::fill(&mut bytes);
    drawn.map_err(|_| FlowError::Pki(aos_cloud_pki::PkiError::Crypto("draw a password")))?;
    Ok(hex::encode(bytes))
}
