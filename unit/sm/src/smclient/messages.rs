//! Between the wire's messages and our types. Pure.

use std::collections::BTreeMap;

use aos_ids::{Digest, InstanceIdent};
use aos_status::{AosCode, ErrorInfo, InstanceState};
use aos_unit_api::convert::{error_to_wire, instance};
use aos_unit_api::servicemanager::v5 as wire;
use prost::Message;
use wire::sm_outgoing_messages::SmOutgoingMessage as Wire;

use super::refused::Refusal;
use crate::Error;
use crate::instance::InstanceInfo;
use crate::launcher::Status;

/// Longest variable the kernel takes, bytes.
const MAX_VARIABLE: usize = 128 * 1024 - 2;
/// Longest text of an error that peers take, bytes.
const MAX_MESSAGE: usize = 255;
/// Longest part of a refused name that is told.
const MAX_NAME: usize = 64;

/// Statuses that changed.
pub fn instances(statuses: &[Status]) -> Wire {
    Wire::UpdateInstancesStatus(wire::UpdateInstancesStatus {
        instances: statuses.iter().map(status).collect(),
    })
}

/// All statuses.
pub fn all_instances(statuses: &[Status]) -> Wire {
    Wire::NodeInstancesStatus(wire::NodeInstancesStatus { instances: statuses.iter().map(status).collect() })
}

fn status(status: &Status) -> wire::InstanceStatus {
    let Status { info, state, error, .. } = status;
    let env_vars = match state {
        InstanceState::Active => {
            let set = info.env.iter().map(|(name, _)| wire::EnvVarStatus { name: name.clone(), error: None });
            let refused = info.refused_env.iter().map(|(name, reason)| wire::EnvVarStatus {
                name: name.clone(),
                error: error_to_wire(Some(ErrorInfo::new(AosCode::InvalidArgument, reason.clone()))),
            });
            set.chain(refused).collect()
        }
        _ => Vec::new(),
    };
    wire::InstanceStatus {
        instance: Some((&info.ident).into()),
        version: info.version.clone(),
        runtime_id: info.runtime.clone(),
        manifest_digest: info.manifest.to_string(),
        env_vars,
        state: state.to_string(),
        error: error_to_wire(error.clone().map(short)),
    }
}

/// Cut to what peers take, at a character.
fn short(error: ErrorInfo) -> ErrorInfo {
    let ErrorInfo { mut message, .. } = error;
    message.truncate(message.floor_char_boundary(MAX_MESSAGE));
    ErrorInfo { message, ..error }
}

/// A request in checked types.
#[derive(Debug, Default)]
pub struct Update {
    /// To be run.
    pub start: Vec<InstanceInfo>,
    /// Not to be run any more.
    pub stop: Vec<InstanceIdent>,
    /// Entries that cannot be read, of instances that are known by name.
    pub refused: Vec<Refusal>,
    /// Why entries that do not even name their instance are left out.
    pub nameless: Vec<Error>,
}

/// Checks a request. Of several entries for one instance the last one counts.
pub fn update(update: wire::UpdateInstances) -> Update {
    let mut checked_update = Update::default();
    let Update { start, stop, refused, nameless } = &mut checked_update;
    for info in update.start_instances {
        let ident = match instance(info.instance.clone()) {
            Ok(ident) => ident,
            Err(error) => {
                nameless.push(Error::invalid("an instance to start", error.to_string()));
                continue;
            }
        };
        start.retain(|known| known.ident != ident);
        refused.retain(|known| known.ident != ident);
        match checked(ident.clone(), &info) {
            Ok(info) => start.push(info),
            Err(error) => refused.push(Refusal::of(ident, &info, short(error.info()))),
        }
    }
    for ident in update.stop_instances {
        match InstanceIdent::try_from(ident) {
            Ok(ident) => stop.push(ident),
            Err(error) => nameless.push(Error::invalid("an instance to stop", error.to_string())),
        }
    }
    checked_update
}

fn checked(ident: InstanceIdent, info: &wire::InstanceInfo) -> Result<InstanceInfo, Error> {
    let name = ident.to_string();
    let refused = |reason: &str| Error::invalid(name.as_str(), reason);
    let manifest = info.manifest_digest.parse::<Digest>().map_err(|error| refused(&error.to_string()))?;
    if info.owner_id.is_empty() || info.owner_id.len() > 64 {
        return Err(refused("the owner has no usable identifier"));
    }
    let (env, refused_env) = variables(&info.env_vars);
    Ok(InstanceInfo {
        ident,
        version: info.version.clone(),
        manifest,
        owner: info.owner_id.clone(),
        runtime: info.runtime_id.clone(),
        uid: info.uid,
        gid: info.gid,
        priority: info.priority,
        storage_path: info.storage_path.clone(),
        state_path: info.state_path.clone(),
        env,
        refused_env,
        monitoring: info.monitoring_parameters.as_ref().map(Message::encode_to_vec),
    })
}

/// A variable with its value, or with the reason why it cannot be set.
type Named = (String, String);

/// The variables that can be set, each once (the last one counts) and sorted, so that another order is no other
/// wish; and those that cannot, with the reason.
fn variables(given: &[wire::EnvVarInfo]) -> (Vec<Named>, Vec<Named>) {
    let mut good = BTreeMap::new();
    let mut bad = BTreeMap::new();
    for wire::EnvVarInfo { name, value } in given {
        let reason = if name.is_empty() {
            "it has no name"
        } else if name.contains(['=', '\0']) {
            "its name has a character that no name may have"
        } else if value.contains('\0') {
            "its value has a zero byte"
        } else if name.len() + value.len() > MAX_VARIABLE {
            "it is too long"
        } else {
            good.insert(name.clone(), value.clone());
            continue;
        };
        bad.insert(name.escape_debug().take(MAX_NAME).collect(), reason.to_owned());
    }
    (good.into_iter().collect(), bad.into_iter().collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use aos_unit_api::common::v2;

    fn wish(instance: u64, digest: &str) -> wire::InstanceInfo {
        wire::InstanceInfo {
            instance: Some(v2::InstanceIdent {
                item_id: "i".into(),
                subject_id: "s".into(),
                instance,
                ..Default::default()
            }),
            version: "1.0.0".into(),
            manifest_digest: digest.into(),
            owner_id: "o".into(),
            ..Default::default()
        }
    }

    // SM-44, SM-45
    #[test]
    fn a_bad_entry_does_not_spoil_the_others() {
        let good = format!("sha256:{}", "a".repeat(64));
        let mut nameless = wish(2, &good);
        nameless.instance = None;
        let request = wire::UpdateInstances {
            start_instances: vec![wish(0, &good), wish(1, "md5:00"), nameless],
            stop_instances: vec![v2::InstanceIdent::default()],
        };
        let Update { start, stop, refused, nameless } = update(request);
        assert_eq!(start.iter().map(|info| info.ident.instance).collect::<Vec<_>>(), [0]);
        assert!(stop.is_empty());
        assert_eq!(nameless.len(), 2, "nobody could be told about whom");
        let [bad] = refused.as_slice() else { panic!("{refused:?}") };
        assert_eq!((bad.ident.instance, bad.status.manifest_digest.as_str()), (1, "md5:00"));
        assert_eq!(bad.status.error.as_ref().unwrap().aos_code, 6);
    }

    // Upstream's peers have room for 256 bytes and fail the whole message beyond.
    #[test]
    fn long_reasons_are_cut_to_what_peers_take() {
        let ident = instance(wish(0, "").instance).unwrap();
        let info = checked(ident, &wish(0, &format!("sha256:{}", "a".repeat(64)))).unwrap();
        let error = Some(ErrorInfo::new(AosCode::Failed, "\u{e4}".repeat(500)));
        let failed = Status { info, state: InstanceState::Failed, error, pid: None };
        let told = status(&failed).error.unwrap().message;
        assert_eq!((told.len(), told.chars().all(|letter| letter == '\u{e4}')), (254, true));
    }

    #[test]
    fn the_last_entry_of_an_instance_counts() {
        let good = format!("sha256:{}", "a".repeat(64));
        let of = |entries: [&str; 2]| {
            let start_instances = entries.map(|digest| wish(0, digest)).to_vec();
            let update = update(wire::UpdateInstances { start_instances, stop_instances: vec![] });
            (update.start.len(), update.refused.len())
        };
        assert_eq!(of([good.as_str(), "none"]), (0, 1));
        assert_eq!(of(["none", good.as_str()]), (1, 0));
        assert_eq!(of([good.as_str(), good.as_str()]), (1, 0));
    }

    // Each variable has a result of its own; a bad one spoils neither the others nor the instance.
    #[test]
    fn a_bad_variable_is_told_and_the_others_are_set() {
        let mut wish = wish(0, &format!("sha256:{}", "a".repeat(64)));
        let variable = |name: &str, value: &str| wire::EnvVarInfo { name: name.into(), value: value.into() };
        wish.env_vars = vec![
            variable("B", "1"),
            variable("A", "2"),
            variable("X=Y", "3"),
            variable("Z", "a\0b"),
            variable("B", "4"),
        ];
        let ident = instance(wish.instance.clone()).unwrap();
        let info = checked(ident, &wish).unwrap();
        assert_eq!(info.env, [("A".to_owned(), "2".to_owned()), ("B".to_owned(), "4".to_owned())]);
        let active = Status { info, state: InstanceState::Active, error: None, pid: Some(1) };
        let told = status(&active).env_vars;
        let bad: Vec<(&str, bool)> = told
            .iter()
            .map(|one| (one.name.as_str(), one.error.as_ref().is_some_and(|e| e.aos_code == 6)))
            .collect();
        assert_eq!(bad, [("A", false), ("B", false), ("X=Y", true), ("Z", true)]);
    }
}
