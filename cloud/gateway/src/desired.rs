//! The current desired status of a Unit, from the store through the rules of the fleet.

use aos_cloud_fleet::{
    Assigned, Comparison, OwnerKind, Signing, Target, UnitState, compare, desired_status, wanted_config,
};
use aos_cloud_protocol::{DesiredStatus, UnitConfig};
use aos_cloud_store::{AssignedItem, DesiredRow, Store, Wanted};
use aos_ids::{Digest, ItemKind};

use crate::error::GatewayError;

/// A desired status and where it stands.
#[derive(Debug, Clone)]
pub(crate) struct Current {
    pub(crate) row: DesiredRow,
    pub(crate) status: DesiredStatus,
}

/// Computes the desired status of a Unit; a new revision when it differs from the last one.
pub(crate) async fn renew(store: &Store, unit_id: &str, signing: &Signing) -> Result<Current, GatewayError> {
    let signing = signing.clone();
    let build = move |wanted: &Wanted| -> Result<String, GatewayError> {
        let unit = &wanted.unit;
        let target = Target {
            subject_id: unit.subject_id.clone(),
            assigned: wanted.assigned.iter().map(assignment).collect::<Result<_, _>>()?,
            signing,
            unit_config: unit_config(wanted)?,
            nodes: wanted.nodes.iter().map(|wish| (wish.node_id.clone(), wish.state == "paused")).collect(),
        };
        let (status, skipped) = desired_status(&target);
        for skip in skipped {
            tracing::warn!(
                unit = unit.system_uid,
                "item {} is left out: it has no version {}",
                skip.item_id,
                skip.version
            );
        }
        serde_json::to_string(&status).map_err(GatewayError::document("desired status"))
    };
    let row = store.renew_desired(unit_id, build).await??;
    let status = serde_json::from_str(&row.payload).map_err(GatewayError::document("desired status"))?;
    Ok(Current { row, status })
}

/// Compares the Unit's stored status with what is desired.
pub(crate) async fn compare_stored(
    store: &Store,
    unit_id: &str,
    desired: &DesiredStatus,
) -> Result<Comparison, GatewayError> {
    let view = store.unit_view(unit_id).await?;
    let Some(status) = view.and_then(|view| view.status) else { return Ok(Comparison::Unclear) };
    let state: UnitState = serde_json::from_str(&status.merged).map_err(GatewayError::document("status"))?;
    Ok(compare(desired, &state))
}

/// The configuration to send: the one set last, until the Unit has it.
fn unit_config(wanted: &Wanted) -> Result<Option<UnitConfig>, GatewayError> {
    let Some(row) = &wanted.unit_config else { return Ok(None) };
    let set = serde_json::from_str(&row.document).map_err(GatewayError::document("Unit configuration"))?;
    // A status that cannot be read tells nothing; the next full one does.
    let state = wanted.status.as_ref().and_then(|row| serde_json::from_str::<UnitState>(&row.merged).ok());
    let reported = state.and_then(|state| state.unit_config).map(|stamped| stamped.value);
    Ok(wanted_config(Some(set), &reported.unwrap_or_default()))
}

fn assignment(row: &AssignedItem) -> Result<Assigned, GatewayError> {
    let kind: ItemKind = row.assignment.kind.parse().map_err(|_| GatewayError::Value("item type"))?;
    let version = |version: &aos_cloud_store::VersionRow| {
        let digest: Digest = version.index_digest.parse().map_err(|_| GatewayError::Value("index digest"))?;
        Ok((version.version.clone(), digest))
    };
    Ok(Assigned {
        item_id: row.assignment.item_id.clone(),
        kind,
        owner_id: row.owner_id.clone(),
        owner_kind: if row.owner_kind == "sp" { OwnerKind::ServiceProvider } else { OwnerKind::Oem },
        version: row.assignment.version.clone(),
        known: row.versions.iter().map(version).collect::<Result<_, GatewayError>>()?,
        num_instances: row.assignment.num_instances,
        priority: row.assignment.priority,
        labels: row.assignment.labels.clone(),
    })
}
