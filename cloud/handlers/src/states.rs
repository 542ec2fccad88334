//! States of instances: `newState`, `stateRequest`, `updateState`, `stateAcceptance`.

use aos_cloud_fleet::{KnownInstance, Told, UnitState, accept_state};
use aos_cloud_protocol::{
    AosIdentity, Body, InstanceStateData, MAX_STATE, StateAcceptance, StateChecksum, StateRequest,
    StateResult,
};
use aos_cloud_store::{NewState, Received, StateKey, StateRow, StateSource, Unit, Work};
use sha3::Digest as _;

use crate::error::FlowError;
use crate::flows::{Flows, served};
use crate::handlers::Message;
use crate::status::unit_state;

/// Longest id of an item or subject, bytes; the limit of all peers.
pub(crate) const MAX_ID: usize = 64;

/// What an instance gets that never told of a state.
const INITIAL: &str = "";
const NO_ID: &str = "item or subject has no id, or one of more than 64 bytes";

impl Flows {
    /// A Unit tells of a new state: it is kept or rejected, and the Unit is told which.
    pub(crate) async fn take_state(
        &self,
        message: Message<InstanceStateData>,
    ) -> Result<Received<()>, FlowError> {
        let Message { unit_id, receipt, correlation_id, body, .. } = message;
        let flows = self.clone();
        self.store
            .receive(receipt, move |work| {
                let unit = served(work, &unit_id)?;
                let (Some(item), Some(subject)) = (body.item, body.subject) else {
                    return Ok(work.note_invalid(&unit_id, "newState", "item or subject is missing")?);
                };
                let Some(key) = key_of(&item, &subject, body.instance) else {
                    return Ok(work.note_invalid(&unit_id, "newState", NO_ID)?);
                };
                let stored = work.state(&unit_id, &key)?;
                let known = KnownInstance {
                    exists: instance_exists(work, &unit, &key)?,
                    on_its_way: on_its_way(stored.as_ref()),
                };
                let computed = checksum_like(&body.state_checksum, body.state.as_bytes());
                let told = Told {
                    checksum: &body.state_checksum,
                    computed: computed.as_deref(),
                    bytes: body.state.len(),
                };
                let verdict = accept_state(told, known);
                match verdict {
                    // The state that was set here has arrived and is told back, or a message came twice.
                    Ok(()) if is_present(stored.as_ref(), &body.state_checksum) => {}
                    Ok(()) => {
                        let new = NewState {
                            checksum: body.state_checksum.as_str().to_owned(),
                            content: body.state,
                            source: StateSource::Unit,
                        };
                        work.put_state(&unit_id, &key, &new)?;
                    }
                    Err(reason) => {
                        tracing::warn!(unit_id, "a state of {} is rejected: {reason}", key.item);
                        let reason = reason.to_string();
                        work.reject_state(&unit_id, &key, &reason)?;
                        work.note_invalid(&unit_id, "newState", &reason)?;
                    }
                }
                let answer = StateAcceptance {
                    item,
                    subject,
                    instance: body.instance,
                    checksum: body.state_checksum,
                    result: verdict.map_or(StateResult::Rejected, |()| StateResult::Accepted),
                    reason: verdict.err().map(|refusal| refusal.to_string()).unwrap_or_default(),
                };
                let slot = slot("stateAcceptance", &key);
                flows.push(
                    work,
                    &unit,
                    Body::StateAcceptance(answer),
                    correlation_id.as_deref(),
                    Some(slot),
                )?;
                Ok(())
            })
            .await
    }

    /// A Unit asks for a state: it gets the latest one, or the initial one.
    pub(crate) async fn take_state_request(
        &self,
        message: Message<StateRequest>,
    ) -> Result<Received<()>, FlowError> {
        let Message { unit_id, receipt, correlation_id, body, .. } = message;
        let flows = self.clone();
        self.store
            .receive(receipt, move |work| {
                let unit = served(work, &unit_id)?;
                let Some(key) = key_of(&body.item, &body.subject, body.instance) else {
                    return Ok(work.note_invalid(&unit_id, "stateRequest", NO_ID)?);
                };
                let stored = work.state(&unit_id, &key)?;
                // What was set here on purpose comes before the initial state.
                let stored = stored.filter(|row| !body.default || on_its_way(Some(row)).is_some());
                let (checksum, state) = match stored {
                    Some(row) => (row.checksum, row.content),
                    None => (checksum(INITIAL).as_str().to_owned(), INITIAL.to_owned()),
                };
                let state_checksum =
                    StateChecksum::new(checksum).map_err(|_| FlowError::Value("checksum of a state"))?;
                let update = InstanceStateData {
                    item: Some(body.item),
                    subject: Some(body.subject),
                    instance: body.instance,
                    state_checksum,
                    state,
                };
                flows.push_update(work, &unit, &key, update, correlation_id.as_deref())
            })
            .await
    }

    fn push_update(
        &self,
        work: &mut Work<'_>,
        unit: &Unit,
        key: &StateKey,
        update: InstanceStateData,
        correlation_id: Option<&str>,
    ) -> Result<(), FlowError> {
        let slot = slot("updateState", key);
        let txn = self.push(work, unit, Body::UpdateState(update), correlation_id, Some(slot))?;
        Ok(work.state_sent_as(&unit.id, key, txn.as_str())?)
    }

    /// Sets the state of an instance; the Unit gets it.
    pub async fn set_state(
        &self,
        unit_id: &str,
        key: StateKey,
        content: String,
    ) -> Result<StateRow, FlowError> {
        if content.len() > MAX_STATE {
            return Err(FlowError::Invalid(format!("a state has at most {MAX_STATE} bytes")));
        }
        let (unit_id, flows) = (unit_id.to_owned(), self.clone());
        self.store
            .transact(move |work| {
                let unit = served(work, &unit_id)?;
                if !instance_exists(work, &unit, &key)? && work.state(&unit.id, &key)?.is_none() {
                    return Err(FlowError::missing("instance"));
                }
                let state_checksum = checksum(&content);
                let new = NewState {
                    checksum: state_checksum.as_str().to_owned(),
                    content: content.clone(),
                    source: StateSource::Cloud,
                };
                work.put_state(&unit.id, &key, &new)?;
                let update = InstanceStateData {
                    item: Some(AosIdentity::by_id(&key.item)),
                    subject: Some(AosIdentity::by_id(&key.subject)),
                    instance: key.instance,
                    state_checksum,
                    state: content,
                };
                flows.push_update(work, &unit, &key, update, None)?;
                work.state(&unit.id, &key)?.ok_or(FlowError::missing("state"))
            })
            .await
    }

    /// Sets the state of an instance to the initial one.
    pub async fn reset_state(&self, unit_id: &str, key: StateKey) -> Result<StateRow, FlowError> {
        self.set_state(unit_id, key, INITIAL.to_owned()).await
    }
}

/// A state that was set here and has not arrived.
fn on_its_way(stored: Option<&StateRow>) -> Option<&str> {
    let waits = |row: &&StateRow| row.source == StateSource::Cloud && row.delivery == "waiting";
    stored.filter(waits).map(|row| row.checksum.as_str())
}

fn is_present(stored: Option<&StateRow>, told: &StateChecksum) -> bool {
    stored.and_then(|row| StateChecksum::new(row.checksum.as_str()).ok()).is_some_and(|row| row.same_as(told))
}

fn key_of(item: &AosIdentity, subject: &AosIdentity, instance: u64) -> Option<StateKey> {
    let id = |identity: &AosIdentity| identity.key().filter(|id| id.len() <= MAX_ID).map(str::to_owned);
    let (item, subject) = (id(item)?, id(subject)?);
    Some(StateKey { item, subject, instance })
}

fn slot(kind: &str, key: &StateKey) -> String {
    format!("{kind}/{}/{}/{}", key.item, key.subject, key.instance)
}

/// True when the Unit shall run the instance, or tells that it does.
fn instance_exists(work: &Work<'_>, unit: &Unit, key: &StateKey) -> Result<bool, FlowError> {
    let (subject, assigned) = work.assigned(&unit.id)?;
    let wanted = subject == key.subject
        && assigned
            .iter()
            .any(|one| one.assignment.item_id == key.item && key.instance < one.assignment.num_instances);
    Ok(wanted || runs(&unit_state(work, &unit.id)?, key))
}

fn runs(state: &UnitState, key: &StateKey) -> bool {
    state.instances.iter().any(|instance| {
        let instance = &instance.value;
        instance.item.key() == Some(&key.item)
            && instance.subject.key() == Some(&key.subject)
            && instance.info.instance == key.instance
    })
}

/// Our checksum of a state.
fn checksum(state: &str) -> StateChecksum {
    let bytes: [u8; 28] = sha3::Sha3_224::digest(state.as_bytes()).into();
    StateChecksum::from_bytes(&bytes)
}

/// The checksum by the algorithm that `like` has the length of.
fn checksum_like(like: &StateChecksum, state: &[u8]) -> Option<Vec<u8>> {
    match like.bytes()?.len() {
        28 => Some(sha3::Sha3_224::digest(state).to_vec()),
        32 => Some(aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, state).as_ref().to_vec()),
        _ => None,
    }
}
