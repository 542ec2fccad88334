//! Messages of virtual Units: of the size of real ones, and made up.

use aos_cloud_protocol::{Body, MonitoringData, UnitStatus};
use serde_json::{Value, json};

use crate::error::SimError;

/// Instances of one item; upstream allows 256.
const PER_ITEM: usize = 5;

/// A full status with so many instances on one node.
pub fn full_status(instances: usize) -> Result<Body, SimError> {
    let items: Vec<usize> = (0..instances.div_ceil(PER_ITEM)).collect();
    let item =
        |number: usize| json!({"id": format!("00000000-0000-4000-8000-{number:012}"), "type": "service"});
    let shown = |number: usize| {
        json!({
            "item": item(number), "version": "1.2.3", "state": "installed",
        })
    };
    let group = |number: usize| {
        let first = number * PER_ITEM;
        let running: Vec<Value> = (first..instances.min(first + PER_ITEM))
            .map(|instance| {
                json!({
                    "node": {"codename": "main"}, "runtime": {"codename": "crun"},
                    "instance": instance - first, "state": "active",
                    "stateChecksum": "9a3f0c5b6d7e8f90a1b2c3d4e5f60718293a4b5c6d7e8f90a1b2c3d4",
                })
            })
            .collect();
        json!({
            "item": item(number), "subject": {"id": "7c9e6679-7425-40de-944b-e07fc1f90ae7"},
            "version": "1.2.3", "instances": running,
        })
    };
    let status = json!({
        "isDeltaInfo": false,
        "unitConfig": [],
        "nodes": [{
            "identity": {"codename": "main", "title": "Main"},
            "nodeGroupSubject": {"codename": "gateway"},
            "maxDmips": 20000, "totalRam": 4_294_967_296_u64, "osInfo": {"os": "linux"},
            "attrs": {"MainNode": ""}, "isConnected": true, "state": "provisioned",
            "runtimes": [{
                "identity": {"codename": "crun"}, "runtimeType": "crun", "maxInstances": 64,
                "archInfo": {"architecture": "amd64"}, "osInfo": {"os": "linux"},
            }],
        }],
        "items": items.iter().map(|number| shown(*number)).collect::<Vec<_>>(),
        "instances": items.iter().map(|number| group(*number)).collect::<Vec<_>>(),
        "subjects": [],
    });
    let status: UnitStatus =
        serde_json::from_value(status).map_err(|error| SimError::Unexpected(format!("status: {error}")))?;
    Ok(Body::UnitStatus(status))
}

/// One sample of the main node and of two instances.
pub fn monitoring() -> Result<Body, SimError> {
    let sample = json!({
        "timestamp": "2026-03-01T10:00:00.000000Z", "ram": 734_003_200, "cpu": 2150,
        "download": 10_240, "upload": 2048,
    });
    let instance = |number: usize| {
        json!({
            "item": {"id": "00000000-0000-4000-8000-000000000000"},
            "subject": {"id": "7c9e6679-7425-40de-944b-e07fc1f90ae7"},
            "instance": number, "node": {"codename": "main"}, "items": [sample],
        })
    };
    let data = json!({
        "nodes": [{"node": {"codename": "main"}, "items": [sample]}],
        "instances": [instance(0), instance(1)],
    });
    let data: MonitoringData =
        serde_json::from_value(data).map_err(|error| SimError::Unexpected(format!("samples: {error}")))?;
    Ok(Body::MonitoringData(data))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_are_what_they_shall_be() {
        let Body::UnitStatus(status) = full_status(50).unwrap() else { panic!("no status") };
        let count: usize = status.instances.iter().flatten().map(|group| group.instances.len()).sum();
        assert_eq!((count, status.is_delta_info), (50, false));
        assert!(monitoring().is_ok());
    }
}
