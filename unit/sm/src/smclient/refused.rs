//! Instances of CM's requests that cannot even be read: CM is told of each, as failed, with the reason.
//!
//! They never reach the launcher. What is told of one stays in every list of all statuses until CM asks for the
//! instance again or stops it, so that a list never takes back what was said before. At most as many as a
//! node has instances; those beyond are only logged.

use std::collections::BTreeMap;

use aos_ids::InstanceIdent;
use aos_status::{ErrorInfo, InstanceState};
use aos_unit_api::convert::error_to_wire;
use aos_unit_api::servicemanager::v5 as wire;
use wire::sm_outgoing_messages::SmOutgoingMessage as Wire;

/// Most that are remembered.
const MAX_REFUSED: usize = 256;
/// Longest text that is repeated to CM, characters.
const MAX_TEXT: usize = 136;

/// An entry that is refused.
#[derive(Debug)]
pub struct Refusal {
    /// Which instance it is about.
    pub ident: InstanceIdent,
    /// Status of the instance, as CM named it.
    pub status: wire::InstanceStatus,
}

impl Refusal {
    /// Of an entry of a request, with the reason.
    pub fn of(ident: InstanceIdent, info: &wire::InstanceInfo, reason: ErrorInfo) -> Self {
        let cut = |text: &str| text.chars().take(MAX_TEXT).collect::<String>();
        let status = wire::InstanceStatus {
            instance: Some((&ident).into()),
            version: cut(&info.version),
            runtime_id: cut(&info.runtime_id),
            manifest_digest: cut(&info.manifest_digest),
            env_vars: Vec::new(),
            state: InstanceState::Failed.to_string(),
            error: error_to_wire(Some(reason)),
        };
        Self { ident, status }
    }
}

/// The entries that are refused at present.
#[derive(Debug, Default)]
pub struct Refused(BTreeMap<InstanceIdent, wire::InstanceStatus>);

impl Refused {
    /// Takes a request: the instances it asks for or stops, and the entries of it that are refused. Answers the
    /// statuses to be told at once.
    pub fn take<'a>(
        &mut self,
        named: impl Iterator<Item = &'a InstanceIdent>,
        refused: Vec<Refusal>,
    ) -> Vec<wire::InstanceStatus> {
        for ident in named {
            self.0.remove(ident);
        }
        let mut told = Vec::new();
        for Refusal { ident, status } in refused {
            if self.0.len() < MAX_REFUSED || self.0.contains_key(&ident) {
                told.push(status.clone());
                self.0.insert(ident, status);
            }
        }
        told
    }

    /// The message, completed if it is a list of all statuses.
    pub fn completed(&self, mut message: Wire) -> Wire {
        if let Wire::NodeInstancesStatus(list) = &mut message {
            self.complete(list);
        }
        message
    }

    /// What still runs of a refused instance is of an older request.
    fn complete(&self, list: &mut wire::NodeInstancesStatus) {
        let refused: Vec<_> = self.0.values().map(|status| &status.instance).collect();
        list.instances.retain(|status| !refused.contains(&&status.instance));
        list.instances.extend(self.0.values().cloned());
    }
}

#[cfg(test)]
mod tests {
    use aos_ids::{ItemId, SubjectId};
    use aos_status::AosCode;

    use super::*;

    fn ident(instance: u64) -> InstanceIdent {
        InstanceIdent::service(ItemId::new("i").unwrap(), SubjectId::new("s").unwrap(), instance)
    }

    fn refusal(instance: u64) -> Refusal {
        let info = wire::InstanceInfo { version: "1.0.0".into(), ..Default::default() };
        Refusal::of(ident(instance), &info, ErrorInfo::new(AosCode::InvalidArgument, "no digest"))
    }

    fn listed(refused: &Refused, running: &[u64]) -> Vec<(u64, String)> {
        let status = |instance: &u64| wire::InstanceStatus {
            instance: Some((&ident(*instance)).into()),
            state: "active".into(),
            ..Default::default()
        };
        let mut list = wire::NodeInstancesStatus { instances: running.iter().map(status).collect() };
        refused.complete(&mut list);
        list.instances.into_iter().map(|one| (one.instance.unwrap().instance, one.state)).collect()
    }

    #[test]
    fn a_refused_entry_is_listed_until_it_is_asked_for_again() {
        let mut refused = Refused::default();
        let told = refused.take([].iter(), vec![refusal(1), refusal(2)]);
        assert_eq!(told.len(), 2);
        assert_eq!(told[0].error.as_ref().unwrap().message, "no digest");
        let failed = |instance| (instance, "failed".to_owned());
        let active = |instance| (instance, "active".to_owned());
        assert_eq!(listed(&refused, &[0, 1]), [active(0), failed(1), failed(2)]);
        assert!(refused.take([ident(1), ident(0)].iter(), vec![]).is_empty());
        assert_eq!(listed(&refused, &[0, 1]), [active(0), active(1), failed(2)]);
        // Stopped and refused in one request: refused is the last word.
        refused.take([ident(2)].iter(), vec![refusal(2)]);
        assert_eq!(listed(&refused, &[]), [failed(2)]);
    }

    #[test]
    fn there_is_an_end_to_what_is_remembered() {
        let mut refused = Refused::default();
        let told = refused.take([].iter(), (0..1000).map(refusal).collect());
        assert_eq!((told.len(), listed(&refused, &[]).len()), (MAX_REFUSED, MAX_REFUSED));
        assert_eq!(refused.take([].iter(), vec![refusal(0)]).len(), 1, "a known one has a new reason");
    }
}
