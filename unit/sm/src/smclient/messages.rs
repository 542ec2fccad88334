//! Between the wire's messages and our types. Pure.

use aos_ids::{Digest, InstanceIdent};
use aos_status::InstanceState;
use aos_unit_api::convert::{error_to_wire, instance};
use aos_unit_api::servicemanager::v5 as wire;
use prost::Message;
use wire::sm_outgoing_messages::SmOutgoingMessage as Wire;

use crate::Error;
use crate::instance::InstanceInfo;
use crate::launcher::Status;

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
            info.env.iter().map(|(name, _)| wire::EnvVarStatus { name: name.clone(), error: None }).collect()
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
        error: error_to_wire(error.clone()),
    }
}

/// Checks a request; answers what is to start, what is to stop, and why the rest is refused.
pub fn update(update: wire::UpdateInstances) -> (Vec<InstanceInfo>, Vec<InstanceIdent>, Vec<String>) {
    let mut start: Vec<InstanceInfo> = Vec::new();
    let mut stop = Vec::new();
    let mut refused = Vec::new();
    for info in update.start_instances {
        match checked(info) {
            Ok(info) => {
                start.retain(|known| known.ident != info.ident);
                start.push(info);
            }
            Err(error) => refused.push(error.to_string()),
        }
    }
    for ident in update.stop_instances {
        match InstanceIdent::try_from(ident) {
            Ok(ident) => stop.push(ident),
            Err(error) => refused.push(error.to_string()),
        }
    }
    (start, stop, refused)
}

fn checked(info: wire::InstanceInfo) -> Result<InstanceInfo, Error> {
    let refused = |what: &str, reason: &str| Error::invalid(what, reason);
    let ident = instance(info.instance).map_err(|error| refused("an instance", &error.to_string()))?;
    let name = ident.to_string();
    let manifest =
        info.manifest_digest.parse::<Digest>().map_err(|error| refused(&name, &error.to_string()))?;
    if info.owner_id.is_empty() || info.owner_id.len() > 64 {
        return Err(refused(&name, "the owner has no usable identifier"));
    }
    for variable in &info.env_vars {
        if variable.name.is_empty() || variable.name.contains(['=', '\0']) || variable.value.contains('\0') {
            return Err(refused(&name, "a variable is not usable"));
        }
    }
    Ok(InstanceInfo {
        ident,
        version: info.version,
        manifest,
        owner: info.owner_id,
        runtime: info.runtime_id,
        uid: info.uid,
        gid: info.gid,
        priority: info.priority,
        storage_path: info.storage_path,
        state_path: info.state_path,
        env: info.env_vars.into_iter().map(|variable| (variable.name, variable.value)).collect(),
        monitoring: info.monitoring_parameters.map(|parameters| parameters.encode_to_vec()),
    })
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
        let (start, stop, refused) = update(request);
        assert_eq!(start.iter().map(|info| info.ident.instance).collect::<Vec<_>>(), [0]);
        assert!(stop.is_empty());
        assert_eq!(refused.len(), 3);
    }
}
